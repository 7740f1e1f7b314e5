//! The public face: routes, bearer tokens, bodies with a limit, problem documents.
//!
//! Handlers are thin: they authenticate, take bytes in, hand them to the service and give bytes back.
//! Every answer carries a request id; every refusal is a problem document from one builder.

use crate::identity::{Identity, Person};
use crate::metrics::{Counter, Metrics};
use crate::problem::{Kind, Problem};
use crate::service::Service;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use keyfold_protocol::ids::SessionId;
use keyfold_protocol::limits;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

mod admin;
mod deployment;
mod events;
mod pairings;
mod server;

pub use admin::router as admin_router;
pub use deployment::Deployment;
pub use pairings::Mailboxes;
pub(crate) use server::Server;

/// The API's description, served as it is.
pub const OPENAPI: &str = include_str!("openapi.json");
/// Every public route.
pub const ROUTES: [&str; 7] = [
    "/v1/account",
    "/v1/deployment",
    "/v1/sessions",
    "/v1/sessions/{session}/requests",
    "/v1/events",
    "/v1/pairings/{pairing}/{side}",
    "/openapi.json",
];
/// Largest body of a request to the core: an envelope around a frame.
const ENVELOPE: usize = limits::REQUEST + 256;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every handler can reach.
pub struct App {
    /// Requests.
    pub service: Arc<Service>,
    /// Tokens.
    pub identity: Arc<Identity>,
    /// Evidence and statement.
    pub deployment: Deployment,
    /// Pairings.
    pub mailboxes: Mailboxes,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// For a body to arrive.
    pub arrival_timeout: Duration,
    /// Turns true when the host stops: what waits or streams ends.
    pub stopping: watch::Receiver<bool>,
}

/// The public routes.
pub fn router(app: Arc<App>) -> Router {
    let [account, deployment, sessions, requests, events, pairings, openapi] = ROUTES;
    Router::new()
        .route(account, get(serve_account))
        .route(deployment, get(serve_deployment))
        .route(sessions, post(open_session))
        .route(requests, post(request))
        .route(events, get(events::stream))
        .route(pairings, put(pairings::write).get(pairings::read))
        .route(openapi, get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }))
        .fallback(|| async { Problem::from(Kind::NotFound) })
        .layer(from_fn_with_state(app.clone(), around))
        .with_state(app)
}

async fn serve_deployment(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let document = app.deployment.document(&app.service.parts().links).await?;
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "public, max-age=5")];
    Ok((headers, document).into_response())
}

/// What a device that knows nothing yet needs to recover, and what the next enrolment opens. A hint:
/// the enclave and the ledger decide.
async fn serve_account(
    State(app): State<Arc<App>>, Caller(person): Caller,
) -> Result<Response, Problem> {
    let heads = app.service.heads(person.id).await?.ok_or(Kind::AccountUnknown)?;
    let document = json!({
        "generation": heads.generation,
        "closed": heads.closed,
        "guard": heads.guard,
        "vault": heads.vault,
    });
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, document.to_string()).into_response())
}

async fn open_session(
    State(app): State<Arc<App>>, Caller(person): Caller, body: Body,
) -> Result<Response, Problem> {
    let body = arrive(&app, body, 32 + limits::ENCAPSULATED_KEY).await?;
    let session = app.service.open_session(&person, &body).await?;
    let document = json!({"session": session.to_string()}).to_string();
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((StatusCode::CREATED, headers, document).into_response())
}

async fn request(
    State(app): State<Arc<App>>, Path(session): Path<String>, Caller(person): Caller, body: Body,
) -> Result<Response, Problem> {
    let session = SessionId(hex_id(&session)?);
    let body = arrive(&app, body, ENVELOPE).await?;
    let sealed = app.service.request(person, session, body).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], sealed).into_response())
}

/// The person behind the bearer token.
struct Caller(Person);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let token = bearer(&parts.headers)
            .ok_or_else(|| Kind::SignInRequired.because("The request carries no bearer token"))?;
        app.identity.authenticate(token).await.map(Self)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A whole body, if it is not too large and comes soon enough.
