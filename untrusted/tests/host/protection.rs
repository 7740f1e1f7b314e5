//! What must not happen: secrets in logs, slow clients that hold the host, requests cut off by a stop.

use crate::support::World;
use keyfold_host::config::{Log, LogFormat};
use keyfold_protocol::client::Class;
use keyfold_protocol::ids::SlotId;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything the host logs, at the most talkative level, while all kinds of requests run and fail.
#[test]
fn logs_carry_no_token_frame_or_sealed_state() {
    use base64::Engine;
    let captured = Captured::default();
    let writer = captured.clone();
    let log = Log { format: LogFormat::Json, filter: "keyfold_host=trace".into() };
    let subscriber = keyfold_host::log::subscriber(&log, move || writer.clone()).unwrap();
    let secrets = tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let host = world.host().await;
            let mut ada = world.person(&host, "ada").await;
            for class in [
                Class::Status,
                Class::Enroll,
                Class::Enroll,
                Class::Guard,
                Class::Put(None),
                Class::Assert(SlotId([9; 32])),
                Class::Sync(0),
                Class::Status,
                Class::Audit(0),
            ] {
                ada.request(class).await;
            }
            let forged = format!("{}x", ada.token);
            ada.post(vec![1, 2, 3]).bearer_auth(&forged).send().await.unwrap();
            let token = std::mem::replace(&mut ada.token, forged);
            ada.request(Class::Status).await;
            world.pretender.die_at.lock().unwrap().push(crate::support::Kind::Handle);
            ada.token = token.clone();
            ada.request(Class::Status).await;
            host.stop().await;
            let signature = token.rsplit('.').next().unwrap().to_owned();
            let payload = token.split('.').nth(1).unwrap().to_owned();
            vec![token, signature, payload, ada.account.id.to_string()]
        })
    });
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("served") && text.contains("refused"), "nothing was captured:\n{text}");
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("one JSON object per line");
    }
    for secret in ["SEALED", "STAGED", "LIVE", "FRAME", "RECORD", "VAULT", "AUDIT", "wrapped"] {
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(secret);
        let bytes = format!("{:?}", secret.as_bytes());
        for form in
            [secret.to_owned(), hex::encode(secret), encoded, bytes[1..bytes.len() - 1].into()]
        {
            assert!(!text.contains(&form), "{secret} as {form}:\n{text}");
        }
    }
    for secret in secrets {
        assert!(!text.contains(&secret), "{secret}:\n{text}");
    }
}

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
