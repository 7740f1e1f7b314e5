//! What the host itself costs per sign-in: CPU time of each layer, with an enclave that only pretends.
//!
//! `cargo bench -p keyfold-host [-- LAYER]`. CPU time, not wall time, so that a busy machine still
//! gives useful numbers; the whole process is counted, the pretended enclave and the load included.

#[path = "../tests/host/support.rs"]
#[expect(dead_code, reason = "the benchmark uses a part of what the tests share")]
mod support;

use keyfold_host::storage::{Storage, Want};
use keyfold_protocol::client::Class;
use keyfold_protocol::ids::{SessionId, SlotId};
use std::future::Future;
use std::time::{Duration, Instant};
use support::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SLOT: SlotId = SlotId([9; 32]);
/// Requests in flight: as many as keep one link busy.
const CONCURRENT: usize = 16;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let host = world.host().await;
        let mut ada = world.person(&host, "ada").await;
        ada.ask(Class::Enroll).await;
        ada.ask(Class::Put(Some(SLOT))).await;
        let envelope = ada.envelope_of(Class::Assert(SLOT), &[7; 600]);

        let storage = world.storage();
        let want = Want { record: Some(SLOT), ..Want::default() };
        measure("storage: guard and record", || async {
            assert!(storage.load(&ada.account, want).await.unwrap().record.is_some());
        })
        .await;

        let service = host.service().clone();
        let identity = service.parts().identity.clone();
        measure("identity: a token seen before", || async {
            identity.authenticate(&ada.token).await.unwrap();
        })
        .await;

        let person = identity.authenticate(&ada.token).await.unwrap();
        let mut session = [0; 16];
        hex::decode_to_slice(&ada.session, &mut session).unwrap();
        let body = bytes::Bytes::from(envelope.clone());
        measure("service: with storage and link", || async {
            service.request(person, SessionId(session), body.clone()).await.unwrap();
        })
        .await;

        let head = format!(
            "POST /v1/sessions/{}/requests HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n",
            ada.session,
            ada.token,
            envelope.len()
        );
        let request = [head.into_bytes(), envelope].concat();
        let connections: Vec<_> = futures_util::future::join_all(
            (0..CONCURRENT).map(|_| TcpStream::connect(host.public_address())),
        )
        .await
        .into_iter()
        .map(|stream| tokio::sync::Mutex::new(stream.unwrap()))
        .collect();
        measure("http: all of it, one client task each", || async {
            let free = connections.iter().find_map(|connection| connection.try_lock().ok());
            let mut connection = free.expect("a free connection");
            connection.write_all(&request).await.unwrap();
            let mut answer = [0; 4096];
            let read = connection.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"));
        })
        .await;
        host.stop().await;
    });
}

/// Runs `one` by [`CONCURRENT`] for three seconds and prints what each took.
async fn measure<F: Future<Output = ()>>(what: &str, one: impl Fn() -> F) {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if wanted.is_some_and(|wanted| !what.starts_with(&wanted)) {
        return;
    }
    let (started, cpu) = (Instant::now(), cpu_time());
    let mut done = 0_u32;
    while started.elapsed() < Duration::from_secs(3) {
        let lanes = (0..CONCURRENT).map(|_| async {
            for _ in 0..20 {
                one().await;
            }
        });
        futures_util::future::join_all(lanes).await;
        done += 20 * u32::try_from(CONCURRENT).unwrap();
    }
    let (wall, cpu) = (started.elapsed() / done, (cpu_time() - cpu) / done);
    println!("{what:40} {:8.2} us CPU {:8.2} us wall", us(cpu), us(wall));
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// User and system time of this process so far; the kernel counts in hundredths of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}
