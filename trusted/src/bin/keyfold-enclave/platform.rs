//! Where randomness and reports come from: the processor, or, in builds with the `simulated`
//! feature, a software chip that protects nothing.

#[cfg(feature = "simulated")]
mod simulated;
#[cfg(not(feature = "simulated"))]
mod snp;

#[cfg(feature = "simulated")]
pub(crate) use simulated::{NAME, open};
#[cfg(not(feature = "simulated"))]
pub(crate) use snp::{NAME, open};

use keyfold_protocol::host::KeyWrap;
use keyfold_protocol::limits::REPORT;
use keyfold_trusted::{Platform, PlatformError, RELEASE_MODULUS, RootKey};

use crate::unlock::ReleaseKey;

/// A source of attestation reports.
pub(crate) trait Attester {
    /// A fresh report over these data.
    fn report(&mut self, report_data: &[u8; 64]) -> Result<[u8; REPORT], String>;
}

/// The core's platform: the operating system's generator, an attester, a one-boot RSA key.
pub(crate) struct System<A> {
    attester: A,
    release_key: ReleaseKey,
}

impl<A> System<A> {
    fn new(attester: A) -> Self {
        Self { attester, release_key: ReleaseKey::Unmade }
    }
}

impl<A: Attester> Platform for System<A> {
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), PlatformError> {
        aws_lc_rs::rand::fill(bytes).map_err(|_| PlatformError)
    }

    fn report(&mut self, report_data: &[u8; 64]) -> Result<[u8; REPORT], PlatformError> {
        self.attester.report(report_data).map_err(|error| {
            eprintln!("keyfold-enclave: no attestation report: {error}");
            PlatformError
        })
    }

    fn release_key(&mut self) -> Result<[u8; RELEASE_MODULUS], PlatformError> {
        self.release_key.modulus()
    }

    fn unwrap_root(
        &mut self,
        algorithm: KeyWrap,
        wrapped: &[u8],
    ) -> Result<RootKey, PlatformError> {
        self.release_key.unwrap(algorithm, wrapped)
    }
}
