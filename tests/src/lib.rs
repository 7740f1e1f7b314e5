//! What the tests stand on: the real core in this process, and around it a world that a test can
//! bend: a ledger that signs real receipts, a host that keeps every version of everything it was
//! ever given, and devices with real keys.
//!
//! Beside them stands [`program`]: other people's code, in other languages, to hold ours against.
//!
//! The world's host is honest unless a test says otherwise; [`world::Attach`] is where it says so.

pub mod crypto;
pub mod device;
pub mod enclave;
pub mod generate;
pub mod hostile;
pub mod ledger;
pub mod oracle;
pub mod program;
pub mod samples;
pub mod script;
pub mod world;
