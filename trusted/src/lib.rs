//! The trusted core of Keyfold: the only code that ever sees a passkey.
//!
//! Principles, in the order they win:
//! 1. *A pure function.* [`Core::handle`] turns keys, a frame and the sealed state attached to it
//!    into a sealed reply and the writes the host must commit. It holds keys and open sessions and
//!    nothing else: no clock, no files, no sockets, no state of any user. It can be killed at any
//!    instruction.
//! 2. *The host is hostile.* What it says is a [`Claimed`](keyfold_protocol::host::Claimed) value
//!    until a seal, a receipt or a chain has confirmed it.
//! 3. *A skipped check does not compile.* Functions that need a proof take it as an argument, and
//!    only the check can make it: `request` and `guard` define the proofs.
//! 4. *Small.* No allocation, no panic, no `unsafe`; every primitive is called from `crypto`,
//!    every stored key comes from the table in `keys`, every stored byte goes through `seal`.
//!
//! Read in this order: `core` (phases and the one match), `boot`, `channel`, `request` (who is
//! asking), `guard` and `receipt` (what the ledger protects), `vault`, `passkey`, `sync`.
#![no_std]
#![forbid(unsafe_code)]

mod authenticator;
mod boot;
mod channel;
mod core;
mod crypto;
mod guard;
mod keys;
mod passkey;
mod platform;
mod receipt;
mod request;
mod seal;
mod sync;
mod vault;

/// The protocol's vocabulary, in scope in every file of the core.
mod protocol {
    pub(crate) use keyfold_protocol::{
        bytes::{Bytes, join},
        client::*,
        host::*,
        ids::*,
        limits::*,
        transcript::*,
        wire,
        wire::Items,
    };
}

pub use crate::core::Core;
pub use crate::platform::{Platform, PlatformError, RELEASE_MODULUS, RootKey};
pub use crate::receipt::verify_receipt;
