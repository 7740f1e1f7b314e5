//! Every call into a cryptographic library. Nothing here knows what it is used for.
//!
//! Failure is one value, [`Failed`]: why a tag, a point or a signature was bad is nobody's business.

use heapless::Vec;
use libcrux_ml_kem::mlkem768;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use ring::{aead, digest, hmac};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::keys::Secret;
use crate::protocol::*;

/// A primitive refused its input.
#[derive(Debug)]
pub(crate) struct Failed;

/// Where the input was the core's own, only the platform can be at fault.
impl From<Failed> for HostRefusal {
    fn from(_: Failed) -> Self {
        Self::Platform
    }
}

impl From<ring::error::Unspecified> for Failed {
    fn from(_: ring::error::Unspecified) -> Self {
        Self
    }
}

/// SHA-256 over the concatenation of the parts.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    take(context.finish().as_ref())
}

/// HMAC-SHA256 over the concatenation of the parts.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    take(context.sign().as_ref())
}

/// HKDF-Extract over the concatenation of the parts.
pub(crate) fn hkdf_extract(salt: &[u8], input: &[&[u8]]) -> Secret {
    Secret::new(hmac_sha256(salt, input))
}

/// HKDF-Expand to 32 bytes: its first block, which is one HMAC over the info and the block's number.
pub(crate) fn hkdf_expand(key: &Secret, info: &[&[u8]]) -> Secret {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
    info.iter().chain(&[&[1][..]]).for_each(|part| context.update(part));
    Secret::new(take(context.sign().as_ref()))
}

/// AES-256-GCM: encrypts in place and returns the tag.
pub(crate) fn aead_seal(
    key: &Secret, nonce: [u8; 12], aad: &[u8], plaintext: &mut [u8],
) -> Result<[u8; TAG], Failed> {
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    let tag = aes(key)?.seal_in_place_separate_tag(nonce, aead::Aad::from(aad), plaintext)?;
    Ok(take(tag.as_ref()))
}

/// AES-256-GCM: decrypts `ciphertext ‖ tag` in place and returns the plaintext.
pub(crate) fn aead_open<'a>(
    key: &Secret, nonce: [u8; 12], aad: &[u8], sealed: &'a mut [u8],
) -> Result<&'a mut [u8], Failed> {
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    Ok(aes(key)?.open_in_place(nonce, aead::Aad::from(aad), sealed)?)
}

fn aes(key: &Secret) -> Result<aead::LessSafeKey, Failed> {
    Ok(aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key.expose())?))
}

/// ECDSA P-256 with SHA-256, signature as r ‖ s.
pub(crate) fn p256_verify(
    key: &P256PublicKey, message: &[u8], signature: &P256Signature,
) -> Result<(), Failed> {
    let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &key.0);
    Ok(key.verify(message, &signature.0)?)
}

/// ECDSA P-384 with SHA-384, signature as r ‖ s.
pub(crate) fn p384_verify(
    key: &P384PublicKey, message: &[u8], signature: &[u8],
) -> Result<(), Failed> {
    let key = UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, &key.0);
    Ok(key.verify(message, signature)?)
}

/// A new P-256 key: its scalar, and its point uncompressed.
pub(crate) fn p256_generate() -> Result<(Secret, Vec<u8, 65>), Failed> {
    let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())?;
    // ring's PKCS#8 of a P-256 key has one layout: the scalar at 36, the point at the end.
    let (_, rest) = document.as_ref().split_at_checked(36).ok_or(Failed)?;
    let (scalar, rest) = rest.split_first_chunk::<32>().ok_or(Failed)?;
    let point = rest.last_chunk::<65>().ok_or(Failed)?;
    Ok((Secret::new(*scalar), Vec::from_slice(point).map_err(|_| Failed)?))
}

