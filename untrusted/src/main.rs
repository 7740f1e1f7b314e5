//! `keyfold-host`: runs the untrusted host, and helps its operator before that.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use keyfold_host::doctor::{self, Diagnosis};
use keyfold_host::storage::{Sqlite, sqlite};
use keyfold_host::{Config, Host, config, host, http, log};
use serde_json::json;
use std::io::Write;
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
    /// The admin listener says how it is: /healthz, /readyz, /metrics. SIGHUP reads [[enclave]] again
    /// and replaces the enclaves one at a time, while the others serve.
    Run {
        #[command(flatten)]
        file: File,
    },
    /// Find out why an enclave does not get its key: runs the steps of a boot with an enclave of its
    /// own and shows what each was told. A running host is left alone.
    ///
    /// Exits with 0, or with the code of the step that failed; the operator guide lists them. What it
    /// prints holds no token and no key.
    Doctor {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        doctor: Doctor,
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

#[derive(clap::Args)]
struct Doctor {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Which [[enclave]] of the configuration to start, from 0.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    enclave: usize,
    /// Ask only what can be asked without an enclave.
    #[arg(long)]
    without_enclave: bool,
    /// The key's release policy, to compare with: the host's identity may not read it.
    #[arg(long, value_name = "FILE")]
    release_policy: Option<PathBuf>,
}

/// What clap exits with, too.
const WRONG_COMMAND_LINE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run { file } => run(&file.config),
        Command::Doctor { file, doctor } => return diagnose(&file.config, doctor),
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
    say(text.trim_end());
    Ok(())
}

/// Nobody may be reading any more; that is no failure.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn run(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    log::init(&config.log).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let host = Host::builder(config).start().await?;
        let reloads = async {
            while hang_up.recv().await.is_some() {
                tracing::info!("replacing the enclaves, one at a time");
                match reload(&host, path).await {
                    Ok(()) => tracing::info!("every enclave is replaced"),
                    Err(error) => tracing::error!("enclaves are not all replaced: {error:#}"),
                }
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = reloads => {}
        }
        tracing::info!("stopping: running requests may end");
        host.stop().await;
        Ok(())
    })
}

fn diagnose(
    path: &Path, Doctor { json, enclave, without_enclave, release_policy }: Doctor,
) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let diagnosis = Diagnosis::unconfigured(&error);
            match json {
                true => say(format_args!("{:#}", diagnosis.to_json())),
                false => eprintln!("keyfold-host: {error}"),
            }
            return ExitCode::from(diagnosis.exit_code());
        }
    };
    let enclave = (!without_enclave).then_some(enclave);
    let options = match doctor::Options::new(&config, enclave, release_policy.as_deref()) {
        Ok(options) => options,
        Err(what) => {
            match json {
                true => say(json!({"exit_code": WRONG_COMMAND_LINE, "failed": {"what": what}})),
                false => eprintln!("keyfold-host: {what}"),
            }
            return ExitCode::from(WRONG_COMMAND_LINE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("keyfold-host: {error}");
            return ExitCode::FAILURE;
        }
    };
    let diagnosis = runtime.block_on(doctor::examine(&config, &options));
    match json {
        true => say(format_args!("{:#}", diagnosis.to_json())),
        false => say(diagnosis.to_text().trim_end()),
    }
    ExitCode::from(diagnosis.exit_code())
}

async fn reload(host: &Host, path: &Path) -> Result<()> {
    host.reload(&Config::load(path)?).await
}

fn check_config(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    if let Ok(hash) = host::enclave_hash(&config) {
        say(format_args!("configuration hash {hash}, which is `config` in deployment.toml"));
    }
    if let Some(note) = config.awaited() {
        say(format_args!("note: {note}"));
    }
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
    say(format_args!("{} is complete: deployment {}", path.display(), config.deployment.name));
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
    say(format_args!("{} is sound", path.display()));
    Ok(())
}
