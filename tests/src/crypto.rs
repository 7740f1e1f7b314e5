//! Primitives of the harness, called the way the protocol's documents say, not through the core.

use ring::{aead, digest, hkdf, rand};

/// SHA-256 over the concatenation of the parts.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("32 bytes")
}

/// HKDF-Expand to 32 bytes.
pub fn hkdf_expand(key: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key);
    prk.expand(info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut out)).expect("one block");
    out
}

/// HKDF-Extract, then HKDF-Expand to 32 bytes.
pub fn hkdf(salt: &[u8], input: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(input);
    prk.expand(info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut out)).expect("one block");
    out
}

/// AES-256-GCM, ciphertext then tag.
pub fn aead_seal(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("key"));
    let mut sealed = plaintext.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut sealed).expect("sealed");
    sealed
}

/// AES-256-GCM; `None` when it does not open.
pub fn aead_open(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("key"));
    let mut opened = sealed.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    let length = key.open_in_place(nonce, aead::Aad::from(aad), &mut opened).ok()?.len();
    opened.truncate(length);
    Some(opened)
}

/// `N` random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::SecureRandom::fill(&rand::SystemRandom::new(), &mut bytes).expect("randomness");
    bytes
}
