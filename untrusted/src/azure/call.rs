//! One request to one of the services: told in the service's own words, tried again where the service
//! says so and nowhere else, and noted in the journal.

use super::AzureError;
use crate::journal::{Entry, Journal, Step};
use crate::retry::Backoff;
use bytes::Bytes;
use reqwest::{RequestBuilder, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Attempts at one request, the first included.
const ATTEMPTS: u32 = 4;
/// A service that asks for a longer pause is not waited for: the boot is tried again as a whole.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Longest part of a service's message that is passed on.
const MESSAGE: usize = 600;

/// A request about to be made.
pub(super) struct Call<'a> {
    step: Step,
    endpoint: String,
    journal: &'a Journal,
}

/// Why an attempt brought nothing.
#[derive(Debug, Default)]
struct Failure {
    what: String,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    /// How long to wait at least, where another attempt may help.
    again: Option<Duration>,
}

impl<'a> Call<'a> {
    pub(super) fn new(step: Step, endpoint: impl Into<String>, journal: &'a Journal) -> Self {
        Self { step, endpoint: endpoint.into(), journal }
    }

    pub(super) fn error(&self, what: impl Into<String>) -> AzureError {
        AzureError { step: self.step, endpoint: self.endpoint.clone(), what: what.into() }
    }

    /// A check of what came: noted where it fails.
    pub(super) fn refuse(&self, what: impl Into<String>) -> AzureError {
        let error = self.error(what);
        self.journal.note(Entry::local(self.step, &self.endpoint, Err(error.what.clone())));
        error
    }

    /// The answer as JSON.
    pub(super) async fn json<T: DeserializeOwned>(
        &self, request: RequestBuilder,
    ) -> Result<T, AzureError> {
        let body = self.bytes(request).await?;
        serde_json::from_slice(&body)
            .map_err(|error| self.refuse(format!("the answer is not the JSON expected: {error}")))
    }

    /// The answer.
    pub(super) async fn bytes(&self, request: RequestBuilder) -> Result<Bytes, AzureError> {
        let (started, mut attempts) = (Instant::now(), 0);
        let mut backoff = Backoff::new(Duration::from_millis(400), Duration::from_secs(5));
        let outcome = loop {
            attempts += 1;
            let attempt = request.try_clone().ok_or_else(|| self.error("cannot be repeated"))?;
            match self.attempt(attempt).await {
                Ok(answer) => break Ok(answer),
                Err(Failure { again: Some(least), what, .. })
                    if attempts < ATTEMPTS && least <= LONGEST_WAIT =>
                {
                    tracing::warn!(step = %self.step, endpoint = self.endpoint, "{what}; again");
                    // On top of what the service asks for, so that many hosts do not come at once.
                    tokio::time::sleep(least + backoff.next_wait()).await;
                }
                Err(failure) => break Err(failure),
            }
        };
        let entry = |outcome| Entry {
            attempts,
            took: started.elapsed(),
            ..Entry::local(self.step, &self.endpoint, outcome)
        };
        match outcome {
            Ok((status, request_id, body)) => {
                let entry = entry(Ok(format!("{} bytes", body.len())));
                self.journal.note(Entry { status: Some(status), request_id, ..entry });
                Ok(body)
            }
            Err(Failure { what, status, code, request_id, .. }) => {
                let entry = entry(Err(what.clone()));
                self.journal.note(Entry { status, code, request_id, ..entry });
                Err(self.error(what))
            }
        }
    }

    async fn attempt(
        &self, request: RequestBuilder,
    ) -> Result<(u16, Option<String>, Bytes), Failure> {
        let response = request.send().await.map_err(lost)?;
        let (status, pause) = (response.status(), retry_after(&response));
        let request_id = response.headers().get("x-ms-request-id");
        let request_id = request_id.and_then(|id| id.to_str().ok()).map(str::to_owned);
        let body = response.bytes().await.map_err(lost)?;
        if status.is_success() {
            return Ok((status.as_u16(), request_id, body));
        }
        let (code, message) = refusal(&body);
        let again = match pause {
            Some(pause) if pausing(status) => Some(pause),
            _ if is_transient(self.step, status, &code, &message) => Some(Duration::ZERO),
            _ => None,
        };
        let named = request_id.iter().map(|id| format!(", x-ms-request-id {id}"));
        let what = format!("status {status}, {code}: {message}{}", named.collect::<String>());
        let status = Some(status.as_u16());
        Err(Failure { what, status, code: Some(code), request_id, again })
    }
}

/// Nobody accepts connections (yet): nothing was done, so asking again is safe.
fn lost(error: reqwest::Error) -> Failure {
    let refused = causes(&error).any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    let again = refused.then_some(Duration::ZERO);
    let what = causes(&error).last().map_or_else(String::new, |cause| format!(" ({cause})"));
    let what = format!("{}{what}", error.without_url());
    Failure { what, again, ..Failure::default() }
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
}

fn pausing(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// RFC 9110 section 10.2.3, in seconds; a date is a pause nobody here uses.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse();
    seconds.ok().map(Duration::from_secs)
}

/// What the services' documentation calls passing: the metadata service while it starts or updates
/// itself, and a Managed HSM that did not reach the attestation service.
fn is_transient(step: Step, status: StatusCode, code: &str, message: &str) -> bool {
    let metadata = matches!(step, Step::Thim | Step::AccessToken);
    let starting = matches!(status.as_u16(), 404 | 410 | 429 | 500..=599);
    (metadata && starting) || [code, message].iter().any(|text| text.contains("AKV.SKR.1012"))
}

/// Code and message, from either of the two shapes that the services use.
fn refusal(body: &[u8]) -> (String, String) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(printable);
    let (code, message) = match &body["error"] {
        Value::String(code) => (Some(printable(code)), text(&body["error_description"])),
        error => {
            let inner = text(&error["innererror"]["code"]);
            let code = text(&error["code"]).map(|code| match inner {
                Some(inner) => format!("{code} ({inner})"),
                None => code,
            });
            (code, text(&error["message"]))
        }
    };
    (code.unwrap_or_else(|| "no code".into()), message.unwrap_or_else(|| "no message".into()))
}

fn printable(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MESSAGE).collect()
}

#[cfg(test)]
mod tests;
