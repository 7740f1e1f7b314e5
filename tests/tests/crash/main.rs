//! kill -9 of the enclave, the host and the dev cloud (and with it the ledger) at random points in a
//! stream of creates, updates, deletes, approvals, revocations, anchors, recoveries with the right PIN
//! and with wrong ones, and new PINs of several people.
//!
//! After each restart everybody checks, from zero: nothing that was acknowledged is missing, nothing
//! that was not is half there, both chains lead to where the ledger says the account stands, and the
//! count of wrong tries never fell but by a right PIN or a new one.
//!
//! KEYFOLD_KILLS says how many (12; nightly 200). KEYFOLD_SEED replays the choices of a run, though
//! not the scheduler's.

#[path = "../common/mod.rs"]
mod common;
mod known;
mod person;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use keyfold_local::Deployment;
use tokio::sync::{Mutex, RwLock};
use tokio::task::JoinHandle;

use crate::person::Person;

const PEOPLE: usize = 3;
const KILLS: u64 = 12;

/// What everybody shares: the gate is closed while nobody may change anything.
struct Stage {
    people: Vec<Mutex<Person>>,
    gate: RwLock<()>,
    over: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_else_is_half_there() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let kills = number("KEYFOLD_KILLS").unwrap_or(KILLS);
    let seed = number("KEYFOLD_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("KEYFOLD_SEED={seed} KEYFOLD_KILLS={kills}");
    let mut random = Rng::with_seed(seed);
    let mut deployment = common::deployment("crash").await;

    let mut people = Vec::new();
    for number in 0..PEOPLE {
        let name = format!("person-{number}");
        people.push(Mutex::new(Person::enroll(&name, &deployment, random.fork()).await));
    }
    let (gate, over) = (RwLock::new(()), AtomicBool::new(false));
    let stage = Arc::new(Stage { people, gate, over });
    let lives: Vec<_> = (0..PEOPLE).map(|who| tokio::spawn(live(stage.clone(), who))).collect();

    let start = Instant::now();
    for kill in 1..=kills {
        tokio::time::sleep(Duration::from_millis(random.u64(..700))).await;
        let victim = strike(&mut deployment, &mut random).await;
        let done = verify(&stage, false).await;
        let at = start.elapsed().as_secs_f64();
        eprintln!("kill {kill}/{kills} at {at:.1} s: {victim}; {done}");
        if lives.iter().any(JoinHandle::is_finished) {
            break;
        }
    }
    stage.over.store(true, Ordering::Relaxed);
    for life in lives {
        life.await.expect("nobody saw anything that must not be");
    }
    eprintln!("at the end: {}", verify(&stage, true).await);
    nothing_waits(&deployment).await;
    let (acknowledged, answered) = acknowledged(&stage).await;
    eprintln!("{acknowledged} changes were acknowledged, {answered} tries of a PIN answered");
    assert!(acknowledged > kills, "only {acknowledged} changes in {kills} kills: no stream");
    assert!(answered > 0, "no try of a PIN was answered");
}

/// One person's days, until it is over.
async fn live(stage: Arc<Stage>, who: usize) {
    while !stage.over.load(Ordering::Relaxed) {
        let open = stage.gate.read().await;
        stage.people[who].lock().await.change_something().await;
        drop(open);
        tokio::task::yield_now().await;
    }
}

/// Kills something, waits, starts it again; what it was.
async fn strike(deployment: &mut Deployment, random: &mut Rng) -> &'static str {
    let (enclave, host, cloud, name) = match random.u64(..10) {
        0..4 => (true, false, false, "enclave"),
        4..7 => (false, true, false, "host"),
        7..9 => (false, false, true, "dev cloud"),
        _ => (false, true, true, "host and dev cloud"),
    };
    if enclave {
        for id in deployment.enclave_ids().expect("the system tells") {
            // Died by itself just now, perhaps: nothing is lost by that either.
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        }
    }
    if host {
        deployment.host.kill().expect("killed");
    }
    if cloud {
        deployment.cloud.kill().expect("killed");
    }
    tokio::time::sleep(Duration::from_millis(random.u64(..300))).await;
    if cloud {
        deployment.restart_cloud().await.expect("the dev cloud starts again");
    }
    if host {
        deployment.restart_host().await.expect("the host starts again");
    }
    deployment.wait_until_ready().await.expect("ready again");
    name
}

/// Everybody compares what they were told with what is there, while nobody changes anything.
async fn verify(stage: &Stage, thoroughly: bool) -> String {
    let _closed = stage.gate.write().await;
    let mut counts = [0; 3];
    for person in &stage.people {
        let found = person.lock().await.verify(thoroughly).await;
        counts.iter_mut().zip(found).for_each(|(sum, count)| *sum += count);
    }
    let [events, passkeys, devices] = counts;
    format!("{events} vault events, {passkeys} passkeys, {devices} devices are right")
}

/// Changes that were acknowledged, and tries that were answered.
async fn acknowledged(stage: &Stage) -> (u64, u64) {
    let mut sums = (0, 0);
    for person in &stage.people {
        let (changes, tries) = person.lock().await.acknowledged();
        sums = (sums.0 + changes, sums.1 + tries);
    }
    sums
}

/// Recovery leaves no staged guard behind.
async fn nothing_waits(deployment: &Deployment) {
    let url = format!("{}/metrics", deployment.admin_url);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = String::new();
    while Instant::now() < deadline {
        let text = reqwest::get(&url).await.expect("metrics").text().await.expect("text");
        let gauge = text.lines().find(|line| line.starts_with("keyfold_staged_guards "));
        last = gauge.expect("the gauge").to_owned();
        if last.ends_with(" 0") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("a staged guard is never settled: {last}");
}
