//! Sync against a hostile host: a device reaches the sealed point by the true events, or knows
//! that it has not.

use std::collections::BTreeMap;

use keyfold_protocol::client::{
    Action, Class, Created, DeletePasskey, KeyKind, PasskeyView, Refusal, Request, RevokeDevice,
    SyncedEvent,
};
use keyfold_protocol::host::{
    Attached, AttachedEvent, Claimed, Event, Handle, HostRefusal, HostReply, HostRequest,
};
use keyfold_protocol::ids::{Account, AccountId, ChainPoint, Digest, SlotId};
use keyfold_protocol::limits::PAGE;
use keyfold_protocol::transcript::Chain;
use keyfold_protocol::wire::Items;
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::decode;
use keyfold_tests::hostile::{RP, encoded, rename_request};
use keyfold_tests::world::{Attach, Denied, Stored, World, synced};

const BROKEN: Denied = Denied::Client(Refusal::BrokenChain);
const STALE_VAULT: Denied = Denied::Client(Refusal::StaleVault);
const STATE: Denied = Denied::Host(HostRefusal::State);

/// Pages until the cursor stands at the sealed point, folding the events as a client does.
fn sync_all(
    world: &mut World, device: &mut TestDevice, from: ChainPoint,
) -> (usize, BTreeMap<SlotId, Option<PasskeyView>>) {
    let (mut at, mut pages, mut slots) = (from, 0, BTreeMap::new());
    loop {
        let (sealed, cursor, events) = world.sync_page(device, at).expect("a page");
        pages += 1;
        for SyncedEvent { event, passkey } in events {
            at = Chain::Vault.next(sha256, &at, &event).expect("the next event");
            if event.action != Action::Touch {
                slots.insert(event.slot, passkey);
            }
        }
        assert_eq!(at, cursor, "the page leads where it says");
        if cursor == sealed {
            return (pages, slots);
        }
    }
}

#[test]
fn a_hundred_and_fifty_passkeys_come_in_pages() {
    let (mut world, mut laptop) = World::enrolled();
    let created: Vec<Created> = (0..150)
        .map(|user| world.create(&mut laptop, RP, &format!("user {user}")).expect("created"))
        .collect();
    let genesis = world.genesis();
    let (pages, slots) = sync_all(&mut world, &mut laptop, genesis);
    assert_eq!((pages, slots.len()), (3, 150));
    for (user, created) in created.iter().enumerate() {
        let view = slots[&created.put.event.slot].as_ref().expect("a passkey");
        assert_eq!(view.credential, created.credential);
        assert_eq!(view.user_handle.as_slice(), format!("user {user}").as_bytes());
    }

    // From the middle on: only what came after, and a rename of what came before.
    let middle = created[99].put.vault;
    let rename = Request::UpdatePasskey(rename_request(&world, &created[0], "renamed"));
    world.put(&mut laptop, KeyKind::Presence, &rename).expect("renamed");
    let (pages, slots) = sync_all(&mut world, &mut laptop, middle);
    assert_eq!((pages, slots.len()), (1, 51));
    let renamed = slots[&created[0].put.event.slot].as_ref().expect("a passkey");
    assert_eq!(renamed.names.name.as_str(), "renamed");

    // From the end: nothing, and that is known.
    let end = world.vault();
    assert_eq!(world.sync_page(&mut laptop, end).expect("a page"), (end, end, Vec::new()));

    // A page is at most that long.
    let sync = Request::Sync(genesis);
    let more = |attach: &mut Attach| {
        let one = attach.events[0].clone();
        attach.events.push(one);
        assert_eq!(attach.events.len(), PAGE + 1);
    };
    let denied = world.request_with(&laptop, KeyKind::Presence, &sync, Class::Sync(0), more).err();
    assert_eq!(denied, Some(Denied::Host(HostRefusal::Malformed)));
}

#[test]
fn a_full_page_of_the_largest_passkeys_fits() {
    let (mut world, mut laptop) = World::enrolled();
    for user in 0..PAGE {
        let longest = format!("{user:064}");
        world.create(&mut laptop, &"r".repeat(253), &longest).expect("the largest passkey");
    }
    let genesis = world.genesis();
    let (pages, slots) = sync_all(&mut world, &mut laptop, genesis);
    assert_eq!((pages, slots.len()), (1, PAGE));
}

