//! Why does an enclave not get its key? Runs the very steps of a boot with an enclave of its own, and
//! shows on one screen what each was told, the claims beside the release policy, the machine's firmware,
//! and the clock. It serves nobody, changes nothing, and leaves a running host alone.
//!
//! What it prints may be sent to anybody: no token, no key, no signature is in it.

mod policy;
mod print;

use crate::azure::{AzureError, Cloud};
use crate::clock::unix_now;
use crate::config::{Config, ConfigError, EnclaveLink};
use crate::enclave::{Boot, BootError, Wire};
use crate::host::{enclave_config, platform_variables};
use crate::journal::{Entry, Facts, Journal, Step};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Until a host on the admin address is taken for absent.
const HOST_PATIENCE: Duration = Duration::from_secs(2);

/// What to look at.
#[derive(Debug)]
pub struct Options {
    /// The enclave to start; `None`: only what needs none.
    link: Option<EnclaveLink>,
    /// The key's release policy and the file it is in, where the host's identity may not read it.
    release_policy: Option<(String, Vec<u8>)>,
}

impl Options {
    /// The enclave of that number, from 0; none for what needs none. A copy of the release policy.
    ///
    /// # Errors
    /// There is no such enclave, or the file holds no release policy.
    pub fn new(
        config: &Config, enclave: Option<usize>, release_policy: Option<&Path>,
    ) -> Result<Self, String> {
        let number = |number: usize| {
            config.enclave.get(number).cloned().ok_or_else(|| match config.enclave.len() {
                1 => format!("--enclave {number}: the only [[enclave]] is number 0"),
                all => format!("--enclave {number}: [[enclave]] are numbers 0 to {}", all - 1),
            })
        };
        let read = |path: &Path| {
            let name = path.display().to_string();
            let wrong = |why: String| format!("--release-policy {name}: {why}");
            let policy = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            policy::judge(name.clone(), &policy, None).map_err(wrong)?;
            Ok::<_, String>((name, policy))
        };
        Ok(Self {
            link: enclave.map(number).transpose()?,
            release_policy: release_policy.map(read).transpose()?,
        })
    }
}

/// What was found.
#[derive(Debug)]
pub struct Diagnosis {
    deployment: String,
    entries: Vec<Entry>,
    facts: Facts,
    /// When the token was compared with the clock.
    now: u64,
    policy: Option<policy::Judged>,
    /// Why there is no policy to compare with.
    no_policy: Option<String>,
    failed: Option<(Step, String)>,
    partial: bool,
}

impl Diagnosis {
    /// Of a configuration that there is not.
    pub fn unconfigured(error: &ConfigError) -> Self {
        let (step, what) = (Step::Configuration, error.to_string());
        Self {
            deployment: String::new(),
            entries: vec![Entry::local(step, "configuration", Err(what.clone()))],
            facts: Facts::default(),
            now: unix_now(),
            policy: None,
            no_policy: None,
            failed: Some((step, what)),
            partial: false,
        }
    }

    /// The step that failed.
    pub fn failed(&self) -> Option<Step> {
        self.failed.as_ref().map(|(step, _)| *step)
    }

    /// 0, or the failed step's own.
    pub fn exit_code(&self) -> u8 {
        self.failed().map_or(0, Step::exit_code)
    }

    /// Steps that were not reached.
    fn not_tried(&self) -> Vec<Step> {
        // These have a part only where others have none.
        let spare = [Step::SecurityContext, Step::Kds, Step::Root];
        let tried = |step: &Step| self.entries.iter().any(|entry| entry.step == *step);
        let steps = Step::ALL.iter().filter(|step| !tried(step) && !spare.contains(step));
        steps.copied().collect()
    }

    /// For people.
    pub fn to_text(&self) -> String {
        print::text(self)
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        print::json(self)
    }
}

