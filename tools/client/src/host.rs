//! The host's HTTP API, as a client sees it. Nothing it says is believed here: bytes in, bytes out.

use std::time::Duration;

use keyfold_protocol::client::Envelope;
use keyfold_protocol::ids::SessionId;
use keyfold_protocol::{limits, wire};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;

use crate::channel::ChannelError;
use crate::deployment::DeploymentError;
use crate::error::{Error, Problem, Unreachable};
use crate::http;

/// A host.
pub(crate) struct Host {
    http: reqwest::Client,
    base: String,
}

/// Where an account stands, as the host says: a hint, which the enclave and the ledger correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Standing {
    pub(crate) generation: u32,
    /// The account was ended.
    pub(crate) closed: bool,
    /// Live version of the guard.
    pub(crate) guard: u64,
}

/// One of the two mailboxes of a pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mailbox {
    /// From the new device to the trusted one.
    Offer,
    /// From the trusted device to the new one.
    Answer,
}

/// How long the host may hold back an empty mailbox's answer, in seconds.
const LONG_POLL: u32 = 25;

impl Host {
    pub(crate) fn new(http: reqwest::Client, url: &str) -> Result<Self, DeploymentError> {
        let parsed = http::secure_url(url).ok_or_else(|| DeploymentError::Url(url.into()))?;
        Ok(Self { http, base: parsed.as_str().trim_end_matches('/').into() })
    }

    /// `GET /v1/deployment`.
    pub(crate) async fn deployment(&self) -> Result<Vec<u8>, Error> {
        self.call(Method::GET, "/v1/deployment", |request| request).await
    }

    /// `GET /v1/account`: where the person's latest account stands, as the host says; `None` when
    /// there is none.
    pub(crate) async fn account(&self, token: &str) -> Result<Option<Standing>, Error> {
        let path = "/v1/account";
        let answer = match self.call(Method::GET, path, |request| request.bearer_auth(token)).await
        {
            Err(Error::Host(problem)) if problem.name == "account-unknown" => return Ok(None),
            answer => answer?,
        };
        serde_json::from_slice(&answer).map(Some).map_err(|error| {
            let reason = format!("its answer cannot be read: {error}");
            Unreachable { url: format!("{}{path}", self.base), reason, may_have_arrived: true }
                .into()
        })
    }

    /// `POST /v1/sessions`; `opening` is the channel key's id and the encapsulated key.
    pub(crate) async fn open_session(&self, token: &str, opening: &[u8]) -> Result<(), Error> {
        let fill = |request: RequestBuilder| octets(request.bearer_auth(token), opening.to_vec());
        self.call(Method::POST, "/v1/sessions", fill).await.map(drop)
    }

    /// `POST /v1/sessions/{id}/requests`: the sealed reply.
    pub(crate) async fn request(
        &self, token: &str, session: &SessionId, envelope: &Envelope<'_>,
    ) -> Result<Vec<u8>, Error> {
        let mut body = vec![0; limits::REQUEST + 256];
        let used = wire::encode(envelope, &mut body).map_err(|_| ChannelError::TooLong)?;
        body.truncate(used);
        let path = format!("/v1/sessions/{session}/requests");
        let fill = |request: RequestBuilder| octets(request.bearer_auth(token), body);
        self.call(Method::POST, &path, fill).await
    }

    /// `PUT /v1/pairings/{id}/{mailbox}`.
    pub(crate) async fn put_pairing(
        &self, token: &str, pairing: &[u8; 16], mailbox: Mailbox, message: &[u8],
    ) -> Result<(), Error> {
        let path = pairing_path(pairing, mailbox);
        let fill = |request: RequestBuilder| octets(request.bearer_auth(token), message.to_vec());
        self.call(Method::PUT, &path, fill).await.map(drop)
    }

