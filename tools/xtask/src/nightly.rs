//! What takes hours and shows more of the same: more kills, more seeds, every mutant, the clock, the image again.

use anyhow::{Context, Result, ensure};

use crate::{image, shell, test};

/// Beyond this, times tell two kinds of input apart.
const TELLING: f64 = 5.0;

/// Everything, one after the other; stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    eprintln!("== the image, built twice");
    image::run(&["verify".to_owned()])?;
    eprintln!("== what a settling's time tells");
    constant_time()?;
    eprintln!("== 200 kills");
    tests("binary(crash)", ("KEYFOLD_KILLS", "200"))?;
    eprintln!("== 20,000 seeds");
    tests("binary(simulation)", ("KEYFOLD_SEEDS", "10000"))?;
    eprintln!("== fuzzing, five minutes for each target");
    test::fuzz(300)?;
    eprintln!("== every mutant");
    mutants(&[])
}

/// Takes the core's checks away one at a time: all, or the named ones.
pub(crate) fn mutants(names: &[String]) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["run", "--locked", "--quiet", "--package", "keyfold-tests", "--bin", "mutants"]);
    shell::run(cargo.arg("--").args(names))
}

fn tests(filter: &str, (name, value): (&str, &str)) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["nextest", "run", "--locked", "--cargo-profile", "fast", "--workspace"]);
    cargo.args(["--features", test::FEATURES, "--no-capture", "-E", filter]);
    shell::run(cargo.env(name, value))
}

/// Right and wrong PINs must take the same time; a careless comparison must be found.
fn constant_time() -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--locked", "--quiet", "--package", "keyfold-tests"]);
    let said = shell::read(cargo.args(["--bench", "constant_time"]))?;
    print!("{said}");
    let t = |name: &str| -> Result<f64> {
        let line = said.lines().find(|line| line.contains(&format!("bench {name} ")));
        let t = line.and_then(|line| line.split("max t = ").nth(1)?.split(',').next());
        let t = t.with_context(|| format!("no result for {name}"))?;
        t.trim().parse::<f64>().map(f64::abs).with_context(|| t.to_owned())
    };
    let control = t("control")?;
    ensure!(control > TELLING, "the control was not found: t = {control}");
    for frame in ["settle", "overtaken_commit"] {
        let t = t(frame)?;
        ensure!(t < TELLING, "the time of {frame} tells a right PIN from a wrong one: t = {t}");
    }
    Ok(())
}