async fn arrive(app: &App, body: Body, most: usize) -> Result<Bytes, Problem> {
    let collect = Limited::new(body, most).collect();
    match tokio::time::timeout(app.arrival_timeout, collect).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Kind::TooLarge.because(format!("At most {most} bytes are taken here")))
        }
        Ok(Err(_)) => Err(Kind::Malformed.because("The body broke off")),
        Err(_) => Err(Kind::RequestTimeout.into()),
    }
}

/// 32 hexadecimal digits.
fn hex_id(text: &str) -> Result<[u8; 16], Problem> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id)
        .map_err(|_| Kind::Malformed.because("An id in the path is not 32 hexadecimal digits"))?;
    Ok(id)
}

impl IntoResponse for Problem {
    /// The document itself is written by `around`, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(self.kind);
        response.extensions_mut().insert(self);
        response
    }
}

fn status(kind: Kind) -> StatusCode {
    StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// What every request gets: an id, a count, a time, and a document if it failed.
async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = matched.and_then(|path| ROUTES.iter().find(|route| **route == path));
    let route = route.copied().unwrap_or("other");
    let method = request.method().clone();

    let mut response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let problem = response.extensions_mut().remove::<Problem>();
        let problem = problem.unwrap_or_else(|| Kind::of_status(status.as_u16()).into());
        let name = problem.kind.name();
        if status.is_server_error() {
            tracing::warn!(request = id, %method, route, status = status.as_u16(), problem = name, "failed");
        } else {
            tracing::debug!(request = id, %method, route, status = status.as_u16(), problem = name, "refused");
        }
        let allow = response.headers_mut().remove(header::ALLOW);
        response = problem_response(&problem, &id);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    } else {
        tracing::debug!(request = id, %method, route, status = status.as_u16(), "served");
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    app.metrics.responses.with((route, response.status().as_u16()), Counter::increment);
    app.metrics.response_time.with(route, |times| times.observe(started.elapsed()));
    response
}

/// The one place where a problem becomes bytes.
fn problem_response(problem: &Problem, request_id: &str) -> Response {
    let mut response = Response::new(Body::from(problem.document(request_id)));
    *response.status_mut() = status(problem.kind);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = problem.challenge() {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if let Some(seconds) = problem.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The proxy's id if it is a decent one, else one of our own.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let decent = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    given.filter(decent).map_or_else(|| format!("{:032x}", fastrand::u128(..)), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openapi_describes_every_route_and_problem_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).expect("JSON");
        let mut described: Vec<_> = document["paths"].as_object().expect("paths").keys().collect();
        let mut routes = ROUTES.to_vec();
        described.sort();
        routes.sort_unstable();
        assert_eq!(described, routes);
        for (path, method) in [
            ("/v1/account", "get"),
            ("/v1/deployment", "get"),
            ("/v1/sessions", "post"),
            ("/v1/sessions/{session}/requests", "post"),
            ("/v1/events", "get"),
            ("/v1/pairings/{pairing}/{side}", "put"),
            ("/v1/pairings/{pairing}/{side}", "get"),
        ] {
            assert!(document["paths"][path][method]["responses"].is_object(), "{method} {path}");
        }
        let mut named: Vec<_> = document["components"]["schemas"]["Problem"]["properties"]["type"]
            ["enum"]
            .as_array()
            .expect("the problem types")
            .iter()
            .map(|name| name.as_str().expect("text").to_owned())
            .collect();
        let mut kinds: Vec<_> =
            Kind::ALL.iter().map(|kind| format!("/problems/{}", kind.name())).collect();
        named.sort();
        kinds.sort();
        assert_eq!(named, kinds);
    }

    #[test]
    fn request_ids_of_strangers_are_taken_only_when_harmless() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, value.parse().unwrap());
            request_id(&headers)
        };
        assert_eq!(with("proxy-7_a"), "proxy-7_a");
        for bad in ["", "a b", "x\"y", &"a".repeat(65)] {
            assert_eq!(with(bad).len(), 32, "{bad}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
