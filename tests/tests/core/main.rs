//! The core, through its one entry, against hosts and clients that do what they should not.

mod boot;
mod channel;
mod devices;
mod golden;
mod guard;
mod passkey;
mod receipt;
mod recovery;
mod roaming;
mod status_audit;
mod sync;
mod vault;
mod wire;
mod xwing;
