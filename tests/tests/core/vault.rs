//! The vault against a hostile host: one chain of events, extended only at its exact end, and
//! never by a guard that the vault has outlived.

use keyfold_protocol::client::{
    Class, Created, DeletePasskey, GuardBase, KeyKind, Refusal, Request, RevokeDevice,
};
use keyfold_protocol::host::{HostRefusal, HostReply};
use keyfold_protocol::ids::{Account, AccountId, ChainPoint, Digest};
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::decode;
use keyfold_tests::hostile::{
    RP, assert_request, damage, flipped, misname, rename_request, reply_of,
};
use keyfold_tests::world::{Attach, Denied, Stored, World};

const SYNC_FIRST: Option<Denied> = Some(Denied::Client(Refusal::SyncFirst));
const STALE_VAULT: Option<Denied> = Some(Denied::Client(Refusal::StaleVault));
const STALE_GUARD: Option<Denied> = Some(Denied::Client(Refusal::StaleGuard));

/// The four puts, naming this point.
fn puts(
    world: &World, created: &Created, vault: ChainPoint,
) -> Vec<(&'static str, Request, Class)> {
    let slot = created.put.event.slot;
    let mut create = world.create_request(RP, "carol");
    create.vault = vault;
    let mut rename = rename_request(world, created, "new name");
    rename.vault = vault;
    vec![
        ("Touch", Request::Touch(vault), Class::Put(None)),
        ("CreatePasskey", Request::CreatePasskey(create), Class::Put(None)),
        ("UpdatePasskey", Request::UpdatePasskey(rename), Class::Put(Some(slot))),
        ("DeletePasskey", Request::DeletePasskey(DeletePasskey { vault, slot }), Class::Put(None)),
    ]
}

fn touch(world: &World) -> Request {
    Request::Touch(world.vault())
}

#[test]
fn a_put_names_the_vaults_exact_point() {
    let (mut world, mut laptop) = World::enrolled();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    world.create(&mut laptop, RP, "bob").expect("created");
    let vault = world.vault();
    for (point, of) in [
        (world.genesis(), "the empty vault"),
        (ChainPoint { version: 1, ..vault }, "an older version"),
        (ChainPoint { version: 3, ..vault }, "a newer version"),
        (ChainPoint { version: 2, head: Digest([1; 32]) }, "another head"),
    ] {
        for (name, request, class) in puts(&world, &created, point) {
            let key = KeyKind::UserVerification;
            let denied = world.request(&mut laptop, key, &request, class).err();
            assert_eq!(denied, SYNC_FIRST, "{name} at {of}");
        }
    }
}

#[test]
fn a_replayed_put_is_refused_once_the_vault_has_moved() {
    for index in 0..4 {
        let (mut world, mut laptop) = World::enrolled();
        let created = world.create(&mut laptop, RP, "alice").expect("created");
        let (name, request, class) = puts(&world, &created, world.vault())[index].clone();
        let key = KeyKind::UserVerification;
        let sent = world.session.seal(&laptop, key, &world.account, &request);
        // The record as it was, since the attack is about the vault.
        let record = world.attach(class, &sent.frame).record;
        world.forward(&sent, class).expect("the first time it counts");
        let mut attach = world.attach(class, &sent.frame);
        attach.record = record;
        let denied = world.finish(&sent, class, &attach).err();
        assert_eq!(denied, SYNC_FIRST, "{name}");
    }
}

#[test]
fn a_replayed_put_on_the_old_state_makes_nothing_that_both_can_keep() {
    let (mut world, laptop) = World::enrolled();
    let create = Request::CreatePasskey(world.create_request(RP, "alice"));
    let class = Class::Put(None);
    let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &create);
    let attach = world.attach(class, &sent.frame);
    let (one, two) = (world.handle(&sent, class, &attach), world.handle(&sent, class, &attach));
    let one = reply_of(&one).put.expect("a put").event;
    let two = reply_of(&two).put.expect("a put").event;
    assert_eq!((one.version, two.version), (1, 1), "the host's compare-and-set keeps one");
    assert_ne!(one.digest, two.digest);
}

