//! The Rust client library of Keyfold: passkeys whose operator cannot use, read or guess them.
//!
//! Embed it to give a program its own device on a person's Keyfold account. The library trusts
//! nothing but the keys that the deployment's owners keep offline (the *trust root*) and AMD's:
//! it verifies the signed deployment statement and the enclave's attestation evidence before it
//! sends anything, signs the person in at the issuer the statement names, speaks to the enclave in
//! frames the host cannot open, and remembers enough to notice when a host shows it the past.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use keyfold_attestation_policy::trust_root::TrustRoot;
//! use keyfold_client::deployment::Settings;
//! use keyfold_client::device::SoftwareKeys;
//! use keyfold_client::identity::Browser;
//! use keyfold_client::pin::Pin;
//! use keyfold_client::requests::{NewPasskey, user_names};
//! use keyfold_client::store::{Passphrase, Store};
//! use keyfold_client::{Client, Error, sha256};
//! use keyfold_protocol::client::KeyKind;
//!
//! # fn ask(_: &str) -> String { String::new() }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // 1. Local state and this device's keys; the user-verification key under a passphrase.
//! let store = Store::open("/home/ana/.local/share/keyfold")?;
//! let passphrase = Passphrase::new(&ask("New passphrase")).ok_or("empty")?;
//! let keys = Arc::new(SoftwareKeys::generate());
//! store.save_keys(&keys, &passphrase)?; // later: load_keys, then unlock
//!
//! // 2. Which deployment, by its pinned offline keys; and how people sign in.
//! let trust_root = TrustRoot::from_json(&std::fs::read("trust-root.json")?)?;
//! let url = "https://keyfold.example".to_owned();
//! let settings = Settings { url, trust_root, minimum_serial: 12 };
//! let browser = Arc::new(Browser::new(|url| eprintln!("Sign in at {url}"))?);
//! let client = Client::new(settings, store, keys, browser)?;
//!
//! // 3. Open the account, with this device as its first.
//! let overview = client.enroll(Pin::new(&ask("Recovery PIN"))?, "laptop").await?;
//! println!("{} device(s)", overview.devices.len());
//!
//! // 4. A passkey, and a sign-in with it.
//! let new = NewPasskey {
//!     rp_id: "example.org".try_into()?,
//!     user_handle: b"user-1".as_slice().try_into()?,
//!     names: user_names("ana@example.org", "Ana"),
//!     algorithms: vec![-7, -8],
//!     prf: None,
//! };
//! let uv = KeyKind::UserVerification;
//! let created = client.create_passkey(&new, uv).await?;
//! let client_data_hash = sha256(&[br#"{"type":"webauthn.get","challenge":"..."}"#]);
//! let asserted =
//!     client.assert(&new.rp_id, &created.credential, client_data_hash, None, uv).await?;
//! println!("{} bytes of signature", asserted.signature.len());
//!
//! // 5. What other devices did meanwhile. An alarm is for the person, never to be retried away.
//! match client.sync().await {
//!     Ok(passkeys) => println!("{} passkeys", passkeys.len()),
//!     Err(Error::ForkAlarm(alarm)) => eprintln!("{alarm}"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(()) }
//! ```
//!
//! Where to look:
//!
//! | for | see |
//! |---|---|
//! | relying parties' JSON in and out | [`webauthn`] |
//! | devices, history, status | [`account`]: methods of [`Client`] |
//! | getting back in by PIN, a new PIN | [`recovery`]: methods of [`Client`] |
//! | passkeys and sync | [`requests`]: methods of [`Client`] |
//! | a further device, by code or QR | [`pairing`]: methods of [`Client`] |
//! | keys in hardware | [`device::DeviceKeys`] |
//! | another way to sign in | [`identity::TokenSource`] |
//! | what is kept, and where | [`store`] |
//!
//! Promises:
//! - Nothing is sent to a host before its statement and an enclave's evidence were verified; there
//!   is no switch for it. `simulated` chips and plain http on the loopback interface exist only in
//!   builds with the feature `development`, which log on every verification that nothing is
//!   protected.
//! - A guard version, vault point or history that is older than, or inconsistent with, what this
//!   device has seen is [`error::ForkAlarm`], never accepted. The guard version of a reply is on
//!   disk before the reply is acted on.
//! - PINs and passphrases leave their modules stretched only, and no secret is logged. `tracing`
//!   events carry error texts, serials and measurements.
//! - Nothing here retries without end, and no retry repeats an effect: a lost answer is resolved
//!   by reading the account's state. A PIN is tried once for each time it is asked for, as far as the
//!   service lets anybody know.
//!
//! Methods need a tokio runtime with time and I/O enabled. State files are read and written where
//! they are needed, on the calling thread: a few milliseconds with an fsync.
#![forbid(unsafe_code)]

pub mod account;
pub mod channel;
mod client;
mod crypto;
pub mod deployment;
pub mod device;
pub mod error;
mod host;
mod http;
pub mod identity;
pub mod pairing;
pub mod pin;
pub mod recovery;
pub mod requests;
pub mod store;
mod sync;
#[cfg(test)]
mod testing;
pub mod webauthn;

pub use client::Client;
pub use crypto::sha256;
pub use error::Error;
