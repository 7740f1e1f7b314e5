//! Stage, append, commit: a failure at every step, and what is left after it. Each case ends with the
//! guard either live everywhere or gone everywhere, and never with an acknowledged change missing.

use crate::support::{Kind, Person, World, eventually};
use bytes::Bytes;
use keyfold_dev_cloud::{Failure, Mode, Service};
use keyfold_host::identity::sha256;
use keyfold_host::storage::*;
use keyfold_protocol::client::Class;
use keyfold_protocol::ids::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) async fn fail(world: &World, mode: Mode, path: &str, times: Option<u32>) {
    let failure =
        Failure { path: Some(path.into()), times, ..Failure::new(Service::Ledger, mode, 1) };
    world.cloud.fail(failure).await.expect("a failure switch");
}

/// Where the account stands in the storage, and how many staged guards wait.
pub(crate) async fn standing(world: &World, account: &Account) -> (u64, usize) {
    let storage = world.storage();
    let loaded = storage.load(account, Want::default()).await.expect("load");
    let staged = storage.staged(100).await.expect("staged").len();
    (loaded.guard.map_or(0, |guard| guard.version), staged)
}

pub(crate) async fn enrolled<'a>(world: &'a World, host: &keyfold_host::Host) -> Person<'a> {
    let mut ada = world.person(host, "ada").await;
    ada.ask(Class::Enroll).await;
    ada
}

#[tokio::test]
async fn a_lost_append_reply_is_not_noticed() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    fail(&world, Mode::DropReply, "/app/append", Some(1)).await;
    assert_eq!(ada.ask(Class::Guard).await, "SEALED guard 2");
    assert_eq!(standing(&world, &ada.account).await, (2, 0));
}

#[tokio::test]
async fn passing_ledger_errors_are_retried() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    for (mode, path) in [
        (Mode::Status(503), "/app/append"),
        (Mode::Status(429), "/app/append"),
        (Mode::Down, "/app/append"),
        (Mode::Down, "/app/receipt"),
        (Mode::Status(500), "/app/receipt"),
        (Mode::Hang, "/app/append"),
    ] {
        fail(&world, mode, path, Some(1)).await;
        let answer = ada.ask(Class::Guard).await;
        assert!(answer.starts_with("SEALED guard"), "{answer}");
    }
}

/// Whoever comes while the ledger is known to be down hears so at once, and the first who comes
/// after it is back is served.
#[tokio::test]
async fn nobody_waits_for_a_ledger_that_is_down() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    fail(&world, Mode::Down, "/app/read", None).await;
    let mut asked = Vec::new();
    for _ in 0..3 {
        assert_eq!(ada.request(Class::Status).await.problem(), "ledger-unreachable");
        let metrics = reqwest::get(format!("http://{}/metrics", host.admin_address())).await;
        let text = metrics.expect("metrics").text().await.expect("text");
        let line = "keyfold_ledger_calls_total{call=\"read\",outcome=\"unreachable\"} ";
        let count = text.lines().find_map(|text| text.strip_prefix(line)).expect("the counter");
        asked.push(count.parse::<u32>().expect("a count"));
    }
    assert!(asked[0] > 1, "a passing failure is not retried: {asked:?}");
    assert_eq!(asked[1..], [asked[0] + 1, asked[0] + 2], "each tries once");
    world.cloud.heal();
    assert!(ada.ask(Class::Status).await.starts_with("SEALED"));
}

/// The append never reached the ledger; the host dies. The next one finishes the change.
#[tokio::test]
async fn staged_but_not_appended() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    fail(&world, Mode::Down, "/app/append", None).await;
    let answer = ada.request(Class::Guard).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "ledger-unreachable"));
    assert!(answer.headers.contains_key("retry-after"));
    assert!(
        ada.ask(Class::Assert(SlotId([1; 32]))).await.contains("guard 1"),
        "signing in goes on"
    );
    assert_eq!(standing(&world, &ada.account).await, (1, 1), "nothing is dropped");
    drop(host);
    world.cloud.heal();
    let _host = world.host().await;
    eventually("recovered", || async { standing(&world, &ada.account).await == (2, 0) }).await;
}

/// The append happened, its receipt never came, the host dies.
#[tokio::test]
async fn appended_but_no_receipt() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    fail(&world, Mode::Down, "/app/receipt", None).await;
    let answer = ada.request(Class::Guard).await;
    assert_eq!(answer.problem(), "ledger-unreachable");
    assert_eq!(standing(&world, &ada.account).await, (1, 1));
    drop(host);
    world.cloud.heal();
    let _host = world.host().await;
    eventually("recovered", || async { standing(&world, &ada.account).await == (2, 0) }).await;
}

