//! Firmware to measure with.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The last page of OVMF builds, as the sev crate carries them for its own tests: their tables are in it.
pub(crate) fn of_crate(name: &str) -> PathBuf {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let sev = packages.iter().find(|package| package["name"] == "sev").unwrap();
    let manifest = Path::new(sev["manifest_path"].as_str().unwrap());
    let file = manifest.with_file_name("tests").join("measurement").join(name);
    assert!(file.is_file(), "{} is missing", file.display());
    file
}
