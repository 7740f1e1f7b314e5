//! The sign-in page: /authorize, RFC 6749 section 4.1 with PKCE (RFC 7636, S256 only).

use super::{Oidc, random};
use crate::clock;
use axum::extract::{Form, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A code is to be redeemed at once.
const CODE_SECONDS: u64 = 300;

/// What a code stands for.
pub(super) struct Code {
    pub(super) username: String,
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) nonce: Option<String>,
    pub(super) signed_in_at: u64,
}

/// Codes not yet redeemed. Not kept over a restart: the person signs in again.
#[derive(Default)]
pub(super) struct Codes(Mutex<HashMap<String, Code>>);

impl Codes {
    fn issue(&self, code: Code) -> String {
        let name = URL_SAFE_NO_PAD.encode(random());
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, code| fresh(code));
        codes.insert(name.clone(), code);
        name
    }

    pub(super) fn take(&self, name: &str) -> Option<Code> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.remove(name).filter(fresh)
    }
}

fn fresh(code: &Code) -> bool {
    clock::now().saturating_sub(code.signed_in_at) <= CODE_SECONDS
}

/// The authorization request; the page carries it along in hidden fields.
#[derive(Debug, Deserialize)]
pub(super) struct Authorize {
    client_id: String,
    redirect_uri: String,
    response_type: String,
    #[serde(default)]
    scope: String,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    state: Option<String>,
    nonce: Option<String>,
    prompt: Option<String>,
    login_hint: Option<String>,
    /// Filled in by the page.
    username: Option<String>,
}

/// GET: the page.
pub(super) async fn show(
    State(oidc): State<Arc<Oidc>>, Query(request): Query<Authorize>,
) -> Response {
    if let Some(refusal) = refusal(&oidc, &request) {
        return refusal;
    }
    if request.prompt.as_deref() == Some("none") {
        return redirect(&request, &[("error", "login_required")]);
    }
    Html(html(&request)).into_response()
}

/// POST: the name was entered.
pub(super) async fn submit(
    State(oidc): State<Arc<Oidc>>, Form(request): Form<Authorize>,
) -> Response {
    if let Some(refusal) = refusal(&oidc, &request) {
        return refusal;
    }
    let username = request.username.as_deref().unwrap_or_default().trim();
    if username.is_empty() {
        return Html(html(&request)).into_response();
    }
    let code = oidc.codes.issue(Code {
        username: username.to_owned(),
        client_id: request.client_id.clone(),
        redirect_uri: request.redirect_uri.clone(),
        challenge: request.code_challenge.clone().unwrap_or_default(),
        nonce: request.nonce.clone(),
        signed_in_at: clock::now(),
    });
    redirect(&request, &[("code", &code)])
}

/// A wrong client or redirect URI is told to the person; anything else goes back to the client.
fn refusal(oidc: &Oidc, request: &Authorize) -> Option<Response> {
    let told =
        |why: &str| (StatusCode::BAD_REQUEST, Html(page(&format!("<p>{why}</p>")))).into_response();
    if oidc.client(&request.client_id).is_err() {
        return Some(told("This client is not registered here."));
    }
    if !loopback(&request.redirect_uri) {
        return Some(told(
            "redirect_uri must be http on 127.0.0.1, [::1] or localhost, without a fragment.",
        ));
    }
    let back = |error, why| redirect(request, &[("error", error), ("error_description", why)]);
    if request.response_type != "code" {
        return Some(back("unsupported_response_type", "response_type is code"));
    }
    if !request.scope.split(' ').any(|scope| scope == "openid") {
        return Some(back("invalid_scope", "scope contains openid"));
    }
    let challenge = request.code_challenge.as_deref().unwrap_or_default();
    let decoded = URL_SAFE_NO_PAD.decode(challenge).is_ok_and(|hash| hash.len() == 32);
    if !decoded || request.code_challenge_method.as_deref() != Some("S256") {
        return Some(back("invalid_request", "PKCE is required: code_challenge with method S256"));
    }
    None
}

/// RFC 8252 section 7.3: any port of the loopback interface.
fn loopback(uri: &str) -> bool {
    let Ok(uri) = reqwest::Url::parse(uri) else { return false };
    uri.scheme() == "http"
        && matches!(uri.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"))
        && uri.username().is_empty()
        && uri.password().is_none()
        && uri.fragment().is_none()
}

fn redirect(request: &Authorize, answer: &[(&str, &str)]) -> Response {
    let Ok(mut uri) = reqwest::Url::parse(&request.redirect_uri) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    uri.query_pairs_mut()
        .extend_pairs(answer)
        .extend_pairs(request.state.iter().map(|state| ("state", state)));
    (StatusCode::FOUND, [(header::LOCATION, String::from(uri))]).into_response()
}

fn html(request: &Authorize) -> String {
    let hidden: String = [
        ("client_id", Some(&request.client_id)),
        ("redirect_uri", Some(&request.redirect_uri)),
        ("response_type", Some(&request.response_type)),
        ("scope", Some(&request.scope)),
        ("code_challenge", request.code_challenge.as_ref()),
        ("code_challenge_method", request.code_challenge_method.as_ref()),
        ("state", request.state.as_ref()),
        ("nonce", request.nonce.as_ref()),
    ]
    .into_iter()
    .filter_map(|(name, value)| {
        Some(format!(r#"<input type="hidden" name="{name}" value="{}">"#, escape(value?)))
    })
    .collect();
    let hint = escape(request.login_hint.as_deref().unwrap_or_default());
    page(&format!(
        r#"<form method="post" action="/authorize">{hidden}
<label for="username">Sign in as</label>
<input id="username" name="username" value="{hint}" required maxlength="256" autocomplete="username" autofocus>
<button type="submit">Sign in</button></form>"#
    ))
}

fn page(content: &str) -> String {
    format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Keyfold development sign-in</title>
<meta name="viewport" content="width=device-width"><style>
body{{font:16px/1.5 system-ui;max-width:26rem;margin:4rem auto;padding:0 1rem}}
label{{display:block}}input,button{{font:inherit;padding:.4rem;margin:.3rem 0;width:100%;box-sizing:border-box}}
</style></head><body><h1>Development sign-in</h1>
<p>This issuer runs on one machine for development. It asks for no password and protects nothing: any name will do.</p>
{content}</body></html>"#
    )
}

fn escape(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            '"' => "&quot;".into(),
            '\'' => "&#39;".into(),
            other => other.to_string(),
        })
        .collect()
}
