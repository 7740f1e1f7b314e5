//! Everything that has to hold before a change lands.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::{budget, shell};

/// A step: its name, and the work.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 8] = [
    ("tools", install),
    ("format", format),
    ("lint", lint),
    ("budget", || budget::run(false)),
    ("enclave", || build::enclave(Profile::Fast)),
    ("tests", nextest),
    ("documentation", documentation),
    ("fuzz", || fuzz(10)),
];

/// Runs all steps, or the named ones, and says how long each took.
pub(crate) fn run(only: &[String]) -> Result<()> {
    let unknown = only.iter().find(|name| !STEPS.iter().any(|(step, _)| step == name));
    if let Some(name) = unknown {
        let names: Vec<_> = STEPS.iter().map(|(step, _)| *step).collect();
        bail!("no step {name:?}; there are: {}", names.join(", "));
    }
    let mut report = Vec::new();
    for (name, work) in STEPS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("\n== {name}");
        let start = Instant::now();
        work().with_context(|| format!("step {name:?}"))?;
        report.push((name, start.elapsed().as_secs_f64()));
    }
    eprintln!();
    report.iter().for_each(|(name, seconds)| eprintln!("{name:<16} {seconds:>7.1} s"));
    Ok(())
}

/// What the tests need and a machine may lack. Asks before nothing: this runs where nobody is.
fn install() -> Result<()> {
    let missing: Vec<_> =
        [("node", "nodejs"), ("npm", "npm"), ("python3", "python3"), ("g++", "g++")]
            .into_iter()
            .filter(|(program, _)| !shell::has(program))
            .map(|(_, package)| package)
            .chain((!shell::has_python_venv()).then_some("python3-venv"))
            .collect();
    if !missing.is_empty() {
        if !shell::has("apt-get") {
            bail!("install these first: {}", missing.join(", "));
        }
        shell::run(shell::command("apt-get").args(["update", "--quiet"]))?;
        let mut install = shell::command("apt-get");
        install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(missing);
        shell::run(&mut install)?;
    }
    if !shell::has("cargo-nextest") {
        shell::run(shell::cargo().args(["install", "cargo-nextest", "--locked", "--debug"]))?;
    }
    Ok(())
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn lint() -> Result<()> {
    let clippy = |arguments: &[&str]| {
        let mut cargo = shell::cargo();
        // The tests' profile, for what build scripts compile: C libraries, once for all steps.
        cargo.args(["clippy", "--locked", "--profile", "fast"]).args(arguments);
        cargo.args(["--", "--deny", "warnings"]);
        shell::run(&mut cargo)
    };
    clippy(&["--workspace", "--all-targets"])?;
    // What unified features hide: each of these as it is built alone.
    clippy(&["--package", "keyfold-trusted", "--no-default-features", "--lib"])?;
    clippy(&["--package", "keyfold-trusted"])?;
    clippy(&["--package", "keyfold-attestation-policy", "--all-targets"])
}

fn nextest() -> Result<()> {
    let nextest = |arguments: &[&str]| {
        let mut cargo = shell::cargo();
        cargo.args(["nextest", "run", "--locked", "--cargo-profile", "fast", "--no-fail-fast"]);
        cargo.args(arguments);
        shell::run(&mut cargo)
    };
    // Host, dev cloud and command line are built on the way, with everybody's features: once.
    nextest(&["--workspace", "--features", "keyfold/development"])?;
    // Without `development`, which other packages' tests turn on: release builds refuse more.
    nextest(&["--package", "keyfold-attestation-policy"])
}

fn documentation() -> Result<()> {
    shell::run(shell::cargo().args([
        "test",
        "--locked",
        "--profile",
        "fast",
        "--workspace",
        "--doc",
    ]))?;
    let mut doc = shell::cargo();
    doc.args(["doc", "--locked", "--profile", "fast", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    shell::run(&mut doc)
}

/// Runs each fuzz target for so many seconds.
pub(crate) fn fuzz(seconds: u32) -> Result<()> {
    let script = shell::root().join("tests/fuzz/run.sh");
    shell::run(shell::command("bash").arg(script).arg(seconds.to_string()))
}
