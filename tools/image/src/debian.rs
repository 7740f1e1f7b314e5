//! Debian's packages: fetched with apt, checked against their pins, and unpacked.

mod apt;
mod unpack;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::hash;
use crate::pins::{self, Package};

pub use unpack::{decompress, unpack};

/// The package's file in this folder of earlier downloads, or a fresh one.
///
/// # Errors
/// It cannot be had, or its bytes are not the pinned ones. The message says what to do.
pub fn fetch(package: &Package, downloads: &Path) -> Result<PathBuf> {
    fs::create_dir_all(downloads).with_context(|| downloads.display().to_string())?;
    let path = downloads.join(package.file_name());
    if !path.exists() {
        let fetched = apt::fetch(package, downloads).with_context(|| advice(package, &path))?;
        // A package of other bytes is never kept under the pinned one's name.
        check(package, &fetched.file)?;
        fs::rename(&fetched.file, &path).with_context(|| path.display().to_string())?;
    }
    check(package, &path)?;
    Ok(path)
}

fn check(package: &Package, path: &Path) -> Result<()> {
    let found = hash::of_file(path)?;
    ensure!(
        found == package.sha256,
        "{} is not the pinned package: its SHA-256 is {found}, {} demands {}. Remove it and build again; if it comes \
         again, the mirror serves other bytes than those this source was reviewed with: do not use them",
        path.display(),
        pins::FILE,
        package.sha256,
    );
    Ok(())
}

fn advice(package: &Package, path: &Path) -> String {
    format!(
        "{} {} cannot be fetched. Either bring the file yourself (Debian's snapshot archive keeps every version) as {}, \
         SHA-256 {}; or pin a version that the mirror has in {}, which changes every measurement",
        package.package,
        package.version,
        path.display(),
        package.sha256,
        pins::FILE,
    )
}
