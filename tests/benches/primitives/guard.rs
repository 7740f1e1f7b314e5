//! The floor of a guard's changes: what one costs in cryptography before, at and after the ledger.

use std::hint::black_box;

use keyfold_protocol::limits::{AUDIT_PADDED, GUARD_PADDED};
use keyfold_tests::crypto::{random, sha256};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};

use super::{Common, expand};

/// A full guard's encoding, in bytes, about: what its digest is over.
const ENCODED: usize = 3700;
/// Levels of a receipt's Merkle path in these tests.
const LEVELS: usize = 8;

/// The floor of Recover, Commit and Settle.
pub(crate) struct Recovery {
    common: Common,
    ledger: Vec<u8>,
    signature: Vec<u8>,
}

impl Recovery {
    /// With keys of its own.
    pub(crate) fn new() -> Self {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &rng);
        let pkcs8 = pkcs8.expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8.as_ref(), &rng);
        let key = key.expect("a key");
        let signature = key.sign(&rng, &[5; 300]).expect("a signature").as_ref().to_vec();
        let ledger = key.public_key().as_ref().to_vec();
        Self { common: Common::new(), ledger, signature }
    }

    /// A charge: the request opened and checked, the candidate's verifier, a change staged.
    pub(crate) fn charge(&mut self) {
        self.common.open();
        expand(&[12; 32]);
        expand(&[13; 32]);
        self.stage();
    }

    /// A commit: the receipt checked, the staged guard opened and sealed as live.
    pub(crate) fn commit(&mut self) {
        expand(&[14; 32]);
        (0..LEVELS + 3).for_each(|_| _ = black_box(sha256(&[&[0; 64]])));
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.ledger)
            .verify(&[5; 300], &self.signature)
            .expect("verified");
        for _ in 0..2 {
            self.common.blob_key();
            self.common.aead(GUARD_PADDED);
        }
        black_box(sha256(&[&[0; ENCODED]]));
        self.common.random();
    }

    /// A settling: the charged guard opened and both its outcomes staged.
    pub(crate) fn settle(&mut self) {
        expand(&[15; 32]);
        for _ in 0..2 {
            self.common.blob_key();
            self.common.aead(GUARD_PADDED);
            self.stage();
        }
    }

    /// Audit event and guard, hashed and sealed.
    fn stage(&mut self) {
        (0..3).for_each(|_| _ = black_box(sha256(&[&[0; 128]])));
        black_box(sha256(&[&[0; ENCODED]]));
        expand(&[16; 32]);
        expand(&[17; 32]);
        for size in [AUDIT_PADDED, GUARD_PADDED] {
            self.common.random();
            self.common.blob_key();
            self.common.aead(size);
        }
        black_box(random::<32>());
    }
}
