//! The wire of Keyfold: everything that crosses the enclave's boundary, and nothing else.
//!
//! Two conversations are defined here. The *client* speaks to the enclave in sealed frames that the
//! host cannot read ([`client`]). The *host* speaks to the enclave in plain frames that carry those
//! sealed frames, the sealed state they need, and what has to be written afterwards ([`host`]).
//!
//! Promises:
//! - every value has exactly one encoding; decoding refuses all others ([`wire`]). What a message has
//!   no use for (attachments of another class) is not looked at;
//! - every length has a limit, enforced while decoding ([`limits`]);
//! - enums only ever grow at their end: an encoding once valid stays valid;
//! - every hashed or signed byte string is laid out in one place ([`transcript`]).
#![no_std]
#![forbid(unsafe_code)]

pub mod bytes;
pub mod client;
pub mod host;
pub mod ids;
pub mod limits;
pub mod transcript;
pub mod wire;