#[test]
fn forks_never_merge() {
    let (mut world, mut laptop, mut phone) = World::with_phone();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    // The host shows the phone another future than the laptop.
    let (forked, _) = world.on_a_fork(|world| world.create(&mut phone, RP, "bob").expect("forked"));
    world.create(&mut laptop, RP, "carol").expect("created");
    assert_eq!(world.vault().version, 2);

    let other_head = ChainPoint { version: 2, ..fork_head(&mut world, &forked) };
    for (name, request, class) in puts(&world, &created, other_head) {
        let denied = world.request(&mut phone, KeyKind::UserVerification, &request, class).err();
        assert_eq!(denied, SYNC_FIRST, "{name}");
    }
    let sync = Request::Sync(other_head);
    let denied = world.request(&mut phone, KeyKind::Presence, &sync, Class::Sync(2)).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::BrokenChain)), "Sync");
}

fn fork_head(world: &mut World, forked: &Stored) -> ChainPoint {
    let trunk = std::mem::replace(&mut world.stored, forked.clone());
    let head = world.vault();
    world.stored = trunk;
    head
}

#[test]
fn an_absent_vault_is_one_where_nothing_ever_was() {
    let no_vault = |attach: &mut Attach| attach.vault = None;
    let (mut world, mut laptop) = World::enrolled();
    let created = world.create(&mut laptop, RP, "alice").expect("created");

    // Before an anchor the guard knows no better; the device that names a version does.
    for (name, request, class) in puts(&world, &created, world.vault()) {
        let key = KeyKind::UserVerification;
        let denied = world.request_with(&laptop, key, &request, class, no_vault).err();
        assert_eq!(denied, SYNC_FIRST, "{name}");
    }

    // After it, the guard does.
    let anchor = Request::Anchor(world.base());
    world.change_guard(&mut laptop, &anchor).expect("anchored");
    for point in [world.vault(), world.genesis()] {
        for (name, request, class) in puts(&world, &created, point) {
            let key = KeyKind::UserVerification;
            let denied = world.request_with(&laptop, key, &request, class, no_vault).err();
            assert_eq!(denied, STALE_VAULT, "{name} at {}", point.version);
        }
    }
}

#[test]
fn a_vault_below_the_guards_floor_is_refused() {
    let (mut world, mut laptop) = World::enrolled();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let at_one = world.vault();
    let (fork, _) = world.on_a_fork(|world| world.create(&mut laptop, RP, "bob").expect("forked"));
    let forked = fork_head(&mut world, &fork);
    world.create(&mut laptop, RP, "carol").expect("created");
    let anchor = Request::Anchor(world.base());
    world.change_guard(&mut laptop, &anchor).expect("anchored at 2");

    for (of, point, version, vault) in [
        ("an older version", at_one, 1, world.stored.vaults[&1].clone()),
        ("the same version with another head", forked, 2, fork.vaults[&2].clone()),
    ] {
        for (name, request, class) in puts(&world, &created, point) {
            let attach = |attach: &mut Attach| attach.vault = Some((version, vault.clone()));
            let key = KeyKind::UserVerification;
            let denied = world.request_with(&laptop, key, &request, class, attach).err();
            assert_eq!(denied, STALE_VAULT, "{name}, {of}");
        }
    }
}

/// A phone that was revoked at guard 3, and the vault touched since.
fn revoked_and_touched() -> (World, TestDevice, TestDevice, Created) {
    let (mut world, mut laptop, phone) = World::with_phone();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let revoke = RevokeDevice { base: world.base(), device: phone.id() };
    world.change_guard(&mut laptop, &Request::RevokeDevice(revoke)).expect("revoked");
    let touch = touch(&world);
    world.put(&mut laptop, KeyKind::Presence, &touch).expect("touched");
    (world, laptop, phone, created)
}

#[test]
fn after_a_touch_a_rolled_back_guard_serves_a_revoked_device_no_more() {
    let (mut world, _, phone, created) = revoked_and_touched();
    let rolled_back = world.stored.guards[&2].clone();
    let mut requests = puts(&world, &created, world.vault());
    requests.push(("Sync", Request::Sync(world.genesis()), Class::Sync(0)));
    for (name, request, class) in requests {
        let attach = |attach: &mut Attach| attach.guard = Some((2, rolled_back.clone()));
        let key = KeyKind::UserVerification;
        let denied = world.request_with(&phone, key, &request, class, attach).err();
        assert_eq!(denied, STALE_GUARD, "{name}");
    }
}

