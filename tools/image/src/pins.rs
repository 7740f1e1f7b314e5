//! What the image is made of that is not this project's: Debian's packages, pinned by hash, and the compiler.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Where the packages are pinned, in the source.
pub const FILE: &str = "tools/image/packages.toml";

/// The pinned packages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// The guest's kernel and its modules.
    pub kernel: Package,
    /// What starts the kernel, and is measured first.
    pub firmware: Package,
}

/// One package of Debian's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Debian's suite that carries it.
    pub suite: String,
    /// SHA-256 of the package's file, in hex.
    pub sha256: String,
}

impl Pins {
    /// The pins of a source folder.
    ///
    /// # Errors
    /// The file is missing or has another form.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }
}

impl Package {
    /// The name of its file.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.package, self.version, self.architecture)
    }
}
