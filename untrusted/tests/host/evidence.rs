//! Evidence: made anew while an enclave serves, and endorsed by what fits it or not at all.

use crate::support::{GivenKey, Kind, PATIENCE, Socket, World, eventually};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfold_host::Host;
use keyfold_host::azure::{Asking, Endorsements, KeyRelease, Released};
use keyfold_host::journal::Journal;
use keyfold_protocol::client::Class;
use keyfold_protocol::host::HostRefusal;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The first enclave of `GET /v1/deployment`.
async fn served(world: &World, host: &Host) -> Value {
    let url = format!("http://{}/v1/deployment", host.public_address());
    let document: Value = world.http.get(url).send().await.unwrap().json().await.unwrap();
    document["enclaves"][0].clone()
}

/// The number of the report that is served.
async fn report(world: &World, host: &Host) -> u64 {
    let enclave = served(world, host).await;
    let claims = URL_SAFE_NO_PAD.decode(enclave["claims"].as_str().unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["report"].as_u64().unwrap()
}

#[tokio::test]
async fn clients_see_new_reports_of_the_same_boot() {
    let world = World::new().await;
    let host = world.host_with(world.config(&[("AZURE__EVIDENCE_SECONDS", "1")]), None).await;
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    let first = served(&world, &host).await;
    let before = report(&world, &host).await;
    eventually("new reports", || async { report(&world, &host).await >= before + 2 }).await;
    let later = served(&world, &host).await;
    assert_eq!(first["channel_key"], later["channel_key"]);
    assert!(first.get("uvm_endorsement").is_none());
    // Sessions do not notice.
    ada.ask(Class::Status).await;
    assert_eq!(world.pretender.boots.load(Ordering::SeqCst), 1);

    // While there is none, the last one serves; then there is one again.
    *world.pretender.refuse.lock().unwrap() = Some((Kind::Evidence, HostRefusal::Platform));
    let refused = || async { world.pretender.refuse.lock().unwrap().is_none() };
    eventually("a report that fails", refused).await;
    ada.ask(Class::Status).await;
    let metrics = host.service().parts().metrics.clone();
    eventually("the failure counted", || async {
        metrics.render().contains("keyfold_evidence_total{outcome=\"failed\"} 1")
    })
    .await;
    assert_eq!(world.pretender.boots.load(Ordering::SeqCst), 1);
}

/// The firmware was updated: so many times, what is found is not the report's.
#[derive(Default)]
struct Behind {
    left: AtomicUsize,
    refreshes: Mutex<Vec<bool>>,
    released: AtomicUsize,
}

impl KeyRelease for Behind {
    fn endorse<'a>(
        &'a self, _: &'a [u8], refresh: bool, _: &'a Journal,
    ) -> Asking<'a, Endorsements> {
        self.refreshes.lock().unwrap().push(refresh);
        let take = |left: usize| left.checked_sub(1);
        let behind = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
        let mismatch = behind.then(|| "the report says snp 25; the VCEK is for snp 24".to_owned());
        let endorsements = Endorsements {
            vcek_chain: "PEM".into(),
            uvm_endorsement: Some(b"COSE".to_vec()),
            mismatch,
        };
        Box::pin(std::future::ready(Ok(endorsements)))
    }

    fn release<'a>(
        &'a self, claims: &'a [u8], report: &'a [u8], endorsements: &'a Endorsements,
        journal: &'a Journal,
    ) -> Asking<'a, Released> {
        self.released.fetch_add(1, Ordering::SeqCst);
        GivenKey.release(claims, report, endorsements, journal)
    }
}

async fn start(world: &World, release: &Arc<Behind>) -> Host {
    let host = Host::builder(world.config(&[]))
        .connectors(vec![Arc::new(Socket(world.pretender.clone()))])
        .release(release.clone());
    host.start().await.expect("the host")
}

#[tokio::test]
async fn new_firmware_costs_one_refresh_and_one_report() {
    let world = World::new().await;
    let release = Arc::new(Behind { left: 1.into(), ..Behind::default() });
    let host = start(&world, &release).await;
    assert!(host.ready(PATIENCE).await);
    assert_eq!(*release.refreshes.lock().unwrap(), [false, true, false]);
    let [releases, channels] = &world.pretender.reports;
    assert_eq!((releases.load(Ordering::SeqCst), channels.load(Ordering::SeqCst)), (2, 1));
    let enclave = served(&world, &host).await;
    assert_eq!(enclave["uvm_endorsement"], URL_SAFE_NO_PAD.encode("COSE"));
}

#[tokio::test]
async fn firmware_without_a_certificate_is_told_loudly_and_nothing_is_asked_for() {
    let world = World::new().await;
    let release = Arc::new(Behind { left: usize::MAX.into(), ..Behind::default() });
    let host = start(&world, &release).await;
    let url = format!("http://{}/readyz", host.admin_address());
    let state =
        || async { world.http.get(&url).send().await.unwrap().json::<Value>().await.unwrap() };
    eventually("the reason", || async { state().await["failing"][0]["why"].is_string() }).await;
    let state = state().await;
    let why = state["failing"][0]["why"].as_str().unwrap();
    assert!(why.contains("report says snp 25; the VCEK is for snp 24"), "{why}");
    assert_eq!(state["ready"], false);
    assert_eq!(release.refreshes.lock().unwrap()[..2], [false, true]);
    assert_eq!(release.released.load(Ordering::SeqCst), 0, "a key was asked for");
}