/// A vault of six events: alice, bob, alice renamed, bob deleted, a touch, carol.
struct Scene {
    world: World,
    laptop: TestDevice,
    phone: TestDevice,
    /// The device's point after each event.
    points: Vec<ChainPoint>,
    alice: SlotId,
    bob: SlotId,
}

fn scene() -> Scene {
    let (mut world, mut laptop, phone) = World::with_phone();
    let mut points = vec![world.genesis()];
    let alice = world.create(&mut laptop, RP, "alice").expect("created");
    points.push(world.vault());
    let bob = world.create(&mut laptop, RP, "bob").expect("created");
    points.push(world.vault());
    let requests: [fn(&World, &Created, &Created) -> Request; 3] = [
        |world, alice, _| Request::UpdatePasskey(rename_request(world, alice, "renamed")),
        |world, _, bob| {
            let slot = bob.put.event.slot;
            Request::DeletePasskey(DeletePasskey { vault: world.vault(), slot })
        },
        |world, _, _| Request::Touch(world.vault()),
    ];
    for request in requests {
        let request = request(&world, &alice, &bob);
        world.put(&mut laptop, KeyKind::UserVerification, &request).expect("put");
        points.push(world.vault());
    }
    world.create(&mut laptop, RP, "carol").expect("created");
    points.push(world.vault());
    let (alice, bob) = (alice.put.event.slot, bob.put.event.slot);
    Scene { world, laptop, phone, points, alice, bob }
}

impl Scene {
    fn sync(
        &mut self, from: usize, bend: impl FnOnce(&Stored, &mut Attach),
    ) -> Result<(ChainPoint, ChainPoint, Vec<SyncedEvent>), Denied> {
        let from = self.points[from];
        let request = Request::Sync(from);
        let stored = self.world.stored.clone();
        let opened = self.world.request_with(
            &self.laptop,
            KeyKind::Presence,
            &request,
            Class::Sync(from.version),
            |attach| bend(&stored, attach),
        )?;
        Ok(synced(&opened))
    }
}

#[test]
fn a_sync_by_an_honest_host_is_whole() {
    let mut scene = scene();
    let genesis = scene.points[0];
    let (pages, slots) = sync_all(&mut scene.world, &mut scene.phone, genesis);
    assert_eq!((pages, slots.len()), (1, 3));
    assert_eq!(slots[&scene.alice].as_ref().expect("alice").names.name.as_str(), "renamed");
    assert_eq!(slots[&scene.bob], None, "a tombstone");
}

