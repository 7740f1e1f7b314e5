//! A model of how a guard changes, checked exhaustively within a bounded scope: that nobody compares
//! more PINs with an account's than the limit allows, whatever the host does; and that with an honest
//! host every request ends.
//!
//! Two models share one core. In [`hostile`] the host is the adversary. It keeps every blob, frame and
//! receipt it ever had and presents any of them, in any order and number, to any enclave: that drops,
//! replays, reorders, forks, rolls back, restarts, withholds and repeats, on as many enclaves and for
//! as many clients as there are. It guesses PINs on devices of its own, holds the presence key of a
//! trusted device, and all of that device once it is revoked; opens decoys; runs an enclave that pins
//! a ledger of its own; records what does not belong. In [`honest`] the host keeps its rules, and what
//! goes wrong is deaths, lost receipts, two hosts on one storage, and clients in each other's way.
//!
//! Each rule of the protocol is a [`rules::Rule`] that can be taken away. `tests/mutants.rs` does so
//! and expects a named property to fall: the shortest way there is printed with `KEYFOLD_TRACE=1`.
//!
//! # What a step is in the code
//!
//! | model | code |
//! |---|---|
//! | [`core::Enclave::handle`], [`enroll`](core::Enclave::enroll) | `request::answer` and `perform`; `guard::charge`, `change`, `Guard::apply`, `status`, `enroll` |
//! | `Enclave::open` | `guard::open_live` and `open`: seal, account, version, `home` |
//! | [`core::Enclave::settle`] | `guard::settle`, `keys::settled_blind` |
//! | [`core::Enclave::commit`] | `guard::commit`, `go_live`; `receipt::committed` |
//! | `Enclave::status` | `request::fresh_read`, `receipt::fresh`, `guard::status` |
//! | [`words::Staged::digest`] | `Guard::digest`, over the account and all of the guard |
//! | [`ledger::tag`] | `RootKeys::ledger_tag` |
//! | [`words::Verifier`] | `RootKeys::pin_verifier` |
//! | [`ledger::Ledger`] | the ledger's `append` and `read` |
//! | [`honest::Action`] | the host's `service/guard.rs`: `change_guard`, `advance`, `overtaken`, `recover` |
//!
//! # What is abstracted
//!
//! * Cryptography is perfect: a seal is opened by its key and context or not at all, a frame is made by
//!   its signer alone and repeated only as it is, a digest names one guard, a receipt is the ledger's.
//! * A PIN is one of few values: the user's first, second, ...; the adversary's; a wrong one. All wrong
//!   guesses are alike. What is compared for equality is the value and the account.
//! * The ledger is one atomic register for each tag. That it is one, that it does not fork and that its
//!   code is the code that was audited is its governance's to keep. `Rule::CompareAndSet` shows that
//!   the promise rests on it.
//! * Randomness is fresh by construction. The limit of tries is two or three in place of ten, and all
//!   else is as bounded as the scope says that each check prints. States are told apart by hashes of
//!   64 bits, digests too.
//! * A comparison is a settling of one charge, counted once however often it is repeated, since every
//!   repetition is the same transition. A reset is *rightful* if the user set the PIN or tried the
//!   right one, at the point where the account stood when the user did.
//!
//! # What it does not show
//!
//! * The vault, records, the audit chain's content, the limit of devices, sizes and timing, sessions,
//!   and the rate limit of the host. That right and wrong look alike is a test of the core.
//! * A user who tries again on another device because an answer was withheld is rightful each time: a
//!   host that lets each of them succeed unheard may guess anew after each.
//! * `Rule::HintIsShown`, that a client signs no version still to come, is the client's to keep: core
//!   and ledger cannot. Where the client takes the version from the host, a host can name a later one
//!   and hold the try until then. Without the rule the model finds that a reset comes when its user
//!   does not expect it; as a device joins an account once, it is one such reset for each new device.
//!   Keyfold's client keeps the rule: it signs only a version that an enclave has told it under seal
//!   (`Refusal::GuardAt`).
//! * What one step of the code does inside: that is the core's own tests' matter.
#![forbid(unsafe_code)]

pub mod adversary;
pub mod core;
pub mod honest;
pub mod hostile;
pub mod knowledge;
pub mod ledger;
pub mod properties;
pub mod report;
pub mod rules;
pub mod words;
