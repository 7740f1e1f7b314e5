//! The parts of `keyfold-enclave` that no core sees: the one RSA unwrap of a boot, what has to hold
//! before there is one, and the link. They are the binary's own modules, tested from outside of the audited folder.

#[path = "../../src/bin/keyfold-enclave/platform/snp/entropy.rs"]
mod entropy;
#[path = "../../src/bin/keyfold-enclave/transport.rs"]
#[allow(dead_code, reason = "pipes and vsock stay outside of memory")]
mod transport;
#[path = "../../src/bin/keyfold-enclave/unlock.rs"]
mod unlock;

#[path = "entropy.rs"]
mod entropy_tests;
#[path = "transport.rs"]
mod transport_tests;
#[path = "unlock.rs"]
mod unlock_tests;
