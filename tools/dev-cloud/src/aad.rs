//! The directory's token endpoint, as a workload identity uses it: an assertion that the cluster wrote into a file
//! becomes an access token.
//!
//! POST /{tenant}/oauth2/v2.0/token, grant client_credentials with a JWT bearer assertion (RFC 7523). The cluster is
//! the OpenID issuer; its tokens for the workload live an hour and are written again long before.

use crate::oidc::{ACCESS_TOKEN_SECONDS, HSM_RESOURCE, MAA_RESOURCE, Oidc, Principal, TENANT};
use crate::{clock, imds, store};
use anyhow::Result;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The federated credential's subject and audience.
const SUBJECT: &str = "system:serviceaccount:keyfold:keyfold-host";
const AUDIENCE: &str = "api://AzureADTokenExchange";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const ASSERTION_SECONDS: u64 = 3600;
const REWRITTEN_AFTER: Duration = Duration::from_secs(1800);

/// The directory, and the cluster that vouches for its workload.
pub(crate) struct Aad {
    pub(crate) oidc: Arc<Oidc>,
    /// AZURE_FEDERATED_TOKEN_FILE.
    pub(crate) token_file: PathBuf,
}

impl Aad {
    /// Writes the workload's assertion into its file.
    pub(crate) fn write_assertion(&self) -> Result<()> {
        let now = clock::now();
        let assertion = self.oidc.keys.current()?.jwt(&json!({
            "aud": [AUDIENCE],
            "iss": self.oidc.issuer,
            "sub": SUBJECT,
            "iat": now,
            "nbf": now,
            "exp": now + ASSERTION_SECONDS,
        }))?;
        store::write(&self.token_file, assertion.as_bytes())
    }

    /// Keeps the file fresh.
    pub(crate) async fn keep_writing(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REWRITTEN_AFTER).await;
            if let Err(error) = self.write_assertion() {
                tracing::error!("{error:#}");
            }
        }
    }
}

/// The service's routes.
pub(crate) fn router(aad: Arc<Aad>) -> Router {
    Router::new().route("/{tenant}/oauth2/v2.0/token", post(token)).with_state(aad)
}

/// An error as the directory writes it: RFC 6749 section 5.2, and a number of its own.
struct Refusal {
    status: StatusCode,
    error: &'static str,
    number: u32,
    why: String,
}

impl Refusal {
    fn request(error: &'static str, number: u32, why: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, number, why: why.into() }
    }

    fn assertion(number: u32, why: impl Into<String>) -> Self {
        let (status, error) = (StatusCode::UNAUTHORIZED, "invalid_client");
        Self { status, error, number, why: why.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({
            "error": self.error,
            "error_description": format!("AADSTS{}: {}", self.number, self.why),
            "error_codes": [self.number],
        });
        (self.status, Json(body)).into_response()
    }
}

type Fields = BTreeMap<String, String>;

async fn token(
    State(aad): State<Arc<Aad>>, Path(tenant): Path<String>,
    fields: Result<Form<Fields>, FormRejection>,
) -> Result<Json<Value>, Refusal> {
    let Form(fields) = fields
        .map_err(|rejection| Refusal::request("invalid_request", 900_144, rejection.body_text()))?;
    let field = |name: &str| {
        fields.get(name).map(String::as_str).filter(|value| !value.is_empty()).ok_or_else(|| {
            let why = format!("The request body must contain the parameter '{name}'.");
            Refusal::request("invalid_request", 900_144, why)
        })
    };

    // 1. What is asked.
    if tenant != TENANT {
        let why = format!("Tenant '{tenant}' not found.");
        return Err(Refusal::request("invalid_request", 90_002, why));
    }
    let grant = field("grant_type")?;
    if grant != "client_credentials" {
        let why = format!("The grant type '{grant}' is not supported.");
        return Err(Refusal::request("unsupported_grant_type", 70_003, why));
    }
    let client = field("client_id")?;
    if client != imds::CLIENT_ID {
        let why = format!("Application with identifier '{client}' was not found in the directory.");
        return Err(Refusal::request("unauthorized_client", 700_016, why));
    }
    let scope = field("scope")?;
    let resource = scope.strip_suffix("/.default").ok_or_else(|| {
        let why =
            format!("The provided value for scope {scope} is not valid: it ends in /.default.");
        Refusal::request("invalid_scope", 1_002_012, why)
    })?;
    if ![HSM_RESOURCE, MAA_RESOURCE].contains(&resource) {
        let why = format!("The resource principal named {resource} was not found in the tenant.");
        return Err(Refusal::request("invalid_resource", 500_011, why));
    }

    // 2. Who asks.
    if field("client_assertion_type")? != ASSERTION_TYPE {
        let why = format!("client_assertion_type is '{ASSERTION_TYPE}'.");
        return Err(Refusal::request("invalid_request", 50_027, why));
    }
    check_assertion(&aad.oidc, field("client_assertion")?)?;

    // 3. The token.
    let token = aad.oidc.access_token(Principal::Workload, resource).map_err(|error| {
        tracing::error!("{error:#}");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Refusal { status, error: "server_error", number: 90_020, why: format!("{error:#}") }
    })?;
    Ok(Json(json!({
        "token_type": "Bearer",
        "expires_in": ACCESS_TOKEN_SECONDS,
        "ext_expires_in": ACCESS_TOKEN_SECONDS,
        "access_token": token,
    })))
}

/// Signed by the cluster, valid now, and what the federated credential names.
fn check_assertion(oidc: &Oidc, assertion: &str) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Claims {
        sub: String,
    }
    let unmatched = |number, what| {
        let why =
            format!("No matching federated identity record found for presented assertion {what}.");
        Refusal::assertion(number, why)
    };
    let claims: Claims = oidc.verify(assertion, AUDIENCE).map_err(|kind| match kind {
        ErrorKind::InvalidIssuer => unmatched(700_211, "issuer"),
        ErrorKind::InvalidAudience => unmatched(700_212, "audience"),
        ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature => {
            Refusal::assertion(700_024, "Client assertion is not within its valid time range.")
        }
        ErrorKind::InvalidSignature => {
            Refusal::assertion(700_027, "Client assertion failed signature validation.")
        }
        other => {
            Refusal::assertion(50_027, format!("JWT token is invalid or malformed: {other:?}"))
        }
    })?;
    match claims.sub == SUBJECT {
        true => Ok(()),
        false => Err(unmatched(700_213, "subject")),
    }
}
