//! The core's work beside the sum of the primitives it cannot do without, measured in one run.
//!
//! `cargo xtask bench` prints the ratios. Account with sixteen devices, guard and record as large as
//! in production.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use keyfold_protocol::client::{Assert, Class, KeyKind, Request};
use keyfold_protocol::host::{HostRequest, OpenSession};
use keyfold_protocol::ids::RpId;
use keyfold_tests::device::{Session, TestDevice};
use keyfold_tests::enclave;
use keyfold_tests::world::World;

mod primitives;

fn account(world: &mut World) -> TestDevice {
    let mut first = world.enroll("device 0");
    for index in 1..16 {
        world.approve(&mut first, &TestDevice::new(&format!("device {index}"))).expect("approved");
    }
    first
}

fn assert(criterion: &mut Criterion) {
    let mut world = World::new();
    let mut device = account(&mut world);
    let created = world.create(&mut device, "example.com", "alice").expect("created");
    let request = Request::Assert(Assert {
        rp_id: RpId::try_from("example.com").expect("short"),
        credential: created.credential,
        client_data_hash: [7; 32],
        prf: None,
    });
    let class = Class::Assert(created.put.event.slot);
    let sent = world.session.seal(&device, KeyKind::Presence, &world.account, &request);
    let attach = world.attach(class, &sent.frame);
    let frame = world.frame(&sent, class, &attach);

    let mut group = criterion.benchmark_group("assert");
    group.bench_function("core", |b| b.iter(|| world.enclave.run(black_box(&frame))));
    let mut primitives = primitives::Assert::new();
    group.bench_function("primitives", |b| b.iter(|| primitives.run()));
}

fn create(criterion: &mut Criterion) {
    let mut world = World::new();
    let device = account(&mut world);
    let request = Request::CreatePasskey(world.create_request("example.com", "alice"));
    let class = Class::Put(None);
    let sent = world.session.seal(&device, KeyKind::Presence, &world.account, &request);
    let attach = world.attach(class, &sent.frame);
    let frame = world.frame(&sent, class, &attach);

    let mut group = criterion.benchmark_group("create");
    group.bench_function("core", |b| b.iter(|| world.enclave.run(black_box(&frame))));
    let mut primitives = primitives::Create::new();
    group.bench_function("primitives", |b| b.iter(|| primitives.run()));
}

fn session_open(criterion: &mut Criterion) {
    let mut world = World::new();
    let session = Session::open(&world.enclave.config_hash, &world.enclave.channel_key);
    let frame = enclave::encode(&HostRequest::OpenSession(OpenSession {
        channel_key: world.enclave.channel_key_id(),
        encapsulated_key: &session.enc,
    }));

    let mut group = criterion.benchmark_group("session_open");
    group.bench_function("core", |b| b.iter(|| world.enclave.run(black_box(&frame))));
    let primitives = primitives::Kem::new();
    group.bench_function("primitives", |b| b.iter(|| primitives.run()));
}

fn sync(criterion: &mut Criterion) {
    let mut world = World::new();
    let mut device = account(&mut world);
    for index in 0..64 {
        world.create(&mut device, "example.com", &format!("user {index}")).expect("created");
    }
    let request = Request::Sync(world.genesis());
    let class = Class::Sync(0);
    let sent = world.session.seal(&device, KeyKind::Presence, &world.account, &request);
    let attach = world.attach(class, &sent.frame);
    let frame = world.frame(&sent, class, &attach);
    criterion.bench_function("sync/page of 64", |b| {
        b.iter_batched(|| (), |()| world.enclave.run(black_box(&frame)), BatchSize::SmallInput);
    });
}

criterion_group!(core, assert, create, session_open, sync);
criterion_main!(core);
