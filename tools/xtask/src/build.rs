//! Building the project's programs, each with the features its place asks for.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell;

/// How a program is compiled.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// As it is shipped, one code unit.
    Release,
    /// Optimised, quicker to build: for tests.
    Fast,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Fast => "fast",
        }
    }

    /// Where cargo leaves the programs.
    pub(crate) fn folder(self) -> PathBuf {
        shell::target().join(self.name())
    }
}

/// The programs of a deployment on this machine, and those that start them.
pub(crate) fn development(profile: Profile) -> Result<()> {
    eprintln!("== 1 of 3: keyfold-enclave");
    enclave(profile)?;
    eprintln!("== 2 of 3: keyfold-host");
    build(profile, &["--package", "keyfold-host"])?;
    eprintln!("== 3 of 3: keyfold, the dev cloud, and what starts all of them");
    let rest =
        ["--package", "keyfold", "--package", "keyfold-dev-cloud", "--package", "keyfold-local"];
    build(profile, &[&rest[..], &["--features", "keyfold/development"]].concat())
}

/// The enclave with the simulated chip. Built alone, so that no other package's features reach it.
fn enclave(profile: Profile) -> Result<()> {
    let program = ["--package", "keyfold-trusted", "--bin", "keyfold-enclave"];
    build(profile, &[&program[..], &["--features", "simulated"]].concat())
}

/// The programs that start others, alone.
pub(crate) fn local(profile: Profile) -> Result<()> {
    build(profile, &["--package", "keyfold-local"])
}

fn build(profile: Profile, arguments: &[&str]) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--profile", profile.name()]).args(arguments);
    shell::run(&mut cargo)
}