    /// `GET /v1/pairings/{id}/{mailbox}`; `None` when nothing came while the host waited.
    pub(crate) async fn get_pairing(
        &self, token: &str, pairing: &[u8; 16], mailbox: Mailbox,
    ) -> Result<Option<Vec<u8>>, Error> {
        let path = format!("{}?wait={LONG_POLL}", pairing_path(pairing, mailbox));
        match self.call(Method::GET, &path, |request| request.bearer_auth(token)).await {
            Ok(message) => Ok(Some(message)),
            Err(Error::Host(problem)) if problem.name == "pairing-empty" => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call(
        &self, method: Method, path: &str, fill: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Vec<u8>, Error> {
        let url = format!("{}{path}", self.base);
        let answer = http::send(&url, fill(self.http.request(method, &url))).await?;
        if answer.status().is_success() {
            return Ok(http::body(&url, answer).await?);
        }
        Err(problem(&url, answer).await.into())
    }
}

fn octets(request: RequestBuilder, body: Vec<u8>) -> RequestBuilder {
    request.header(CONTENT_TYPE, "application/octet-stream").body(body)
}

fn pairing_path(pairing: &[u8; 16], mailbox: Mailbox) -> String {
    let name = match mailbox {
        Mailbox::Offer => "offer",
        Mailbox::Answer => "answer",
    };
    format!("/v1/pairings/{}/{name}", hex::encode(pairing))
}

/// Reads a problem document; an answer that is none becomes one by its status.
async fn problem(url: &str, answer: Response) -> Problem {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "type")]
        kind: String,
        detail: Option<String>,
        instance: Option<String>,
    }
    let status = answer.status();
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let retry_after = header(RETRY_AFTER.as_str())
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    let request_id = header("x-request-id").map(printable);
    let body = http::body(url, answer).await.unwrap_or_default();
    let document = serde_json::from_slice::<Document>(&body).ok();
    let reason = status.canonical_reason().unwrap_or("unknown status");
    Problem {
        name: document
            .as_ref()
            .and_then(|document| document.kind.strip_prefix("/problems/"))
            .map_or_else(|| format!("http-{}", status.as_u16()), printable),
        status: StatusCode::as_u16(&status),
        detail: document
            .as_ref()
            .and_then(|document| document.detail.as_deref())
            .map_or_else(|| format!("{reason}; check the address, then try again"), printable),
        request_id: document
            .and_then(|document| document.instance)
            .map(|id| printable(&id))
            .or(request_id),
        retry_after,
    }
}

/// What a host says ends up in a terminal: without control characters, and not for ever.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::response::IntoResponse;
    use axum::routing::get;

    use super::*;

    async fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Problem {
        let (headers, body): (Vec<_>, _) = (
            headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            body.to_owned(),
        );
        let handler = move || async move {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let name: axum::http::HeaderName = name.parse().unwrap();
                map.insert(name, value.parse().unwrap());
            }
            (StatusCode::from_u16(status).unwrap(), map, body).into_response()
        };
        let url = crate::testing::serve(Router::new().route("/v1/deployment", get(handler))).await;
        let host = Host::new(http::client().unwrap(), &url).unwrap();
        match host.deployment().await {
            Err(Error::Host(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn problem_documents_are_read_and_cleaned() {
        let body = r#"{"type":"/problems/ledger-unreachable","title":"t","status":503,
            "detail":"wait\u001b[2J and retry","instance":"r-1"}"#;
        let problem = answer(503, &[("retry-after", "7")], body).await;
        assert_eq!(problem.name, "ledger-unreachable");
        assert_eq!(problem.detail, "wait[2J and retry");
        assert_eq!(problem.request_id.as_deref(), Some("r-1"));
        assert_eq!(problem.retry_after, Some(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_problem_document_still_says_what_to_do() {
        let problem = answer(502, &[("x-request-id", "r-2")], "<html>").await;
        assert_eq!((problem.name.as_str(), problem.status), ("http-502", 502));
        assert!(problem.detail.contains("Bad Gateway"), "{}", problem.detail);
        assert_eq!(problem.request_id.as_deref(), Some("r-2"));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let problem = answer(307, &[("location", "http://127.0.0.1:1/")], "").await;
        assert_eq!(problem.status, 307);
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let body = "x".repeat(2 << 20);
        let handler = move || async move { body };
        let url = crate::testing::serve(Router::new().route("/v1/deployment", get(handler))).await;
        let host = Host::new(http::client().unwrap(), &url).unwrap();
        assert!(matches!(host.deployment().await, Err(Error::Unreachable(_))));
    }

    #[tokio::test]
    async fn what_never_arrived_is_told_from_what_may_have() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let host = Host::new(http::client().unwrap(), &url).unwrap();
        let call = tokio::spawn(async move { (host.deployment().await, host) });
        drop(listener.accept().await.unwrap());
        drop(listener);
        let (cut, host) = call.await.unwrap();
        assert!(matches!(cut, Err(error) if error.outcome_unknown()));
        assert!(matches!(host.deployment().await, Err(error) if !error.outcome_unknown()));
    }
}