#[test]
fn a_host_cannot_change_history() {
    type Bend = fn(&Stored, &mut Attach);
    let rows: [(&str, usize, Bend, Denied); 24] = [
        ("hides the first event", 0, |_, a| drop(a.events.remove(0)), BROKEN),
        ("hides an event in the middle", 0, |_, a| drop(a.events.remove(2)), BROKEN),
        ("hides a tombstone", 0, |_, a| drop(a.events.remove(3)), BROKEN),
        ("reorders two events", 0, |_, a| a.events.swap(1, 2), BROKEN),
        (
            "reorders two events, renumbered",
            0,
            |_, a| {
                a.events.swap(1, 2);
                (a.events[1].0.version, a.events[2].0.version) = (2, 3);
                (a.events[1].1, a.events[2].1) = (None, None);
            },
            BROKEN,
        ),
        (
            "duplicates an event",
            0,
            |_, a| {
                let twice = a.events[1].clone();
                a.events.insert(1, twice);
            },
            BROKEN,
        ),
        (
            "replays the page before",
            3,
            |stored, a| {
                a.events = stored.attach(Class::Sync(0)).events;
            },
            BROKEN,
        ),
        ("turns a tombstone into a touch", 0, |_, a| a.events[3].0.action = Action::Touch, BROKEN),
        (
            "resurrects a deleted passkey",
            0,
            |stored, a| {
                let put = stored.events[&2];
                a.events[3].0 = Event { version: 4, ..put };
            },
            BROKEN,
        ),
        (
            "resurrects a deleted passkey with its record",
            0,
            |stored, a| {
                let put = stored.events[&2];
                a.events[3].0 = Event { version: 4, ..put };
                a.events[3].1 = Some(stored.records[&(put.slot, 2)].clone());
            },
            STATE,
        ),
        (
            "moves a tombstone to another slot",
            0,
            |stored, a| {
                a.events[3].0.slot = stored.events[&1].slot;
            },
            BROKEN,
        ),
        ("changes a digest", 0, |_, a| a.events[1].0.digest = Digest([1; 32]), BROKEN),
        ("renumbers an event", 0, |_, a| a.events[1].0.version = 7, BROKEN),
        (
            "gives an event another slot's record",
            0,
            |stored, a| {
                a.events[2].1 = Some(stored.records[&(stored.events[&6].slot, 6)].clone());
            },
            STATE,
        ),
        (
            "gives an event an older record of its slot",
            0,
            |stored, a| {
                a.events[2].1 = Some(stored.records[&(stored.events[&1].slot, 1)].clone());
            },
            STATE,
        ),
        (
            "damages a record",
            0,
            |_, a| {
                a.events[5].1.as_mut().expect("a record")[40] ^= 1;
            },
            STATE,
        ),
        (
            "adds an event that never was",
            0,
            |stored, a| {
                let event = Event { version: 7, ..stored.events[&5] };
                a.events.push((event, None));
            },
            STALE_VAULT,
        ),
        (
            "attaches an older vault to all events",
            0,
            |stored, a| {
                a.vault = Some((3, stored.vaults[&3].clone()));
            },
            STALE_VAULT,
        ),
        (
            "attaches a vault older than the device",
            6,
            |stored, a| {
                a.vault = Some((3, stored.vaults[&3].clone()));
                a.events.clear();
            },
            STALE_VAULT,
        ),
        (
            "serves an empty vault",
            6,
            |_, a| {
                a.vault = None;
                a.events.clear();
            },
            STALE_VAULT,
        ),
        ("serves an empty vault with the events", 0, |_, a| a.vault = None, STALE_VAULT),
        (
            "names the vault another version",
            0,
            |_, a| a.vault.as_mut().expect("a vault").0 = 5,
            STATE,
        ),
        (
            "attaches the guard before the phone",
            0,
            |stored, a| {
                a.guard = Some((1, stored.guards[&1].clone()));
            },
            Denied::Client(Refusal::StaleGuard),
        ),
        ("attaches no guard", 0, |_, a| a.guard = None, STATE),
    ];
    let mut scene = scene();
    for (name, from, bend, expected) in rows {
        let denied = scene.sync(from, bend).err();
        assert_eq!(denied, Some(expected), "the host {name}");
    }
    scene.sync(0, |_, _| {}).expect("and the honest one is served");
}

#[test]
fn a_hidden_tail_is_seen_as_one() {
    let mut scene = scene();
    for hidden in 1..=6 {
        let bend = |_: &Stored, a: &mut Attach| a.events.truncate(6 - hidden);
        let (sealed, cursor, events) = scene.sync(0, bend).expect("a page");
        assert_eq!(sealed, scene.points[6]);
        assert_eq!(cursor, scene.points[6 - hidden], "the page says how far it leads");
        assert_eq!(events.len(), 6 - hidden);
    }
}

#[test]
fn a_withheld_record_is_seen_as_one() {
    let mut scene = scene();
    let (_, _, events) = scene.sync(0, |_, a| a.events[5].1 = None).expect("a page");
    assert_eq!((events[5].event.action, &events[5].passkey), (Action::Put, &None));
    assert!(!events.iter().any(|later| later.event.slot == events[5].event.slot
        && later.event.version > events[5].event.version));
}

#[test]
fn a_tombstone_brings_no_passkey_whatever_is_attached() {
    let mut scene = scene();
    let (_, _, events) = scene
        .sync(0, |stored, a| {
            a.events[3].1 = Some(stored.records[&(stored.events[&2].slot, 2)].clone())
        })
        .expect("a page");
    assert_eq!((events[3].event.action, &events[3].passkey), (Action::Delete, &None));
}

#[test]
fn a_record_of_a_fork_is_not_the_events() {
    // Same slot, same version, sealed by the core itself: only the chain's digest tells them apart.
    let (mut world, mut laptop) = World::enrolled();
    let (fork, _) =
        world.on_a_fork(|world| world.create(&mut laptop, RP, "alice").expect("forked"));
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let key = (created.put.event.slot, 1);
    let sync = Request::Sync(world.genesis());
    let denied = world
        .request_with(&laptop, KeyKind::Presence, &sync, Class::Sync(0), |attach| {
            attach.events[0].1 = Some(fork.records[&key].clone());
        })
        .err();
    assert_eq!(denied, Some(BROKEN));
}

