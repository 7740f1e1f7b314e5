//! Recoveries, which change the guard twice, and the end of an account: at every step the host, the
//! enclave or the storage may die.

use crate::recovery::{Failing, enrolled, fail, standing};
use crate::support::{Answer, Kind, World, eventually};
use keyfold_dev_cloud::{Failure, Mode, Service};
use keyfold_host::storage::{Storage, Want};
use keyfold_protocol::client::Class;
use keyfold_protocol::ids::{Digest, SlotId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

async fn metric(host: &keyfold_host::Host, line: &str) -> u32 {
    let text = reqwest::get(format!("http://{}/metrics", host.admin_address())).await;
    let text = text.expect("metrics").text().await.expect("text");
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().expect("a count"))
}

#[tokio::test]
async fn a_try_is_two_changes_and_one_answer() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    assert_eq!(ada.ask(Class::Recover).await, "SEALED guard 3");
    assert_eq!(standing(&world, &ada.account).await, (3, 0));
    let want = Want { audit_after: Some(0), ..Want::default() };
    let loaded = world.storage().load(&ada.account, want).await.expect("load");
    let audit: Vec<_> = loaded.audit.iter().map(|event| &event[..]).collect();
    assert_eq!(audit, [&b"AUDIT"[..], b"AUDIT", b"AUDIT outcome"], "one event per version");
    for (outcome, count) in [("staged", 3), ("committed", 3), ("conflict", 0), ("locked", 0)] {
        let line = format!("keyfold_guard_changes_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metric(&host, &line).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn a_locked_account_is_told_and_counted() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    world.pretender.locked.store(1, Ordering::SeqCst);
    assert_eq!(ada.ask(Class::Recover).await, "SEALED locked");
    assert_eq!(standing(&world, &ada.account).await, (1, 0), "nothing is written");
    assert_eq!(metric(&host, "keyfold_guard_changes_total{outcome=\"locked\"}").await, 1);
}

#[tokio::test]
async fn without_the_ledger_recovery_waits_and_signing_in_goes_on() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    fail(&world, Mode::Down, "/app/append", None).await;
    let mut bob = world.person(&host, "bob").await;
    for answer in [ada.request(Class::Recover).await, bob.request(Class::Enroll).await] {
        assert_eq!((answer.status, answer.problem().as_str()), (503, "ledger-unreachable"));
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert!(ada.ask(Class::Assert(SlotId([1; 32]))).await.contains("guard 1"));
    world.cloud.heal();
    eventually("the charge is settled", || async {
        standing(&world, &ada.account).await == (3, 0)
    })
    .await;
}

/// The charge stands in the ledger; the host dies before it has its receipt. The next host brings
/// the try to its end: the charge and its outcome are never apart.
#[tokio::test]
async fn a_host_that_dies_after_the_charge_settles_it_later() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    fail(&world, Mode::Down, "/app/receipt", None).await;
    assert_eq!(ada.request(Class::Recover).await.problem(), "ledger-unreachable");
    assert_eq!(standing(&world, &ada.account).await, (1, 1));
    drop(host);
    world.cloud.heal();
    let _host = world.host().await;
    eventually("settled", || async { standing(&world, &ada.account).await == (3, 0) }).await;
}

/// Enclaves that die at each step of a try: it ends all the same, once.
#[tokio::test]
async fn the_enclave_dies_in_the_middle_of_a_try() {
    for kind in [Kind::Commit, Kind::Settle] {
        let world = World::new().await;
        let host = world.host().await;
        let mut ada = enrolled(&world, &host).await;
        world.pretender.die_at.lock().unwrap().push(kind);
        let answer = ada.request(Class::Recover).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "enclave-starting"));
        assert!(standing(&world, &ada.account).await.0 != 2, "{kind:?}: a charge alone is live");
        eventually("settled", || async { standing(&world, &ada.account).await == (3, 0) }).await;
        assert!(host.ready(crate::support::PATIENCE).await);
    }
}

/// The storage fails at each of a try's writes.
#[tokio::test]
async fn the_storage_fails_in_the_middle_of_a_try() {
    for (fails_first, passes) in [(true, 0), (false, 1)] {
        let world = World::new().await;
        let storage = Arc::new(Failing::of(world.storage()));
        let host = world.host_with(world.config(&[]), Some(storage.clone())).await;
        let mut ada = enrolled(&world, &host).await;
        storage.fail_commit_after(passes);
        let answer = ada.request(Class::Recover).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "storage-unavailable"));
        let expected = if fails_first { (1, 1) } else { (2, 1) };
        assert_eq!(standing(&world, &ada.account).await, expected, "with its outcome staged");
        eventually("settled", || async { standing(&world, &ada.account).await == (3, 0) }).await;
    }
}

