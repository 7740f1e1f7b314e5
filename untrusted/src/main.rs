//! `keyfold-host`: runs the untrusted host, and helps its operator before that.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use keyfold_host::storage::{Sqlite, sqlite};
use keyfold_host::{Config, Host, config, http, log};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The untrusted host of Keyfold: HTTP, storage, identity, ledger and key release around an enclave.
///
/// Start with `keyfold-host config example > host.toml`, fill it in, look at it with
/// `keyfold-host config check`, then `keyfold-host run`.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then let running requests end.
    ///
    /// The admin listener says how it is: /healthz, /readyz, /metrics.
    Run {
        #[command(flatten)]
        file: File,
    },
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the database.
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Print the OpenAPI description of the public API.
    Openapi,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check the file with its environment overrides, and what it refers to. Starts nothing.
    Check {
        #[command(flatten)]
        file: File,
    },
    /// Print a complete file with every key explained.
    Example,
}

#[derive(Subcommand)]
enum StorageCommand {
    /// Read every page of the database and report damage. Safe while the host runs.
    Check {
        #[command(flatten)]
        file: File,
    },
}

#[derive(clap::Args)]
struct File {
    /// Configuration file. KEYFOLD_HOST__SECTION__KEY in the environment overrides single keys, for
    /// example KEYFOLD_HOST__LEDGER__URL=https://ledger.example.com.
    #[arg(long, short, value_name = "FILE", env = "KEYFOLD_HOST_CONFIG")]
    #[arg(default_value = "/etc/keyfold/host.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run { file } => run(&file.config),
        Command::Config(ConfigCommand::Check { file }) => check_config(&file.config),
        Command::Config(ConfigCommand::Example) => print(config::EXAMPLE),
        Command::Storage(StorageCommand::Check { file }) => check_storage(&file.config),
        Command::Openapi => print(http::OPENAPI),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyfold-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> Result<()> {
    print!("{text}");
    Ok(())
}

fn run(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    log::init(&config.log).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let host = Host::builder(config).start().await?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: running requests may end");
        host.stop().await;
        Ok(())
    })
}

fn check_config(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    let missing = config.missing();
    for problem in &missing {
        eprintln!("{problem}");
    }
    if !missing.is_empty() {
        bail!(
            "{} is well-formed, but {} of the things it refers to are not right",
            path.display(),
            missing.len()
        );
    }
    println!("{} is complete: deployment {}", path.display(), config.deployment.name);
    Ok(())
}

fn check_storage(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    let path = &config.storage.path;
    if !path.is_file() {
        bail!(
            "{} does not exist: nothing was stored yet, or storage.path is wrong",
            path.display()
        );
    }
    let storage = Sqlite::open(&sqlite::Options::new(path))?;
    let damage = storage.integrity().with_context(|| format!("{}", path.display()))?;
    for line in &damage {
        eprintln!("{line}");
    }
    if !damage.is_empty() {
        bail!("{} is damaged: stop the host, keep the file, restore a backup", path.display());
    }
    println!("{} is sound", path.display());
    Ok(())
}