/// As before, but the host lives: it recovers by itself, no restart needed.
#[tokio::test]
async fn a_host_recovers_without_a_restart() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    let failure =
        Failure { times: None, ..Failure::new(Service::Ledger, Mode::WithholdReceipt, 1) };
    world.cloud.fail(failure).await.unwrap();
    assert_eq!(ada.request(Class::Guard).await.problem(), "ledger-unreachable");
    world.cloud.heal();
    eventually("recovered", || async { standing(&world, &ada.account).await == (2, 0) }).await;
    assert_eq!(ada.ask(Class::Guard).await, "SEALED guard 3");
    drop(host);
}

/// The enclave dies at commit, with the receipt already there.
#[tokio::test]
async fn the_enclave_dies_at_commit() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    world.pretender.die_at.lock().unwrap().push(Kind::Commit);
    let answer = ada.request(Class::Guard).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "enclave-starting"));
    eventually("recovered", || async { standing(&world, &ada.account).await == (2, 0) }).await;
    assert!(host.ready(crate::support::PATIENCE).await);
    let answer = ada.request(Class::Status).await;
    assert_eq!(answer.problem(), "session-unknown", "sessions die with the enclave");
    ada.open_session().await;
    assert!(ada.ask(Class::Status).await.contains("guard 2"));
}

/// The enclave dies before it has answered: nothing was staged, nothing is left.
#[tokio::test]
async fn the_enclave_dies_at_handle() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    world.pretender.die_at.lock().unwrap().push(Kind::Handle);
    let answer = ada.request(Class::Guard).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "enclave-starting"));
    assert_eq!(standing(&world, &ada.account).await, (1, 0));
    assert!(host.ready(crate::support::PATIENCE).await);
    ada.open_session().await;
    assert_eq!(ada.ask(Class::Guard).await, "SEALED guard 2");
}

/// A client that goes away does not stop a change half-way.
#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_half_done() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    let slow = Failure { delay_ms: 500, ..Failure::new(Service::Ledger, Mode::Slow, 1) };
    world.cloud.fail(Failure { path: Some("/app/append".into()), ..slow }).await.unwrap();
    let body = ada.envelope(Class::Guard);
    let request = ada.post(body).timeout(std::time::Duration::from_millis(100)).send().await;
    assert!(request.is_err_and(|error| error.is_timeout()));
    eventually("committed", || async { standing(&world, &ada.account).await == (2, 0) }).await;
    drop(host);
}

/// Storage whose next commits fail, as a full disk would make them.
pub(crate) struct Failing {
    inner: Sqlite,
    /// Commits that still pass before one fails; none fails while there is no number.
    commits: Mutex<Option<usize>>,
    stages: AtomicUsize,
}

impl Failing {
    pub(crate) fn of(inner: Sqlite) -> Self {
        Self { inner, commits: Mutex::default(), stages: 0.into() }
    }

    pub(crate) fn fail_commit_after(&self, passes: usize) {
        *self.commits.lock().unwrap() = Some(passes);
    }

    fn commit_is_due(&self) -> bool {
        let mut passes = self.commits.lock().unwrap();
        match *passes {
            Some(0) => passes.take().is_some(),
            Some(left) => {
                *passes = Some(left - 1);
                false
            }
            None => false,
        }
    }
}

fn due(failures: &AtomicUsize) -> bool {
    failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

fn full<'a, T: Send + 'a>() -> Answer<'a, T> {
    Box::pin(std::future::ready(Err(StorageError::Full("as told".into()))))
}

impl Storage for Failing {
    fn load<'a>(&'a self, account: &'a Account, want: Want) -> Answer<'a, Loaded> {
        self.inner.load(account, want)
    }
    fn put(&self, put: PutWrite) -> Answer<'_, PutOutcome> {
        self.inner.put(put)
    }
    fn stage(&self, staged: StagedGuard) -> Answer<'_, ()> {
        if due(&self.stages) { full() } else { self.inner.stage(staged) }
    }
    fn commit(&self, commit: CommitWrite) -> Answer<'_, CommitOutcome> {
        if self.commit_is_due() { full() } else { self.inner.commit(commit) }
    }
    fn drop_staged(&self, key: StagedKey) -> Answer<'_, ()> {
        self.inner.drop_staged(key)
    }
    fn staged(&self, limit: usize) -> Answer<'_, Vec<StagedGuard>> {
        self.inner.staged(limit)
    }
    fn heads(&self, person: AccountId) -> Answer<'_, Option<Heads>> {
        self.inner.heads(person)
    }
}

/// The last step fails: ledger and core have done it, the storage has not.
#[tokio::test]
async fn committed_in_the_core_but_not_in_the_storage() {
    let world = World::new().await;
    let storage = Arc::new(Failing::of(world.storage()));
    let host = world.host_with(world.config(&[]), Some(storage.clone())).await;
    let mut ada = enrolled(&world, &host).await;
    storage.fail_commit_after(0);
    let answer = ada.request(Class::Guard).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "storage-unavailable"));
    eventually("recovered", || async { standing(&world, &ada.account).await == (2, 0) }).await;
}

