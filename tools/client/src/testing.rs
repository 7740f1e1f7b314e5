//! What this crate's tests talk to: an enclave, a host and an identity issuer in this process,
//! each as far as a client can tell them from the real ones, and as hostile as a test wants.

mod enclave;
mod issuer;
mod model;
mod world;

use axum::Router;

pub(crate) use enclave::Enclave;
pub(crate) use issuer::Issuer;
pub(crate) use world::{State, World};

/// Serves `router` on the loopback interface until the test ends; returns its URL.
pub(crate) async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}
