//! The one RSA decryption of a boot: Managed HSM's key wrapping, undone once.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384,
    OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use keyfold_protocol::host::KeyWrap;
use keyfold_trusted::{PlatformError, RELEASE_MODULUS, RootKey};
use zeroize::Zeroizing;

/// This boot's RSA key: not made yet, waiting for its one use, or gone.
pub(crate) enum ReleaseKey {
    Unmade,
    Waiting(PrivateDecryptingKey),
    Spent,
}

/// How a DER SubjectPublicKeyInfo of an RSA key with exponent 65537 ends.
const EXPONENT: &[u8] = &[0x02, 0x03, 0x01, 0x00, 0x01];

impl ReleaseKey {
    /// The modulus, made at the first call.
    pub(crate) fn modulus(&mut self) -> Result<[u8; RELEASE_MODULUS], PlatformError> {
        if let Self::Unmade = self {
            *self = Self::Waiting(
                PrivateDecryptingKey::generate(KeySize::Rsa3072).map_err(|_| PlatformError)?,
            );
        }
        let Self::Waiting(key) = self else { return Err(PlatformError) };
        let der = key.public_key().as_der().map_err(|_| PlatformError)?;
        let modulus = der.as_ref().strip_suffix(EXPONENT).and_then(<[u8]>::last_chunk);
        modulus.copied().ok_or(PlatformError)
    }

    /// The root key; the RSA key does not outlive the call.
    pub(crate) fn open(
        &mut self, algorithm: KeyWrap, wrapped: &[u8],
    ) -> Result<RootKey, PlatformError> {
        let Self::Waiting(key) = std::mem::replace(self, Self::Spent) else {
            return Err(PlatformError);
        };
        unwrap(key, algorithm, wrapped).map(|root| RootKey::new(*root))
    }
}

/// RSA-OAEP of an AES-256 key, exactly one modulus long, then AES-KWP (RFC 5649) of exactly 32 bytes.
pub(crate) fn unwrap(
    key: PrivateDecryptingKey, algorithm: KeyWrap, wrapped: &[u8],
) -> Result<Zeroizing<[u8; 32]>, PlatformError> {
    let oaep = match algorithm {
        KeyWrap::Sha1 => &OAEP_SHA1_MGF1SHA1,
        KeyWrap::Sha256 => &OAEP_SHA256_MGF1SHA256,
        KeyWrap::Sha384 => &OAEP_SHA384_MGF1SHA384,
    };
    let (first, second) = wrapped.split_at_checked(RELEASE_MODULUS).ok_or(PlatformError)?;
    let key = OaepPrivateDecryptingKey::new(key).map_err(|_| PlatformError)?;
    let mut buffer = Zeroizing::new([0; RELEASE_MODULUS]);
    let kek = key.decrypt(oaep, first, &mut *buffer, None).map_err(|_| PlatformError)?;
    let kek = AesKek::new(&AES_256, kek).map_err(|_| PlatformError)?;
    // 32 bytes are four blocks; anything longer does not fit and is refused.
    let mut root = Zeroizing::new([0; 40]);
    let root = kek.unwrap_with_padding(second, &mut *root).map_err(|_| PlatformError)?;
    <[u8; 32]>::try_from(&*root).map(Zeroizing::new).map_err(|_| PlatformError)
}
