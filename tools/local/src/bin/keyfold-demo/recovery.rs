//! The story's chapters on the PIN: a new device gets back in, nobody gets an eleventh guess, and a host
//! that puts an old database back gives no guess back.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use keyfold_local::Deployment;
use serde_json::Value;
use webauthn_rs::prelude::Passkey;

use crate::device::{Device, PIN};
use crate::relying_party::RelyingParty;
use crate::story::SIGN_IN;
use crate::teller::Teller;

const NEW_PIN: &str = "battery staple 2064";

/// Tells them. `laptop` is in the account, which has `passkey`.
pub(crate) async fn tell(
    teller: &mut Teller, deployment: &mut Deployment, site: &RelyingParty, laptop: &Device,
    passkey: &Passkey,
) -> Result<()> {
    let sign_in = |device: &Device| {
        site.sign_in(passkey, None, |options| device.run(&SIGN_IN, Some(options))).map(drop)
    };
    recover(teller, deployment, sign_in).await?;
    let yesterday = deployment.folder.join("yesterday.db");
    let database = deployment.folder.join("host.db");
    deployment.host.stop()?;
    copy_database(&database, &yesterday)?;
    deployment.restart_host().await?;

    ten_wrong(teller, deployment, laptop).await?;
    turn_back(teller, deployment, laptop, &yesterday).await?;
    lift(teller, deployment, laptop, sign_in).await
}

async fn recover(
    teller: &mut Teller, deployment: &Deployment, sign_in: impl Fn(&Device) -> Result<()>,
) -> Result<()> {
    let tablet = Device::new("tablet", deployment)?;
    let recovered = teller
        .step(
            "Recover on a new tablet with the PIN",
            "Nothing of the account is on it. The PIN is stretched on the tablet (64 MiB of Argon2id); the \
             ledger records a failed try before anything is compared; the enclave compares, and its answer \
             leaves it only when the ledger has recorded the outcome too. The passkeys are all there, and \
             the shop sees no difference.",
            async {
                let recovered = tablet.recover(PIN)?;
                sign_in(&tablet)?;
                Ok(recovered)
            },
        )
        .await?;
    let devices = recovered["devices"].as_array().into_iter().flatten();
    let names: Vec<_> = devices.filter_map(|device| device["name"].as_str()).collect();
    teller.note(&format!("passkeys: {}; devices: {}", recovered["passkeys"], names.join(", ")));
    Ok(())
}

async fn ten_wrong(teller: &mut Teller, deployment: &Deployment, laptop: &Device) -> Result<()> {
    let thief = Device::new("thief", deployment)?;
    let progress = teller.progress();
    let locked = teller
        .step(
            "A thief of the sign-in guesses ten times",
            "Whoever can sign in as Alice may guess. Each guess is stretched, charged and compared as before; \
             right or wrong, the host sees the same two entries in the ledger. After ten wrong ones in a \
             row the right PIN is refused too.",
            async {
                progress.begin("tries left:");
                for left in (0..10).rev() {
                    let error = thief.recovery_refused(&format!("guess number {left}"))?;
                    ensure!(error["tries_left"] == left, "with {left} tries left: {error}");
                    progress.go_on(&left.to_string());
                }
                progress.end();
                let error = thief.recovery_refused(PIN)?;
                ensure!(error["code"] == "recovery-locked", "the right PIN: {error}");
                Ok(error)
            },
        )
        .await?;
    note_refusal(teller, "the thief was told", &locked);
    // The owner looks, and so has seen the tries.
    note_recovery(teller, laptop)
}

