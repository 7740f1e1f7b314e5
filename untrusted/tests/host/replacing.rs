//! Enclaves replaced while the host serves: one at a time, and not at all by ones that do not serve.

use crate::support::{
    GivenKey, Kind, PATIENCE, Person, Pretender, Socket, World, channel_key, eventually,
};
use keyfold_host::Host;
use keyfold_host::enclave::{Connect, Connection, Links, Setup};
use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::Class;
use keyfold_protocol::host::{Config, FreshRead, HostRefusal};
use keyfold_protocol::ids::SlotId;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

fn sockets(world: &World, count: usize) -> Vec<Arc<dyn Connect>> {
    (0..count).map(|_| Arc::new(Socket(world.pretender.clone())) as Arc<dyn Connect>).collect()
}

async fn start(world: &World, connectors: Vec<Arc<dyn Connect>>) -> Host {
    let host = Host::builder(world.config(&[])).connectors(connectors).release(Arc::new(GivenKey));
    let host = host.start().await.expect("the host");
    assert!(host.ready(PATIENCE).await);
    host
}

fn links(host: &Host) -> Arc<Links> {
    host.service().parts().links.clone()
}

/// Opens a session with the newest boot and signs in.
async fn serves(person: &mut Person<'_>) {
    person.open_session().await;
    person.ask(Class::Assert(SlotId([1; 32]))).await;
}

#[tokio::test]
async fn each_enclave_has_a_successor_before_it_ends() {
    let world = World::new().await;
    let host = start(&world, sockets(&world, 2)).await;
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    let links = links(&host);
    let (lowest, done) = (AtomicUsize::new(usize::MAX), AtomicBool::new(false));
    let watch = async {
        let mut ready = links.ready();
        while !done.load(Ordering::SeqCst) {
            lowest.fetch_min(*ready.borrow_and_update(), Ordering::SeqCst);
            let _ = tokio::time::timeout(Duration::from_millis(5), ready.changed()).await;
        }
    };
    let replace = async {
        links.reload(sockets(&world, 2)).await.expect("both are replaced");
        done.store(true, Ordering::SeqCst);
    };
    tokio::join!(watch, replace);
    assert_eq!(lowest.load(Ordering::SeqCst), 2, "never fewer than before");
    assert_eq!((links.count(), *links.ready().borrow()), (2, 2));
    assert_eq!(world.pretender.boots.load(Ordering::SeqCst), 4);
    // The old ones are gone; clients go on with the new.
    assert_eq!(ada.request(Class::Status).await.problem(), "session-unknown");
    for old in [0, 1] {
        assert_eq!(ada.try_session(&channel_key(old)).await.problem(), "channel-key-unknown");
    }
    serves(&mut ada).await;

    // Fewer, and more.
    for count in [1, 3] {
        links.reload(sockets(&world, count)).await.expect("replaced");
        assert_eq!((links.count(), *links.ready().borrow()), (count, count));
        serves(&mut ada).await;
    }
}

/// Reaches nobody.
struct Nowhere;