/// The first step fails: the ledger must not hear of it.
#[tokio::test]
async fn not_staged_is_not_appended() {
    let world = World::new().await;
    let storage = Arc::new(Failing::of(world.storage()));
    let host = world.host_with(world.config(&[]), Some(storage.clone())).await;
    let mut ada = enrolled(&world, &host).await;
    storage.stages.store(1, Ordering::SeqCst);
    assert_eq!(ada.request(Class::Guard).await.problem(), "storage-unavailable");
    let tag = crate::support::tag(&ada.account);
    let current = host.service().parts().ledger.current(&tag).await.unwrap();
    assert_eq!(current.version, 1);
    assert_eq!(standing(&world, &ada.account).await, (1, 0));
}

fn staged(account: Account, version: u64, salt: u8) -> StagedGuard {
    let digest = Digest(sha256(&[b"a guard", &[salt]]));
    StagedGuard {
        key: StagedKey { tag: crate::support::tag(&account), version, digest },
        account,
        sealed: Bytes::from_static(b"STAGED elsewhere"),
        staged_at: 1,
    }
}

/// Two changes of one version: the ledger picks one, the other is given up.
#[tokio::test]
async fn the_ledger_picks_one_of_two() {
    let world = World::new().await;
    let host = world.host().await;
    let ada = enrolled(&world, &host).await;
    let (one, two) = (staged(ada.account, 2, 1), staged(ada.account, 2, 2));
    for row in [&one, &two] {
        world.storage().stage(row.clone()).await.unwrap();
    }
    let ledger = &host.service().parts().ledger;
    ledger.append(&one.key.tag, 2, &one.key.digest).await.unwrap();
    assert_eq!(host.service().recover(0).await, 0);
    assert_eq!(standing(&world, &ada.account).await, (2, 0));
    let loaded = world.storage().load(&ada.account, Want::default()).await.unwrap();
    assert_eq!(loaded.guard.unwrap().digest, one.key.digest, "the ledger's choice");
}

/// What contradicts the ledger without being overtaken is kept for somebody to look at.
#[tokio::test]
async fn contradictions_are_kept_and_told() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    let ahead = staged(ada.account, 5, 1);
    world.storage().stage(ahead.clone()).await.unwrap();
    assert_eq!(host.service().recover(0).await, 1, "the ledger is behind: it waits");
    assert_eq!(standing(&world, &ada.account).await, (1, 1));

    // The ledger is ahead of the store: as after restoring an old copy of the database.
    let tag = crate::support::tag(&ada.account);
    for version in 2..=3 {
        let digest = Digest([u8::try_from(version).unwrap(); 32]);
        host.service().parts().ledger.append(&tag, version, &digest).await.unwrap();
    }
    let answer = ada.request(Class::Guard).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "ledger-refused"));
    assert_eq!(standing(&world, &ada.account).await, (1, 2), "kept");
}

/// Two hosts change one account at the same time, over and over: no change is lost, none is half done.
#[tokio::test]
async fn two_hosts_on_one_database() {
    let world = World::new().await;
    let host = world.host().await;
    enrolled(&world, &host).await;
    let mut one = world.person(&host, "ada").await;
    let other = world.host().await;
    let mut two = world.person(&other, "ada").await;
    let mut won = 0;
    for _ in 0..10 {
        let (left, right) = tokio::join!(one.request(Class::Guard), two.request(Class::Guard));
        for answer in [left, right] {
            match answer.status {
                200 => won += 1,
                _ => assert_eq!(answer.problem(), "guard-moved"),
            }
        }
    }
    let (version, staged) = standing(&world, &one.account).await;
    assert_eq!((version, staged), (won + 1, 0), "as many versions as successes");
    assert!(won >= 10, "{won}");
}

/// The ledger comes back with another key: everything that needs it stops, signing in goes on.
#[tokio::test]
async fn another_ledger_identity_fails_closed() {
    let world = World::new().await;
    let host = world.host().await;
    let mut ada = enrolled(&world, &host).await;
    let config = world.config(&[]);
    world.cloud.fail(Failure::new(Service::Ledger, Mode::Identity, 1)).await.unwrap();
    // A host that starts now has never seen the right key.
    let host = world.host_with(config, None).await;
    let mut late = world.person(&host, "ada").await;
    for class in [Class::Guard, Class::Status, Class::Audit(0)] {
        let answer = late.request(class).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (503, "ledger-refused"),
            "{class:?}"
        );
    }
    assert!(late.ask(Class::Assert(SlotId([1; 32]))).await.contains("guard 1"));
    assert_eq!(standing(&world, &late.account).await, (1, 1), "staged, and waiting");
    let admin = format!("http://{}/readyz", host.admin_address());
    let ready = crate::support::Answer::of(world.http.get(admin).send().await.unwrap()).await;
    assert_eq!((ready.status, &ready.json()["ledger"]), (200, &"identity changed".into()));
    assert!(ada.ask(Class::Assert(SlotId([1; 32]))).await.contains("guard 1"));
}
