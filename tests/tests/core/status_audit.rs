//! Status and Audit against a hostile host: they report only what the ledger confirms for this
//! very request, and history comes whole.

use keyfold_protocol::client::{
    AccountStatus, Action, AuditEvent, AuditKind, Class, KeyKind, Outcome, Refusal, Request,
    RevokeDevice, Success,
};
use keyfold_protocol::host::{Event, FreshRead, HostRefusal, HostReply};
use keyfold_protocol::ids::{Account, AccountId, ChainPoint, Digest, LedgerTag, SlotId};
use keyfold_protocol::limits::PAGE;
use keyfold_protocol::transcript::{Chain, LedgerClaim};
use keyfold_protocol::wire::decode_padded;
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::decode;
use keyfold_tests::hostile::{RP, encoded, every_request, flipped};
use keyfold_tests::ledger::Ledger;
use keyfold_tests::world::{Attach, Denied, Stored, World};

const NOT_FRESH: Option<Denied> = Some(Denied::Client(Refusal::NotFresh));
const BROKEN: Denied = Denied::Client(Refusal::BrokenChain);
const STALE: Denied = Denied::Client(Refusal::StaleVault);
const STATE: Denied = Denied::Host(HostRefusal::State);

fn status(world: &mut World, device: &mut TestDevice) -> Result<AccountStatus, Denied> {
    let opened = world.request(device, KeyKind::Presence, &Request::Status, Class::Status)?;
    match opened.outcome() {
        Ok(Success::Status(status)) => Ok(status),
        other => panic!("not a status: {other:?}"),
    }
}

/// Where a page leads, what the guard says the end is, and the events.
type Page = (ChainPoint, ChainPoint, Vec<AuditEvent>);

fn audit_with(
    world: &mut World, device: &TestDevice, from: ChainPoint, bend: impl FnOnce(&mut Attach),
) -> Result<Page, Denied> {
    let (request, class) = (Request::Audit(from), Class::Audit(from.version));
    let opened = world.request_with(device, KeyKind::Presence, &request, class, bend)?;
    match opened.outcome() {
        Ok(Success::Audited(page)) => {
            let end = ChainPoint { version: page.guard, head: page.audit_head };
            Ok((page.cursor, end, page.items.map(|item| item.expect("an event")).collect()))
        }
        other => panic!("not a history: {other:?}"),
    }
}