/// Signs with ECDSA P-256 and SHA-256; DER, as WebAuthn wants it.
pub(crate) fn p256_sign(
    scalar: &Secret, point: &[u8], message: &[u8],
) -> Result<Vec<u8, 72>, Failed> {
    let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let random = SystemRandom::new();
    let scalar = scalar.expose();
    let key = EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, point, &random);
    let key = key.map_err(|_| Failed)?;
    Vec::from_slice(key.sign(&random, message)?.as_ref()).map_err(|_| Failed)
}

/// The public key of an Ed25519 seed.
pub(crate) fn ed25519_public(seed: &Secret) -> Result<Vec<u8, 65>, Failed> {
    let key = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| Failed)?;
    Vec::from_slice(key.public_key().as_ref()).map_err(|_| Failed)
}

/// Signs with Ed25519. The stored public key is checked against the seed: signing under a wrong
/// one would give the seed away.
pub(crate) fn ed25519_sign(
    seed: &Secret, public: &[u8], message: &[u8],
) -> Result<Vec<u8, 72>, Failed> {
    let key = Ed25519KeyPair::from_seed_and_public_key(seed.expose(), public);
    let key = key.map_err(|_| Failed)?;
    Vec::from_slice(key.sign(message).as_ref()).map_err(|_| Failed)
}

/// X-Wing (draft-connolly-cfrg-xwing-kem): X25519 and ML-KEM-768, secure while either is.
pub(crate) struct XWing {
    ml_kem: Zeroizing<[u8; 2400]>,
    x25519: StaticSecret,
    /// ML-KEM encapsulation key, then X25519 public key.
    pub(crate) public: [u8; CHANNEL_KEY],
}

impl XWing {
    /// From the 96 bytes that the draft expands its seed to: ML-KEM's d and z, then X25519's key.
    pub(crate) fn from_expanded(seed: &Zeroizing<[u8; 96]>) -> Result<Self, Failed> {
        let (ml_kem_seed, x25519_seed) = seed.split_first_chunk::<64>().ok_or(Failed)?;
        let pair = mlkem768::generate_key_pair(*ml_kem_seed);
        let ml_kem = Zeroizing::new(*pair.sk());
        let x25519 = StaticSecret::from(take::<32>(x25519_seed));
        let mut public = [0; CHANNEL_KEY];
        let (first, last) = public.split_first_chunk_mut().ok_or(Failed)?;
        *first = *pair.pk();
        *<&mut [u8; 32]>::try_from(last).map_err(|_| Failed)? = PublicKey::from(&x25519).to_bytes();
        Ok(Self { ml_kem, x25519, public })
    }

    /// The shared secret of an encapsulated key. Never fails on one of the right length: ML-KEM
    /// rejects implicitly, and the combiner binds the X25519 share.
    pub(crate) fn decapsulate(&self, enc: &[u8; ENCAPSULATED_KEY]) -> Result<Secret, Failed> {
        let (ml_kem_ct, x25519_ct) = enc.split_first_chunk::<1088>().ok_or(Failed)?;
        let sk = Zeroizing::new(*self.ml_kem);
        let ml_kem = Zeroizing::new(mlkem768::decapsulate(&(*sk).into(), &(*ml_kem_ct).into()));
        let x25519_ct = take::<32>(x25519_ct);
        let x25519 = self.x25519.diffie_hellman(&PublicKey::from(x25519_ct));
        let public = self.public.last_chunk::<32>().ok_or(Failed)?;
        let parts = [&*ml_kem, x25519.as_bytes(), &x25519_ct, public, &b"\\.//^\\"[..]];
        let combined: Zeroizing<[u8; 134]> = Zeroizing::new(join(parts));
        Ok(Secret::new(libcrux_sha3::sha256(&*combined)))
    }
}

/// The first `N` bytes of a longer or equal slice.
fn take<const N: usize>(bytes: &[u8]) -> [u8; N] {
    debug_assert!(bytes.len() >= N);
    bytes.first_chunk().copied().unwrap_or([0; N])
}
