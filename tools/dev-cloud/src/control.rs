//! The dev-only control API: failure switches and key rotation. No real service has it.
//!
//! POST /dev/fail {"service","mode","times"?,"path"?,"delay_ms"?,…} (`fail` has the modes and what they take),
//! GET /dev/fail, DELETE /dev/fail,
//! POST /dev/rotate {"service":"oidc"|"maa"}, GET /dev/endpoints.

use crate::Inner;
use crate::fail::{Failure, Service};
use crate::http::{ApiError, parse};
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The control API's routes.
pub(crate) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/dev/fail", post(fail).get(list).delete(clear))
        .route("/dev/rotate", post(rotate))
        .route("/dev/endpoints", get(endpoints))
        .with_state(inner)
}

async fn fail(State(inner): State<Arc<Inner>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let failure: Failure = parse(&body, "InvalidInput")?;
    inner.fail(failure).await.map_err(|error| ApiError::internal(&error))?;
    Ok(list(State(inner)).await)
}

async fn list(State(inner): State<Arc<Inner>>) -> Json<Value> {
    Json(json!({"failures": inner.failures.list()}))
}

async fn clear(State(inner): State<Arc<Inner>>) -> Json<Value> {
    inner.failures.clear();
    list(State(inner)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    service: Service,
}

async fn rotate(State(inner): State<Arc<Inner>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let request: Rotate = parse(&body, "InvalidInput")?;
    let kid = inner
        .rotate(request.service)
        .map_err(|error| ApiError::bad_request("InvalidInput", format!("{error:#}")))?;
    Ok(Json(json!({"kid": kid})))
}

async fn endpoints(State(inner): State<Arc<Inner>>) -> Json<Value> {
    Json(json!(inner.endpoints()))
}
