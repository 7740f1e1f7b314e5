//! The deployment statement: what a deployment promises, signed by k of n offline keys.
//!
//! A client pins a [`TrustRoot`] and takes nothing from the host on trust: the URL it talks to, the
//! identity issuer it signs in at, the configuration, the root key's commitment and the accepted
//! code all come from here. Statements live at most 90 days, and their serial never goes back: a
//! workload that is no longer accepted stays so, even if the host serves an older statement.

mod workload;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, PayloadKind, SignatureError};
use crate::trust_root::TrustRoot;
use crate::values::{ConfigHash, RootCommitment, Sha256, Timestamp, shorten};

#[cfg(feature = "development")]
pub use workload::Simulated;
pub use workload::{Aci, Machine, ProductFloor, SnpDirect, UvmFloor, Workload, WorkloadId};

/// The longest time between issue and expiry.
pub const MAX_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How far a client's clock may be behind the signers' when a statement is new.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(10 * 60);

const MAX_NAME_LENGTH: usize = 64;
const MAX_TEXT_LENGTH: usize = 512;
const MAX_WORKLOADS: usize = 64;

/// What a deployment promises. Every value in it has been checked for form; whether it was signed
/// is what [`VerifiedStatement`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Statement {
    name: String,
    serial: u64,
    issued: Timestamp,
    expires: Timestamp,
    url: Url,
    identity: Identity,
    config: ConfigHash,
    root: RootCommitment,
    workloads: Vec<Workload>,
}

impl Statement {
    /// The deployment's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts up with each statement of the deployment.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// When it was made.
    pub fn issued(&self) -> Timestamp {
        self.issued
    }

    /// The first second at which it is no longer valid.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Where the host answers.
    pub fn url(&self) -> &str {
        &self.url.0
    }

    /// Where users sign in.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Hash of the configuration that the enclave must have been started with.
    pub fn config(&self) -> ConfigHash {
        self.config
    }

    /// Commitment to the root key that the enclave must hold.
    pub fn root(&self) -> RootCommitment {
        self.root
    }

    /// The accepted workloads; what identifies them is different of each.
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The bytes to sign.
    pub fn to_payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers, strings and lists always have a JSON form")
    }

    /// Reads a payload's bytes, without asking who signed them.
    ///
    /// # Errors
    /// An unknown, missing or repeated member, or a value that is not one.
    pub fn from_payload(payload: &[u8]) -> Result<Self, StatementError> {
        serde_json::from_slice(payload)
            .map_err(|error| StatementError::Malformed(error.to_string()))
    }
}

/// Where users sign in: an OpenID Connect issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    issuer: Url,
    client_id: Text,
    audience: Text,
}

impl Identity {
    /// The issuer identifier, compared byte by byte with a token's `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer.0
    }

    /// The client identifier under which clients ask for tokens.
    pub fn client_id(&self) -> &str {
        &self.client_id.0
    }

    /// The audience that tokens must name.
    pub fn audience(&self) -> &str {
        &self.audience.0
    }
}

/// Which serials a client still accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialFloor {
    /// The lowest serial accepted: built in, or learnt out of band.
    pub minimum: u64,
    /// The newest statement seen so far.
    pub seen: Option<SeenStatement>,
}

/// What a client stores of the newest statement it has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenStatement {
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of its payload: one serial is one statement.
    pub payload: Sha256,
}

/// A statement that the trusted root's keys signed, inside its time, not older than what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedStatement {
    statement: Statement,
    seen: SeenStatement,
}

impl VerifiedStatement {
    /// What it says.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// What to store, and to pass as [`SerialFloor::seen`] from now on.
    pub fn seen(&self) -> SeenStatement {
        self.seen
    }
}

/// Why a statement is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// The root's keys have not signed it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Not a statement.
    #[error("the statement cannot be read: {0}")]
    Malformed(String),
    /// Issued in the future.
    #[error("issued: expected a time not after {now} (is the clock right?), found {issued}")]
    NotYetValid {
        /// When it was made.
        issued: Timestamp,
        /// The client's time.
        now: Timestamp,
    },
    /// Its time is over.
    #[error(
        "expires: expected a time after {now} (ask the deployment for its newest statement), found {expires}"
    )]
    Expired {
        /// When it ended.
        expires: Timestamp,
        /// The client's time.
        now: Timestamp,
    },
    /// An older statement than the client may accept.
    #[error("serial: expected {minimum} or more, found {found}")]
    SerialTooLow {
        /// The lowest accepted.
        minimum: u64,
        /// What came.
        found: u64,
    },
    /// Two statements under one serial: the signers contradict themselves, or were made to.
    #[error(
        "serial {serial}: expected the statement seen before ({expected}), found another ({found})"
    )]
    SerialReused {
        /// The serial of both.
        serial: u64,
        /// SHA-256 of the payload seen before.
        expected: Sha256,
        /// SHA-256 of the one that came.
        found: Sha256,
    },
}

