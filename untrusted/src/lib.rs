//! The untrusted host shell of Keyfold: everything an enclave needs and must not be trusted with.
//!
//! It authenticates people, keeps sealed state, calls the cloud and the ledger, and moves frames
//! between clients and enclaves. It never holds a key, a PIN or a passkey: a hostile host can refuse
//! service, and see who asks for what kind of thing when.
//!
//! [`Host`] is all of it; `host.rs` shows how the parts fit. One path to follow first: `http` takes a
//! request, [`service`] loads what its class needs from [`storage`], asks an [`enclave`] link, writes
//! what the core answers, and only then forwards the reply.
#![forbid(unsafe_code)]

pub mod azure;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod enclave;
pub mod host;
pub mod http;
pub mod identity;
pub mod journal;
pub mod ledger;
pub mod log;
pub mod metrics;
pub mod problem;
pub mod retry;
pub mod service;
pub mod storage;

pub use config::Config;
pub use host::{Builder, Host};
