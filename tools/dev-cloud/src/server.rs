//! One loopback listener per service: connections, failure switches, graceful stop.

use crate::fail::{Failures, Mode, Service};
use crate::http::ApiError;
use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// Azure's services tell it in every answer, and ask for it in every complaint.
const X_MS_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");

/// How long running requests may take to end when the dev cloud stops, and a port to become free.
const GRACE: Duration = Duration::from_secs(2);

/// Binds a loopback port; 0 takes any free one. A port that is just being freed is waited for.
pub(crate) async fn bind(port: u16, service: &str) -> Result<TcpListener> {
    let deadline = Instant::now() + GRACE;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() != ErrorKind::AddrInUse || Instant::now() > deadline => {
                return Err(error).with_context(|| {
                    format!(
                        "port {port} cannot be had for {service}: stop what uses it, or choose another \
                         with --{service}-port"
                    )
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A service's failure switches.
#[derive(Clone)]
pub(crate) struct Switches {
    pub(crate) service: Service,
    pub(crate) failures: Arc<Failures>,
    /// WWW-Authenticate of its 401, if it has one.
    pub(crate) challenge: Option<HeaderValue>,
}

/// Every listener's tasks, and the signal that ends them.
pub(crate) struct Servers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Servers {
    pub(crate) fn new() -> Self {
        Self { stop: watch::Sender::new(false), tasks: JoinSet::new() }
    }

    /// Serves `router`; with failure switches if it is a service that has them.
    pub(crate) fn serve(
        &mut self, listener: TcpListener, router: Router, switches: Option<Switches>,
    ) {
        let router = match &switches {
            Some(switches) => router.layer(from_fn_with_state(switches.clone(), answer)),
            None => router,
        };
        let stop = self.stop.subscribe();
        self.tasks.spawn(async move {
            if let Err(error) = serve(listener, router, switches, stop).await {
                tracing::error!("a service ended: {error}");
            }
        });
    }

    /// Does something of its own beside the services, until the dev cloud stops.
    pub(crate) fn beside(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.subscribe();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopped(&mut stop) => {}
                () = task => {}
            }
        });
    }

    /// Stops accepting, lets running requests end, cuts off the rest.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn serve(
    mut listener: TcpListener, router: Router, switches: Option<Switches>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut changes = switches.as_ref().map(|switches| switches.failures.changes());
    while !*stop.borrow() {
        if let (Some(switches), Some(changes)) = (&switches, &mut changes)
            && switches.failures.starts_at(switches.service).is_some()
        {
            // What is not up has no connections either.
            connections.shutdown().await;
            listener = start_slowly(listener, switches, changes, &mut stop).await?;
        }
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = changed(&mut changes) => {}
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What hangs on purpose never ends: it is cut off with the set.
    let _ = tokio::time::timeout(GRACE, ended).await;
    Ok(())
}

async fn changed(changes: &mut Option<watch::Receiver<()>>) {
    match changes {
        Some(changes) => drop(changes.changed().await),
        None => std::future::pending().await,
    }
}

/// Refuses connections until the switch is over. A port that is bound and not listened on does so, and
/// nobody else gets it meanwhile.
async fn start_slowly(
    listener: TcpListener, switches: &Switches, changes: &mut watch::Receiver<()>,
    stop: &mut watch::Receiver<bool>,
) -> io::Result<TcpListener> {
    let address = listener.local_addr()?;
    drop(listener);
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let Switches { service, failures, .. } = switches;
    failures.set_refusing(*service, true);
    while let Some(up) = failures.starts_at(*service) {
        tokio::select! {
            () = stopped(stop) => break,
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(up.into()) => {}
        }
    }
    failures.set_refusing(*service, false);
    socket.listen(1024)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Marks a response that must not be sent: the connection closes instead.
#[derive(Clone)]
struct NoAnswer;

async fn connection(stream: TcpStream, router: Router, mut stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            match response.extensions().get::<NoAnswer>() {
                Some(NoAnswer) => Err("the connection closes without an answer, as told"),
                None => Ok(response),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
}

/// Acts failures out, and names the request as Azure's services do.
async fn answer(State(switches): State<Switches>, request: Request, next: Next) -> Response {
    let mut response = act_out(&switches, request, next).await;
    if matches!(switches.service, Service::Imds | Service::Aad | Service::Maa | Service::Hsm) {
        response.headers_mut().extend(request_id().map(|id| (X_MS_REQUEST_ID, id)));
    }
    response
}

/// A version 4 UUID.
fn request_id() -> Option<HeaderValue> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).ok()?;
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let parts = [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].map(hex::encode);
    HeaderValue::from_str(&parts.join("-")).ok()
}

/// The switches every service has.
async fn act_out(switches: &Switches, request: Request, next: Next) -> Response {
    let service = switches.service;
    let Some(failure) = switches.failures.take_for(service, request.uri().path()) else {
        return next.run(request).await;
    };
    tracing::info!(?service, mode = %failure.mode, path = request.uri().path(), "a failure, as told");
    match failure.mode {
        Mode::Status(status) => refuse(switches, status),
        Mode::Slow => {
            tokio::time::sleep(Duration::from_millis(failure.delay_ms)).await;
            next.run(request).await
        }
        Mode::Hang => match std::future::pending::<Infallible>().await {},
        Mode::Down => no_answer(),
        Mode::DropReply => {
            next.run(request).await;
            no_answer()
        }
        // The listener's, or a handler's: take_for gives none of them.
        _ => next.run(request).await,
    }
}

fn no_answer() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(NoAnswer);
    response
}

/// As the service itself refuses.
fn refuse(switches: &Switches, status: u16) -> Response {
    const WHY: &str = "a failure switch is on";
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match switches.service {
        Service::Oidc | Service::Imds | Service::Aad => {
            let error = match status {
                StatusCode::UNAUTHORIZED => "invalid_client",
                StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => "invalid_request",
                _ => "temporarily_unavailable",
            };
            let body = serde_json::json!({"error": error, "error_description": WHY});
            (status, axum::Json(body)).into_response()
        }
        Service::Kds => (status, WHY).into_response(),
        Service::Maa | Service::Hsm | Service::Ledger => {
            ApiError::new(status, error_code(switches.service, status), WHY).into_response()
        }
    };
    let headers = response.headers_mut();
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        StatusCode::UNAUTHORIZED => {
            let challenge = switches.challenge.clone();
            headers.extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
        }
        _ => {}
    }
    response
}

fn error_code(service: Service, status: StatusCode) -> &'static str {
    match (service, status) {
        (Service::Hsm, StatusCode::BAD_REQUEST) => "BadParameter",
        (Service::Maa, StatusCode::BAD_REQUEST) => "InvalidParameter",
        (_, StatusCode::UNAUTHORIZED) => "Unauthorized",
        (_, StatusCode::FORBIDDEN) => "Forbidden",
        (Service::Hsm, StatusCode::NOT_FOUND) => "KeyNotFound",
        (_, StatusCode::NOT_FOUND) => "NotFound",
        (_, StatusCode::TOO_MANY_REQUESTS) => "TooManyRequests",
        (_, StatusCode::SERVICE_UNAVAILABLE) => "ServiceUnavailable",
        _ => "Failure",
    }
}
