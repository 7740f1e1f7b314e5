//! `cargo xtask`: the project's own tasks. Everything the README tells a reader to run is here.

mod budget;
mod shell;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
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
        Task::Budget { update } => budget::run(update),
    }
}