/// What follows a charge is the same whoever settles it.
#[tokio::test]
async fn two_hosts_settle_one_try() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    fail(&world, Mode::Down, "/app/append", None).await;
    ada.request(Class::Recover).await;
    let other = world.host().await;
    world.cloud.heal();
    tokio::join!(host.service().recover(0), other.service().recover(0));
    eventually("settled", || async { standing(&world, &ada.account).await == (3, 0) }).await;
}

/// Whoever signs in as the person, and has no device, uses up what recoveries there are; the owner
/// strikes off and sets PINs all the same.
#[tokio::test]
async fn tries_do_not_keep_the_owner_from_defending_the_account() {
    let world = World::new().await;
    let limits = [("LIMITS__FRESH_OPERATIONS_PER_HOUR", "2")];
    let host = world.host_with(world.config(&limits), None).await;
    let mut ada = enrolled(&world, &host).await;
    for _ in 0..2 {
        ada.ask(Class::Recover).await;
    }
    assert_eq!(ada.request(Class::Recover).await.problem(), "rate-limited");
    assert_eq!(ada.ask(Class::GuardFresh).await, "SEALED guard 6");
}

/// Another change comes between a charge and its outcome: the try counts, and the client is not told to
/// sign it again as if nothing had happened.
#[tokio::test]
async fn a_try_that_is_overtaken_says_so() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    let tag = crate::support::tag(&ada.account);
    let ledger = &host.service().parts().ledger;
    let slow = Failure { delay_ms: 800, ..Failure::new(Service::Ledger, Mode::Slow, 1) };
    let slow = Failure { path: Some("/app/receipt".into()), times: Some(1), ..slow };
    world.cloud.fail(slow).await.expect("a failure switch");
    let overtaking = async {
        eventually("charged", || async { ledger.current(&tag).await.unwrap().version == 2 }).await;
        ledger.append(&tag, 3, &Digest([9; 32])).await.unwrap();
    };
    let (answer, ()) = tokio::join!(ada.request(Class::Recover), overtaking);
    assert_eq!((answer.status, answer.problem().as_str()), (409, "try-overtaken"));
}

#[tokio::test]
async fn a_closed_account_is_followed_by_the_next_generation() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = world.person(&host, "ada").await;
    let (url, token) = (format!("{}/v1/account", ada.base), ada.token.clone());
    let account = || async {
        let request = world.http.get(&url).bearer_auth(&token);
        Answer::of(request.send().await.expect("an answer")).await
    };
    let answer = account().await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "account-unknown"));
    let anonymous = Answer::of(world.http.get(&url).send().await.expect("an answer")).await;
    assert_eq!((anonymous.status, anonymous.problem().as_str()), (401, "sign-in-required"));
    let of = |generation, closed, guard, vault| {
        serde_json::json!({
            "generation": generation, "closed": closed, "guard": guard, "vault": vault,
        })
    };

    ada.account.generation = 2;
    assert_eq!(ada.request(Class::Enroll).await.problem(), "malformed", "the first comes first");
    ada.account.generation = 1;
    ada.ask(Class::Enroll).await;
    ada.ask(Class::Put(None)).await;
    assert_eq!(account().await.json(), of(1, false, 1, 1));
    for generation in [1, 2] {
        ada.account.generation = generation;
        let expected = if generation == 1 { "guard-moved" } else { "malformed" };
        assert_eq!(ada.request(Class::Enroll).await.problem(), expected, "it is open");
    }

    ada.account.generation = 1;
    world.pretender.closing.store(1, Ordering::SeqCst);
    assert_eq!(ada.ask(Class::GuardFresh).await, "SEALED guard 2");
    assert_eq!(account().await.json(), of(1, true, 2, 0));
    assert_eq!(
        ada.ask(Class::Sync(0)).await,
        "SEALED guard 2 vault 0 record 0 events 0 records 0 audit 0 fresh false",
        "everything but the guard is gone"
    );
    assert_eq!(ada.request(Class::Enroll).await.problem(), "guard-moved", "it does not reopen");
    ada.account.generation = 2;
    assert_eq!(ada.ask(Class::Enroll).await, "SEALED guard 1");
    assert_eq!(account().await.json(), of(2, false, 1, 0));
}
