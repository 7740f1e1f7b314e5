//! The core's platform: the operating system's generator, the attester of this build, and a one-boot
//! RSA key.
//!
//! Release images attest with the processor. Builds with the `simulated` feature attest with a
//! software chip that protects nothing, and say so.

#[cfg(not(feature = "simulated"))]
mod snp;

use std::io;

#[cfg(feature = "simulated")]
use keyfold_simulated_chip::Chip as Attester;
#[cfg(not(feature = "simulated"))]
use snp::Snp as Attester;

use keyfold_protocol::host::KeyWrap;
use keyfold_protocol::limits::REPORT;
use keyfold_trusted::{Platform, PlatformError, RELEASE_MODULUS, RootKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::unlock::ReleaseKey;

/// What `--version` and the first log line say this build attests with.
pub(crate) const NAME: &str =
    if cfg!(feature = "simulated") { "SIMULATED: protects nothing" } else { "snp" };

/// See the module.
pub(crate) struct System {
    attester: Attester,
    release_key: ReleaseKey,
}

impl System {
    /// Opens the attester. Fails where there is none, or no randomness but the host's.
    #[cfg(not(feature = "simulated"))]
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { attester: Attester::open()?, release_key: ReleaseKey::Unmade })
    }

    /// Opens the software chip in the directory that KEYFOLD_SIMULATED_CHIP names.
    #[cfg(feature = "simulated")]
    pub(crate) fn open() -> io::Result<Self> {
        let directory = std::env::var_os("KEYFOLD_SIMULATED_CHIP").ok_or_else(|| {
            io::Error::other(
                "KEYFOLD_SIMULATED_CHIP is not set: name the dev cloud's chip directory",
            )
        })?;
        Ok(Self { attester: Attester::open(directory.as_ref())?, release_key: ReleaseKey::Unmade })
    }
}

impl Platform for System {
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), PlatformError> {
        SystemRandom::new().fill(bytes).map_err(|_| PlatformError)
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
        &mut self, algorithm: KeyWrap, wrapped: &[u8],
    ) -> Result<RootKey, PlatformError> {
        self.release_key.open(algorithm, wrapped)
    }
}