#[test]
fn a_fork_is_not_a_future() {
    let (mut world, mut laptop, mut phone) = World::with_phone();
    world.create(&mut laptop, RP, "alice").expect("created");
    let (fork, _) = world.on_a_fork(|world| {
        world.create(&mut phone, RP, "bob").expect("forked");
        world.create(&mut phone, RP, "dave").expect("forked");
    });
    world.create(&mut laptop, RP, "carol").expect("created");
    // At the same version, and beyond it.
    for (name, version) in [("sideways", 2), ("onwards", 3u64)] {
        let sync = Request::Sync(world.vault());
        let denied = world
            .request_with(&laptop, KeyKind::Presence, &sync, Class::Sync(2), |attach| {
                attach.vault = Some((version, fork.vaults[&version].clone()));
                let events = fork.events.range(3..version + 1);
                attach.events = events.map(|(_, event)| (*event, None)).collect();
            })
            .err();
        assert_eq!(denied, Some(BROKEN), "{name}");
    }
}

#[test]
fn a_sync_from_zero_passes_through_the_guards_anchor() {
    let (mut world, mut laptop) = World::enrolled();
    world.create(&mut laptop, RP, "alice").expect("created");
    // A longer history beside the anchored one, by a guard from before the anchor.
    let (fork, _) = world.on_a_fork(|world| {
        world.create(&mut laptop, RP, "bob").expect("forked");
        world.create(&mut laptop, RP, "dave").expect("forked");
    });
    world.create(&mut laptop, RP, "carol").expect("created");
    let anchor = Request::Anchor(world.base());
    world.change_guard(&mut laptop, &anchor).expect("anchored at 2");
    let alice = ChainPoint { version: 1, ..point_at(&world, 1) };
    for (from, events) in [(world.genesis(), 1..), (alice, 2..)] {
        let sync = Request::Sync(from);
        let denied = world
            .request_with(&laptop, KeyKind::Presence, &sync, Class::Sync(from.version), |attach| {
                attach.vault = Some((3, fork.vaults[&3].clone()));
                attach.events = fork.events.range(events).map(|(_, e)| (*e, None)).collect();
            })
            .err();
        assert_eq!(denied, Some(BROKEN), "from {}", from.version);
    }
}

fn point_at(world: &World, version: u64) -> ChainPoint {
    let events = world.stored.events.range(..=version);
    events.fold(world.genesis(), |at, (_, event)| {
        Chain::Vault.next(sha256, &at, event).expect("the next event")
    })
}

#[test]
fn a_sync_starts_where_the_chain_was() {
    let Scene { mut world, mut laptop, points, .. } = scene();
    // Anchored, so that the guard knows the end and no longer the beginning.
    let anchor = Request::Anchor(world.base());
    world.change_guard(&mut laptop, &anchor).expect("anchored");
    let (end, head) = (points[6], Digest([1; 32]));
    let next = Chain::Vault.genesis(sha256, &world.next_generation());
    let rows = [
        ("zero, but not this account's", ChainPoint { version: 0, head }, 6, BROKEN),
        ("zero of the next generation", next, 6, BROKEN),
        // A page that stops early is refused too: the start alone is wrong.
        ("zero of the next generation, to the middle", next, 3, BROKEN),
        ("zero of the next generation, to nowhere", next, 0, BROKEN),
        ("the end with another head", ChainPoint { head, ..end }, 0, BROKEN),
        ("the middle with another head", ChainPoint { version: 3, head }, 3, BROKEN),
        ("ahead of the vault", ChainPoint { version: 7, ..end }, 0, STALE_VAULT),
        ("far ahead of the vault", ChainPoint { version: u64::MAX, ..end }, 0, STALE_VAULT),
    ];
    for (name, from, events, expected) in rows {
        let (sync, class) = (Request::Sync(from), Class::Sync(from.version));
        let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &sync);
        let mut attach = world.stored.attach(Class::Sync(from.version.min(6)));
        attach.events.truncate(events);
        let denied = world.finish(&sent, class, &attach).err();
        assert_eq!(denied, Some(expected), "from {name}");
    }
}

