//! A device's two keys: presence (somebody at the device consented) and user verification (the
//! device checked who it was). A device *is* this pair: its id is a hash of both public keys.
//!
//! [`DeviceKeys`] is the seam for keys in a TPM, a secure element or a platform authenticator.
//! [`SoftwareKeys`] keeps them in memory; `crate::store` writes them to disk, the UV key only under
//! a passphrase.

use std::pin::Pin;
use std::sync::RwLock;

use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::KeyKind;
use keyfold_protocol::ids::{DeviceId, P256PublicKey, P256Signature};
use keyfold_protocol::transcript;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::crypto::sha256;

/// A future behind a trait object.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a device key did not sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The user-verification key is locked.
    #[error("this needs user verification: unlock the user-verification key first")]
    Locked,
    /// The person did not pass verification, or said no.
    #[error("user verification was cancelled or failed; try again")]
    Refused,
    /// Bytes that are no P-256 key pair.
    #[error("the device key is damaged: restore the key files, or register this device anew")]
    Damaged,
    /// The key store failed.
    #[error("the key store failed: {0}")]
    Store(String),
}

/// Signs for one device. Implement this over whatever keeps the device's keys.
pub trait DeviceKeys: Send + Sync {
    /// Public half of the presence key.
    fn presence_key(&self) -> P256PublicKey;

    /// Public half of the user-verification key.
    fn uv_key(&self) -> P256PublicKey;

    /// ECDSA P-256 over SHA-256 of `message`, as r and s of 32 bytes each. An implementation must
    /// verify the user for every signature of [`KeyKind::UserVerification`], or hold the key
    /// unlocked by a verification that its documentation describes.
    fn sign<'a>(
        &'a self, key: KeyKind, message: &'a [u8],
    ) -> Pending<'a, Result<P256Signature, KeyError>>;

    /// The device's id: first 16 bytes of a labelled SHA-256 of both public keys.
    fn id(&self) -> DeviceId {
        transcript::device_id(sha256, &self.presence_key(), &self.uv_key())
    }
}

/// Both keys in this process's memory. The user-verification key is locked until
/// [`crate::store::Store::unlock`], and again after [`SoftwareKeys::lock`].
pub struct SoftwareKeys {
    presence: P256Key,
    uv_key: P256PublicKey,
    uv: RwLock<Option<P256Key>>,
}

impl SoftwareKeys {
    /// A new device, unlocked.
    pub fn generate() -> Self {
        Self::new(P256Key::generate(), P256Key::generate())
    }

    fn new(presence: P256Key, uv: P256Key) -> Self {
        Self { presence, uv_key: uv.public(), uv: RwLock::new(Some(uv)) }
    }

    pub(crate) fn locked(presence: P256Key, uv_key: P256PublicKey) -> Self {
        Self { presence, uv_key, uv: RwLock::new(None) }
    }

    /// Whether the user-verification key is at hand.
    pub fn is_unlocked(&self) -> bool {
        self.uv.read().is_ok_and(|uv| uv.is_some())
    }

    /// Forgets the user-verification key until the next unlock.
    pub fn lock(&self) {
        if let Ok(mut uv) = self.uv.write() {
            *uv = None;
        }
    }

    pub(crate) fn unlock(&self, key: P256Key) -> Result<(), KeyError> {
        if key.public() != self.uv_key {
            return Err(KeyError::Damaged);
        }
        let mut uv = self.uv.write().map_err(|_| KeyError::Damaged)?;
        *uv = Some(key);
        Ok(())
    }

    pub(crate) fn presence(&self) -> &P256Key {
        &self.presence
    }

    /// Gives the user-verification key to `work`, if it is unlocked.
    pub(crate) fn with_uv<T>(&self, work: impl FnOnce(&P256Key) -> T) -> Result<T, KeyError> {
        let uv = self.uv.read().map_err(|_| KeyError::Damaged)?;
        uv.as_ref().map(work).ok_or(KeyError::Locked)
    }

