//! A ledger application on CCF: its routes, retried, with their receipts.
//!
//! Nothing is asked of a ledger whose service certificate carries another key than the configured one.

use super::{Answer, Appended, Ledger, LedgerError, Standing, Trust};
use crate::config;
use crate::metrics::{Counter, Metrics};
use crate::retry::Backoff;
use bytes::Bytes;
use keyfold_protocol::bytes::Bytes as Fixed;
use keyfold_protocol::ids::{Digest, LedgerTag, P384PublicKey};
use keyfold_protocol::limits;
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the ledger's identity is looked at.
const IDENTITY_AGE: Duration = Duration::from_secs(30);
/// Appends that may be lost to a change of the ledger's primary before giving up.
const LOST_APPENDS: u32 = 4;

/// See the module.
pub struct Ccf {
    config: config::Ledger,
    http: reqwest::Client,
    trust: AtomicU8,
    /// The last call was given up and nothing has answered since: nobody waits for it then.
    down: AtomicBool,
    looked: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

#[derive(Serialize)]
struct AppendBody {
    tag: String,
    version: u64,
    digest: String,
}

#[derive(Serialize)]
struct ReadBody {
    tag: String,
    nonce: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    version: u64,
    digest: Option<String>,
    #[serde(default)]
    transaction_id: Option<String>,
}

#[derive(Deserialize)]
struct Network {
    service_certificate: String,
}

/// A usable answer, or why there is none and whether asking again may help.
enum Attempt {
    Again(String),
    Final(LedgerError),
}

type Tried<T> = Result<T, Attempt>;

impl Ledger for Ccf {
    fn append<'a>(
        &'a self, tag: &'a LedgerTag, version: u64, digest: &'a Digest,
    ) -> Answer<'a, Appended> {
        Box::pin(async move {
            let started = Instant::now();
            let body = AppendBody { tag: tag.to_string(), version, digest: digest.to_string() };
            for _ in 0..LOST_APPENDS {
                let entry = self.retrying("append", started, || self.try_append(&body)).await?;
                match entry {
                    Err(standing) => return Ok(Appended::Conflict(standing)),
                    Ok(transaction) => {
                        if let Some(receipt) = self.receipt(&transaction, started).await? {
                            return Ok(Appended::Receipt(receipt));
                        }
                    }
                }
            }
            Err(LedgerError::Unreachable("it keeps losing its newest transactions".into()))
        })
    }

    fn read<'a>(&'a self, tag: &'a LedgerTag, nonce: &'a [u8; 32]) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let started = Instant::now();
            let body = ReadBody { tag: tag.to_string(), nonce: hex::encode(nonce) };
            for _ in 0..LOST_APPENDS {
                let read = || async {
                    let response = self.send("read", self.post("/app/read").json(&body)).await?;
                    let written = written_by(&response);
                    parse::<Entry>(response).await?.transaction(written)
                };
                let transaction = self.retrying("read", started, read).await?;
                if let Some(receipt) = self.receipt(&transaction, started).await? {
                    return Ok(receipt);
                }
            }
            Err(LedgerError::Unreachable("it keeps losing its newest transactions".into()))
        })
    }

    fn current<'a>(&'a self, tag: &'a LedgerTag) -> Answer<'a, Standing> {
        let read = move || async move {
            let request = self.get("/app/current").query(&[("tag", tag.to_string())]);
            parse::<Entry>(self.send("current", request).await?).await?.standing()
        };
        Box::pin(self.retrying("current", Instant::now(), read))
    }

    fn trust(&self) -> Trust {
        match self.trust.load(Ordering::Relaxed) {
            1 => Trust::Trusted,
            2 => Trust::Changed,
            _ => Trust::Unknown,
        }
    }
}

