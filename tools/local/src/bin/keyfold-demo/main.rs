//! `keyfold-demo`: the whole story of a passkey on this machine, told step by step.
//!
//! Everything runs as it does in production, as processes of its own; the outside world is played by
//! the dev cloud. Devices are two folders, driven through the `keyfold` command line as a person
//! would; the relying party is webauthn-rs, which knows nothing of Keyfold.

mod arguments;
mod by_hand;
mod device;
mod recovery;
mod relying_party;
mod story;
mod teller;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use keyfold_local::{Binaries, Deployment, Machine, Options, Place};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::arguments::Arguments;
use crate::by_hand::ByHand;
use crate::teller::{Teller, Unheard};

/// Plays the whole story of a passkey on this machine and explains each step.
///
/// It protects nothing: the dev cloud plays the identity issuer, the attestation service, the key
/// vault, the ledger and the chip.
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    let CommandLine { arguments } = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.context("no async runtime").and_then(|it| it.block_on(play(&arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads any more, which is no failure.
        Err(error) if error.is::<Unheard>() => ExitCode::SUCCESS,
        Err(error) => failure(arguments.json, "demo-failed", &format!("{error:#}"), 1),
    }
}

/// Help and version are no failures.
fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && json {
        let message = error.render().to_string();
        return failure(true, "usage", message.trim_start_matches("error: ").trim_end(), 2);
    }
    // Printing fails when nobody reads any more.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// As `keyfold` reports its own.
fn failure(json: bool, code: &str, message: &str, exit: u8) -> ExitCode {
    match json {
        true => warn(&json!({"error": {"code": code, "message": message, "exit": exit}})),
        false => warn(&format_args!("\nkeyfold-demo: {message}")),
    }
    ExitCode::from(exit)
}

/// A closed terminal takes nothing any more.
fn warn(text: &impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// In a folder of its own.
async fn play(arguments: &Arguments) -> Result<()> {
    let here = std::env::current_exe()?;
    let binaries = Binaries::in_folder(here.parent().context("no folder")?)?;
    let folder = &arguments.dir;
    let _taken = take(folder)?;
    run(arguments, binaries).await.map_err(|error| match folder.join("cloud.log").exists() {
        true if !error.is::<Unheard>() => anyhow!("{error:#}\nLogs are in {}", folder.display()),
        _ => error,
    })
}

/// To the story's end or, with `--keep`, until somebody stops it. Its programs end with it: what is
/// dropped on the way is killed.
async fn run(arguments: &Arguments, binaries: Binaries) -> Result<()> {
    let mut stopped = stop_signals()?;
    let told = tokio::select! {
        told = tell(arguments, binaries) => told,
        _ = stopped.wait_for(|stopped| *stopped) => bail!(STOPPED),
    };
    let mut deployment = match told {
        // A signal to all programs of a terminal makes a step fail as well.
        Err(error) if *stopped.borrow() => return Err(error.context(STOPPED)),
        told => told?,
    };
    if arguments.keep {
        // Beside the one JSON object of `--json`.
        warn(&ByHand::new(&deployment)?);
        stopped.wait_for(|stopped| *stopped).await?;
    }
    deployment.host.stop()?;
    deployment.cloud.stop()
}

const STOPPED: &str = "stopped before the story's end";

/// Becomes true on ctrl-c, SIGTERM, or when the terminal is closed.
fn stop_signals() -> Result<watch::Receiver<bool>> {
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        if let [interrupt, terminate, hang_up] = &mut signals[..] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            stop.send_replace(true);
        }
    });
    Ok(stopped)
}

async fn tell(arguments: &Arguments, binaries: Binaries) -> Result<Deployment> {
    let mut teller = Teller::new(arguments.json);
    teller.opening();
    let machine = |image: PathBuf| Place::Machine(Machine { image, cpus: 1, clock: None });
    let options = Options {
        key_cache: arguments.key_cache.clone(),
        place: arguments.image.clone().map_or(Place::Children, machine),
        ..Options::default()
    };
    let parts = match &arguments.image {
        None => "Dev cloud, host and enclave start as separate processes.",
        Some(_) => {
            "Dev cloud and host start as processes, the enclave alone in a virtual machine that QEMU \
             emulates: no disk, no network, no other program, and a vsock to the host."
        }
    };
    let mut deployment = teller
        .step(
            "Start a deployment",
            &format!(
                "{parts} The enclave shows its attestation report; the attestation service checks it; \
                 the key vault releases the root key to exactly this program under exactly this \
                 configuration. Two offline keys then sign the statement that says which program and \
                 which root key clients are to expect."
            ),
            Deployment::start(&arguments.dir, binaries, options),
        )
        .await?;
    story::tell(&mut teller, &mut deployment).await?;
    teller.closing();
    Ok(deployment)
}

/// What tells a demo's folder from any other, and is locked while a demo runs there.
const MARKER: &str = ".keyfold-demo";

/// Takes a folder that is new, empty, or an earlier demo's, and empties it. Nothing else is touched.
fn take(folder: &Path) -> Result<File> {
    let name = folder.display();
    let cannot = || format!("cannot empty {name}");
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {name}"))?;
    let mut entries = std::fs::read_dir(folder).with_context(cannot)?;
    let marker = folder.join(MARKER);
    if entries.next().is_some() && !marker.is_file() {
        bail!("{name} holds something else than a demo: name another folder with --dir");
    }
    let lock = File::options().create(true).truncate(false).write(true).open(&marker)?;
    if lock.try_lock().is_err() {
        bail!("a demo is running in {name}: stop it, or name another folder with --dir");
    }
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        match path.is_dir() {
            _ if path == marker => Ok(()),
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        }
        .with_context(cannot)?;
    }
    Ok(lock)
}
