//! Running other programs, and finding the workspace.

#[path = "../../image/src/run.rs"]
mod run;

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use run::{read, run};

/// The project's root folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Whether a program is on the path.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Whether Python can make virtual environments, which Debian packages apart.
pub(crate) fn has_python_venv() -> bool {
    let probe = Command::new("python3").args(["-c", "import ensurepip"]).output();
    probe.is_ok_and(|output| output.status.success())
}

/// A program that runs in the project's root.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// `cargo`, the one that runs this.
pub(crate) fn cargo() -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
}
