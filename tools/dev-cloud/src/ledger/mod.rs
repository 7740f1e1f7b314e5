//! The ledger: a CCF service that runs Keyfold's compare-and-set application.
//!
//! Routes, JSON and errors are those of a CCF node with the application under /app; receipts are
//! COSE (vds 2). Durable, group-committed, one node.

mod journal;
mod receipt;
mod service;
mod tree;
mod writer;

pub(crate) use receipt::ServiceKey;
pub(crate) use service::{Ledger, SUBJECT};

use crate::digest::sha256;
use crate::fail::{Failures, Mode, Service};
use crate::http::{ApiError, parse};
use crate::x509::{Certificate, Issuer, YEAR};
use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use journal::TransactionId;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use service::{Outcome, ReceiptState, Tag, Unavailable};
use std::sync::Arc;
use std::time::Duration;
use tree::Digest;

/// What the routes share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) failures: Arc<Failures>,
    pub(crate) latency: Duration,
}

/// The node's routes.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/app/append", post(append))
        .route("/app/read", post(read))
        .route("/app/current", get(current))
        .route("/app/receipt", get(receipt))
        .route("/node/network", get(network))
        .with_state(app)
}

/// The self-signed certificate of a service key, as GET /node/network shows it.
fn service_certificate(key: &ServiceKey) -> Result<String> {
    let certificate = Certificate {
        subject: "CN=CCF Service",
        issuer: "CN=CCF Service",
        spki: key.spki(),
        lifetime: YEAR,
        extensions: vec![],
    };
    certificate.issue_pem(&Issuer::P384(key.pair()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendRequest {
    tag: Hex32,
    version: u64,
    digest: Hex32,
}

async fn append(State(app): State<App>, body: Bytes) -> Result<Response, ApiError> {
    let request: AppendRequest = parse(&body, "InvalidInput")?;
    // A JavaScript application has no larger integers.
    if request.version == 0 || request.version > (1 << 53) - 1 {
        return Err(ApiError::bad_request("InvalidInput", "version is 1 up to 2^53 - 1"));
    }
    match app.ledger.append(request.tag.0, request.version, request.digest.0).await? {
        Outcome::Done(tag) => Ok(written(&tag)),
        Outcome::Repeated(tag) => {
            Ok(Json(entry(&tag, Some(tag.transaction.to_string()))).into_response())
        }
        Outcome::Conflict(current) => Ok(conflict(current)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadRequest {
    tag: Hex32,
    nonce: Hex32,
}

async fn read(State(app): State<App>, body: Bytes) -> Result<Response, ApiError> {
    let request: ReadRequest = parse(&body, "InvalidInput")?;
    match app.ledger.read(request.tag.0, request.nonce.0).await? {
        Outcome::Done(tag) => Ok(written(&tag)),
        Outcome::Repeated(tag) => {
            Ok(Json(entry(&tag, Some(tag.transaction.to_string()))).into_response())
        }
        Outcome::Conflict(current) => Ok(conflict(current)),
    }
}

/// CCF names a transaction when its handler has returned: in the header, never in the body.
fn written(tag: &Tag) -> Response {
    let transaction = tag.transaction.to_string();
    ([("x-ms-ccf-transaction-id", transaction)], Json(entry(tag, None))).into_response()
}

fn entry(tag: &Tag, transaction: Option<String>) -> Value {
    json!({
        "transactionId": transaction,
        "version": tag.version,
        "digest": hex::encode(tag.digest),
    })
}

fn conflict(current: Option<Tag>) -> Response {
    let at = current.map_or(0, |tag| tag.version);
    let body = json!({
        "error": {
            "code": "VersionConflict",
            "message": format!("the tag is at version {at}: an append names {}", at + 1),
        },
        "version": at,
        "digest": current.map(|tag| hex::encode(tag.digest)),
    });
    (StatusCode::CONFLICT, Json(body)).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CurrentQuery {
    tag: Hex32,
}

async fn current(
    State(app): State<App>,
    query: Result<Query<CurrentQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query
        .map_err(|_| ApiError::bad_request("InvalidInput", "tag is 64 lower-case hex digits"))?;
    let tag = app.ledger.current(&query.tag.0);
    Ok(Json(json!({
        "version": tag.map_or(0, |tag| tag.version),
        "digest": tag.map(|tag| hex::encode(tag.digest)),
        "transactionId": tag.map(|tag| tag.transaction.to_string()),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiptQuery {
    transaction_id: String,
}

async fn receipt(
    State(app): State<App>,
    query: Result<Query<ReceiptQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let id: TransactionId =
        query.ok().and_then(|Query(query)| query.transaction_id.parse().ok()).ok_or_else(|| {
            ApiError::bad_request("InvalidQueryParameterValue", "transaction_id is view.seqno")
        })?;
    if app.failures.take(Service::Ledger, &Mode::WithholdReceipt) {
        return Ok(not_yet(Duration::from_secs(1)));
    }
    match app.ledger.receipt(id) {
        ReceiptState::Ready(bytes) => {
            Ok(([(header::CONTENT_TYPE, "application/cose")], bytes).into_response())
        }
        ReceiptState::Pending => Ok(not_yet(app.latency)),
        ReceiptState::Unknown => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "TransactionPendingOrUnknown",
            format!("Transaction {id} is not available."),
        )),
        ReceiptState::None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "TransactionInvalid",
            format!("Transaction {id} is not one of the application's."),
        )),
    }
}

/// Retry-After counts whole seconds: 0 says "soon", the caller's own pause decides.
fn not_yet(latency: Duration) -> Response {
    let seconds = latency.as_secs().to_string();
    (StatusCode::ACCEPTED, [(header::RETRY_AFTER, seconds)]).into_response()
}

async fn network(State(app): State<App>) -> Json<Value> {
    let (identity, view, opened, recoveries) = app.ledger.network();
    Json(json!({
        "service_status": "Open",
        "service_certificate": identity.certificate_pem,
        "current_view": view,
        "current_service_create_txid": opened.to_string(),
        "primary_id": hex::encode(sha256(&identity.key.spki())),
        "recovery_count": recoveries,
    }))
}

impl From<Unavailable> for ApiError {
    fn from(_: Unavailable) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the ledger is closed")
    }
}

/// 32 bytes written as 64 lower-case hex digits, and no other way.
struct Hex32(Digest);

impl<'de> Deserialize<'de> for Hex32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        let decoded = hex::decode_to_slice(&text, &mut bytes).is_ok();
        if !decoded || hex::encode(bytes) != text {
            return Err(serde::de::Error::custom("expected 64 lower-case hex digits"));
        }
        Ok(Self(bytes))
    }
}