#[test]
fn a_report_needs_a_read_of_its_very_frame() {
    type Read = fn(&Ledger, LedgerTag, Digest, [u8; 32]) -> Option<Vec<u8>>;
    let rows: [(&str, Read); 12] = [
        ("none", |_, _, _, _| None),
        ("an empty one", |_, _, _, _| Some(Vec::new())),
        ("one bit changed", |l, tag, digest, nonce| {
            let right = l.claim(&LedgerClaim::Read(nonce), &tag, 2, &digest);
            Some(flipped(&right, right.len() * 8 - 1))
        }),
        ("another nonce", |l, tag, digest, nonce| {
            let nonce = sha256(&[&nonce]);
            Some(l.claim(&LedgerClaim::Read(nonce), &tag, 2, &digest))
        }),
        ("no nonce", |l, tag, digest, _| {
            Some(l.claim(&LedgerClaim::Read([0; 32]), &tag, 2, &digest))
        }),
        ("the append", |l, _, _, _| Some(l.receipts[1].clone())),
        ("an append with the nonce", |l, tag, digest, nonce| {
            let mut claim = LedgerClaim::Read(nonce).bytes(&tag, 2, &digest);
            claim[16] = 1;
            Some(l.sign_claim(&claim))
        }),
        ("of another tag", |l, _, digest, nonce| {
            Some(l.claim(&LedgerClaim::Read(nonce), &LedgerTag([1; 32]), 2, &digest))
        }),
        ("of another version", |l, tag, digest, nonce| {
            Some(l.claim(&LedgerClaim::Read(nonce), &tag, 3, &digest))
        }),
        ("of another guard", |l, tag, _, nonce| {
            Some(l.claim(&LedgerClaim::Read(nonce), &tag, 2, &Digest([1; 32])))
        }),
        ("of another ledger", |_, tag, digest, nonce| {
            Some(Ledger::new().claim(&LedgerClaim::Read(nonce), &tag, 2, &digest))
        }),
        ("of another issuer", |l, tag, digest, nonce| {
            let claim = sha256(&[&LedgerClaim::Read(nonce).bytes(&tag, 2, &digest)]);
            Some(l.sign(&claim, "other.test", &[(true, [1; 32])]))
        }),
    ];
    let (mut world, laptop, _) = World::with_phone();
    let (tag, digest) = (world.stored.tag.expect("a tag"), world.stored.staged[1].digest);
    let reports = [
        ("Status", Request::Status, Class::Status),
        ("Audit", Request::Audit(world.audit_genesis()), Class::Audit(0)),
    ];
    for (report, request, class) in reports {
        for (name, read) in rows {
            let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &request);
            let mut attach = world.attach(class, &sent.frame);
            attach.fresh = read(&world.ledger, tag, digest, sha256(&[&sent.frame]));
            let denied = world.finish(&sent, class, &attach).err();
            assert_eq!(denied, NOT_FRESH, "{report}, the read is {name}");
        }
        let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &request);
        let mut attach = world.attach(class, &sent.frame);
        let nonce = LedgerClaim::Read(sha256(&[&sent.frame]));
        attach.fresh = Some(world.ledger.claim(&nonce, &tag, 2, &digest));
        world.finish(&sent, class, &attach).expect("the right one is served");
    }
}

#[test]
fn a_read_serves_one_frame_only() {
    let (mut world, laptop, _) = World::with_phone();
    let seal = |world: &mut World| {
        world.session.seal(&laptop, KeyKind::Presence, &world.account, &Request::Status)
    };
    let (first, second) = (seal(&mut world), seal(&mut world));
    let attach = world.attach(Class::Status, &first.frame);
    world.finish(&first, Class::Status, &attach).expect("its own");
    assert_eq!(world.finish(&second, Class::Status, &attach).err(), NOT_FRESH);
}

#[test]
fn a_guard_that_the_ledger_has_left_behind_is_not_reported() {
    let (mut world, mut laptop, _) = World::with_phone();
    let audit = Request::Audit(world.audit_genesis());
    let old = (1, world.stored.guards[&1].clone());
    let reports = [("Status", Request::Status, Class::Status), ("Audit", audit, Class::Audit(0))];
    for (guard_seen, expected) in [(2, Refusal::StaleGuard), (0, Refusal::NotFresh)] {
        laptop.guard_seen = guard_seen;
        for (name, request, class) in &reports {
            let attach = |attach: &mut Attach| attach.guard = Some(old.clone());
            let key = KeyKind::Presence;
            let denied = world.request_with(&laptop, key, request, *class, attach).err();
            let expected = Some(Denied::Client(expected));
            assert_eq!(denied, expected, "{name} to a device that knows {guard_seen}");
        }
    }
}

#[test]
fn always_means_every_request() {
    let mut world = World::with(FreshRead::Always);
    let mut laptop = world.enroll("laptop");
    let phone = TestDevice::new("phone");
    world.approve(&mut laptop, &phone).expect("approved");
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let old = (1, world.stored.guards[&1].clone());
    for (name, request, class) in every_request(&world, &created, phone.id()) {
        let key = KeyKind::UserVerification;
        let denied =
            world.request_with(&laptop, key, &request, class, |attach| attach.fresh = None).err();
        assert_eq!(denied, NOT_FRESH, "{name} without a read");

        laptop.guard_seen = 0;
        let attach = |attach: &mut Attach| attach.guard = Some(old.clone());
        let denied = world.request_with(&laptop, key, &request, class, attach).err();
        assert_eq!(denied, NOT_FRESH, "{name} on a guard the ledger has left behind");
    }
    world.create(&mut laptop, RP, "bob").expect("with a read it is served");
}

