//! The source, and where, with what and by whom it is built.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Kind, run};

/// The source, and where, with what and by whom it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// The source's root folder.
    pub root: PathBuf,
    /// Where everything is built.
    pub target: PathBuf,
    /// Packages that were downloaded before.
    pub packages: PathBuf,
    /// Firmware to measure with, instead of the pinned one.
    pub firmware: Option<PathBuf>,
    /// The cargo that builds it.
    pub cargo: PathBuf,
    /// What the source is, where that is known.
    pub revision: Option<Revision>,
    /// Who builds.
    pub builder: Builder,
}

/// A state of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The commit, in hex.
    pub commit: String,
    /// Whether the source is that commit and nothing else.
    pub clean: bool,
}

/// Who compiles, and how: none of it may change a byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Builder {
    /// cargo's jobs; as many as there are processors otherwise.
    pub jobs: Option<u32>,
    /// A home folder, and cargo's in it, instead of the user's. What is built must be there already.
    pub home: Option<PathBuf>,
    /// Whether another user than the one that asks does it: `nobody`, which takes root.
    pub nobody: bool,
}

impl Workspace {
    /// The one that this program was built from, with the cargo that runs it.
    pub fn own() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.ancestors().nth(2).unwrap_or(here).to_owned();
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| root.join("target"), PathBuf::from);
        let cargo = std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
        let packages = target.join("image/packages");
        let revision = Revision::of(&root);
        let builder = Builder::default();
        Self { root, target, packages, firmware: None, cargo, revision, builder }
    }

    /// Where an image is built into, unless another folder is named.
    pub fn output(&self, kind: Kind) -> PathBuf {
        self.target.join("image").join(kind.folder())
    }

    /// Where a release image goes of which only what boots is built: never over one that is described.
    pub fn bare(&self) -> PathBuf {
        self.target.join("image/bare")
    }
}

impl Revision {
    /// What git says of a folder.
    pub fn of(root: &Path) -> Option<Self> {
        let git = |arguments: &[&str]| {
            run::read(Command::new("git").args(arguments).current_dir(root)).ok()
        };
        let commit = git(&["rev-parse", "HEAD"])?.trim().to_owned();
        let clean = git(&["status", "--porcelain"])?.trim().is_empty();
        Some(Self { commit, clean })
    }
}
