//! The core's work beside the sum of the primitives it cannot do without, measured in one run.
//!
//! `cargo xtask bench` prints the ratios. Account with sixteen devices, guard and record as large as
//! in production.
//!
//! With `KEYFOLD_COUNT="assert/core 20"` nothing is timed: the case runs so many times after its
//! set-up and the program ends. Two such runs under valgrind, with different numbers, give the
//! instructions of one, which no busy machine disturbs.

use std::hint::black_box;

use criterion::Criterion;
use keyfold_protocol::client::{Assert, Class, KeyKind, Request};
use keyfold_protocol::host::{
    Attached, Claimed, Commit, HostReply, HostRequest, OpenSession, Settle,
};
use keyfold_protocol::ids::RpId;
use keyfold_tests::device::{Session, TestDevice};
use keyfold_tests::enclave::{self, decode};
use keyfold_tests::world::{PIN, World};

mod primitives;

use primitives::guard::Recovery;

/// A piece of work that can be repeated.
type Work = Box<dyn FnMut()>;

/// What is measured: its name, and its set-up.
type Case = (&'static str, fn() -> Work);

const CASES: [Case; 13] = [
    ("assert/core", assert),
    ("assert/primitives", || {
        let mut primitives = primitives::Assert::new();
        Box::new(move || primitives.run())
    }),
    ("create/core", create),
    ("create/primitives", || {
        let mut primitives = primitives::Create::new();
        Box::new(move || primitives.run())
    }),
    ("session_open/core", session_open),
    ("session_open/primitives", || {
        let primitives = primitives::Kem::new();
        Box::new(move || primitives.run())
    }),
    ("sync/page of 64", sync),
    ("charge/core", charge),
    ("charge/primitives", || floor(Recovery::charge)),
    ("commit/core", commit),
    ("commit/primitives", || floor(Recovery::commit)),
    ("settle/core", settle),
    ("settle/primitives", || floor(Recovery::settle)),
];

fn floor(stage: fn(&mut Recovery)) -> Work {
    let mut primitives = Recovery::new();
    Box::new(move || stage(&mut primitives))
}

fn main() {
    let Ok(count) = std::env::var("KEYFOLD_COUNT") else {
        let mut criterion = Criterion::default().configure_from_args();
        for (name, work) in CASES {
            let mut work = work();
            criterion.bench_function(name, |b| b.iter(&mut work));
        }
        return criterion.final_summary();
    };
    let (name, times) = count.rsplit_once(' ').expect("a case and a number");
    let (_, work) = CASES.iter().find(|(case, _)| *case == name).expect("a case");
    let mut work = work();
    (0..times.parse::<u32>().expect("a number")).for_each(|_| work());
}

fn account(world: &mut World) -> TestDevice {
    let mut first = world.enroll("device 0");
    for index in 1..16 {
        world.approve(&mut first, &TestDevice::new(&format!("device {index}"))).expect("approved");
    }
    first
}

/// The frame again and again, once it has been seen to be served.
fn repeat(mut world: World, frame: Vec<u8>) -> Work {
    let written = world.enclave.run(&frame);
    let served = decode(world.enclave.reply(written));
    assert!(!matches!(served, HostReply::Refused(_)), "{served:?}");
    Box::new(move || {
        world.enclave.run(black_box(&frame));
    })
}

fn request(mut world: World, device: &TestDevice, class: Class, request: &Request) -> Work {
    let sent = world.session.seal(device, KeyKind::Presence, &world.account, request);
    let attach = world.attach(class, &sent.frame);
    let frame = world.frame(&sent, class, &attach);
    repeat(world, frame)
}

fn assert() -> Work {
    let mut world = World::new();
    let mut device = account(&mut world);
    let created = world.create(&mut device, "example.com", "alice").expect("created");
    let assert = Request::Assert(Assert {
        rp_id: RpId::try_from("example.com").expect("short"),
        credential: created.credential,
        client_data_hash: [7; 32],
        prf: None,
    });
    request(world, &device, Class::Assert(created.put.event.slot), &assert)
}

fn create() -> Work {
    let mut world = World::new();
    let device = account(&mut world);
    let create = Request::CreatePasskey(world.create_request("example.com", "alice"));
    request(world, &device, Class::Put(None), &create)
}

/// An account whose device list is full, and a device that tries the right PIN.
fn trying() -> (World, TestDevice, Request) {
    let mut world = World::new();
    account(&mut world);
    let device = TestDevice::new("new");
    let request = world.recover_request(&device, PIN);
    (world, device, request)
}

fn charge() -> Work {
    let (world, device, recover) = trying();
    request(world, &device, Class::Recover, &recover)
}

fn commit() -> Work {
    let (mut world, device, recover) = trying();
    let (_, row) = world.stage(&device, &recover, Class::Recover);
    let receipt = world.ledger.append(row.tag, row.version, row.digest).expect("free");
    let frame = enclave::encode(&HostRequest::Commit(Commit {
        account: world.account,
        staged: Attached { version: Claimed(row.version), sealed: &row.guard },
        digest: Claimed(row.digest),
        receipt: &receipt,
    }));
    repeat(world, frame)
}

fn settle() -> Work {
    let (mut world, device, recover) = trying();
    let (_, row) = world.stage(&device, &recover, Class::Recover);
    world.append_and_commit_one(&row).expect("charged");
    let guard =
        Attached { version: Claimed(row.version), sealed: &world.stored.guards[&row.version] };
    let settle = enclave::encode(&HostRequest::Settle(Settle { account: world.account, guard }));
    repeat(world, settle)
}

fn session_open() -> Work {
    let world = World::new();
    let session = Session::open(&world.enclave.config_hash, &world.enclave.channel_key);
    let frame = enclave::encode(&HostRequest::OpenSession(OpenSession {
        channel_key: world.enclave.channel_key_id(),
        encapsulated_key: &session.enc,
    }));
    repeat(world, frame)
}

fn sync() -> Work {
    let mut world = World::new();
    let mut device = account(&mut world);
    for index in 0..64 {
        world.create(&mut device, "example.com", &format!("user {index}")).expect("created");
    }
    let sync = Request::Sync(world.genesis());
    request(world, &device, Class::Sync(0), &sync)
}