#[test]
fn nothing_of_another_account_comes_in() {
    let mut scene = scene();
    let other = Account { id: AccountId([1; 32]), generation: 1 };
    for other in [other, scene.world.next_generation()] {
        let (theirs, ()) = scene.world.in_account(other, |world| {
            let mut device = world.enroll("tablet");
            world.create(&mut device, RP, "alice").expect("created");
            world.create(&mut device, RP, "bob").expect("created");
        });
        type Bend = fn(&Stored, &mut Attach);
        let rows: [(&str, Bend, Denied); 4] = [
            ("guard", |theirs, a| a.guard = Some((1, theirs.guards[&1].clone())), STATE),
            ("vault", |theirs, a| a.vault = Some((2, theirs.vaults[&2].clone())), STATE),
            ("event", |theirs, a| a.events[0] = (theirs.events[&1], None), BROKEN),
            (
                "record",
                |theirs, a| {
                    let slot = theirs.events[&1].slot;
                    a.events[0].1 = Some(theirs.records[&(slot, 1)].clone());
                },
                STATE,
            ),
        ];
        for (name, bend, expected) in rows {
            let denied = scene.sync(0, |_, attach| bend(&theirs, attach)).err();
            assert_eq!(denied, Some(expected), "a {name} of {other:?}");
        }
    }
}

#[test]
fn a_guard_older_than_the_vault_or_a_record_opens_neither() {
    let mut scene = scene();
    let Scene { world, laptop, phone, points, .. } = &mut scene;
    let (fork, ()) = world.on_a_fork(|world| {
        world.create(phone, RP, "erin").expect("forked");
        world.create(phone, RP, "frank").expect("forked");
    });
    world.approve(laptop, &TestDevice::new("tablet")).expect("approved");
    let dave = world.create(laptop, RP, "dave").expect("created under guard 3").put.event;
    let record = world.stored.records[&(dave.slot, 7)].clone();
    let older = (2, world.stored.guards[&2].clone());
    let vaults =
        [("the newest vault", &world.stored, 7), ("a vault as old as the guard", &fork, 8)];
    let vaults = vaults.map(|(name, of, version)| (name, (version, of.vaults[&version].clone())));
    for (name, vault) in vaults {
        let sync = Request::Sync(points[6]);
        let denied = world
            .request_with(phone, KeyKind::Presence, &sync, Class::Sync(6), |attach| {
                attach.guard = Some(older.clone());
                attach.vault = Some(vault);
                attach.events = vec![(dave, Some(record.clone()))];
            })
            .err();
        assert_eq!(denied, Some(Denied::Client(Refusal::StaleGuard)), "{name}");
    }
}

#[test]
fn a_revoked_device_is_not_synced() {
    let mut scene = scene();
    let revoke = RevokeDevice { base: scene.world.base(), device: scene.phone.id() };
    scene.world.change_guard(&mut scene.laptop, &Request::RevokeDevice(revoke)).expect("revoked");
    let genesis = scene.points[0];
    let denied = scene.world.sync_page(&mut scene.phone, genesis).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)));
}

#[test]
fn items_that_are_no_events_are_refused() {
    let mut scene = scene();
    let event = encoded(&AttachedEvent { event: scene.world.stored.events[&1], record: None });
    let mut over_long = event.clone();
    over_long.splice(0..1, [0x81, 0x00]);
    let mut unknown_action = event.clone();
    unknown_action[33] = 4;
    for (name, items) in [
        ("garbage", vec![0xff; 40]),
        ("cut short", event[..event.len() - 1].to_vec()),
        ("an event and a half", [&event[..], &event[..10]].concat()),
        ("an over-long version", over_long),
        ("an unknown action", unknown_action),
        ("a record longer than the frame", [&event[..event.len() - 1], &[1, 0xff, 0x7f]].concat()),
    ] {
        let world = &mut scene.world;
        let sync = Request::Sync(scene.points[0]);
        let sent = world.session.seal(&scene.laptop, KeyKind::Presence, &world.account, &sync);
        let attach = world.attach(Class::Sync(0), &sent.frame);
        fn attached(of: &Option<(u64, Vec<u8>)>) -> Option<Attached<'_>> {
            let (version, sealed) = of.as_ref()?;
            Some(Attached { version: Claimed(*version), sealed })
        }
        let reply = world.enclave.call(&HostRequest::Handle(Handle {
            session: world.session.id,
            account: world.account,
            counter: sent.counter,
            class: Class::Sync(0),
            frame: &sent.frame,
            time: Claimed(0),
            guard: attached(&attach.guard),
            vault: attached(&attach.vault),
            record: None,
            fresh: None,
            events: Items::new(&items),
            audit: Items::empty(),
        }));
        assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::Malformed), "{name}");
    }
}
