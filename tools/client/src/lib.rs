//! Keyfold client.

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
pub mod requests;
pub mod store;
mod sync;
#[cfg(test)]
mod testing;
pub mod webauthn;

pub use client::Client;
pub use crypto::sha256;
pub use error::Error;
