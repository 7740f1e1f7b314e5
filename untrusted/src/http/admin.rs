//! For operators, on a listener of its own: is it alive, can it serve, what has it done.

use super::App;
use crate::enclave::Live;
use crate::ledger::Trust;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;

/// `/healthz`, `/readyz`, `/metrics`.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
}

/// Ready means: an enclave serves, there is a statement, and the host is not stopping. The ledger is
/// told but does not count: without it signing in goes on.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let parts = app.service.parts();
    let enclaves: Vec<_> = parts.links.live().map(|live| enclave(&live)).collect();
    let failing = parts.links.failing().into_iter();
    let failing: Vec<_> = failing.map(|(link, why)| json!({"link": link, "why": why})).collect();
    let statement = app.deployment.statement().await.is_ok();
    let stopping = *app.stopping.borrow();
    let ready = !enclaves.is_empty() && statement && !stopping;
    let ledger = match parts.ledger.trust() {
        Trust::Unknown => "not reached yet",
        Trust::Trusted => "trusted",
        Trust::Changed => "identity changed",
    };
    let document = json!({
        "ready": ready,
        "stopping": stopping,
        "statement": statement,
        "ledger": ledger,
        "staged_guards": app.metrics.staged_guards.get(),
        "links": parts.links.count(),
        "enclaves": enclaves,
        "failing": failing,
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, format!("{document:#}\n")).into_response()
}

fn enclave(live: &Live) -> Value {
    let booted = live.booted();
    json!({
        "config": booted.config_hash.to_string(),
        "root": booted.root.to_string(),
        "channel_key": booted.channel_key_id.to_string(),
    })
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (headers, app.metrics.render()).into_response()
}
