//! Whether the core's time tells a right PIN from a wrong one, in the frames a host can repeat: Welch's
//! t over many runs of each, in random order, as dudect does it. Beyond 5 it would.
//!
//! `cargo xtask nightly` runs it. `control` compares as a careless core would, and has to be found.

use std::cell::RefCell;
use std::hint::black_box;

use dudect_bencher::ctbench::{
    BenchFn, BenchMetadata, BenchName, BenchOpts, BenchRng, Class, CtRunner, run_benches_console,
};
use keyfold_protocol::client::Class as Kind;
use keyfold_protocol::host::{Attached, Claimed, Commit, HostReply, HostRequest, Settle};
use keyfold_protocol::ids::Digest;
use keyfold_protocol::transcript::LedgerClaim;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave;
use keyfold_tests::world::{PIN, World};

/// Settlings measured.
const RUNS: usize = 100_000;

/// A charged try of this PIN, as the frame that settles it.
fn charged(world: &mut World, pin: [u8; 32]) -> Vec<u8> {
    let (fork, ()) = world.on_a_fork(|world| {
        let device = TestDevice::new("phone");
        let request = world.recover_request(&device, pin);
        let (_, row) = world.stage(&device, &request, Kind::Recover);
        let append = LedgerClaim::Append;
        let receipt = world.ledger.claim(&append, &row.tag, row.version, &row.digest);
        let reply = world.commit(&row, &receipt);
        let HostReply::Committed(live) = enclave::decode(&reply) else { panic!("not committed") };
        world.stored.guards.insert(live.version, live.guard.to_vec());
    });
    let (version, sealed) = fork.guards.last_key_value().expect("a guard");
    let guard = Attached { version: Claimed(*version), sealed };
    enclave::encode(&HostRequest::Settle(Settle { account: world.account, guard }))
}

fn settle(runner: &mut CtRunner, _: &mut BenchRng) {
    let (mut world, _) = World::enrolled();
    let (right, wrong) = (charged(&mut world, PIN), charged(&mut world, [8; 32]));
    let enclave = RefCell::new(world.enclave);
    for _ in 0..RUNS {
        let is_right = fastrand::bool();
        let (class, frame) = if is_right { (Class::Left, &right) } else { (Class::Right, &wrong) };
        runner.run_one(class, || enclave.borrow_mut().run(black_box(frame)));
    }
}

/// An outcome that was staged and overtaken, and the receipt of what overtook it: the core must refuse
/// it without a look inside.
fn overtaken_commit(runner: &mut CtRunner, _: &mut BenchRng) {
    let (mut world, _) = World::enrolled();
    let frames = [PIN, [8; 32]].map(|pin| {
        let settle = charged(&mut world, pin);
        let reply = world.enclave.call_raw(&settle);
        let HostReply::Staged(staged) = enclave::decode(&reply) else { panic!("not settled") };
        let other = Digest([1; 32]);
        let append = LedgerClaim::Append;
        let receipt = world.ledger.claim(&append, &staged.tag, staged.version, &other);
        enclave::encode(&HostRequest::Commit(Commit {
            account: world.account,
            staged: Attached { version: Claimed(staged.version), sealed: staged.guard },
            digest: Claimed(other),
            receipt: &receipt,
        }))
    });
    let enclave = RefCell::new(world.enclave);
    for _ in 0..RUNS / 4 {
        let is_right = fastrand::bool();
        let (class, frame) =
            if is_right { (Class::Left, &frames[0]) } else { (Class::Right, &frames[1]) };
        runner.run_one(class, || enclave.borrow_mut().run(black_box(frame)));
    }
}

/// Stops at the first byte that differs.
fn control(runner: &mut CtRunner, _: &mut BenchRng) {
    let secret = [7u8; 4096];
    let mut wrong = secret;
    wrong[0] = 8;
    for _ in 0..RUNS {
        let is_right = fastrand::bool();
        let (class, tried) = if is_right { (Class::Left, &secret) } else { (Class::Right, &wrong) };
        runner.run_one(class, || {
            black_box(tried).iter().zip(black_box(&secret)).all(|(a, b)| a == b)
        });
    }
}

fn main() {
    let one = |name, benchfn| BenchMetadata { name: BenchName(name), seed: None, benchfn };
    let all = vec![
        one("settle", settle as BenchFn),
        one("overtaken_commit", overtaken_commit),
        one("control", control),
    ];
    run_benches_console(BenchOpts::default(), all).expect("a terminal or a file");
}
