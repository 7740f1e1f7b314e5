//! A ledger small enough for a test: compare-and-set on tags, receipts in CCF's format.

use std::collections::BTreeMap;

use keyfold_protocol::ids::{Digest, LedgerTag, P384PublicKey};
use keyfold_protocol::transcript::LedgerClaim;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::crypto::{random, sha256};
use crate::enclave::bytes;

/// `iss` of every receipt.
pub const ISSUER: &str = "ledger.test";

/// Where tags stand, and the key that says so.
pub struct Ledger {
    key: EcdsaKeyPair,
    tags: BTreeMap<LedgerTag, (u64, Digest)>,
    transactions: u64,
    /// Every receipt ever given: what a host can replay.
    pub receipts: Vec<Vec<u8>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// An empty ledger with a key of its own.
    pub fn new() -> Self {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &rng);
        let pkcs8 = pkcs8.expect("a P-384 key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8.as_ref(), &rng);
        let tags = BTreeMap::new();
        Self { key: key.expect("a P-384 key"), tags, transactions: 1, receipts: Vec::new() }
    }

    /// The service key, uncompressed.
    pub fn public_key(&self) -> P384PublicKey {
        bytes(self.key.public_key().as_ref())
    }

    /// Moves a tag from `version - 1` to `version`; `None` when it stands elsewhere.
    pub fn append(&mut self, tag: LedgerTag, version: u64, digest: Digest) -> Option<Vec<u8>> {
        let current = self.tags.get(&tag).map_or(0, |(version, _)| *version);
        if current + 1 != version {
            return None;
        }
        self.tags.insert(tag, (version, digest));
        Some(self.receipt(&LedgerClaim::Append, &tag, version, &digest))
    }

    /// Where a tag stands, stamped with a nonce.
    pub fn read(&mut self, tag: LedgerTag, nonce: [u8; 32]) -> Vec<u8> {
        let (version, digest) = self.tags.get(&tag).copied().unwrap_or((0, Digest([0; 32])));
        self.receipt(&LedgerClaim::Read(nonce), &tag, version, &digest)
    }

    /// Where a tag stands.
    pub fn current(&self, tag: &LedgerTag) -> Option<(u64, Digest)> {
        self.tags.get(tag).copied()
    }

    fn receipt(
        &mut self, claim: &LedgerClaim, tag: &LedgerTag, version: u64, digest: &Digest,
    ) -> Vec<u8> {
        self.transactions += 1;
        let claims = sha256(&[&claim.bytes(tag, version, digest)]);
        let path: Vec<(bool, [u8; 32])> = (0..8).map(|level| (level % 2 == 0, random())).collect();
        let receipt = self.sign(&claims, ISSUER, &path);
        self.receipts.push(receipt.clone());
        receipt
    }

    /// A receipt over any claims digest, issuer and Merkle path (leaf to root, is-left first).
    pub fn sign(&self, claims: &[u8; 32], issuer: &str, path: &[(bool, [u8; 32])]) -> Vec<u8> {
        let write_set: [u8; 32] = random();
        let evidence = format!("ce:2.{}:{}", self.transactions, hex::encode(random::<32>()));
        let mut node = sha256(&[&write_set, &sha256(&[evidence.as_bytes()]), claims]);
        for (is_left, sibling) in path {
            node = if *is_left { sha256(&[sibling, &node]) } else { sha256(&[&node, sibling]) };
        }
        let protected = self.protected(issuer);
        let signed = [b"\x84\x6aSignature1", &bstr(&protected)[..], b"\x40", &bstr(&node)].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed).expect("a signature");

        let mut proof = vec![0xa2, 0x01, 0x83];
        proof.extend(bstr(&write_set));
        proof.extend(tstr(&evidence));
        proof.extend(bstr(claims));
        proof.extend([0x02]);
        proof.extend(head(4, path.len()));
        for (is_left, sibling) in path {
            proof.extend([0x82, if *is_left { 0xf5 } else { 0xf4 }]);
            proof.extend(bstr(sibling));
        }
        let mut receipt = vec![0xd2, 0x84];
        receipt.extend(bstr(&protected));
        receipt.extend([0xa1, 0x19, 0x01, 0x8c, 0xa1, 0x20, 0x81]);
        receipt.extend(bstr(&proof));
        receipt.push(0xf6);
        receipt.extend(bstr(signature.as_ref()));
        receipt
    }

    fn protected(&self, issuer: &str) -> Vec<u8> {
        let spki = hex::decode("3076301006072a8648ce3d020106052b81040022036200").expect("hex");
        let kid = hex::encode(sha256(&[&spki, self.key.public_key().as_ref()]));
        let mut protected = vec![0xa5, 0x01, 0x38, 0x22, 0x04];
        protected.extend(bstr(kid.as_bytes()));
        protected.extend([0x19, 0x01, 0x8b, 0x02, 0x0f, 0xa3, 0x01]);
        protected.extend(tstr(issuer));
        protected.push(0x02);
        protected.extend(tstr("keyfold"));
        protected.extend([0x06, 0x1a, 0x6a, 0, 0, 0]);
        protected.extend(tstr("ccf.v1"));
        protected.push(0xa1);
        protected.extend(tstr("txid"));
        protected.extend(tstr(&format!("2.{}", self.transactions + 1)));
        protected
    }
}

fn head(major: u8, argument: usize) -> Vec<u8> {
    let major = major << 5;
    match argument {
        0..=23 => vec![major | argument as u8],
        24..=255 => vec![major | 24, argument as u8],
        _ => vec![major | 25, (argument >> 8) as u8, argument as u8],
    }
}

fn bstr(bytes: &[u8]) -> Vec<u8> {
    [&head(2, bytes.len()), bytes].concat()
}

fn tstr(text: &str) -> Vec<u8> {
    [&head(3, text.len()), text.as_bytes()].concat()
}
