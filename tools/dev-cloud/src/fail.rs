//! Failure switches: what the dev cloud is told to do wrong, and how often.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

/// A service with switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The OpenID issuer.
    Oidc,
    /// The instance metadata service, THIM included.
    Imds,
    /// The attestation service.
    Maa,
    /// The Managed HSM.
    Hsm,
    /// The ledger.
    Ledger,
}

/// What goes wrong. In JSON: "503" (any status of 400 to 599), "slow", "hang", "down", "drop_reply",
/// "withhold_receipt", "identity".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Answers with this status and the service's error body, nothing done. 429 and 503 say Retry-After.
    Status(u16),
    /// Waits `delay_ms`, then does what was asked.
    Slow,
    /// Never answers.
    Hang,
    /// Closes the connection without an answer, nothing done.
    Down,
    /// Does what was asked, then closes the connection without an answer.
    DropReply,
    /// Ledger: GET /app/receipt keeps answering 202.
    WithholdReceipt,
    /// Ledger: at once, the service goes on under another key. `times` means nothing here.
    Identity,
}

/// One switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Whose requests.
    pub service: Service,
    /// What happens to them.
    pub mode: Mode,
    /// To how many requests; absent: until cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Only to paths that begin so; absent: to every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long "slow" waits.
    #[serde(default = "default_delay")]
    pub delay_ms: u64,
}

fn default_delay() -> u64 {
    2000
}

impl Failure {
    /// `mode` for the next `times` requests of `service`.
    pub fn new(service: Service, mode: Mode, times: u32) -> Self {
        Self { service, mode, times: Some(times), path: None, delay_ms: default_delay() }
    }
}

/// The switches that are on, oldest first.
#[derive(Default)]
pub(crate) struct Failures(Mutex<Vec<Failure>>);

impl Failures {
    pub(crate) fn add(&self, failure: Failure) {
        if failure.times != Some(0) {
            self.lock().push(failure);
        }
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn list(&self) -> Vec<Failure> {
        self.lock().clone()
    }

    /// The failure a request on `path` meets before or after its handler.
    pub(crate) fn take_for(&self, service: Service, path: &str) -> Option<Failure> {
        self.take_where(|failure| {
            failure.service == service
                && !matches!(failure.mode, Mode::WithholdReceipt | Mode::Identity)
                && failure.path.as_ref().is_none_or(|prefix| path.starts_with(prefix))
        })
    }

    /// The failure a handler itself acts out.
    pub(crate) fn take(&self, service: Service, mode: impl Fn(&Mode) -> bool) -> Option<Failure> {
        self.take_where(|failure| failure.service == service && mode(&failure.mode))
    }

    fn take_where(&self, wanted: impl Fn(&Failure) -> bool) -> Option<Failure> {
        let mut failures = self.lock();
        let index = failures.iter().position(wanted)?;
        let failure = &mut failures[index];
        if let Some(times) = &mut failure.times {
            *times -= 1;
            if *times == 0 {
                return Some(failures.remove(index));
            }
        }
        Some(failure.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(out, "{status}"),
            Self::Slow => out.write_str("slow"),
            Self::Hang => out.write_str("hang"),
            Self::Down => out.write_str("down"),
            Self::DropReply => out.write_str("drop_reply"),
            Self::WithholdReceipt => out.write_str("withhold_receipt"),
            Self::Identity => out.write_str("identity"),
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "slow" => Self::Slow,
            "hang" => Self::Hang,
            "down" => Self::Down,
            "drop_reply" => Self::DropReply,
            "withhold_receipt" => Self::WithholdReceipt,
            "identity" => Self::Identity,
            _ => match text.parse() {
                Ok(status @ 400..=599) => Self::Status(status),
                _ => {
                    return Err(format!(
                        "unknown mode {text:?}: use a status of 400 to 599, slow, hang, down, drop_reply, \
                         withhold_receipt or identity"
                    ));
                }
            },
        })
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
