//! The untrusted host shell of Keyfold.

pub mod azure;
pub mod clock;
pub mod config;
pub mod enclave;
pub mod identity;
pub mod ledger;
pub mod metrics;
pub mod problem;
pub mod retry;
pub mod service;
pub mod storage;
