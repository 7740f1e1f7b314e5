//! What must not happen: slow clients that hold the host, requests cut off by a stop.

use crate::support::World;
use keyfold_protocol::client::Class;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn slow_clients_are_let_go() {
    let world = World::new().await;
    let config = world.config(&[("LIMITS__ARRIVAL_TIMEOUT_SECONDS", "1")]);
    let host = world.host_with(config, None).await;
    let token = world.token("ada");
    let patience = Duration::from_secs(5);
    let body = format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 1152\r\n\r\nabc"
    );
    for (what, sent, answered) in [
        ("nothing", "", ""),
        ("half a header", "GET /v1/deployment HTTP/1.1\r\nHo", ""),
        ("half a body", &body[..], "HTTP/1.1 408"),
    ] {
        let mut stream = TcpStream::connect(host.public_address()).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let started = Instant::now();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(patience, stream.read_to_end(&mut answer)).await;
        read.unwrap_or_else(|_| panic!("{what}: still connected")).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(answered), "{what}: {answer}");
        assert!(started.elapsed() > Duration::from_millis(900), "{what}");
    }
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let world = World::new().await;
    let host = world.host_with(world.config(&[("LIMITS__CONNECTIONS", "2")]), None).await;
    let ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
    let answered = async |stream: &mut TcpStream| {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut byte)).await;
        matches!(read, Ok(Ok(1)))
    };
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(host.public_address()).await.unwrap();
        stream.write_all(ask).await.unwrap();
        streams.push(stream);
    }
    let mut third = streams.pop().unwrap();
    for stream in &mut streams {
        assert!(answered(stream).await);
    }
    assert!(!answered(&mut third).await, "the third waits");
    streams.pop();
    assert!(answered(&mut third).await, "until another ends");
}

#[tokio::test]
async fn stopping_lets_requests_end() {
    use keyfold_dev_cloud::{Failure, Mode, Service};
    let world = World::new().await;
    let host = world.host().await;
    let address = host.public_address();
    let mut ada = world.person(&host, "ada").await;
    let slow = Failure { delay_ms: 700, ..Failure::new(Service::Ledger, Mode::Slow, 1) };
    world.cloud.fail(Failure { path: Some("/app/append".into()), ..slow }).await.unwrap();
    let body = ada.envelope(Class::Enroll);
    let running = tokio::spawn(ada.post(body).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    host.stop().await;
    let answer = crate::support::Answer::of(running.await.unwrap().expect("an answer")).await;
    assert_eq!((answer.status, answer.text()), (200, "SEALED guard 1"));
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}
