//! What is tried again, how often, and how a refusal is told.

use super::*;
use crate::azure::testing::serve;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn refusals_are_told_in_both_shapes() {
    let long = "x".repeat(2 * MESSAGE);
    for (body, code, message) in [
        (r#"{"error":{"code":"Forbidden","message":"no"}}"#.to_owned(), "Forbidden", "no"),
        (
            r#"{"error":{"code":"Forbidden","innererror":{"code":"ForbiddenByPolicy"}}}"#.into(),
            "Forbidden (ForbiddenByPolicy)",
            "no message",
        ),
        (
            r#"{"error":"invalid_request","error_description":"Identity\nnot found"}"#.into(),
            "invalid_request",
            "Identity not found",
        ),
        ("<html>".into(), "no code", "no message"),
        (format!(r#"{{"error":{{"message":"{long}"}}}}"#), "no code", &long[..MESSAGE]),
    ] {
        assert_eq!(refusal(body.as_bytes()), (code.to_owned(), message.to_owned()), "{body}");
    }
}

#[test]
fn only_what_the_services_call_passing_is_tried_again() {
    for (step, status, message, expected) in [
        (Step::AccessToken, 410, "", true),
        (Step::AccessToken, 500, "", true),
        (Step::Thim, 404, "", true),
        (Step::AccessToken, 400, "Identity not found", false),
        (Step::Attest, 500, "", false),
        (Step::Kds, 404, "", false),
        (Step::Release, 400, "AKV.SKR.1012: cannot be reached", true),
        (Step::Release, 400, "AKV.SKR.1004", false),
        (Step::Release, 403, "", false),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(is_transient(step, status, "", message), expected, "{step} {status}");
    }
}

/// Asks a service that refuses so until it has been asked `until` times; how it ended, how often it was
/// asked, and what the journal says.
async fn asked(
    step: Step, until: usize, status: u16, pause: Option<&'static str>, message: &'static str,
) -> (Result<Value, AzureError>, usize, Entry) {
    let count = Arc::<AtomicUsize>::default();
    let counted = count.clone();
    let answer = get(move || async move {
        if counted.fetch_add(1, Ordering::SeqCst) + 1 >= until {
            return Json(json!({"done": true})).into_response();
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-request-id", "request-7".parse().unwrap());
        headers.extend(pause.map(|pause| (header::RETRY_AFTER, pause.parse().unwrap())));
        let status = StatusCode::from_u16(status).unwrap();
        (status, headers, Json(json!({"error": {"code": "C", "message": message}}))).into_response()
    });
    let url = serve(Router::new().route("/", answer)).await;
    let journal = Journal::default();
    let request = reqwest::Client::new().get(url.as_str());
    let answer = Call::new(step, url.as_str(), &journal).json(request).await;
    let entry = journal.entries().pop().expect("an entry");
    (answer, count.load(Ordering::SeqCst), entry)
}

#[tokio::test]
async fn a_service_is_asked_again_where_it_says_so() {
    for (step, status, pause, message) in [
        (Step::Attest, 503, Some("0"), ""),
        (Step::Release, 429, Some("0"), ""),
        (Step::Release, 400, None, "AKV.SKR.1012: The specified attestation service"),
        (Step::AccessToken, 410, None, ""),
    ] {
        let (answer, times, entry) = asked(step, 2, status, pause, message).await;
        assert_eq!(answer.unwrap(), json!({"done": true}));
        assert_eq!((times, entry.attempts, entry.status), (2, 2, Some(200)), "{status}");
    }
    let (answer, times, entry) = asked(Step::Attest, 99, 503, Some("0"), "busy").await;
    let error = answer.unwrap_err();
    assert_eq!((times, entry.attempts), (4, 4), "and then it is enough");
    assert!(error.what.contains("status 503 Service Unavailable, C: busy"), "{error}");
    assert!(error.what.contains("x-ms-request-id request-7"), "{error}");
    assert_eq!((entry.status, entry.code.as_deref()), (Some(503), Some("C")));
    assert_eq!(entry.request_id.as_deref(), Some("request-7"));
}

#[tokio::test]
async fn a_service_that_does_not_say_so_is_asked_once() {
    for (step, status, pause) in [
        (Step::Attest, 503, None),
        (Step::Release, 429, None),
        (Step::Release, 403, Some("0")),
        (Step::Release, 500, Some("0")),
        // Longer than a boot waits.
        (Step::Release, 429, Some("31")),
        (Step::Release, 429, Some("Sat, 28 Nov 2026 20:00:00 GMT")),
    ] {
        let (answer, times, _) = asked(step, 2, status, pause, "").await;
        assert_eq!((answer.is_err(), times), (true, 1), "{status} {pause:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_asked_again_and_an_answer_cut_short_is_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let journal = Journal::default();
    let call = Call::new(Step::Attest, &url, &journal);
    // Accepts and hangs up: whether it did what was asked is unknown.
    let hangs_up = tokio::spawn(async move { listener.accept().await.map(drop) });
    let lost = call.bytes(reqwest::Client::new().get(&url)).await.unwrap_err();
    assert!(!lost.what.contains("http://"), "{lost:?}");
    hangs_up.await.unwrap().unwrap();
    call.bytes(reqwest::Client::new().get(&url)).await.unwrap_err();
    let attempts: Vec<_> = journal.entries().iter().map(|entry| entry.attempts).collect();
    assert_eq!(attempts, [1, 4]);
}
