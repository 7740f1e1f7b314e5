//! The primitives this crate uses, each called from here only: SHA-256, HKDF, AES-256-GCM, randomness.
//!
//! Everything that is sealed at rest or for a peer goes through [`seal`]: a fresh 32-byte salt gives
//! each message a key of its own, so no nonce can repeat.

use keyfold_protocol::limits::{SALT, SEAL_OVERHEAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hkdf};
use zeroize::{Zeroize, Zeroizing};

/// A symmetric key of 32 bytes, wiped on drop.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// SHA-256 over the concatenation of `parts`: what `keyfold_protocol::transcript` asks for.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

/// Random bytes of the operating system.
///
/// # Panics
/// When the operating system has none to give: nothing that needs a key can go on then.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}

/// HKDF-SHA256: extract with `salt` from `secret`, expand with `info`.
pub(crate) fn hkdf(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> Key {
    fill(&hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret), info)
}

/// HKDF-SHA256, expand only: `key` is the pseudorandom key.
pub(crate) fn hkdf_expand(key: &[u8; 32], info: &[&[u8]]) -> Key {
    fill(&hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key), info)
}

fn fill(prk: &hkdf::Prk, info: &[&[u8]]) -> Key {
    let mut out = Zeroizing::new([0; 32]);
    let filled = prk.expand(info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(out.as_mut()));
    filled.expect("32 bytes are within what HKDF-SHA256 can expand to");
    out
}

/// AES-256-GCM: ciphertext and tag. A (key, nonce) pair must never be used twice.
pub(crate) fn aead_seal(key: &[u8; 32], nonce: [u8; 12], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(plaintext.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(plaintext);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let done = aead(key).seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed);
    done.expect("AES-256-GCM takes messages of many gigabytes");
    sealed
}

/// Opens what [`aead_seal`] made; `None` when key, nonce, AAD or a single bit differ.
pub(crate) fn aead_open(
    key: &[u8; 32], nonce: [u8; 12], aad: &[u8], sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::assume_unique_for_key(nonce);
    let opened = aead(key).open_in_place(nonce, Aad::from(aad), &mut buffer).ok()?.len();
    buffer[opened..].zeroize();
    buffer.truncate(opened);
    Some(buffer)
}

fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 keys have 32 bytes"))
}

/// Seals for the holder of `key`: salt (32 bytes), ciphertext, tag (16 bytes).
pub(crate) fn seal(key: &[u8; 32], info: &[u8], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let salt: [u8; SALT] = random();
    let mut sealed = Vec::with_capacity(plaintext.len() + SEAL_OVERHEAD);
    sealed.extend_from_slice(&salt);
    sealed.extend(aead_seal(&hkdf(&salt, key, &[info]), [0; 12], aad, plaintext));
    sealed
}

/// Opens what [`seal`] made under the same key, info and AAD.
pub(crate) fn open(
    key: &[u8; 32], info: &[u8], aad: &[u8], sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (salt, sealed) = sealed.split_first_chunk::<SALT>()?;
    aead_open(&hkdf(salt, key, &[info]), [0; 12], aad, sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hkdf_gives_the_first_test_case_of_rfc_5869() {
        let salt = hex::decode("000102030405060708090a0b0c").unwrap();
        let info = hex::decode("f0f1f2f3f4f5f6f7f8f9").unwrap();
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf";
        assert_eq!(hex::encode(*hkdf(&salt, &[0x0b; 22], &[&info])), expected);
        let prk = hex::decode("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let prk: [u8; 32] = prk.unwrap().try_into().unwrap();
        assert_eq!(hex::encode(*hkdf_expand(&prk, &[&info])), expected);
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_key_info_and_aad_only() {
        let sealed = seal(&[1; 32], b"info", b"aad", b"plaintext");
        assert_eq!(sealed.len(), 9 + SEAL_OVERHEAD);
        assert_eq!(**open(&[1; 32], b"info", b"aad", &sealed).as_ref().unwrap(), b"plaintext");
        assert!(open(&[2; 32], b"info", b"aad", &sealed).is_none());
        assert!(open(&[1; 32], b"ofni", b"aad", &sealed).is_none());
        assert!(open(&[1; 32], b"info", b"dad", &sealed).is_none());
        assert!(open(&[1; 32], b"info", b"aad", &[]).is_none());
        for byte in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[byte] ^= 1;
            assert!(open(&[1; 32], b"info", b"aad", &bent).is_none(), "byte {byte}");
        }
    }

    #[test]
    fn sealing_twice_never_gives_the_same_bytes() {
        assert_ne!(seal(&[1; 32], b"", b"", b"x"), seal(&[1; 32], b"", b"", b"x"));
    }
}
