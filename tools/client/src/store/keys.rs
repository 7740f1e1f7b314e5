//! The key files: `presence.key` in the clear, `uv.key` sealed under a passphrase.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Store, StoreError};
use crate::crypto;
use crate::device::{P256Key, SoftwareKeys};
use crate::pin::{argon2id, nfc};

const PRESENCE: &str = "presence.key";
const USER_VERIFICATION: &str = "uv.key";
/// The newest format of both files. 1: PKCS#8; sealed under Argon2id (64 MiB, 3 passes, one lane).
const FORMAT: u32 = 1;
const SEAL: &[u8] = b"keyfold/uv-key-file/1";

/// What opens the user-verification key. Not printable, wiped on drop. Never take one from a
/// command line or the environment, where other programs can read it.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// What a person typed, in normalisation form C; `None` when it is empty.
    pub fn new(typed: &str) -> Option<Self> {
        (!typed.is_empty()).then(|| Self(Zeroizing::new(nfc(typed))))
    }
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct PresenceFile {
    format: u32,
    pkcs8: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UvFile {
    format: u32,
    /// Uncompressed SEC1 point; also the seal's AAD.
    public_key: String,
    /// Salt of Argon2id.
    salt: String,
    /// PKCS#8, sealed.
    sealed: String,
}

impl Store {
    /// Writes a new device's keys. Takes a tenth of a second and 64 MiB.
    ///
    /// # Errors
    /// [`StoreError::KeysExist`]: keys are never overwritten. [`StoreError::Key`]: they are locked.
    pub fn save_keys(
        &self, keys: &SoftwareKeys, passphrase: &Passphrase,
    ) -> Result<(), StoreError> {
        let _locked = self.lock()?;
        // The presence file comes last: with it the pair is complete.
        if self.read(PRESENCE)?.is_some() {
            return Err(StoreError::KeysExist { path: self.path(PRESENCE) });
        }
        let uv = keys.with_uv(|uv| seal(uv, passphrase))?;
        self.write_json(USER_VERIFICATION, &uv)?;
        let pkcs8 = BASE64_STANDARD.encode(keys.presence().pkcs8());
        self.write_json(PRESENCE, &PresenceFile { format: FORMAT, pkcs8 })
    }

    /// Reads this device's keys; the user-verification key comes locked.
    ///
    /// # Errors
    /// [`StoreError::NoKeys`] before [`Store::save_keys`]; [`StoreError::Damaged`].
    pub fn load_keys(&self) -> Result<SoftwareKeys, StoreError> {
        let file: PresenceFile = self.key_file(PRESENCE)?;
        let pkcs8 = Zeroizing::new(self.base64(PRESENCE, &file.pkcs8)?);
        let presence = P256Key::from_pkcs8(&pkcs8)?;
        let uv: UvFile = self.key_file(USER_VERIFICATION)?;
        let uv_key = self.base64(USER_VERIFICATION, &uv.public_key)?;
        let uv_key = uv_key.try_into().map_err(|_| self.damaged(USER_VERIFICATION, LENGTH.into()));
        Ok(SoftwareKeys::locked(presence, keyfold_protocol::bytes::Bytes(uv_key?)))
    }

    /// Unlocks the user-verification key of `keys`. Takes a tenth of a second and 64 MiB: call it
    /// where blocking is allowed.
    ///
    /// # Errors
    /// [`StoreError::WrongPassphrase`], which is also what a damaged file looks like.
    pub fn unlock(&self, keys: &SoftwareKeys, passphrase: &Passphrase) -> Result<(), StoreError> {
        let file: UvFile = self.key_file(USER_VERIFICATION)?;
        Ok(keys.unlock(self.open_uv(&file, passphrase)?)?)
    }

    /// Seals the user-verification key under another passphrase.
    ///
    /// # Errors
    /// [`StoreError::WrongPassphrase`] when `old` is not the present one.
    pub fn change_passphrase(&self, old: &Passphrase, new: &Passphrase) -> Result<(), StoreError> {
        let _locked = self.lock()?;
        let file: UvFile = self.key_file(USER_VERIFICATION)?;
        let key = self.open_uv(&file, old)?;
        self.write_json(USER_VERIFICATION, &seal(&key, new))
    }

    fn open_uv(&self, file: &UvFile, passphrase: &Passphrase) -> Result<P256Key, StoreError> {
        let [public_key, salt, sealed] = [&file.public_key, &file.salt, &file.sealed]
            .map(|field| self.base64(USER_VERIFICATION, field));
        let salt = salt?.try_into().map_err(|_| self.damaged(USER_VERIFICATION, LENGTH.into()))?;
        let key = argon2id(passphrase.0.as_bytes(), &salt);
        let pkcs8 = crypto::open(&key, SEAL, &public_key?, &sealed?);
        Ok(P256Key::from_pkcs8(&pkcs8.ok_or(StoreError::WrongPassphrase)?)?)
    }

    fn key_file<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        self.read_json(name, FORMAT)?.ok_or_else(|| StoreError::NoKeys { path: self.path(name) })
    }

    fn base64(&self, name: &str, text: &str) -> Result<Vec<u8>, StoreError> {
        BASE64_STANDARD.decode(text).map_err(|error| self.damaged(name, error.to_string()))
    }
}

const LENGTH: &str = "a field of the wrong length";

fn seal(key: &P256Key, passphrase: &Passphrase) -> UvFile {
    let salt = crypto::random();
    let wrap = argon2id(passphrase.0.as_bytes(), &salt);
    let public_key = key.public();
    UvFile {
        format: FORMAT,
        public_key: BASE64_STANDARD.encode(public_key.0),
        salt: BASE64_STANDARD.encode(salt),
        sealed: BASE64_STANDARD.encode(crypto::seal(&wrap, SEAL, &public_key.0, key.pkcs8())),
    }
}
