//! `keyfold-demo`: the whole story of a passkey on this machine, told step by step.
//!
//! Everything runs as it does in production, as processes of its own; the outside world is played by
//! the dev cloud. Devices are two folders, driven through the `keyfold` command line as a person
//! would; the relying party is webauthn-rs, which knows nothing of Keyfold.

mod device;
mod relying_party;
mod story;
mod teller;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use keyfold_local::{Binaries, Deployment, Options};

use crate::teller::Teller;

/// Plays the whole story of a passkey on this machine and explains each step.
///
/// It protects nothing: the dev cloud plays the identity issuer, the attestation service, the key
/// vault, the ledger and the chip.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Leave everything running afterwards, and say how to go on by hand
    #[arg(long)]
    keep: bool,
    /// Print one JSON object with each step's time instead of the story
    #[arg(long)]
    json: bool,
    /// Where to keep keys, databases and logs; emptied first [default: .keyfold/demo]
    #[arg(long, default_value = ".keyfold/demo")]
    dir: PathBuf,
    /// Where RSA keys of earlier runs may be taken from
    #[arg(long, hide = true)]
    key_cache: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let told = runtime.context("no async runtime").and_then(|it| it.block_on(tell(&arguments)));
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nkeyfold-demo: {error:#}\nLogs are in {}", arguments.dir.display());
            ExitCode::FAILURE
        }
    }
}

async fn tell(arguments: &Arguments) -> Result<()> {
    let mut teller = Teller::new(arguments.json);
    let here = std::env::current_exe()?;
    let binaries = Binaries::in_folder(here.parent().context("no folder")?)?;
    if arguments.dir.exists() {
        std::fs::remove_dir_all(&arguments.dir)
            .with_context(|| format!("cannot empty {}", arguments.dir.display()))?;
    }
    teller.opening();
    let options = Options { key_cache: arguments.key_cache.clone(), ..Options::default() };
    let deployment = teller
        .step(
            "Start a deployment",
            "Dev cloud, host and enclave start as separate processes. The enclave shows its attestation \
             report; the attestation service checks it; the key vault releases the root key to exactly \
             this program under exactly this configuration. Two offline keys then sign the statement \
             that says which program and which root key clients are to expect.",
            Deployment::start(&arguments.dir, binaries, options),
        )
        .await?;
    let mut deployment = deployment;
    story::tell(&mut teller, &deployment).await?;
    teller.closing();
    if arguments.keep {
        keep(&mut deployment).await?;
    }
    Ok(())
}

/// Until ctrl-c.
async fn keep(deployment: &mut Deployment) -> Result<()> {
    let cli = deployment.binaries.cli.display();
    let folder = deployment.folder.display();
    let url = &deployment.url;
    println!(
        "Everything is still running. In another terminal:

  alias keyfold='{cli} --as bob'
  keyfold enroll --deployment {url} --trust-root {folder}/trust-root.json
  keyfold passkeys create --origin https://example.org < options.json
  keyfold doctor
  keyfold --help

The host: {url}/v1/deployment, {url}/openapi.json; for its operator: {admin}/readyz, {admin}/metrics
Make the outside world fail: curl {control}/dev/fail -d '{{\"service\":\"ledger\",\"mode\":\"down\"}}'
Logs, databases and keys: {folder}

Ctrl-c stops everything.",
        admin = deployment.admin_url,
        control = deployment.endpoints.control.url,
    );
    tokio::signal::ctrl_c().await?;
    deployment.host.stop()?;
    deployment.cloud.stop()
}
