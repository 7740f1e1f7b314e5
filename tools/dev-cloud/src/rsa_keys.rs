//! Where RSA keys come from: made fresh, or taken from a cache that spares tests the seconds they take.

use crate::store;
use anyhow::{Result, anyhow};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use std::path::PathBuf;

/// Makes RSA keys.
#[derive(Clone)]
pub(crate) struct RsaKeys {
    /// Keys by purpose; a key that is not there is made and put there.
    pub(crate) cache: Option<PathBuf>,
}

impl RsaKeys {
    /// The key for a purpose, which is also its file's name in the cache.
    pub(crate) fn make(&self, purpose: &str, size: KeySize) -> Result<KeyPair> {
        let Some(cache) = &self.cache else { return Ok(KeyPair::generate(size)?) };
        store::directory(cache)?;
        let path = cache.join(format!("{purpose}.pk8"));
        if let Some(pkcs8) = store::read(&path)? {
            return KeyPair::from_pkcs8(&pkcs8)
                .map_err(|error| anyhow!("{}: {error}", path.display()));
        }
        let pair = KeyPair::generate(size)?;
        store::write(&path, pkcs8(&pair)?.as_slice())?;
        Ok(pair)
    }
}

/// PKCS#8 of a key pair.
pub(crate) fn pkcs8(pair: &KeyPair) -> Result<Vec<u8>> {
    Ok(AsDer::<Pkcs8V1Der>::as_der(pair)?.as_ref().to_vec())
}