    fn signature(&self, key: KeyKind, message: &[u8]) -> Result<P256Signature, KeyError> {
        match key {
            KeyKind::Presence => self.presence.sign(message),
            KeyKind::UserVerification => self.with_uv(|uv| uv.sign(message))?,
        }
    }
}

impl DeviceKeys for SoftwareKeys {
    fn presence_key(&self) -> P256PublicKey {
        self.presence.public()
    }

    fn uv_key(&self) -> P256PublicKey {
        self.uv_key
    }

    fn sign<'a>(
        &'a self, key: KeyKind, message: &'a [u8],
    ) -> Pending<'a, Result<P256Signature, KeyError>> {
        Box::pin(std::future::ready(self.signature(key, message)))
    }
}

/// A P-256 key pair, kept as the PKCS#8 document it is stored as.
pub(crate) struct P256Key {
    pkcs8: Zeroizing<Vec<u8>>,
    public: P256PublicKey,
}

impl P256Key {
    pub(crate) fn generate() -> Self {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .expect("the operating system provides randomness");
        Self::from_pkcs8(document.as_ref()).expect("a key just made is a key")
    }

    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = pair(pkcs8)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Damaged)?;
        Ok(Self { pkcs8: Zeroizing::new(pkcs8.to_vec()), public: Bytes(public) })
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(crate) fn public(&self) -> P256PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<P256Signature, KeyError> {
        let signature = pair(&self.pkcs8)?.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| KeyError::Store("no randomness".into()))?;
        signature.as_ref().try_into().map(Bytes).map_err(|_| KeyError::Damaged)
    }
}

/// Made per use: ring's key pair cannot be wiped, the document can.
fn pair(pkcs8: &[u8]) -> Result<EcdsaKeyPair, KeyError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new())
        .map_err(|_| KeyError::Damaged)
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn verifies(key: &P256PublicKey, message: &[u8], signature: &P256Signature) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.0);
        key.verify(message, &signature.0).is_ok()
    }

    #[tokio::test]
    async fn each_key_signs_for_itself() {
        let keys = SoftwareKeys::generate();
        let presence = keys.sign(KeyKind::Presence, b"m").await.unwrap();
        let uv = keys.sign(KeyKind::UserVerification, b"m").await.unwrap();
        assert!(verifies(&keys.presence_key(), b"m", &presence));
        assert!(verifies(&keys.uv_key(), b"m", &uv));
        assert!(!verifies(&keys.presence_key(), b"m", &uv));
        assert!(!verifies(&keys.uv_key(), b"n", &uv));
    }

    #[tokio::test]
    async fn a_locked_key_does_not_sign_and_only_its_own_key_unlocks() {
        let keys = SoftwareKeys::generate();
        let uv = keys.uv.read().unwrap().as_ref().unwrap().pkcs8().to_vec();
        keys.lock();
        assert!(!keys.is_unlocked());
        assert_eq!(keys.sign(KeyKind::UserVerification, b"m").await, Err(KeyError::Locked));
        assert!(keys.sign(KeyKind::Presence, b"m").await.is_ok());
        assert_eq!(keys.unlock(P256Key::generate()), Err(KeyError::Damaged));
        assert_eq!(keys.sign(KeyKind::UserVerification, b"m").await, Err(KeyError::Locked));
        keys.unlock(P256Key::from_pkcs8(&uv).unwrap()).unwrap();
        assert!(keys.sign(KeyKind::UserVerification, b"m").await.is_ok());
    }

    #[test]
    fn the_id_is_the_hash_of_both_keys() {
        let keys = SoftwareKeys::generate();
        let expected = sha256(&[b"keyfold/device/1", &keys.presence_key().0, &keys.uv_key().0]);
        assert_eq!(keys.id().0, expected[..16]);
        assert!(P256Key::from_pkcs8(b"no key").is_err());
    }
}
