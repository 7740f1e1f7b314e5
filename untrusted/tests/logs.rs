//! No token, frame or sealed state in logs. A test of its own process: it captures what all threads log.

#[path = "host/support.rs"]
#[expect(dead_code, reason = "uses a part of what the tests share")]
mod support;

use keyfold_host::config::{Log, LogFormat};
use keyfold_protocol::client::Class;
use keyfold_protocol::host::HostRefusal;
use keyfold_protocol::ids::SlotId;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use support::World;

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
    let filter = "trace,keyfold_dev_cloud=off".into();
    let log = Log { format: LogFormat::Json, filter };
    let subscriber = keyfold_host::log::subscriber(&log, move || writer.clone()).unwrap();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let secrets = runtime.block_on(async {
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
        // A try, charged, settled and answered, and one that is over half way; then the lockout.
        ada.ask(Class::GuardFresh).await;
        ada.ask(Class::Recover).await;
        let refusal = (support::Kind::Settle, HostRefusal::State);
        *world.pretender.refuse.lock().unwrap() = Some(refusal);
        assert_ne!(ada.request(Class::Recover).await.status, 200);
        assert_eq!(*world.pretender.refuse.lock().unwrap(), None, "nothing was settled");
        world.pretender.locked.store(1, Ordering::SeqCst);
        ada.ask(Class::Recover).await;
        let forged = format!("{}x", ada.token);
        ada.post(vec![1, 2, 3]).bearer_auth(&forged).send().await.unwrap();
        let token = std::mem::replace(&mut ada.token, forged);
        ada.request(Class::Status).await;
        ada.token = token.clone();
        // An enclave that dies over a try, which is finished by itself; and over a read.
        world.pretender.die_at.lock().unwrap().push(support::Kind::Settle);
        assert_ne!(ada.request(Class::Recover).await.status, 200);
        assert!(host.ready(support::PATIENCE).await);
        ada.open_session().await;
        world.pretender.die_at.lock().unwrap().push(support::Kind::Handle);
        ada.request(Class::Status).await;
        host.stop().await;
        let signature = token.rsplit('.').next().unwrap().to_owned();
        let payload = token.split('.').nth(1).unwrap().to_owned();
        vec![token, signature, payload, ada.account.id.to_string()]
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
