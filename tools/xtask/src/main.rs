//! `cargo xtask`: the project's own tasks. Everything the README tells a reader to run is here.

mod bench;
mod budget;
mod build;
mod demo;
mod shell;
mod test;

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
    Demo {
        /// What the story takes: --keep leaves everything running, --json prints one object,
        /// --dir DIR says where.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Install what the tests need, then run all of them.
    Test {
        /// Only these steps: tools, format, lint, budget, enclave, tests, documentation, fuzz
        steps: Vec<String>,
    },
    /// Build the programs of a deployment on this machine.
    Build {
        /// As they are shipped, rather than quickly
        #[arg(long)]
        release: bool,
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
        Task::Demo { arguments } => demo::run(&arguments),
        Task::Test { steps } => test::run(&steps),
        Task::Build { release } => {
            build::development(if release { Profile::Release } else { Profile::Fast })
        }
        Task::Budget { update } => budget::run(update),
        Task::Mutants { names } => {
            let mut cargo = shell::cargo();
            cargo.args([
                "run",
                "--locked",
                "--quiet",
                "--package",
                "keyfold-tests",
                "--bin",
                "mutants",
            ]);
            shell::run(cargo.arg("--").args(names))
        }
        Task::Bench { quick, json } => bench::run(quick, json),
        Task::Fuzz { seconds } => test::fuzz(seconds),
    }
}
