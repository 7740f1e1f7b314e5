//! Trust roots: what is a root, and how a client moves from one to the next.

mod common;

use common::{key, root, sign, statement};
use keyfold_attestation_policy::signing::{SignatureError, SigningKey, assemble_trust_root};
use keyfold_attestation_policy::statement::{SerialFloor, verify_statement};
use keyfold_attestation_policy::trust_root::{TrustRoot, TrustRootError};
use keyfold_attestation_policy::values::SignerKey;

fn keys(seeds: &[u8]) -> Vec<SignerKey> {
    seeds.iter().map(|seed| key(*seed).public_key()).collect()
}

/// Version 2: the keys 3, 4, 5.
fn next() -> TrustRoot {
    TrustRoot::new(2, 2, keys(&[3, 4, 5])).unwrap()
}

fn rotated(next: &TrustRoot, signers: &[u8]) -> Result<Vec<u8>, TrustRootError> {
    let signatures = signers.iter().map(|seed| key(*seed).sign_trust_root(next)).collect();
    assemble_trust_root(next, signatures, &root())
}

#[test]
fn thresholds_and_keys_are_checked() {
    let threshold = |k, seeds: &[u8]| TrustRoot::new(1, k, keys(seeds)).is_ok();
    assert!(threshold(2, &[1, 2]));
    assert!(threshold(16, &(1..=16).collect::<Vec<_>>()));
    assert!(!threshold(0, &[1, 2]));
    assert!(!threshold(3, &[1, 2]));
    assert!(!threshold(2, &[1, 1]));
    let refused = |seeds: &[u8]| TrustRoot::new(1, 2, keys(seeds)).unwrap_err();
    assert_eq!(refused(&[1, 2, 2]), TrustRootError::RepeatedKey(key(2).public_key()));
    let too_many: Vec<_> = (1..=17).collect();
    assert_eq!(refused(&too_many), TrustRootError::TooManyKeys(17));
    assert!(TrustRoot::new(0, 2, keys(&[1, 2])).is_err());
    // One key is enough in development only.
    assert_eq!(threshold(1, &[1, 2]), cfg!(feature = "development"));
}

#[test]
fn json_is_strict() {
    let text = String::from_utf8(root().to_json()).unwrap();
    assert_eq!(TrustRoot::from_json(text.as_bytes()).unwrap(), root());
    for changed in [
        text.replacen('{', "{\"x\":1,", 1),
        text.replacen("\"version\"", "\"version\":1,\"version\"", 1),
        text.replacen("\"threshold\":2", "\"threshold\":4", 1),
        text.replacen("\"threshold\":2,", "", 1),
        text.replacen("\"version\":1", "\"version\":0", 1),
        text.to_uppercase(),
        format!("{text}x"),
        String::new(),
    ] {
        assert!(TrustRoot::from_json(changed.as_bytes()).is_err(), "{changed}");
    }
}

#[test]
fn both_roots_sign_the_next() {
    for signers in [&[1, 2, 4, 5][..], &[1, 3, 4], &[2, 3, 5], &[1, 2, 3, 4, 5]] {
        let signed = rotated(&next(), signers).unwrap();
        assert_eq!(root().successor(&signed).unwrap(), next());
    }
}

#[test]
fn one_roots_signatures_are_not_enough() {
    let whose = |signers: &[u8]| match rotated(&next(), signers).unwrap_err() {
        TrustRootError::Signature { whose, source } => {
            assert!(matches!(source, SignatureError::BelowThreshold { .. }), "{source}");
            whose
        }
        other => panic!("{other}"),
    };
    assert_eq!(whose(&[1, 2]), "its own");
    // Key 3 belongs to both.
    assert_eq!(whose(&[1, 3]), "its own");
    assert_eq!(whose(&[4, 5]), "the pinned root's");
    assert_eq!(whose(&[3, 4, 5]), "the pinned root's");
    assert_eq!(whose(&[]), "the pinned root's");
}

#[test]
fn versions_follow_one_another() {
    for version in [1, 3, u64::MAX] {
        let other = TrustRoot::new(version, 2, keys(&[3, 4, 5])).unwrap();
        let error = rotated(&other, &[1, 2, 4, 5]).unwrap_err();
        assert_eq!(error, TrustRootError::NotTheNext { expected: 2, found: version });
    }
}

#[test]
fn tampered_and_foreign_roots_are_refused() {
    let good = rotated(&next(), &[1, 2, 4, 5]).unwrap();
    for offset in 0..good.len() {
        let mut changed = good.clone();
        changed[offset] ^= 0x01;
        assert!(root().successor(&changed).is_err(), "byte {offset} does not count");
    }
    let statement = sign(&serde_json::to_vec(&statement()).unwrap(), &[1, 2]);
    assert!(root().successor(&statement).is_err());
}

#[test]
fn after_the_rotation_the_old_root_is_history() {
    let signed = rotated(&next(), &[1, 2, 4, 5]).unwrap();
    let current = root().successor(&signed).unwrap();
    let payload = serde_json::to_vec(&statement()).unwrap();
    let check = |signers: &[u8]| {
        let floor = SerialFloor::default();
        verify_statement(&sign(&payload, signers), &current, &floor, common::now())
    };
    check(&[4, 5]).unwrap();
    assert!(check(&[1, 2]).is_err());
    // The keys 2 and 3 were enough before; of them only 3 still counts.
    assert!(check(&[2, 3]).is_err());
}

#[test]
fn key_files_are_private_and_never_overwritten() {
    let folder = std::env::temp_dir().join(format!("keyfold-signing-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("signer.pk8");
    let made = SigningKey::create(&path).unwrap();
    let read = SigningKey::read(&path).unwrap();
    assert_eq!(made.public_key(), read.public_key());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let error = SigningKey::create(&path).err().unwrap().to_string();
    assert!(error.contains("signer.pk8"), "{error}");
    assert_eq!(SigningKey::read(&path).unwrap().public_key(), made.public_key());

    std::fs::write(&path, b"no key").unwrap();
    assert!(SigningKey::read(&path).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(SigningKey::read(&path).is_err());
}
