//! `doctor`: everything this device can see of its deployment, in the order in which one thing
//! needs the other.

use std::fs;
use std::time::SystemTime;

use keyfold_attestation_policy::evidence::VerifiedChannel;
use keyfold_attestation_policy::values::Timestamp;
use keyfold_client::Error;
use keyfold_client::account::Overview;
use keyfold_client::deployment::{Deployment, DeploymentError};
use serde_json::json;

use super::account;
use crate::config::Config;
use crate::context::{Context, Device};
use crate::failure::{Exit, Failure};
use crate::output::{audit_json, bad, counted, good, styled_table};

/// A statement that ends within this many seconds is worth a word.
const EXPIRES_SOON: u64 = 14 * 24 * 60 * 60;

/// One step.
struct Check {
    name: &'static str,
    /// `None`: not tried, because an earlier step failed.
    passed: Option<bool>,
    found: String,
}

impl Check {
    fn result(&self) -> &'static str {
        match self.passed {
            Some(true) => "pass",
            Some(false) => "fail",
            None => "not tried",
        }
    }
}

/// The steps so far, and what happened since the person last looked. After one has failed, those that need it are not tried.
#[derive(Default)]
struct Report {
    checks: Vec<Check>,
    overview: Option<Overview>,
}

impl Report {
    fn pass(&mut self, name: &'static str, found: impl Into<String>) {
        self.checks.push(Check { name, passed: Some(true), found: found.into() });
    }

    fn fail(&mut self, name: &'static str, found: impl Into<String>) {
        self.checks.push(Check { name, passed: Some(false), found: found.into() });
    }

    fn skip(&mut self, names: &[&'static str]) {
        let skipped = |name: &&'static str| Check { name, passed: None, found: String::new() };
        self.checks.extend(names.iter().map(skipped));
    }

    /// Notes the outcome of a step; gives its value if it passed.
    fn take<T>(
        &mut self, name: &'static str, outcome: Result<(T, String), impl Into<Failure>>,
    ) -> Option<T> {
        match outcome {
            Ok((value, found)) => {
                self.pass(name, found);
                Some(value)
            }
            Err(error) => {
                self.fail(name, error.into().to_string());
                None
            }
        }
    }
}

const LOCAL: [&str; 3] = ["store", "clock", "keys"];
const DEPLOYMENT: [&str; 2] = ["reachable", "statement"];
const EVIDENCE: [&str; 4] =
    ["evidence: chip", "evidence: code", "evidence: config", "evidence: root key"];
const ACCOUNT: [&str; 5] = ["sign-in", "session", "status", "device", "vault"];

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let mut report = Report::default();
    match local(context, &mut report) {
        None => {
            let tried = report.checks.len();
            report.skip(&LOCAL[tried.min(LOCAL.len())..]);
            report.skip(&[&DEPLOYMENT[..], &EVIDENCE, &ACCOUNT].concat());
        }
        Some(device) => {
            let verified = deployment(&device, &mut report).await;
            context.out.simulated(verified);
            let done = report.checks.last().is_some_and(|last| last.passed == Some(true));
            match done {
                true => registration(&device, &mut report).await,
                false => report.skip(&ACCOUNT),
            }
        }
    }
    print(context, &report)
}

/// What is on this machine.
fn local(context: &Context, report: &mut Report) -> Option<Device> {
    let store = context.store().and_then(|store| {
        let state = store.load()?;
        let config = Config::load(&context.home)?;
        let found = match (&state.account, &config) {
            (Some(account), Some(_)) if account.registered => {
                format!("{}, as {}", store.directory().display(), account.device_name)
            }
            _ => return Err(Error::NotRegistered.into()),
        };
        Ok(((), found))
    });
    report.take("store", store)?;
    report.take("clock", clock(context))?;
    let device = context.unverified().map(|device| {
        let print = keyfold_client::pairing::fingerprint(&device.client.keys().id());
        (device, print)
    });
    report.take("keys", device)
}

/// Time has passed since the store was written. What the time is says the statement's validity.
fn clock(context: &Context) -> Result<((), String), Failure> {
    let wrong = |message: String| Failure::new(Exit::Device, "clock", message);
    let now = Timestamp::now().map_err(|error| wrong(format!("{error}; set the clock")))?;
    let written = fs::metadata(context.home.join("state.json")).and_then(|file| file.modified());
    let ahead =
        written.map(|written| written.duration_since(SystemTime::now()).unwrap_or_default());
    match ahead {
        Ok(ahead) if ahead.as_secs() > 60 => {
            let message = format!("{now}, but the store was written {} s later", ahead.as_secs());
            Err(wrong(message + "; set the clock"))
        }
        _ => Ok(((), now.to_string())),
    }
}