impl Ccf {
    /// A client that has not spoken yet.
    pub fn new(config: config::Ledger, metrics: Arc<Metrics>) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .timeout(config.request_timeout)
            .redirect(reqwest::redirect::Policy::none());
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        if let Some(path) = &config.tls_root {
            let root = reqwest::Certificate::from_pem(&read(path)?);
            builder = builder.tls_certs_only([root.map_err(|error| error.to_string())?]);
        }
        if let Some(path) = &config.tls_identity {
            let identity = reqwest::Identity::from_pem(&read(path)?);
            let wrong =
                |error| format!("{}: no certificate with its key ({error})", path.display());
            builder = builder.identity(identity.map_err(wrong)?);
        }
        let http = builder.build().map_err(|error| error.to_string())?;
        let (trust, down) = (AtomicU8::new(0), AtomicBool::new(false));
        Ok(Self { config, http, trust, down, looked: Mutex::new(None), metrics })
    }

    /// Looks at the ledger's identity now.
    pub async fn look(&self) -> Result<(), LedgerError> {
        let response = self.send("network", self.get("/node/network")).await;
        let network = match response {
            Ok(response) => parse::<Network>(response).await,
            Err(attempt) => Err(attempt),
        };
        let network = network.map_err(Attempt::into_error)?;
        let key = certificate_key(&network.service_certificate).map_err(LedgerError::Unexpected)?;
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let before = self.trust();
        if key == self.config.service_key {
            self.trust.store(Trust::Trusted as u8, Ordering::Relaxed);
            self.metrics.ledger_trusted.set(1);
            if before != Trust::Trusted {
                tracing::info!(
                    url = self.config.url.as_str(),
                    "the ledger shows the configured key"
                );
            }
            return Ok(());
        }
        self.trust.store(Trust::Changed as u8, Ordering::Relaxed);
        self.metrics.ledger_trusted.set(0);
        let found = hex::encode(crate::identity::sha256(&[&crate::config::P384_SPKI, &key.0]));
        let error = LedgerError::IdentityChanged { found };
        tracing::error!(url = self.config.url.as_str(), "{error}");
        Err(error)
    }

    /// Fails unless the ledger was lately seen to be the configured one.
    async fn trusted(&self) -> Result<(), LedgerError> {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = looked.is_some_and(|at| at.elapsed() < IDENTITY_AGE);
        match (self.trust(), recent) {
            (Trust::Trusted, true) => Ok(()),
            _ => self.look().await,
        }
    }

    /// The transaction of an append, or where the tag stands instead. An attempt whose answer is
    /// lost is resolved by the next: the ledger answers a repeated append with the first one's
    /// transaction, and a conflict is weighed against what the tag shows.
    async fn try_append(&self, body: &AppendBody) -> Tried<Result<String, Standing>> {
        let response = self.send("append", self.post("/app/append").json(body)).await?;
        if response.status() == StatusCode::CONFLICT {
            return parse::<Entry>(response).await?.standing().map(Err);
        }
        let written = written_by(&response);
        let entry: Entry = parse(response).await?;
        if entry.version != body.version || entry.digest.as_deref() != Some(&body.digest) {
            return Err(unexpected("an append answered with another entry"));
        }
        entry.transaction(written).map(Ok)
    }

    /// Waits for a transaction's receipt; `None` when the transaction is gone.
    async fn receipt(&self, id: &str, started: Instant) -> Result<Option<Bytes>, LedgerError> {
        let poll = || async {
            let request = self.get("/app/receipt").query(&[("transaction_id", id)]);
            let response = self.send("receipt", request).await?;
            match response.status() {
                StatusCode::ACCEPTED => return Err(Attempt::Again("no receipt yet".into())),
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::OK => {}
                status => return Err(unexpected(format!("receipt: status {status}"))),
            }
            let receipt = response.bytes().await.map_err(again)?;
            if receipt.is_empty() || receipt.len() > limits::RECEIPT {
                return Err(unexpected(format!("a receipt of {} bytes", receipt.len())));
            }
            Ok(Some(receipt))
        };
        let receipt = self.retrying("receipt", started, poll).await?;
        self.metrics.ledger_time.observe(started.elapsed());
        Ok(receipt)
    }

    /// The one retry loop: until an answer, a final error, or the configured time is up. While the
    /// ledger is down everybody tries once: whoever waits for a sign-in page learns it at once.
    async fn retrying<T, F: Future<Output = Tried<T>>>(
        &self, call: &'static str, started: Instant, attempt: impl Fn() -> F,
    ) -> Result<T, LedgerError> {
        let first = Duration::from_millis(if call == "receipt" { 5 } else { 50 });
        let mut backoff = Backoff::new(first, Duration::from_secs(1));
        loop {
            self.trusted().await.or_else(|error| match error {
                // Not seen is not changed: the attempt itself will tell.
                LedgerError::Unreachable(_) if self.trust() == Trust::Trusted => Ok(()),
                LedgerError::Unreachable(_) if started.elapsed() < self.config.timeout => Ok(()),
                error => Err(error),
            })?;
            let why = if self.trust() == Trust::Trusted {
                match attempt().await {
                    Ok(value) => return Ok(value),
                    Err(Attempt::Final(error)) => return Err(error),
                    Err(Attempt::Again(why)) => why,
                }
            } else {
                "its identity cannot be looked up".to_owned()
            };
            let wait = backoff.next_wait();
            let was_down = self.down.load(Ordering::Relaxed);
            if was_down || started.elapsed() + wait >= self.config.timeout {
                if !self.down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(call, why, "gave up on the ledger");
                }
                return Err(LedgerError::Unreachable(why));
            }
            tracing::debug!(call, why, ?wait, "asking the ledger again");
            tokio::time::sleep(wait).await;
        }
    }

    /// One request; statuses that may pass become another attempt.
    async fn send(
        &self, call: &'static str, request: reqwest::RequestBuilder,
    ) -> Tried<reqwest::Response> {
        let result = request.send().await;
        let outcome = match &result {
            Ok(response) if response.status().is_success() => "ok",
            Ok(response) if response.status() == StatusCode::CONFLICT => "conflict",
            Ok(_) => "refused",
            Err(_) => "unreachable",
        };
        self.metrics.ledger_calls.with((call, outcome), Counter::increment);
        let response = result.map_err(again)?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Attempt::Again(format!("{call}: status {status}")));
        }
        if self.down.swap(false, Ordering::Relaxed) {
            tracing::info!("the ledger answers again");
        }
        Ok(response)
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.config.url.as_str()))
    }

    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.config.url.as_str()))
    }
}

