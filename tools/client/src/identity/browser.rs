//! The authorization code flow with PKCE (RFC 7636) and a loopback redirect (RFC 8252).

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{IdToken, IdentityError, SignInRequest, TokenSource};
use crate::crypto::{random, sha256};
use crate::device::Pending;
use crate::http;

/// How long a person may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// The longest request head read from the browser.
const HEAD: usize = 16 * 1024;
const PATH: &str = "/callback";

/// Signs in in the person's own browser.
pub struct Browser {
    http: reqwest::Client,
    open: Box<dyn Fn(&str) + Send + Sync>,
}

impl Browser {
    /// `open` is called with the URL to show: start a browser with it, or print it. It must not
    /// block.
    ///
    /// # Errors
    /// [`IdentityError::Source`] when HTTP cannot be used at all.
    pub fn new(open: impl Fn(&str) + Send + Sync + 'static) -> Result<Self, IdentityError> {
        let http = http::client().map_err(|error| IdentityError::Source(error.to_string()))?;
        Ok(Self { http, open: Box::new(open) })
    }

    async fn run(&self, request: &SignInRequest) -> Result<IdToken, IdentityError> {
        let failed = |error: std::io::Error| IdentityError::Source(error.to_string());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let redirect = format!("http://127.0.0.1:{port}{PATH}");
        let verifier = BASE64_URL_SAFE_NO_PAD.encode(random::<32>());
        let state = BASE64_URL_SAFE_NO_PAD.encode(random::<16>());
        (self.open)(authorization_url(request, &redirect, &verifier, &state).as_str());
        let code = tokio::time::timeout(PATIENCE, wait(&listener, &state, request))
            .await
            .map_err(|_| IdentityError::TimedOut)??;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", &redirect),
            ("client_id", &request.client_id),
            ("code_verifier", &verifier),
        ];
        request.provider.redeem(&self.http, &form).await
    }
}

impl TokenSource for Browser {
    fn sign_in<'a>(
        &'a self, request: &'a SignInRequest,
    ) -> Pending<'a, Result<IdToken, IdentityError>> {
        Box::pin(self.run(request))
    }
}

fn authorization_url(request: &SignInRequest, redirect: &str, verifier: &str, state: &str) -> Url {
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(sha256(&[verifier.as_bytes()]));
    let mut url = request.provider.authorization_endpoint().clone();
    url.query_pairs_mut().extend_pairs([
        ("response_type", "code"),
        ("scope", "openid"),
        ("client_id", &request.client_id),
        ("redirect_uri", redirect),
        ("state", state),
        ("nonce", &request.nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ]);
    if let Some(max_age) = request.max_age {
        let max_age = max_age.to_string();
        url.query_pairs_mut().extend_pairs([("max_age", &*max_age), ("prompt", "login")]);
    }
    url
}

/// Answers the browser until it brings the code for `state`. Other requests (an icon, another
/// program's guess) change nothing.
async fn wait(
    listener: &TcpListener, state: &str, request: &SignInRequest,
) -> Result<String, IdentityError> {
    loop {
        let accepted = listener.accept().await;
        let (mut stream, _) = accepted.map_err(|error| IdentityError::Source(error.to_string()))?;
        let read = tokio::time::timeout(Duration::from_secs(5), target(&mut stream)).await;
        let outcome = read.ok().flatten().and_then(|url| callback(&url, state, request));
        let (status, text) = match &outcome {
            Some(Ok(_)) => ("200 OK", "Signed in. You can close this window."),
            Some(Err(_)) => ("200 OK", "The sign-in was refused. You can close this window."),
            None => ("404 Not Found", "Nothing is here."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n{text}",
            text.len()
        );
        // The browser may be gone; what counts is what it brought.
        let _ = stream.write_all(answer.as_bytes()).await;
        if let Some(outcome) = outcome {
            return outcome;
        }
    }
}

/// The target of a GET request.
async fn target(stream: &mut TcpStream) -> Option<Url> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut chunk = [0; 1024];
        let read = stream.read(&mut chunk).await.ok()?;
        if read == 0 || head.len() + read > HEAD {
            return None;
        }
        head.extend_from_slice(&chunk[..read]);
    }
    let line = std::str::from_utf8(&head).ok()?.lines().next()?.to_owned();
    let target = line.strip_prefix("GET ")?.split(' ').next()?;
    Url::parse("http://127.0.0.1/").ok()?.join(target).ok()
}

/// The code or the refusal that a redirect brings; `None` when it is not this sign-in's.
fn callback(
    url: &Url, state: &str, request: &SignInRequest,
) -> Option<Result<String, IdentityError>> {
    let value = |name: &str| {
        let mut values = url.query_pairs().filter(|(key, _)| key == name);
        let first = values.next().map(|(_, value)| value.into_owned());
        if values.next().is_some() { None } else { first }
    };
    if url.path() != PATH || value("state")? != state {
        return None;
    }
    // RFC 9207: where the issuer names itself, it must be the one that was asked.
    if value("iss").is_some_and(|issuer| issuer != request.provider.issuer()) {
        return Some(Err(IdentityError::Refused("the answer is of another issuer".into())));
    }
    if let Some(error) = value("error") {
        let details = value("error_description").map(|text| format!(": {text}"));
        return Some(Err(IdentityError::Refused(error + &details.unwrap_or_default())));
    }
    value("code").map(Ok)
}