#[test]
fn every_put_raises_the_vaults_guard_floor() {
    for index in 0..4 {
        let (mut world, mut laptop, phone) = World::with_phone();
        let created = world.create(&mut laptop, RP, "alice").expect("created");
        let revoke = RevokeDevice { base: world.base(), device: phone.id() };
        world.change_guard(&mut laptop, &Request::RevokeDevice(revoke)).expect("revoked");
        let (name, request, class) = puts(&world, &created, world.vault())[index].clone();
        let key = KeyKind::UserVerification;
        world.request(&mut laptop, key, &request, class).expect("put");

        let rolled_back = world.stored.guards[&2].clone();
        let sync = Request::Sync(world.genesis());
        let attach = |attach: &mut Attach| attach.guard = Some((2, rolled_back));
        let denied = world.request_with(&phone, key, &sync, Class::Sync(0), attach).err();
        assert_eq!(denied, STALE_GUARD, "{name}");
    }
}

/// What a revoked phone and a colluding host can write together: a put on the guard before the
/// revocation and the vault before the touch. The fork as the host has it then.
fn write_in_the_past(
    world: &mut World, phone: &TestDevice, request: fn(&World) -> Request,
) -> Stored {
    let (fork, ()) = world.on_a_fork(|world| {
        world.stored.guards.split_off(&3);
        world.stored.vaults.split_off(&2);
        world.stored.events.split_off(&2);
        let request = request(world);
        let key = KeyKind::UserVerification;
        world.request_with(phone, key, &request, Class::Put(None), |_| {}).expect("a fork grows");
    });
    fork
}

/// What an honest device says to a vault that goes on from `fork`.
fn offer(world: &mut World, device: &TestDevice, fork: &Stored) -> Option<Denied> {
    let at = world.vault();
    let (version, vault) = fork.vaults.last_key_value().expect("a vault");
    let events = fork.events.range(at.version + 1..).map(|(_, event)| (*event, None)).collect();
    let attach = |attach: &mut Attach| {
        attach.vault = Some((*version, vault.clone()));
        attach.events = events;
    };
    let sync = Request::Sync(at);
    let class = Class::Sync(at.version);
    world.request_with(device, KeyKind::Presence, &sync, class, attach).err()
}

#[test]
fn a_rolled_back_guard_and_vault_serve_a_revoked_device_a_fork_only() {
    // The promise's limit, stated: a host that rolls back both shows the device what it had seen
    // anyway, and what the device writes there no honest device accepts.
    let (mut world, mut laptop, phone, _) = revoked_and_touched();
    let create = |world: &World| Request::CreatePasskey(world.create_request(RP, "mallory"));
    let fork = write_in_the_past(&mut world, &phone, create);
    assert_eq!(offer(&mut world, &laptop, &fork), Some(Denied::Client(Refusal::BrokenChain)));
    let touch = touch(&world);
    world.put(&mut laptop, KeyKind::Presence, &touch).expect("the trunk goes on");
}

/// An honest device that a host keeps on a fork names the anchor it knows: it cannot write its fork
/// over the one that the ledger anchors, however far ahead it is.
#[test]
fn a_fork_is_not_anchored_over_the_other() {
    let (mut world, mut laptop, mut phone) = World::with_phone();
    world.create(&mut laptop, RP, "alice").expect("created");
    let (fork, ahead) = world.on_a_fork(|world| {
        for _ in 0..3 {
            world.put(&mut phone, KeyKind::Presence, &touch(world)).expect("a fork grows");
        }
        world.vault()
    });
    world.create(&mut laptop, RP, "bob").expect("created");
    world.change_guard(&mut laptop, &Request::Anchor(world.base())).expect("anchored");
    assert_eq!((world.anchor(3).version, ahead.version), (2, 4));

    let known = world.anchor(2);
    let request = Request::Anchor(GuardBase { guard: 3, vault: ahead, anchor: known });
    let attach = |attach: &mut Attach| attach.vault = Some((4, fork.vaults[&4].clone()));
    let key = KeyKind::Presence;
    let denied = world.request_with(&phone, key, &request, Class::Guard, attach).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::BrokenChain)));
}