impl Connect for Nowhere {
    fn describe(&self) -> String {
        "nowhere".into()
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(std::future::ready(Err(io::Error::other("no such machine"))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_does_not_serve_ends_nothing() {
    let pretender = Arc::<Pretender>::default();
    let setup = Setup {
        config: Config {
            deployment: "test".try_into().unwrap(),
            ledger_key: Bytes([4; 97]),
            ledger_issuer: "ledger".try_into().unwrap(),
            fresh_read: FreshRead::Reports,
        },
        release: Arc::new(GivenKey),
        queue: 8,
        evidence: Duration::from_secs(1_000_000),
        drain: Duration::from_secs(1),
        metrics: Arc::default(),
    };
    let links = Links::start(vec![Arc::new(Socket(pretender.clone()))], setup);
    let _ = links.ready().wait_for(|ready| *ready == 1).await;
    let error = links.reload(vec![Arc::new(Nowhere)]).await.unwrap_err();
    assert!(
        error.contains("nowhere does not serve") && error.contains("no such machine"),
        "{error}"
    );
    assert_eq!((links.count(), *links.ready().borrow()), (1, 1));
    assert!(links.failing().is_empty(), "what did not come up is given up");
    assert_eq!(pretender.boots.load(Ordering::SeqCst), 1);
}

/// A confidential VM: whoever is connected keeps others out.
struct Machine(Socket, Arc<AtomicUsize>, Arc<AtomicBool>);

impl Connect for Machine {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn only_address(&self) -> Option<String> {
        Some("vsock 16:5005".into())
    }

    fn connect(&self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        match self.2.load(Ordering::SeqCst) {
            true => Box::pin(std::future::ready(Err(io::Error::other("taken")))),
            false => self.0.connect(),
        }
    }
}

#[tokio::test]
async fn a_machine_that_serves_one_host_at_a_time_is_left_before_it_is_taken_again() {
    let world = World::new().await;
    let (tries, taken) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let machine = || -> Arc<dyn Connect> {
        Arc::new(Machine(Socket(world.pretender.clone()), tries.clone(), taken.clone()))
    };
    let mut connectors = sockets(&world, 1);
    connectors.push(machine());
    let host = start(&world, connectors).await;
    let links = links(&host);
    let mut successors = vec![machine()];
    successors.extend(sockets(&world, 1));
    let lowest = AtomicUsize::new(usize::MAX);
    let mut ready = links.ready();
    let reload = links.reload(successors);
    tokio::pin!(reload);
    loop {
        tokio::select! {
            done = &mut reload => { done.expect("replaced"); break; }
            _ = ready.changed() => {
                lowest.fetch_min(*ready.borrow_and_update(), Ordering::SeqCst);
            }
        }
    }
    assert_eq!(lowest.load(Ordering::SeqCst), 1, "the other one serves meanwhile");
    assert_eq!((links.count(), tries.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn only_the_list_of_enclaves_may_change() {
    let world = World::new().await;
    let host = world.host().await;
    let key = "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEWcWK3wxgbI1qc+qahBS4PU9wf5YLc8GT\nI/X9+t+a2e2ulDIlOOAzDhKWJLauqX+rLKqohQRzgzp55uIRHS624x3tWFuDeM9D\nGZjQtHpwvgw1L4U4vS3Cb/0MvqYCNPAx\n-----END PUBLIC KEY-----\n";
    for change in [
        ("LEDGER__SERVICE_KEY", key),
        ("LEDGER__ISSUER", "another-ledger"),
        ("DEPLOYMENT__NAME", "another"),
        ("DEPLOYMENT__FRESH_READ", "always"),
    ] {
        let error = host.reload(&world.config(&[change])).await.unwrap_err().to_string();
        assert!(error.contains("cannot move to another configuration or ledger"), "{error}");
    }
    assert_eq!(world.pretender.boots.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_boot_that_is_refused_says_why_until_it_serves() {
    let world = World::new().await;
    *world.pretender.refuse.lock().unwrap() = Some((Kind::Unlock, HostRefusal::Unwrap));
    let connectors = sockets(&world, 1);
    let host = Host::builder(world.config(&[])).connectors(connectors).release(Arc::new(GivenKey));
    let host = host.start().await.expect("the host");
    let links = links(&host);
    eventually("the reason", || async {
        links.failing().iter().any(|(_, why)| why.contains("refused Unlock"))
    })
    .await;
    assert!(host.ready(PATIENCE).await);
    assert!(links.failing().is_empty());
}

#[tokio::test]
async fn enclaves_end_with_their_host_however_it_ends() {
    let world = World::new().await;
    let host = start(&world, sockets(&world, 2)).await;
    links(&host).reload(sockets(&world, 2)).await.expect("replaced");
    assert!(Arc::strong_count(&world.pretender) > 1);
    drop(host);
    let gone = || async { Arc::strong_count(&world.pretender) == 1 };
    eventually("no enclave and no link", gone).await;
}
