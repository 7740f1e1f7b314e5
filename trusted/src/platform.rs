//! The one seam: what the core cannot do without hardware or `std`.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::Failed;
use crate::protocol::*;

/// Modulus of the release key, in bytes: RSA-3072.
pub const RELEASE_MODULUS: usize = 384;

/// The platform could not do what it was asked. It logs why; the core only stops.
#[derive(Debug)]
pub struct PlatformError;

/// The deployment's root key, as it comes out of the key release.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RootKey([u8; 32]);

impl RootKey {
    /// From the 32 unwrapped bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Randomness, attestation, and the one RSA decryption of a boot. P-256 keys and nonces alone do not
/// come through here: ring draws them itself, from the same generator.
pub trait Platform {
    /// Fills `bytes` from the operating system's generator.
    ///
    /// # Errors
    /// When there is no randomness: the core then makes nothing and seals no reply.
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), PlatformError>;

    /// A fresh SEV-SNP attestation report over `report_data`, at VMPL 0.
    ///
    /// # Errors
    /// When the hardware or its driver gives none.
    fn report(&mut self, report_data: &[u8; 64]) -> Result<[u8; REPORT], PlatformError>;

    /// The modulus, big-endian, of this boot's RSA-3072 key (exponent 65537), made at the first
    /// call.
    ///
    /// # Errors
    /// When no key can be made, or it has been used already.
    fn release_key(&mut self) -> Result<[u8; RELEASE_MODULUS], PlatformError>;

    /// Unwraps the root key (RSA-OAEP, then AES-KWP) and destroys the RSA key, whatever the
    /// outcome.
    ///
    /// # Errors
    /// When anything about `wrapped` is not exactly right, or the RSA key has been used already.
    fn unwrap_root(&mut self, algorithm: KeyWrap, wrapped: &[u8])
    -> Result<RootKey, PlatformError>;
}

/// `N` random bytes.
pub(crate) fn random<const N: usize>(platform: &mut impl Platform) -> Result<[u8; N], Failed> {
    let mut bytes = [0; N];
    platform.random(&mut bytes).map(|()| bytes).map_err(|_| Failed)
}
