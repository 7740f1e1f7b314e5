//! One loopback listener per service: connections, failure switches, graceful stop.

use crate::fail::{Failure, Failures, Mode, Service};
use crate::http::ApiError;
use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

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
                        "port {port}, wanted for {service}, is taken: stop what uses it, or choose another"
                    )
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
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
        &mut self, listener: TcpListener, router: Router,
        switches: Option<(Service, Arc<Failures>)>,
    ) {
        let router = match switches {
            Some(state) => router.layer(from_fn_with_state(state, act_out)),
            None => router,
        };
        let mut stop = self.stop.subscribe();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    () = stopped(&mut stop) => break,
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
        });
    }

    /// Stops accepting, lets running requests end, cuts off the rest.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
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

/// The switches every service has.
async fn act_out(
    State((service, failures)): State<(Service, Arc<Failures>)>, request: Request, next: Next,
) -> Response {
    let Some(failure) = failures.take_for(service, request.uri().path()) else {
        return next.run(request).await;
    };
    tracing::info!(?service, mode = %failure.mode, path = request.uri().path(), "a failure, as told");
    match failure.mode {
        Mode::Status(status) => refuse(service, status),
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
        Mode::WithholdReceipt | Mode::Identity => next.run(request).await,
    }
}

fn no_answer() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(NoAnswer);
    response
}

fn refuse(service: Service, status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match service {
        Service::Oidc | Service::Imds => {
            let body = serde_json::json!({
                "error": "temporarily_unavailable",
                "error_description": "a failure switch is on",
            });
            (status, axum::Json(body)).into_response()
        }
        Service::Maa | Service::Hsm | Service::Ledger => {
            let code = match status {
                StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
                StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
                _ => "Failure",
            };
            ApiError::new(status, code, "a failure switch is on").into_response()
        }
    };
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What the control API accepts for a service.
pub(crate) fn fits(failure: &Failure) -> Result<(), String> {
    match failure.mode {
        Mode::WithholdReceipt | Mode::Identity if failure.service != Service::Ledger => {
            Err(format!("{} is a mode of the ledger", failure.mode))
        }
        _ => Ok(()),
    }
}
