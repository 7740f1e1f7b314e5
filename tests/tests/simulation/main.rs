//! Hosts that crash, lie and run beside each other, over the real core: one seed, one run.
//!
//! Everything of a run follows from its seed, by one thread on a clock that only moves when all
//! wait: the real core and the real service of `keyfold-host`, on a disk, a ledger and enclaves that
//! fail when the seed says so. Before and after each thing the host does outside of itself, it may
//! die for good. What every run must keep is in `history`.
//!
//! `KEYFOLD_SEEDS=20000` runs more of them, `KEYFOLD_SEED=17` runs one and tells its story.

mod disk;
mod enclaves;
mod faults;
mod history;
mod host;
mod hostile;
mod laptop;
mod ledger;
mod people;
mod story;

use std::panic::AssertUnwindSafe;

/// Runs of each kind.
fn seeds() -> u64 {
    std::env::var("KEYFOLD_SEEDS").map_or(1000, |text| text.parse().expect("a number of seeds"))
}

fn run(kind: story::Kind) {
    let one = std::env::var("KEYFOLD_SEED").ok();
    let one: Option<u64> = one.map(|seed| seed.parse().expect("a seed"));
    let all = one.map_or(0..seeds(), |seed| seed..seed + 1);
    let mut told = story::Told::default();
    for seed in all {
        let play = || story::play(kind, seed, one.is_some());
        match std::panic::catch_unwind(AssertUnwindSafe(play)) {
            Ok(tale) => told.add(&tale),
            Err(_) => panic!("seed {seed} of {kind:?} fails; KEYFOLD_SEED={seed} tells its story"),
        }
    }
    println!("{kind:?}: {told:?}");
    if one.is_none() {
        told.check(kind);
    }
}

/// A host that means well, whose parts die at every step: nothing counts twice, nothing acknowledged
/// is lost, and everything ends.
#[test]
fn an_honest_host_that_crashes() {
    run(story::Kind::Honest);
}

/// A host that restores old copies, runs several of itself on them, and gives cores what it kept:
/// guards and receipts, clients' frames, accounts of its own.
#[test]
fn a_hostile_host() {
    run(story::Kind::Hostile);
}

#[tokio::test]
async fn the_disk_is_a_storage() {
    keyfold_host::storage::conformance::run(std::sync::Arc::new(disk::Disk::default())).await;
}

/// The same seed is the same story, to the last word.
#[test]
fn a_seed_repeats() {
    for kind in [story::Kind::Honest, story::Kind::Hostile] {
        for seed in 0..5 {
            let once = story::play(kind, seed, false);
            assert_eq!(once, story::play(kind, seed, false), "seed {seed} of {kind:?}");
        }
    }
}
