//! The confidential VM's image, which `keyfold-image` builds and checks.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// Becomes it, with these arguments, in the caller's folder.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    Err(program().args(arguments).exec()).context("cannot start keyfold-image")
}

/// Builds an image for another task, whose own output stays its own.
pub(crate) fn build(how: &str) -> Result<()> {
    shell::run(program().args(["build", how]).stdout(std::io::stderr()))
}

fn program() -> Command {
    let mut cargo = shell::cargo();
    // Quickly built, but not slow: it decompresses a kernel's modules.
    cargo.args(["run", "--locked", "--quiet", "--profile", "fast", "--package", "keyfold-image"]);
    cargo.arg("--manifest-path").arg(shell::root().join("Cargo.toml"));
    cargo.arg("--").current_dir(std::env::current_dir().unwrap_or_else(|_| shell::root()));
    cargo
}