#[test]
fn a_touch_or_deletion_cannot_be_repeated_under_an_older_guard() {
    type Repeat = fn(&World) -> Request;
    let repeats: [(&str, Repeat); 2] = [
        ("touch", |world| Request::Touch(world.vault())),
        ("deletion", |world| {
            let (vault, slot) = (world.vault(), world.slot_at(1));
            Request::DeletePasskey(DeletePasskey { vault, slot })
        }),
    ];
    for (name, repeat) in repeats {
        let (mut world, mut laptop, phone) = World::with_phone();
        world.create(&mut laptop, RP, "alice").expect("created");
        let revoke = RevokeDevice { base: world.base(), device: phone.id() };
        world.change_guard(&mut laptop, &Request::RevokeDevice(revoke)).expect("revoked");
        let honest = repeat(&world);
        world.put(&mut laptop, KeyKind::UserVerification, &honest).expect("raised the floor");

        // The revoked phone makes the same event under the guard before its revocation, and goes
        // on from there.
        let mut fork = write_in_the_past(&mut world, &phone, repeat);
        let trunk = std::mem::replace(&mut world.stored, fork);
        let create = Request::CreatePasskey(world.create_request(RP, "mallory"));
        let key = KeyKind::UserVerification;
        world.request_with(&phone, key, &create, Class::Put(None), |_| {}).expect("a fork grows");
        fork = std::mem::replace(&mut world.stored, trunk);
        let denied = offer(&mut world, &laptop, &fork);
        assert_eq!(denied, Some(Denied::Client(Refusal::BrokenChain)), "{name}");
    }
}

#[test]
fn a_revoked_device_writes_nothing() {
    let (mut world, _, mut phone, created) = revoked_and_touched();
    for (name, request, class) in puts(&world, &created, world.vault()) {
        let denied = world.request(&mut phone, KeyKind::UserVerification, &request, class).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)), "{name}");
    }
}

#[test]
fn a_vault_opens_only_as_what_it_is() {
    type Bend = fn(&World, &mut Attach);
    let rows: [(&str, Bend); 7] = [
        ("named as the next version", |_, a| misname(&mut a.vault)),
        ("an older one named as the newest", |world, a| {
            a.vault = Some((2, world.stored.vaults[&1].clone()));
        }),
        ("salt damaged", |_, a| damage(&mut a.vault, 0)),
        ("ciphertext damaged", |_, a| damage(&mut a.vault, 32 * 8)),
        ("tag damaged", |_, a| damage(&mut a.vault, (32 + 128 + 16) * 8 - 1)),
        ("an audit event, which has the same size", |world, a| {
            a.vault = Some((1, world.stored.audit[&1].clone()));
        }),
        ("cut short", |_, a| {
            a.vault.as_mut().expect("a vault").1.pop();
        }),
    ];
    let (mut world, mut laptop) = World::enrolled();
    world.create(&mut laptop, RP, "alice").expect("created");
    world.create(&mut laptop, RP, "bob").expect("created");
    for (name, bend) in rows {
        let touch = touch(&world);
        let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &touch);
        let mut attach = world.attach(Class::Put(None), &sent.frame);
        bend(&world, &mut attach);
        let reply = world.handle(&sent, Class::Put(None), &attach);
        assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::State), "{name}");
    }
}

#[test]
fn another_accounts_vault_does_not_open() {
    let (mut world, mut laptop) = World::enrolled();
    world.create(&mut laptop, RP, "alice").expect("created");
    for other in [world.next_generation(), Account { id: AccountId([1; 32]), generation: 1 }] {
        let (theirs, _) = world.in_account(other, |world| {
            let mut device = world.enroll("tablet");
            world.create(&mut device, RP, "alice").expect("created")
        });
        let touch = touch(&world);
        let denied = world
            .request_with(&laptop, KeyKind::Presence, &touch, Class::Put(None), |attach| {
                attach.vault = Some((1, theirs.vaults[&1].clone()));
            })
            .err();
        assert_eq!(denied, Some(Denied::Host(HostRefusal::State)), "{other:?}");
    }
}

#[test]
fn signing_in_asks_for_no_vault() {
    let (mut world, mut laptop) = World::enrolled();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let request = Request::Assert(assert_request(&created));
    let class = Class::Assert(created.put.event.slot);
    world
        .request_with(&laptop, KeyKind::Presence, &request, class, |attach| {
            attach.vault = Some((1, flipped(&[0; 176], 0)));
        })
        .expect("a vault nobody asked for is not looked at");
}