/// Whether the chip is simulated; the last check passed if the deployment is verified.
async fn deployment(device: &Device, report: &mut Report) -> bool {
    match device.client.deployment().await {
        Ok(deployment) => {
            report.pass("reachable", deployment.statement().url());
            statement(&deployment, report);
            let enclave = deployment.enclave();
            let chip = format!("{}, firmware {}", enclave.product(), enclave.tcb());
            let simulated = if enclave.is_simulated() { "SIMULATED " } else { "" };
            report.pass(EVIDENCE[0], format!("{simulated}{chip}, signature and chain hold"));
            report.pass(EVIDENCE[1], code(enclave));
            report.pass(EVIDENCE[2], enclave.config().to_string());
            report.pass(EVIDENCE[3], enclave.root().to_string());
            enclave.is_simulated()
        }
        Err(error) => {
            let text = error.to_string();
            match &error {
                Error::Deployment(DeploymentError::NoEnclave(_)) => {
                    report.pass("reachable", "");
                    report.pass("statement", "valid");
                    report.fail("evidence", text);
                }
                Error::Deployment(
                    DeploymentError::Statement(_) | DeploymentError::OtherUrl { .. },
                ) => {
                    report.pass("reachable", "");
                    report.fail("statement", text);
                    report.skip(&EVIDENCE);
                }
                _ => {
                    report.fail("reachable", text);
                    report.skip(&DEPLOYMENT[1..]);
                    report.skip(&EVIDENCE);
                }
            }
            false
        }
    }
}

/// Which accepted workload it is and, around a container, which utility VM.
fn code(enclave: &VerifiedChannel) -> String {
    match enclave.endorsement() {
        None => enclave.measurement().to_string(),
        Some(uvm) => format!(
            "{}, in a utility VM of security version {}, measurement {}",
            enclave.workload(),
            uvm.svn(),
            enclave.measurement()
        ),
    }
}

fn statement(deployment: &Deployment, report: &mut Report) {
    let statement = deployment.statement();
    let (name, serial, expires) = (statement.name(), statement.serial(), statement.expires());
    let left = Timestamp::now().map_or(0, |now| expires.since(now).as_secs());
    let word = if left < EXPIRES_SOON { "; ask the operator for a new one" } else { "" };
    report.pass("statement", format!("{name}, serial {serial}, expires {expires}{word}"));
}

/// What needs the person, and the account.
async fn registration(device: &Device, report: &mut Report) {
    let at = report.checks.len();
    if registration_steps(device, report).await.is_none() {
        let tried = report.checks.len() - at;
        report.skip(&ACCOUNT[tried..]);
    }
}

/// `None` after the first step that failed.
async fn registration_steps(device: &Device, report: &mut Report) -> Option<()> {
    let client = &device.client;
    let account = client.sign_in(false).await.map(|account| ((), account.to_string()));
    report.take("sign-in", account)?;
    let session = client.connect().await.map(|()| ((), "open".into()));
    report.take("session", session)?;
    let status = client.status().await.map(|overview| {
        let recovery = match overview.tries_left() {
            0 => "recovery is LOCKED: keyfold pin change".into(),
            left => format!("{} of the PIN left", counted(left, "try", "tries")),
        };
        let found =
            format!("version {}, confirmed by the ledger just now; {recovery}", overview.guard);
        (overview, found)
    });
    let overview = report.take("status", status)?;
    report.overview = Some(overview.clone());
    let this = client.keys().id();
    let listed = overview.devices.iter().find(|one| one.id == this).ok_or_else(|| {
        Failure::new(Exit::Refused, "revoked", "this device is not registered (any more)")
    });
    let of = overview.devices.len();
    report.take("device", listed.map(|one| ((), format!("{}, one of {of}", one.name))))?;
    let vault = client.sync().await.map(|passkeys| {
        let count = counted(passkeys.len(), "passkey", "passkeys");
        let (version, anchored) = (overview.vault.version, overview.anchor.version);
        ((), format!("{count} at version {version}, {anchored} in the ledger"))
    });
    report.take("vault", vault)
}

fn print(context: &Context, report: &Report) -> Result<(), Failure> {
    let failed = report.checks.iter().find(|check| check.passed == Some(false));
    let json = |check: &Check| json!({"check": check.name, "result": check.result(), "found": check.found});
    let checks: Vec<_> = report.checks.iter().map(json).collect();
    let news = report.overview.iter().flat_map(|overview| &overview.news).map(audit_json);
    let news: Vec<_> = news.collect();
    let object = json!({"healthy": failed.is_none(), "checks": checks, "news": news});
    let row = |check: &Check| vec![check.name.into(), check.result().into(), check.found.clone()];
    let rows: Vec<Vec<String>> = report.checks.iter().map(row).collect();
    let table = styled_table(&["CHECK", "RESULT", "FOUND"], &rows, |column, cell| {
        match (column, cell.trim_end()) {
            (1, "pass") => good(cell),
            (1, "fail") => bad(cell),
            _ => cell.into(),
        }
    });
    let news = report.overview.as_ref().map(account::news).unwrap_or_default();
    context.out.result(object, &(table + &news));
    match failed {
        None => Ok(()),
        Some(check) => {
            let message = format!("{}: {}", check.name, check.found);
            Err(Failure::new(Exit::Failed, "unhealthy", message))
        }
    }
}
