//! Which deployment this is, and which enclave of it to talk to. Nothing else is sent to a host
//! before this has succeeded.
//!
//! 1. `GET /v1/deployment`, without a token.
//! 2. The signed statement, against the pinned trust root, the clock, and the serial: not below the
//!    built-in minimum, not below the newest seen, and one serial is one statement.
//! 3. The statement's URL is the one that was asked. Only then is the statement written down as seen,
//!    before anything else happens: one trust root may sign for several deployments, and another's
//!    higher serial must not lock a client out of its own.
//! 4. The evidence of each enclave, in random order, until one holds.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_attestation_policy::chain::ChainBytes;
use keyfold_attestation_policy::evidence::{
    Evidence, EvidenceError, VerifiedChannel, verify_evidence,
};
use keyfold_attestation_policy::statement::{
    SerialFloor, Statement, StatementError, VerifiedStatement, verify_statement,
};
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_attestation_policy::values::Timestamp;
use serde::Deserialize;

use crate::crypto;
use crate::error::Error;
use crate::host::Host;
use crate::store::Store;

/// What a client is told out of band, and believes: the root of everything it checks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the deployment answers: an https URL without a path to speak of.
    pub url: String,
    /// The offline keys that sign its statements.
    pub trust_root: TrustRoot,
    /// The lowest serial of a statement to accept; 0 where none was learnt.
    pub minimum_serial: u64,
}

/// Why a deployment is not the one it should be.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// The URL is not one to talk to.
    #[error("{0:?} is no https URL; check the address of the deployment")]
    Url(String),
    /// The machine's clock is out of range.
    #[error("the clock of this machine is wrong; set it and try again")]
    Clock,
    /// The answer is no deployment document.
    #[error("{url} answers, but not as a Keyfold deployment ({reason}); check the address")]
    Document {
        /// What was asked.
        url: String,
        /// What does not fit.
        reason: String,
    },
    /// The statement is not acceptable.
    #[error("the deployment statement is not acceptable: {0}; report this deployment")]
    Statement(#[from] StatementError),
    /// The statement is of another place.
    #[error("the deployment at {asked} says it is {says}; check the address")]
    OtherUrl {
        /// What was asked.
        asked: String,
        /// The signed URL.
        says: String,
    },
    /// No enclave proved to be what the statement accepts.
    #[error("no enclave of this deployment proves to run accepted code ({}); report it", list(.0))]
    NoEnclave(Vec<EnclaveError>),
}

/// Why one enclave is not used.
#[derive(Debug, thiserror::Error)]
pub enum EnclaveError {
    /// A member of its entry is not what it should be.
    #[error("{0} is not base64url")]
    Encoding(&'static str),
    /// Its evidence does not hold.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
}

fn list(errors: &[EnclaveError]) -> String {
    match errors {
        [] => "it lists none".into(),
        errors => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

/// A deployment whose statement and one of whose enclaves have been verified.
#[derive(Debug)]
pub struct Deployment {
    statement: VerifiedStatement,
    enclave: VerifiedChannel,
}

impl Deployment {
    /// The signed statement.
    pub fn statement(&self) -> &Statement {
        self.statement.statement()
    }

    /// Serial and digest of the statement.
    pub fn seen(&self) -> keyfold_attestation_policy::statement::SeenStatement {
        self.statement.seen()
    }

    /// The enclave that requests go to.
    pub fn enclave(&self) -> &VerifiedChannel {
        &self.enclave
    }

    /// Whether the chip is simulated, so that nothing is protected; say it on every line.
    pub fn is_simulated(&self) -> bool {
        self.enclave.is_simulated()
    }
}

/// Answer of `GET /v1/deployment`; nothing in it is believed.
#[derive(Deserialize)]
struct Document {
    statement: String,
    enclaves: Vec<Enclave>,
}

#[derive(Deserialize)]
struct Enclave {
    channel_key: String,
    claims: String,
    report: String,
    vcek_chain: String,
    /// Beside a confidential container only.
    uvm_endorsement: Option<String>,
}

/// Fetches and verifies, as the module says.
pub(crate) async fn verify(
    host: &Host, settings: &Settings, store: &Store,
) -> Result<Arc<Deployment>, Error> {
    let bytes = host.deployment().await?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|error| {
        DeploymentError::Document { url: settings.url.clone(), reason: error.to_string() }
    })?;
    let now = now()?;
    let statement = accept_statement(&document.statement, settings, store, now)?;
    let enclave = choose(&statement, document.enclaves, now)?;
    if enclave.is_simulated() {
        tracing::warn!("the enclave runs on a simulated chip: nothing is protected");
    }
    let serial = statement.seen().serial;
    tracing::debug!(serial, workload = %enclave.workload(), "deployment verified");
    Ok(Arc::new(Deployment { statement, enclave }))
}

/// Verifies the statement against what was seen and what was asked, and notes it as seen, in one step.
fn accept_statement(
    signed: &str, settings: &Settings, store: &Store, now: Timestamp,
) -> Result<VerifiedStatement, Error> {
    store.update(|state| {
        let floor = SerialFloor { minimum: settings.minimum_serial, seen: state.deployment };
        let statement = verify_statement(signed.as_bytes(), &settings.trust_root, &floor, now)
            .map_err(DeploymentError::from)?;
        let (asked, says) = (&settings.url, statement.statement().url());
        if asked.trim_end_matches('/') != says.trim_end_matches('/') {
            let (asked, says) = (asked.clone(), says.to_owned());
            return Err(DeploymentError::OtherUrl { asked, says }.into());
        }
        state.deployment = Some(statement.seen());
        Ok(statement)
    })
}

/// The first enclave whose evidence holds, in random order so that clients spread.
fn choose(
    statement: &VerifiedStatement, mut enclaves: Vec<Enclave>, now: Timestamp,
) -> Result<VerifiedChannel, DeploymentError> {
    enclaves.sort_by_cached_key(|_| crypto::random::<8>());
    let mut errors = Vec::new();
    for enclave in enclaves {
        match appraise(statement, &enclave, now) {
            Ok(channel) => return Ok(channel),
            Err(error) => {
                tracing::warn!(%error, "an enclave of the deployment is not acceptable");
                errors.push(error);
            }
        }
    }
    Err(DeploymentError::NoEnclave(errors))
}

fn appraise(
    statement: &VerifiedStatement, enclave: &Enclave, now: Timestamp,
) -> Result<VerifiedChannel, EnclaveError> {
    let decode = |name, text: &str| {
        BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| EnclaveError::Encoding(name))
    };
    let claims = decode("claims", &enclave.claims)?;
    let report = decode("report", &enclave.report)?;
    let channel_key = decode("channel_key", &enclave.channel_key)?;
    let uvm_endorsement = enclave
        .uvm_endorsement
        .as_deref()
        .map(|text| decode("uvm_endorsement", text))
        .transpose()?;
    let evidence = Evidence {
        claims: &claims,
        report: &report,
        chain: ChainBytes::Pem(enclave.vcek_chain.as_bytes()),
        uvm_endorsement: uvm_endorsement.as_deref(),
    };
    Ok(verify_evidence(statement, &evidence, &channel_key, now)?)
}

/// The one clock.
pub(crate) fn now() -> Result<Timestamp, DeploymentError> {
    Timestamp::now().map_err(|_| DeploymentError::Clock)
}

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
