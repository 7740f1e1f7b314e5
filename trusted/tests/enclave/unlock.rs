//! The unwrap against vectors that pyca/cryptography made (`unlock_vectors.py`): every algorithm opens,
//! every flaw is one refusal, and the RSA key is gone after its first use whatever came of it.

#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]

use aws_lc_rs::rsa::PrivateDecryptingKey;
use keyfold_protocol::host::KeyWrap;

use crate::unlock::{ReleaseKey, unwrap};

const VECTORS: &str = include_str!("unlock-vectors.txt");
const ALGORITHMS: [(&str, KeyWrap); 3] =
    [("sha1", KeyWrap::Sha1), ("sha256", KeyWrap::Sha256), ("sha384", KeyWrap::Sha384)];

fn fact(name: &str) -> Vec<u8> {
    let line = VECTORS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    hex::decode(line.expect("the fact")).expect("hex")
}

fn private_key() -> PrivateDecryptingKey {
    PrivateDecryptingKey::from_pkcs8(&fact("key")).expect("a key")
}

fn waiting() -> ReleaseKey {
    ReleaseKey::Waiting(private_key())
}

/// Name, algorithm, wrapped key.
fn vectors() -> Vec<(&'static str, KeyWrap, Vec<u8>)> {
    let vector = |line: &'static str| {
        let mut words = line.split(' ');
        let (name, algorithm, wrapped) = (words.next()?, words.next()?, words.next()?);
        let (_, algorithm) = ALGORITHMS.into_iter().find(|(known, _)| *known == algorithm)?;
        Some((name, algorithm, hex::decode(wrapped).expect("hex")))
    };
    VECTORS.lines().filter_map(vector).collect()
}

fn is_gone(key: &mut ReleaseKey, algorithm: KeyWrap, good: &[u8]) -> bool {
    matches!(key, ReleaseKey::Spent) && key.modulus().is_err() && key.open(algorithm, good).is_err()
}

#[test]
fn each_algorithm_opens_once() {
    let (mut opened, root) = (0, fact("root"));
    for (name, algorithm, wrapped) in vectors() {
        if name == "good" {
            let mut key = waiting();
            assert!(key.modulus().is_ok());
            assert!(key.open(algorithm, &wrapped).is_ok(), "{algorithm:?}");
            let bytes = unwrap(private_key(), algorithm, &wrapped).expect("the root key");
            assert_eq!(bytes.as_slice(), root, "{algorithm:?}");
            assert!(is_gone(&mut key, algorithm, &wrapped), "{algorithm:?}");
            opened += 1;
        }
    }
    assert_eq!(opened, ALGORITHMS.len());
}

#[test]
fn every_flaw_is_refused_and_costs_the_key() {
    let vectors = vectors();
    let mut refused = 0;
    for (name, algorithm, wrapped) in vectors.iter().filter(|(name, ..)| *name != "good") {
        let good = vectors.iter().find(|(name, of, _)| *name == "good" && of == algorithm);
        let mut key = waiting();
        assert!(key.open(*algorithm, wrapped).is_err(), "{name} {algorithm:?}");
        let (.., good) = good.expect("a good vector");
        assert!(is_gone(&mut key, *algorithm, good), "{name} {algorithm:?}");
        refused += 1;
    }
    assert_eq!(refused, ALGORITHMS.len() * 26);
}

#[test]
fn a_key_that_was_never_asked_for_opens_nothing() {
    let mut key = ReleaseKey::Unmade;
    for (name, algorithm, wrapped) in vectors() {
        assert!(key.open(algorithm, &wrapped).is_err(), "{name}");
    }
    assert!(matches!(key, ReleaseKey::Spent));
}

#[test]
fn the_modulus_is_this_boots_own() {
    let (mut one, mut other) = (ReleaseKey::Unmade, ReleaseKey::Unmade);
    let modulus = one.modulus().expect("a modulus");
    assert_eq!(modulus, one.modulus().expect("the same again"));
    assert_ne!(modulus, other.modulus().expect("another boot's"));
    assert!(modulus.first().is_some_and(|first| *first >= 0x80), "3072 bits");
}
