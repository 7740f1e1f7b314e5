//! The instance metadata service: the managed identity's access tokens, and THIM's certificates of the chip.

use crate::chip::Chip;
use crate::clock;
use crate::fail::{Failures, Firmware, Mode, Service};
use crate::oidc::{ACCESS_TOKEN_SECONDS, Oidc, Principal};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Client id of the machine's managed identity.
pub(crate) const CLIENT_ID: &str = "6b657966-6f6c-4064-8064-636c69656e74";

/// What the routes share.
#[derive(Clone)]
pub(crate) struct Imds {
    pub(crate) oidc: Arc<Oidc>,
    pub(crate) chip: Arc<Chip>,
    pub(crate) failures: Arc<Failures>,
}

/// The service's routes.
pub(crate) fn router(imds: Imds) -> Router {
    Router::new()
        .route("/metadata/identity/oauth2/token", get(token))
        .route("/metadata/THIM/amd/certification", get(certification))
        .layer(from_fn(from_the_machine_itself))
        .with_state(imds)
}

/// The header no browser and no proxied request brings along.
async fn from_the_machine_itself(request: Request, next: Next) -> Response {
    let headers: &HeaderMap = request.headers();
    if headers.get("metadata").is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"true")) {
        return refusal("Required metadata header not specified or not correct");
    }
    if headers.contains_key("x-forwarded-for") {
        return refusal("a request that came through a proxy is not the machine's own");
    }
    next.run(request).await
}

fn refusal(why: &str) -> Response {
    let body = json!({"error": "invalid_request", "error_description": why});
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

#[derive(Deserialize)]
struct TokenQuery {
    #[serde(rename = "api-version")]
    api_version: Option<String>,
    resource: Option<String>,
    client_id: Option<String>,
}

async fn token(State(imds): State<Imds>, Query(query): Query<TokenQuery>) -> Response {
    if query.api_version.as_deref() != Some("2018-02-01") {
        return refusal("api-version must be 2018-02-01");
    }
    let Some(resource) = query.resource.filter(|resource| !resource.is_empty()) else {
        return refusal("resource is missing");
    };
    if query.client_id.is_some_and(|client| client != CLIENT_ID) {
        return refusal("Identity not found");
    }
    let resource = resource.trim_end_matches('/');
    let now = clock::now();
    match imds.oidc.access_token(Principal::Workload, resource) {
        Ok(token) => Json(json!({
            "access_token": token,
            "client_id": CLIENT_ID,
            "expires_in": ACCESS_TOKEN_SECONDS.to_string(),
            "expires_on": (now + ACCESS_TOKEN_SECONDS).to_string(),
            "ext_expires_in": ACCESS_TOKEN_SECONDS.to_string(),
            "not_before": now.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        }))
        .into_response(),
        Err(error) => crate::http::ApiError::internal(&error).into_response(),
    }
}

async fn certification(State(imds): State<Imds>) -> Json<Value> {
    let stale = imds.failures.take_some(Service::Imds, |mode| match mode {
        Mode::StaleTcb(firmware) => Some(*firmware),
        _ => None,
    });
    let vcek = match stale {
        None => &imds.chip.current,
        Some(Firmware::Older) => &imds.chip.older,
        Some(Firmware::Newer) => &imds.chip.newer,
    };
    Json(json!({
        "vcekCert": vcek.pem,
        "tcbm": vcek.tcb.tcbm(),
        "cacheControl": "86400",
        "certificateChain": imds.chip.chain_pem,
    }))
}