async fn turn_back(
    teller: &mut Teller, deployment: &mut Deployment, laptop: &Device, yesterday: &Path,
) -> Result<()> {
    let thief = Device::new("thief", deployment)?;
    let database = deployment.folder.join("host.db");
    let today = deployment.folder.join("today.db");
    let guard = laptop.run(&["status"], None)?["guard"].clone();
    let (refused, alarm, noticed, ledger) = teller
        .step(
            "The host puts yesterday's database back",
            "In it, no guess was ever made. The ledger knows better: it takes a change of an account only \
             from the version where the account stands, so the host cannot charge a guess to the old one, \
             and without a charge the enclave compares nothing. The laptop has seen more than it is shown.",
            async {
                deployment.host.stop()?;
                copy_database(&database, &today)?;
                copy_database(yesterday, &database)?;
                deployment.restart_host().await?;
                let refused = thief.recovery_refused(PIN)?;
                ensure!(refused["code"] == "ledger-refused", "the right PIN: {refused}");
                let alarm = laptop.refused(&["status"], None)?;
                ensure!(alarm["code"] == "fork-alarm", "the laptop: {alarm}");
                let noticed = noticed(deployment)?;
                let ledger = in_ledger(deployment, &noticed).await?;
                Ok((refused, alarm, noticed, ledger))
            },
        )
        .await?;
    note_refusal(teller, "the thief was told", &refused);
    note_refusal(teller, "the laptop says", &alarm);
    let noticed = noticed.split(" tag=").next().unwrap_or_default();
    teller.note(&format!("the host's log: {noticed}"));
    ensure!(ledger["version"] == guard, "the ledger says {ledger}, the laptop saw {guard}");
    teller.note(&format!("the ledger still has the account at version {guard}, tries included"));
    teller
        .step(
            "The host puts today's database back",
            "Nothing else makes it serve this account again. The count stands.",
            async {
                deployment.host.stop()?;
                copy_database(&today, &database)?;
                deployment.restart_host().await?;
                let status = laptop.run(&["status"], None)?;
                ensure!(status["recovery"]["failures"] == 10, "the count: {}", status["recovery"]);
                Ok(())
            },
        )
        .await?;
    note_recovery(teller, laptop)
}

async fn lift(
    teller: &mut Teller, deployment: &Deployment, laptop: &Device,
    sign_in: impl Fn(&Device) -> Result<()>,
) -> Result<()> {
    let desktop = Device::new("desktop", deployment)?;
    teller
        .step(
            "The laptop lifts the lock with a new PIN",
            "Only the user-verification key of a device that is in, with a fresh sign-in, sets a new PIN; the \
             count starts again. The old PIN is a wrong one from now on. A desktop gets in with the new one.",
            async {
                laptop.change_pin(NEW_PIN)?;
                let error = desktop.recovery_refused(PIN)?;
                ensure!(error["tries_left"] == 9, "the old PIN: {error}");
                desktop.recover(NEW_PIN)?;
                sign_in(&desktop)
            },
        )
        .await?;
    note_recovery(teller, laptop)
}

fn note_recovery(teller: &Teller, laptop: &Device) -> Result<()> {
    let recovery = laptop.run(&["status"], None)?["recovery"].clone();
    let (failures, left) = (&recovery["failures"], &recovery["tries_left"]);
    let locked = if recovery["locked"] == true { "; recovery is locked" } else { "" };
    teller.note(&format!("the laptop's status: {failures} wrong, {left} tries left{locked}"));
    Ok(())
}

fn note_refusal(teller: &Teller, who: &str, error: &Value) {
    teller.note(&format!("{who}: {}", error["message"].as_str().unwrap_or_default()));
}

/// What the host wrote down when it noticed that its database is another one than the ledger's.
fn noticed(deployment: &Deployment) -> Result<String> {
    let log = fs::read_to_string(deployment.folder.join("host.log"))?;
    let (_, found) = log.rsplit_once("ledger and storage disagree").context("nothing noticed")?;
    Ok(format!("ledger and storage disagree{}", found.lines().next().unwrap_or_default()))
}

/// Where the account stands, asked of the ledger itself, under the tag that the host noticed.
async fn in_ledger(deployment: &Deployment, noticed: &str) -> Result<Value> {
    let tag = noticed.split_whitespace().find_map(|word| word.strip_prefix("tag="));
    let tag = tag.with_context(|| format!("no tag in: {noticed}"))?;
    let url = format!("{}/app/current?tag={tag}", deployment.endpoints.ledger.url);
    Ok(reqwest::get(url).await?.error_for_status()?.json().await?)
}

/// The database of a host that is stopped, and what SQLite keeps beside it.
fn copy_database(from: &Path, to: &Path) -> Result<()> {
    let beside = |path: &Path, suffix: &str| {
        let mut name: OsString = path.into();
        name.push(suffix);
        PathBuf::from(name)
    };
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (beside(from, suffix), beside(to, suffix));
        if from.exists() {
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        } else if to.exists() {
            fs::remove_file(&to).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}