/// Runs the steps and judges what came of them.
pub async fn examine(config: &Config, options: &Options) -> Diagnosis {
    let journal = Journal::default();
    let outcome = attempt(config, options, &journal).await;
    let failed = outcome.as_ref().err().map(|failure| (failure.step, failure.what.clone()));
    if let Err(Failure { step, endpoint, what }) = &outcome {
        let noted = journal
            .entries()
            .last()
            .is_some_and(|last| last.step == *step && last.outcome.is_err());
        if !noted {
            journal.note(Entry::local(*step, endpoint, Err(what.clone())));
        }
    }
    let facts = journal.facts();
    let mut diagnosis = Diagnosis {
        deployment: config.deployment.name.to_string(),
        entries: journal.entries(),
        now: unix_now(),
        policy: None,
        no_policy: None,
        failed,
        partial: options.link.is_none(),
        facts,
    };
    match release_policy(config, options, &diagnosis).await {
        Ok((source, policy)) => {
            let claims = diagnosis.facts.token.as_ref();
            match policy::judge(source, &policy, claims) {
                Ok(judged) => diagnosis.policy = Some(judged),
                Err(why) => diagnosis.no_policy = Some(why),
            }
        }
        Err(why) => diagnosis.no_policy = Some(why),
    }
    diagnosis
}

/// Where it ended.
struct Failure {
    step: Step,
    endpoint: String,
    what: String,
}

impl Failure {
    fn new(step: Step, endpoint: impl Into<String>, what: impl Into<String>) -> Self {
        Self { step, endpoint: endpoint.into(), what: what.into() }
    }
}

impl From<AzureError> for Failure {
    fn from(AzureError { step, endpoint, what }: AzureError) -> Self {
        Self { step, endpoint, what }
    }
}

async fn attempt(config: &Config, options: &Options, journal: &Journal) -> Result<(), Failure> {
    let wrong = |what: String| Failure::new(Step::Configuration, "configuration", what);
    let missing = config.missing();
    if !missing.is_empty() {
        return Err(wrong(missing.join("; ")));
    }
    let cloud = Cloud::new(config.azure.clone(), &platform_variables()).map_err(wrong)?;
    let found = config.awaited().unwrap_or_else(|| "complete".into());
    journal.note(Entry::local(Step::Configuration, "configuration", Ok(found)));
    let Some(link) = &options.link else {
        return Ok(cloud.reach(journal).await?);
    };

    let connector = link.connector();
    let name = connector.describe();
    if !matches!(link, EnclaveLink::Pipe { .. }) && a_host_runs(config).await {
        let what = "a running host holds this confidential VM, which serves one at a time: name a \
                    spare one with --enclave, or look at the rest with --without-enclave";
        return Err(Failure::new(Step::Connect, name, what));
    }
    let started = Instant::now();
    let connection = connector.connect().await;
    let connection =
        connection.map_err(|error| Failure::new(Step::Connect, &name, error.to_string()))?;
    let connected = Entry::local(Step::Connect, &name, Ok("connected".into()));
    journal.note(Entry { took: started.elapsed(), ..connected });
    let mut tasks = JoinSet::new();
    let wire = Wire::start(connection, 1, &mut tasks);
    let boot = Boot { wire: &wire, link: &name, release: &cloud, journal };
    let booted = boot.run(&enclave_config(config)).await.map_err(|error| match error {
        BootError::Release(error) => error.into(),
        other => Failure::new(other.step(), &name, other.to_string()),
    })?;
    let found = format!("config {}, root {}", booted.config_hash, booted.root);
    journal.note(Entry::local(Step::Evidence, &name, Ok(found)));
    Ok(())
}

/// Whether something answers where a host with this configuration would.
async fn a_host_runs(config: &Config) -> bool {
    let client = reqwest::Client::builder().no_proxy().timeout(HOST_PATIENCE).build();
    let Ok(client) = client else { return false };
    client.get(format!("http://{}/healthz", config.listen.admin)).send().await.is_ok()
}

/// The policy that a file names, else as it was met, else as the key has it.
async fn release_policy(
    config: &Config, options: &Options, diagnosis: &Diagnosis,
) -> Result<(String, Vec<u8>), String> {
    if let Some(named) = &options.release_policy {
        return Ok(named.clone());
    }
    if let Some(policy) = &diagnosis.facts.policy {
        return Ok(("the release".into(), policy.clone()));
    }
    const ASK: &str = "name a copy with --release-policy";
    let has_token = diagnosis
        .entries
        .iter()
        .any(|entry| entry.step == Step::AccessToken && entry.outcome.is_ok());
    if !has_token {
        return Err(format!("without an access token the key cannot be looked at; {ASK}"));
    }
    let cloud = Cloud::new(config.azure.clone(), &platform_variables())?;
    let policy = cloud.read_policy(&Journal::default()).await;
    let policy = policy.map_err(|error| {
        format!("the host's identity does not read keys, as it should be ({}); {ASK}", error.what)
    })?;
    Ok(("the key".into(), policy))
}
