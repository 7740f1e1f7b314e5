//! Several enclaves, and enclaves that come back different.

use crate::support::{
    Answer, GivenKey, Kind, PATIENCE, Socket, World, channel_key, endorsements, eventually,
};
use keyfold_host::Host;
use keyfold_host::azure::{Asking, Endorsements, KeyRelease, Released};
use keyfold_host::enclave::Connect;
use keyfold_host::journal::Journal;
use keyfold_protocol::client::Class;
use keyfold_protocol::host::{HostRefusal, KeyWrap};
use keyfold_protocol::ids::SlotId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

#[tokio::test]
async fn a_session_belongs_to_its_link_and_outlives_the_other() {
    let world = World::new().await;
    let link = || -> Arc<dyn Connect> { Arc::new(Socket(world.pretender.clone())) };
    let host = Host::builder(world.config(&[]))
        .connectors(vec![link(), link()])
        .release(Arc::new(GivenKey));
    let host = host.start().await.expect("the host");
    assert!(host.ready(PATIENCE).await);
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    let slot = Class::Assert(SlotId([1; 32]));

    let first = ada.session.clone();
    let opened = ada.try_session(&channel_key(0)).await;
    let second = opened.json()["session"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    for session in [&first, &second] {
        ada.session.clone_from(session);
        ada.ask(slot).await;
    }
    // The one that is asked next dies; the other one serves on.
    world.pretender.die_at.lock().unwrap().push(Kind::Handle);
    assert_eq!(ada.request(slot).await.problem(), "enclave-starting");
    ada.session = first;
    ada.ask(slot).await;
    ada.session = second;
    assert_eq!(ada.request(slot).await.problem(), "session-unknown");
    assert_eq!(ada.try_session(&channel_key(0)).await.problem(), "channel-key-unknown");
    assert!(host.ready(PATIENCE).await, "and the dead one comes back");
    assert_eq!(ada.try_session(&channel_key(2)).await.status, 201);
}

#[tokio::test]
async fn a_boot_that_fails_is_tried_again() {
    let world = World::new().await;
    *world.pretender.refuse.lock().unwrap() = Some((Kind::Unlock, HostRefusal::Unwrap));
    world.pretender.die_at.lock().unwrap().extend([Kind::Configure, Kind::Evidence]);
    let _host = world.host().await;
    assert_eq!(world.pretender.boots.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_enclave_that_cannot_go_on_is_started_anew() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    *world.pretender.refuse.lock().unwrap() = Some((Kind::Handle, HostRefusal::Platform));
    assert_eq!(ada.request(Class::Status).await.problem(), "enclave-starting");
    eventually("another boot serves", || async {
        world.pretender.boots.load(Ordering::SeqCst) == 2 && host.ready(PATIENCE).await
    })
    .await;
    ada.open_session().await;
    ada.ask(Class::Status).await;
}

/// Another key for every boot.
struct ChangingKey(AtomicU8);

impl KeyRelease for ChangingKey {
    fn endorse<'a>(&'a self, _: &'a [u8], _: bool, _: &'a Journal) -> Asking<'a, Endorsements> {
        Box::pin(std::future::ready(Ok(endorsements())))
    }

    fn release<'a>(
        &'a self, _: &'a [u8], _: &'a [u8], _: &'a Endorsements, _: &'a Journal,
    ) -> Asking<'a, Released> {
        let wrapped = vec![self.0.fetch_add(1, Ordering::SeqCst); 8];
        let released = Released { wrapped, algorithm: KeyWrap::Sha256 };
        Box::pin(std::future::ready(Ok(released)))
    }
}

#[tokio::test]
async fn another_root_key_is_not_served_with() {
    let world = World::new().await;
    let host = Host::builder(world.config(&[]))
        .connectors(vec![Arc::new(Socket(world.pretender.clone()))])
        .release(Arc::new(ChangingKey(AtomicU8::new(0))));
    let host = host.start().await.expect("the host");
    assert!(host.ready(PATIENCE).await);
    let mut ada = world.person(&host, "ada").await;
    ada.ask(Class::Enroll).await;
    world.pretender.die_at.lock().unwrap().push(Kind::Handle);
    ada.request(Class::Status).await;
    eventually("several boots", || async { world.pretender.boots.load(Ordering::SeqCst) >= 3 })
        .await;
    let admin = format!("http://{}/readyz", host.admin_address());
    let ready = Answer::of(world.http.get(admin).send().await.unwrap()).await;
    assert_eq!((ready.status, ready.json()["enclaves"].as_array().unwrap().len()), (503, 0));
    assert_eq!(ada.try_session(&channel_key(2)).await.problem(), "enclave-starting");
}