#[test]
fn reports_only_means_the_others_go_without() {
    let (mut world, mut laptop, phone) = World::with_phone();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    for (name, request, class) in every_request(&world, &created, phone.id()) {
        let is_report = matches!(class, Class::Status | Class::Audit(_));
        let key = KeyKind::UserVerification;
        let sent = world.session.seal(&laptop, key, &world.account, &request);
        let mut attach = world.attach(class, &sent.frame);
        attach.fresh = None;
        let reply = world.handle(&sent, class, &attach);
        // A guard change is served by being staged.
        let served = match decode(&reply) {
            HostReply::Staged(_) => true,
            HostReply::Reply(reply) => {
                let plaintext = sent.open(reply.sealed).expect("its reply");
                decode_padded::<Outcome>(&plaintext).expect("an outcome").is_ok()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(served, !is_report, "{name}");
    }
}

#[test]
fn a_wrong_read_is_refused_even_where_none_is_needed() {
    let (mut world, mut laptop) = World::enrolled();
    let touch = Request::Touch(world.vault());
    let receipt = world.ledger.receipts[0].clone();
    let attach = |attach: &mut Attach| attach.fresh = Some(receipt);
    let denied =
        world.request_with(&laptop, KeyKind::Presence, &touch, Class::Put(None), attach).err();
    assert_eq!(denied, NOT_FRESH);
    world.put(&mut laptop, KeyKind::Presence, &touch).expect("without one it is served");
}

#[test]
fn a_status_says_how_things_stand() {
    let (mut world, mut laptop, phone) = World::with_phone();
    world.create(&mut laptop, RP, "alice").expect("created");
    let anchored = world.vault();
    let anchor = Request::Anchor(world.base());
    let changed = world.change_guard(&mut laptop, &anchor).expect("anchored");
    world.create(&mut laptop, RP, "bob").expect("created");
    let status = status(&mut world, &mut laptop).expect("status");
    assert_eq!((status.guard, status.audit_head), (3, changed.audit_head));
    assert_eq!((status.anchor, status.vault), (anchored, world.vault()));
    let devices: Vec<_> = status.devices.iter().map(|d| (d.id, d.name.as_str())).collect();
    assert_eq!(devices, [(laptop.id(), "laptop"), (phone.id(), "phone")]);
}

#[test]
fn a_status_shows_no_vault_older_than_the_anchor() {
    let (mut world, mut laptop) = World::enrolled();
    world.create(&mut laptop, RP, "alice").expect("created");
    let anchor = Request::Anchor(world.base());
    world.change_guard(&mut laptop, &anchor).expect("anchored");
    let attach = |attach: &mut Attach| attach.vault = None;
    let denied = world
        .request_with(&laptop, KeyKind::Presence, &Request::Status, Class::Status, attach)
        .err();
    assert_eq!(denied, Some(STALE));
}

/// Enrolled, phone added, anchored, phone revoked, anchored.
fn five_versions() -> (World, TestDevice, TestDevice) {
    let (mut world, mut laptop, phone) = World::with_phone();
    let requests: [fn(&World, &TestDevice) -> Request; 3] = [
        |world, _| Request::Anchor(world.base()),
        |world, phone| {
            Request::RevokeDevice(RevokeDevice { base: world.base(), device: phone.id() })
        },
        |world, _| Request::Anchor(world.base()),
    ];
    for request in requests {
        world.time += 60;
        let request = request(&world, &phone);
        world.change_guard(&mut laptop, &request).expect("changed");
    }
    (world, laptop, phone)
}

#[test]
fn every_guard_change_leaves_one_event_of_one_size() {
    let (mut world, laptop, phone) = five_versions();
    let genesis = world.audit_genesis();
    let (cursor, end, events) = audit_with(&mut world, &laptop, genesis, |_| {}).expect("a page");
    let (l, p, time) = (laptop.id(), phone.id(), 1_800_000_000);
    let expected = [
        (AuditKind::Enrolled, l, time),
        (AuditKind::DeviceAdded, p, time),
        (AuditKind::Anchored, l, time + 60),
        (AuditKind::DeviceRevoked, p, time + 120),
        (AuditKind::Anchored, l, time + 180),
    ];
    assert_eq!(events.len(), expected.len());
    for ((version, event), (kind, subject, host_time)) in (1..).zip(&events).zip(expected) {
        let expected = AuditEvent { version, kind, actor: l, subject, host_time };
        assert_eq!(*event, expected);
    }

    // The chain, folded again by hand, leads where the guard says.
    let folded = events.iter().fold(genesis, |at, event| {
        let digest = Digest(sha256(&[b"keyfold/audit-event/1", &encoded(event)]));
        let slot = SlotId([0; 32]);
        let action = Action::Audit;
        let event = Event { version: event.version, slot, action, digest };
        Chain::Audit.next(sha256, &at, &event).expect("the next event")
    });
    assert_eq!((folded, cursor), (end, end));

    assert!(world.stored.staged.iter().all(|staged| staged.guard.len() == 4096 + 48));
    assert!(world.stored.audit.values().all(|event| event.len() == 128 + 48));
    assert!(world.stored.guards.values().all(|live| live.len() == 4096 + 48));
}

#[test]
fn a_host_cannot_change_an_accounts_history() {
    type Bend = fn(&Stored, &mut Attach);
    let rows: [(&str, u64, Bend, Denied); 9] = [
        ("hides the first event", 0, |_, a| drop(a.audit.remove(0)), STATE),
        ("hides an event in the middle", 0, |_, a| drop(a.audit.remove(2)), STATE),
        ("reorders two events", 0, |_, a| a.audit.swap(1, 2), STATE),
        ("duplicates an event", 0, |_, a| a.audit.insert(1, a.audit[1].clone()), STATE),
        ("replays the page before", 2, |s, a| a.audit = s.attach(Class::Audit(0)).audit, STATE),
        ("damages an event", 0, |_, a| a.audit[1][40] ^= 1, STATE),
        ("cuts an event short", 0, |_, a| a.audit[1].truncate(175), STATE),
        ("attaches a vault for an event", 0, |s, a| a.audit[0] = s.vaults[&1].clone(), STATE),
        (
            "attaches a staged guard for an event",
            0,
            |s, a| a.audit[4] = s.staged[5].guard.clone(),
            STATE,
        ),
    ];
    let (mut world, mut laptop, _) = five_versions();
    world.create(&mut laptop, RP, "alice").expect("created");
    // A change that was staged for version 5 and never came to be.
    let (fork, ()) = world.on_a_fork(|world| {
        world.stored.guards.remove(&5);
        let whole = world.stored.clone();
        world.stored.vaults.clear();
        world.stored.events.clear();
        let knows = std::mem::replace(&mut laptop.guard_seen, 4);
        let anchor = Request::Anchor(world.base());
        world.time += 1;
        let (_, row) = world.stage(&laptop, &anchor, Class::Guard);
        assert_eq!(row.version, 5);
        laptop.guard_seen = knows;
        world.stored = whole;
        world.stored.staged.push(row);
    });
    for (name, from, bend, expected) in rows {
        let from = point_at(&mut world, &laptop, from);
        let denied = audit_with(&mut world, &laptop, from, |attach| bend(&fork, attach)).err();
        assert_eq!(denied, Some(expected), "the host {name}");
    }
}

/// The audit chain's point at a version, by an honest page cut short.
fn point_at(world: &mut World, device: &TestDevice, version: u64) -> ChainPoint {
    let genesis = world.audit_genesis();
    let length = usize::try_from(version).expect("a small version");
    let cut = |attach: &mut Attach| attach.audit.truncate(length);
    audit_with(world, device, genesis, cut).expect("a page").0
}

#[test]
fn a_history_that_stops_early_says_so() {
    let (mut world, laptop, _) = five_versions();
    for length in 0..5 {
        let cut = |attach: &mut Attach| attach.audit.truncate(length);
        let genesis = world.audit_genesis();
        let (cursor, end, events) = audit_with(&mut world, &laptop, genesis, cut).expect("a page");
        assert_eq!((events.len(), end.version), (length, 5));
        assert_eq!(cursor.version, u64::try_from(length).expect("small"));
        assert_ne!(cursor, end);
    }
}

#[test]
fn a_history_starts_where_the_chain_was() {
    let (mut world, laptop, _) = five_versions();
    let head = Digest([1; 32]);
    let end = point_at(&mut world, &laptop, 5);
    let next = Chain::Audit.genesis(sha256, &world.next_generation());
    let rows = [
        ("zero, but not this account's", ChainPoint { version: 0, head }, BROKEN),
        // Also in a page that stops early: the start alone is wrong.
        ("zero of the next generation", next, BROKEN),
        ("the vault's genesis", world.genesis(), BROKEN),
        ("the middle with another head", ChainPoint { version: 3, head }, BROKEN),
        ("the end with another head", ChainPoint { version: 5, head }, BROKEN),
        ("ahead of the guard", ChainPoint { version: 6, ..end }, STALE),
        ("far ahead of the guard", ChainPoint { version: u64::MAX - 1, ..end }, STALE),
    ];
    for (name, from, expected) in rows {
        for length in [5, 3, 0] {
            let cut = |attach: &mut Attach| attach.audit.truncate(length);
            // A wrong start in the middle shows at the end.
            if (1..5).contains(&from.version) && length < 5 {
                continue;
            }
            let denied = audit_with(&mut world, &laptop, from, cut).err();
            assert_eq!(denied, Some(expected), "from {name}, {length} events");
        }
    }
}

#[test]
fn nothing_of_another_accounts_history_comes_in() {
    let (mut world, laptop, _) = five_versions();
    for other in [world.next_generation(), Account { id: AccountId([1; 32]), generation: 1 }] {
        let (theirs, _) = world.in_account(other, |world| world.enroll("tablet"));
        let genesis = world.audit_genesis();
        let foreign = |attach: &mut Attach| attach.audit[0] = theirs.audit[&1].clone();
        let denied = audit_with(&mut world, &laptop, genesis, foreign).err();
        assert_eq!(denied, Some(STATE), "{other:?}");
    }
}

#[test]
fn a_long_history_comes_in_pages() {
    let (mut world, mut laptop) = World::enrolled();
    let versions = PAGE + 6;
    for _ in 1..versions {
        let anchor = Request::Anchor(world.base());
        world.change_guard(&mut laptop, &anchor).expect("anchored");
    }
    let (mut at, mut lengths) = (world.audit_genesis(), Vec::new());
    loop {
        let (cursor, end, events) = audit_with(&mut world, &laptop, at, |_| {}).expect("a page");
        lengths.push(events.len());
        at = cursor;
        if cursor == end {
            break;
        }
    }
    assert_eq!(lengths, [PAGE, 6]);

    let genesis = world.audit_genesis();
    let all = world.stored.audit.values().cloned().collect();
    let denied = audit_with(&mut world, &laptop, genesis, |attach| attach.audit = all).err();
    assert_eq!(denied, Some(Denied::Host(HostRefusal::Malformed)), "more than a page");
}

#[test]
fn a_revoked_device_gets_no_report() {
    let (mut world, _, mut phone) = five_versions();
    let denied = status(&mut world, &mut phone).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)));
    let genesis = world.audit_genesis();
    let denied = audit_with(&mut world, &phone, genesis, |_| {}).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)));
}
