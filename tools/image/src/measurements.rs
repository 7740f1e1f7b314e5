//! The launch measurements of a built image, for each type and number of vCPUs: what a deployment statement accepts.

use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::hash;
use crate::measure::{Features, Launch, VcpuType, measure};

/// The numbers of vCPUs that are published.
pub const VCPUS: [u32; 5] = [1, 2, 4, 8, 16];

/// Measures the image in a folder for every type and these numbers of vCPUs.
///
/// # Errors
/// A file is missing, or the firmware is not one for SEV-SNP with kernel hashes.
pub fn of(image: &Path, firmware: &Path, vcpus: &[NonZeroU32]) -> Result<Value> {
    let (kernel, initrd, command_line) =
        (image.join("vmlinuz"), image.join("initrd"), image.join("cmdline"));
    let text = std::fs::read_to_string(&command_line);
    let text = text.with_context(|| command_line.display().to_string())?;
    let mut measurements = Vec::new();
    for vcpu_type in VcpuType::ALL {
        for &vcpus in vcpus {
            for features in Features::ALL {
                let measurement = measure(&Launch {
                    firmware: firmware.to_owned(),
                    kernel: kernel.clone(),
                    initrd: Some(initrd.clone()),
                    command_line: text.clone(),
                    vcpu_type,
                    vcpus,
                    features,
                })?;
                measurements.push(json!({
                    "vcpu_type": vcpu_type.qemu_name(),
                    "vcpus": vcpus,
                    "sev_features": features.bits(),
                    "measurement": measurement.to_string(),
                }));
            }
        }
    }
    Ok(json!({
        // Sorted before the measurements: of two that differ, this shows in which file.
        "files": {
            "firmware": hash::of_file(firmware)?,
            "vmlinuz": hash::of_file(&kernel)?,
            "initrd": hash::of_file(&initrd)?,
            "cmdline": hash::of_file(&command_line)?,
        },
        "measurements": measurements,
    }))
}

/// [`VCPUS`].
pub fn published() -> Vec<NonZeroU32> {
    VCPUS.into_iter().filter_map(NonZeroU32::new).collect()
}