/// Checks signed bytes: the root's signatures, form, time, serial.
///
/// # Errors
/// The first of these that does not hold.
pub fn verify_statement(
    signed: &[u8], root: &TrustRoot, floor: &SerialFloor, now: Timestamp,
) -> Result<VerifiedStatement, StatementError> {
    let envelope = Envelope::parse(PayloadKind::Statement, signed)?;
    let payload = envelope.verify(root)?;
    let statement = Statement::from_payload(payload)?;
    check_time(&statement, now)?;

    let seen = SeenStatement { serial: statement.serial, payload: Sha256::of(payload) };
    check_serial(seen, floor)?;
    Ok(VerifiedStatement { statement, seen })
}

fn check_time(statement: &Statement, now: Timestamp) -> Result<(), StatementError> {
    let Statement { issued, expires, .. } = *statement;
    if issued.since(now) > CLOCK_TOLERANCE {
        return Err(StatementError::NotYetValid { issued, now });
    }
    if now >= expires {
        return Err(StatementError::Expired { expires, now });
    }
    Ok(())
}

fn check_serial(found: SeenStatement, floor: &SerialFloor) -> Result<(), StatementError> {
    let seen_serial = floor.seen.map_or(0, |seen| seen.serial);
    let minimum = floor.minimum.max(seen_serial);
    if found.serial < minimum {
        return Err(StatementError::SerialTooLow { minimum, found: found.serial });
    }
    match floor.seen {
        Some(seen) if seen.serial == found.serial && seen.payload != found.payload => {
            Err(StatementError::SerialReused {
                serial: seen.serial,
                expected: seen.payload,
                found: found.payload,
            })
        }
        _ => Ok(()),
    }
}

/// A statement as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    name: String,
    serial: u64,
    issued: Timestamp,
    expires: Timestamp,
    url: Url,
    identity: Identity,
    config: ConfigHash,
    root: RootCommitment,
    workloads: Vec<Workload>,
}

impl TryFrom<Unchecked> for Statement {
    type Error = String;

    fn try_from(written: Unchecked) -> Result<Self, String> {
        let Unchecked { name, serial, issued, expires, url, identity, config, root, workloads } =
            written;
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !(1..=MAX_NAME_LENGTH).contains(&name.len()) || !name.bytes().all(is_name_byte) {
            let found = shorten(&name);
            return Err(format!("name: expected 1 to 64 of A-Z a-z 0-9 - . _, found {found:?}"));
        }
        if serial == 0 {
            return Err("serial: expected 1 or more, found 0".into());
        }
        if expires <= issued || expires.since(issued) > MAX_LIFETIME {
            return Err(format!(
                "expires: expected at most 90 days after {issued}, found {expires}"
            ));
        }
        if !(1..=MAX_WORKLOADS).contains(&workloads.len()) {
            return Err(format!("workloads: expected 1 to 64, found {}", workloads.len()));
        }
        workload::all_different("workloads", workloads.iter().map(Workload::id))?;
        Ok(Self { name, serial, issued, expires, url, identity, config, root, workloads })
    }
}

/// An absolute URL: `https`, or `http` on the loopback interface with the feature `development`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Url(String);

impl Url {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_plain = text.len() <= MAX_TEXT_LENGTH
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\`@#?".contains(&byte));
        let has_host = |rest: &str| rest.starts_with(|first: char| first.is_ascii_alphanumeric());
        let is_https = text.strip_prefix("https://").is_some_and(has_host);
        if is_plain && (is_https || is_development_loopback(&text)) {
            return Ok(Self(text));
        }
        Err(format!(
            "expected an https URL without user, query and fragment, found {:?}",
            shorten(&text)
        ))
    }
}

fn is_development_loopback(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.split(':').next().unwrap_or_default();
    cfg!(feature = "development") && ["127.0.0.1", "localhost"].contains(&host)
}

/// One line of printable ASCII that is not empty and means the same wherever it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct Text(String);

impl Text {
    fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_printable = |byte: u8| (b' '..=b'~').contains(&byte) && !b"`<>".contains(&byte);
        if (1..=MAX_TEXT_LENGTH).contains(&text.len()) && text.bytes().all(is_printable) {
            return Ok(Self(text));
        }
        Err(format!(
            "expected 1 to 512 printable ASCII characters but ` < >, found {:?}",
            shorten(&text)
        ))
    }
}