impl Entry {
    /// The transaction it speaks of. CCF's JavaScript knows only an earlier one, on a repeated
    /// append; the one that a request wrote is in the answer's header alone.
    fn transaction(self, written: Option<String>) -> Tried<String> {
        self.transaction_id.or(written).ok_or_else(|| unexpected("an answer without transaction"))
    }

    fn standing(self) -> Tried<Standing> {
        let digest = match self.digest {
            Some(digest) => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(&digest, &mut bytes)
                    .map_err(|_| unexpected("a digest that is not 64 hexadecimal digits"))?;
                Some(Digest(bytes))
            }
            None => None,
        };
        Ok(Standing { version: self.version, digest })
    }
}

impl Attempt {
    fn into_error(self) -> LedgerError {
        match self {
            Self::Again(why) => LedgerError::Unreachable(why),
            Self::Final(error) => error,
        }
    }
}

/// The transaction that a request wrote, as CCF names it.
fn written_by(response: &reqwest::Response) -> Option<String> {
    Some(response.headers().get("x-ms-ccf-transaction-id")?.to_str().ok()?.to_owned())
}

fn again(error: reqwest::Error) -> Attempt {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Attempt::Again(text)
}

fn unexpected(what: impl Into<String>) -> Attempt {
    Attempt::Final(LedgerError::Unexpected(what.into()))
}

async fn parse<T: DeserializeOwned>(response: reqwest::Response) -> Tried<T> {
    let status = response.status();
    if !status.is_success() && status != StatusCode::CONFLICT {
        let text = response.text().await.unwrap_or_default();
        let text: String = text.chars().take(200).collect();
        return Err(unexpected(format!("status {status}: {text}")));
    }
    let body = response.bytes().await.map_err(again)?;
    serde_json::from_slice(&body).map_err(|error| unexpected(error.to_string()))
}

/// The key in a service certificate.
fn certificate_key(pem: &str) -> Result<P384PublicKey, String> {
    let wrong = |_| "service_certificate is no PEM certificate".to_owned();
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(wrong)?;
    let certificate =
        pem.parse_x509().map_err(|_| "service_certificate is no X.509 certificate".to_owned())?;
    // Another kind of key is another identity, not an error of its own.
    Ok(crate::config::point(certificate.public_key().raw).unwrap_or(Fixed([0; 97])))
}
