//! Everything at once, from a person's command line to the ledger and back: the programs as they
//! are built, run as the processes they are, against relying parties that this project did not write.
//!
//! Nothing is skipped: programs that are not built and relying parties that cannot be installed are
//! failures.

mod account;
mod ceremonies;
#[path = "../common/mod.rs"]
mod common;
mod device;
mod doctor;
mod key_release;
mod machine;
mod moving;
mod operations;
mod recovery;
mod relying_party;
mod response;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

fn base64url(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn from_base64url(text: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(text).expect("base64url")
}
