//! Receipts: whatever the bytes, only the one the ledger signed counts, and only for its claim.
#![no_main]

use std::sync::LazyLock;

use keyfold_fuzz::edited;
use keyfold_protocol::ids::{Digest, LedgerTag};
use keyfold_protocol::transcript::LedgerClaim;
use keyfold_tests::crypto::sha256;
use keyfold_tests::generate::Source;
use keyfold_tests::ledger::{ISSUER, Ledger};
use keyfold_trusted::verify_receipt;
use libfuzzer_sys::fuzz_target;

struct Signed {
    ledger: Ledger,
    receipt: Vec<u8>,
    claims: [u8; 32],
}

static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
    let mut ledger = Ledger::new();
    let (tag, digest) = (LedgerTag([7; 32]), Digest([8; 32]));
    let receipt = ledger.append(tag, 1, digest).expect("the first");
    let claims = sha256(&[&LedgerClaim::Append.bytes(&tag, 1, &digest)]);
    Signed { ledger, receipt, claims }
});

fuzz_target!(init: keyfold_fuzz::write_seeds(seeds()), |bytes: &[u8]| {
    let Signed { ledger, receipt, claims } = &*SIGNED;
    let key = ledger.public_key();
    let mut source = Source::new(bytes);
    let is_raw: bool = source.arbitrary().unwrap_or(false);
    let tried = if is_raw { source.take_rest().to_vec() } else { edited(receipt, &mut source) };
    assert_eq!(verify_receipt(&key, ISSUER, claims, &tried), tried == *receipt);
    let mut other = *claims;
    other[31] ^= 1;
    assert!(!verify_receipt(&key, ISSUER, &other, &tried));
    assert!(!verify_receipt(&key, "another issuer", claims, &tried));
});

/// Another ledger's receipts: the right shape for the raw bytes to start from.
fn seeds() -> Vec<Vec<u8>> {
    let signed = &*SIGNED;
    vec![[&[1], &signed.receipt[..]].concat(), vec![0; 16]]
}
