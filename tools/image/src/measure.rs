//! The launch measurement of a machine that QEMU starts directly: firmware, kernel, initrd and command line.
//!
//! The firmware's pages are measured, and on one of them (its SNP_KERNEL_HASHES section) SHA-256 of kernel, initrd and
//! command line, which the firmware checks before it starts them; then each vCPU's first state. So the number changes
//! with every one of [`Launch`]'s members.

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keyfold_attestation_policy::values::Measurement;
use sev::error::MeasurementError;
use sev::measurement::snp::{
    SnpLaunchDigest, SnpMeasurementArgs, calc_snp_ovmf_hash, snp_calc_launch_digest,
};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};

/// What a machine is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// OVMF for SEV-SNP, with kernel hashes.
    pub firmware: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system, if there is one.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// QEMU's `-cpu`.
    pub vcpu_type: VcpuType,
    /// QEMU's `-smp`.
    pub vcpus: NonZeroU32,
    /// What the host's kernel turns on in the guest.
    pub features: Features,
}

/// QEMU's models of vCPU, by what of them is measured: family, model and stepping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VcpuType {
    /// EPYC-v4, which every generation can run.
    EpycV4,
    /// EPYC-Rome.
    Rome,
    /// EPYC-Milan.
    Milan,
    /// EPYC-Genoa.
    Genoa,
    /// EPYC-Turin.
    Turin,
}

impl VcpuType {
    /// Every type.
    pub const ALL: [Self; 5] = [Self::EpycV4, Self::Rome, Self::Milan, Self::Genoa, Self::Turin];

    /// As QEMU writes it.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::EpycV4 => "EPYC-v4",
            Self::Rome => "EPYC-Rome",
            Self::Milan => "EPYC-Milan",
            Self::Genoa => "EPYC-Genoa",
            Self::Turin => "EPYC-Turin",
        }
    }
}

impl FromStr for VcpuType {
    type Err = UnknownVcpuType;

    fn from_str(name: &str) -> Result<Self, UnknownVcpuType> {
        let found = Self::ALL.into_iter().find(|one| one.qemu_name() == name);
        found.ok_or_else(|| UnknownVcpuType(name.to_owned()))
    }
}

/// A vCPU type that is not one of [`VcpuType::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("vCPU type {0:?} is not EPYC-v4, EPYC-Rome, EPYC-Milan, EPYC-Genoa or EPYC-Turin")]
pub struct UnknownVcpuType(String);

/// SEV_FEATURES of the guest's vCPUs, as the host's kernel sets them (AMD's APM volume 2, appendix B.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// Bit 0 alone: SNP is active.
    Snp,
    /// Bit 5 as well, debug register swapping: what newer kernels of hosts turn on.
    SnpDebugSwap,
}

impl Features {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Snp, Self::SnpDebugSwap];

    /// The register.
    pub fn bits(self) -> u64 {
        match self {
            Self::Snp => 0x1,
            Self::SnpDebugSwap => 0x21,
        }
    }
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A file cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The firmware cannot start a machine so: no SEV metadata, or no section for kernel hashes.
    #[error("{firmware}: {error}")]
    Firmware {
        /// The firmware.
        firmware: PathBuf,
        /// What is missing.
        error: MeasurementError,
    },
}

/// Computes the launch measurement.
///
/// # Errors
/// A file cannot be read, or the firmware is not one for SEV-SNP with kernel hashes.
pub fn measure(launch: &Launch) -> Result<Measurement, MeasureError> {
    for path in [&launch.firmware, &launch.kernel].into_iter().chain(&launch.initrd) {
        readable(path)?;
    }
    let arguments = SnpMeasurementArgs {
        vcpus: launch.vcpus.get(),
        vcpu_type: match launch.vcpu_type {
            VcpuType::EpycV4 => CpuType::EpycV4,
            VcpuType::Rome => CpuType::EpycRome,
            VcpuType::Milan => CpuType::EpycMilan,
            VcpuType::Genoa => CpuType::EpycGenoa,
            VcpuType::Turin => CpuType::EpycTurin,
        },
        ovmf_file: launch.firmware.clone(),
        guest_features: GuestFeatures(launch.features.bits()),
        kernel_file: Some(launch.kernel.clone()),
        initrd_file: launch.initrd.clone(),
        append: Some(&launch.command_line),
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    };
    digest(&launch.firmware, snp_calc_launch_digest(arguments))
}

/// Computes the measurement of the firmware's own pages, with which it begins.
///
/// # Errors
/// The file cannot be read, or is not firmware for SEV-SNP.
pub fn measure_firmware(firmware: &Path) -> Result<Measurement, MeasureError> {
    readable(firmware)?;
    digest(firmware, calc_snp_ovmf_hash(firmware.to_owned()))
}

fn readable(path: &Path) -> Result<(), MeasureError> {
    let unreadable = |error| MeasureError::Unreadable { path: path.to_owned(), error };
    File::open(path).map(drop).map_err(unreadable)
}

fn digest(
    firmware: &Path, computed: Result<SnpLaunchDigest, MeasurementError>,
) -> Result<Measurement, MeasureError> {
    let fails = |error| MeasureError::Firmware { firmware: firmware.to_owned(), error };
    let bytes: Vec<u8> = computed.and_then(SnpLaunchDigest::try_into).map_err(fails)?;
    let bytes =
        bytes.as_slice().try_into().map_err(|error| fails(MeasurementError::from(error)))?;
    Ok(Measurement::new(bytes))
}
