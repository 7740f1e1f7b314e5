//! `cargo xtask`: the project's own tasks. Everything the README tells a reader to run is here.

mod bench;
mod budget;
mod build;
mod demo;
mod image;
mod nightly;
mod shell;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::build::Profile;

/// The project's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build everything and play the whole story of a passkey on this machine, explaining each step.
    ///
    /// It protects nothing: the outside world is played by the dev cloud.
    Demo(demo::Arguments),
    /// Install what the tests need, then run all of them.
    Test {
        /// Only these steps: tools, format, lint, budget, image, tests, documentation, fuzz
        steps: Vec<String>,
    },
    /// Build the programs of a deployment on this machine.
    Build {
        /// As they are shipped, rather than quickly
        #[arg(long)]
        release: bool,
    },
    /// Boot the development image under QEMU, and play the demo's story with the enclave in it.
    ///
    /// The host reaches it over vsock, as in production. The machine is emulated and not confidential:
    /// it protects nothing. With --keep it stays up.
    Vm {
        #[command(flatten)]
        arguments: demo::Arguments,
        /// Boot the release image instead, which serves nobody without SEV-SNP, and print what it says
        #[arg(long, conflicts_with_all = ["keep", "json", "dir", "image"])]
        release: bool,
    },
    /// Build the confidential VM's image, measure it, or build it twice and compare.
    ///
    /// `cargo xtask image --help` lists what it takes; tools/image/README.md explains it.
    #[command(disable_help_flag = true)]
    Image {
        /// build, verify or measure, and what they take
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Count what an auditor has to read and trust, and compare it with what is promised.
    ///
    /// Fails when trusted/ and protocol/ outgrow their budget, when a function is too long, when the
    /// code could panic or is unsafe, or when the dependency graph is not the one that
    /// trusted/DEPENDENCIES.toml lists with a reason for each crate.
    Budget {
        /// Rewrite the versions and checksums in trusted/DEPENDENCIES.toml; reasons stay, and a new
        /// crate gets an empty one, which fails until somebody writes it.
        #[arg(long)]
        update: bool,
    },
    /// Take the core's checks away one at a time; a test has to notice each.
    Mutants {
        /// Only these, by name
        names: Vec<String>,
    },
    /// What takes hours: the image built twice, 200 kills, 20,000 simulated seeds, long fuzzing, every mutant, and whether
    /// the time of a PIN's comparison tells anything.
    Nightly,
    /// Measure the core beside the sum of its cryptographic primitives, and sign-ins through
    /// everything.
    Bench {
        /// Shorter phases: under a minute once everything is built
        #[arg(long)]
        quick: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run every fuzz target for a while.
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test { steps } => test::run(&steps),
        Task::Build { release } => {
            build::development(if release { Profile::Release } else { Profile::Fast })
        }
        Task::Image { arguments } => image::run(&arguments),
        Task::Vm { arguments, release } => vm::run(arguments, release),
        Task::Budget { update } => budget::run(update),
        Task::Mutants { names } => nightly::mutants(&names),
        Task::Nightly => nightly::run(),
        Task::Bench { quick, json } => bench::run(quick, json),
        Task::Fuzz { seconds } => test::fuzz(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_demo_does_not_take_is_refused_before_anything_is_built() {
        let parsed =
            |word: &str| Arguments::try_parse_from(["xtask", "demo", word]).map(|it| it.task);
        assert!(parsed("--typo").is_err());
        let Ok(Task::Demo(demo)) = parsed("--keep") else { panic!("--keep is an option") };
        assert!(demo.keep && !demo.json);
    }
}
