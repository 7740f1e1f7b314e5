//! Recordings of the real services, and services on loopback, for tests.

use crate::config::BaseUrl;
use axum::Router;
use std::path::Path;

/// Serves on any free port, until the test's runtime ends.
pub(super) async fn serve(router: Router) -> BaseUrl {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    BaseUrl::parse(&format!("http://{address}")).expect("a URL")
}

/// A file of the published vectors.
pub(super) fn vector(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/azure-snp");
    let path = root.join(name);
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; the tests need the published vectors there", path.display())
    })
}

/// The same, as text.
pub(super) fn text(name: &str) -> String {
    String::from_utf8(vector(name)).expect("text")
}
