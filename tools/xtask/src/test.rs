//! Everything that has to hold before a change lands.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{budget, image, shell};

/// A step: its name, and the work.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 8] = [
    ("tools", install),
    ("format", format),
    ("lint", lint),
    ("budget", || budget::run(false)),
    ("image", images),
    ("tests", nextest),
    ("documentation", documentation),
    ("fuzz", || fuzz(6)),
];

/// What the programs under test are built with: a software chip, and clients that accept it.
pub(crate) const FEATURES: &str = "keyfold/development,keyfold-trusted/simulated";

/// Runs all steps, or the named ones, and says how long each took.
pub(crate) fn run(only: &[String]) -> Result<()> {
    let unknown = only.iter().find(|name| !STEPS.iter().any(|(step, _)| step == name));
    if let Some(name) = unknown {
        let names: Vec<_> = STEPS.iter().map(|(step, _)| *step).collect();
        bail!("no step {name:?}; there are: {}", names.join(", "));
    }
    let mut report = Vec::new();
    let mut outcome = Ok(());
    for (name, work) in STEPS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("\n== {name}");
        let start = Instant::now();
        outcome = work().with_context(|| format!("step {name:?}"));
        report.push((name, start.elapsed().as_secs_f64()));
        if outcome.is_err() {
            break;
        }
    }
    eprintln!();
    report.iter().for_each(|(name, seconds)| eprintln!("{name:<16} {seconds:>7.1} s"));
    outcome?;
    if !shell::root().join("../shared/vectors").is_dir() {
        eprintln!(
            "NOT RUN: the published receipts, reports and endorsements. They are read from \
             ../shared/vectors, which is not there; the project's own fixtures were."
        );
    }
    Ok(())
}

/// What the tests need and a machine may lack. Asks before nothing: this runs where nobody is.
fn install() -> Result<()> {
    // The one waits for the network, the other for the processor.
    std::thread::scope(|scope| {
        let packages = scope.spawn(install_packages);
        install_crates()?;
        packages.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn install_packages() -> Result<()> {
    let missing: Vec<_> =
        [("node", "nodejs"), ("npm", "npm"), ("python3", "python3"), ("g++", "g++"), QEMU]
            .into_iter()
            .filter(|(program, _)| !shell::has(program))
            .map(|(_, package)| package)
            .chain((!shell::has_python_venv()).then_some("python3-venv"))
            .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !shell::has("apt-get") {
        bail!("install these first: {}", missing.join(", "));
    }
    shell::run(shell::command("apt-get").args(["update", "--quiet"]))?;
    let mut install = shell::command("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(missing);
    shell::run(&mut install)
}

fn install_crates() -> Result<()> {
    // The second carries the traffic of a machine: optimised.
    for (program, how) in [("cargo-nextest", &["--debug"][..]), ("vhost-device-vsock", &[])] {
        if !shell::has(program) {
            shell::run(shell::cargo().args(["install", program, "--locked"]).args(how))?;
        }
    }
    Ok(())
}

/// A program, and Debian's package of it.
const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// Packages that are built apart from the workspace, by their folder: what the workspace's own steps
/// do not see. Each borrows the workspace's lock file.
const APART: [&str; 2] = ["tests/fuzz", "tests/no-alloc"];

/// Builds the fuzz targets, and lints or runs them.
const FUZZ: &str = "tests/fuzz/run.sh";

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    APART.iter().try_for_each(|folder| {
        shell::run(shell::cargo().args(["fmt", "--check"]).current_dir(shell::root().join(folder)))
    })
}

fn lint() -> Result<()> {
    let clippy = |folder: &Path, arguments: &[&str]| {
        let mut cargo = shell::cargo();
        cargo.arg("clippy").args(arguments).args(["--", "--deny", "warnings"]);
        shell::run(cargo.current_dir(folder))
    };
    // The tests' profile, for what build scripts compile: C libraries, once for all steps.
    let fast = ["--locked", "--profile", "fast", "--all-targets"];
    let root = shell::root();
    clippy(&root, &[&fast[..], &["--workspace"]].concat())?;
    // What unified features hide: these as they are built alone.
    let alone = ["--package", "keyfold-trusted", "--package", "keyfold-attestation-policy"];
    clippy(&root, &[&fast[..], &alone].concat())?;
    // The packages apart, each where it is built: what its build scripts make is made once.
    shell::run(shell::command("bash").args([FUZZ, "lint"]))?;
    let folder = root.join("tests/no-alloc");
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    let built = shell::target().join("no-alloc").display().to_string();
    let release = ["--release", "--target-dir", &built];
    clippy(&folder, &release)?;
    // The core alone has the same features there, and the profile is the same.
    let core = ["--locked", "--package", "keyfold-trusted", "--no-default-features", "--lib"];
    clippy(&root, &[&release[..], &core].concat())
}

/// Both images, which tests boot.
fn images() -> Result<()> {
    ["--development", "--bare"].into_iter().try_for_each(image::build)
}

fn nextest() -> Result<()> {
    let nextest = |arguments: &[&str]| {
        let mut cargo = shell::cargo();
        cargo.args(["nextest", "run", "--locked", "--cargo-profile", "fast", "--no-fail-fast"]);
        cargo.args(arguments);
        shell::run(&mut cargo)
    };
    // The programs are built on the way, with everybody's features: once.
    nextest(&["--workspace", "--features", FEATURES])?;
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
        // As the tests are built: nothing is compiled again.
        "--features",
        FEATURES,
    ]))?;
    let mut doc = shell::cargo();
    doc.args(["doc", "--locked", "--profile", "fast", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    shell::run(&mut doc)
}

/// Runs each fuzz target for so many seconds.
pub(crate) fn fuzz(seconds: u32) -> Result<()> {
    shell::run(shell::command("bash").arg(FUZZ).arg(seconds.to_string()))
}
