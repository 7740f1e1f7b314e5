//! The guard against a hostile host and hostile clients: nothing changes who may use an account
//! but a request signed for its exact version, committed by the ledger.

use keyfold_protocol::client::{
    ApproveDevice, ChangePin, Class, Enroll, GuardBase, KeyKind, Refusal, Request, RevokeDevice,
    StretchedPin,
};
use keyfold_protocol::host::{HostRefusal, HostReply};
use keyfold_protocol::ids::{Account, AccountId, ChainPoint, Digest, LedgerTag};
use keyfold_protocol::transcript::LedgerClaim;
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::{Enclave, decode, label};
use keyfold_tests::hostile::{RP, assert_request, damage, every_request, flipped, misname};
use keyfold_tests::ledger::{ISSUER, Ledger};
use keyfold_tests::world::{Attach, Denied, StagedRow, Stored, World};

const STATE: Denied = Denied::Host(HostRefusal::State);

pub(crate) fn approve(world: &World, device: &TestDevice) -> Request {
    Request::ApproveDevice(ApproveDevice { base: world.base(), device: device.public() })
}

pub(crate) fn enroll(device: &TestDevice) -> Request {
    Request::Enroll(Enroll { pin: StretchedPin([9; 32]), device: device.public() })
}

/// How many guard changes a trusted device can ask for.
const CHANGES: usize = 5;

/// Each guard change of a trusted device, from this base.
pub(crate) fn changes(
    base: GuardBase, other: &TestDevice,
) -> [(&'static str, Request, Class); CHANGES] {
    let approve = ApproveDevice { base, device: TestDevice::new("new").public() };
    let revoke = RevokeDevice { base, device: other.id() };
    let change_pin = ChangePin { base, pin: StretchedPin([7; 32]) };
    [
        ("ApproveDevice", Request::ApproveDevice(approve), Class::Guard),
        ("RevokeDevice", Request::RevokeDevice(revoke), Class::GuardFresh),
        ("Anchor", Request::Anchor(base), Class::Guard),
        ("ChangePin", Request::ChangePin(change_pin), Class::GuardFresh),
        ("DeleteAccount", Request::DeleteAccount(base), Class::GuardFresh),
    ]
}

#[test]
fn a_staged_guard_authorises_nothing() {
    let (mut world, laptop) = World::enrolled();
    let phone = TestDevice::new("phone");
    let request = approve(&world, &phone);
    let (_, row) = world.stage(&laptop, &request, Class::Guard);
    for version in [1, 2] {
        for (device, name) in [(&phone, "the new device"), (&laptop, "the old device")] {
            let denied = world
                .request_with(
                    device,
                    KeyKind::UserVerification,
                    &Request::Touch(world.vault()),
                    Class::Put(None),
                    |attach| attach.guard = Some((version, row.guard.clone())),
                )
                .err();
            assert_eq!(denied, Some(STATE), "{name}, named as version {version}");
        }
    }
}

#[test]
fn a_live_guard_is_not_a_staged_one() {
    let (mut world, _, _) = World::with_phone();
    let staged = world.stored.staged[1].clone();
    let receipt = world.ledger.receipts[1].clone();
    let live = StagedRow { guard: world.stored.guards[&2].clone(), ..staged };
    let reply = world.commit(&live, &receipt);
    assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::State));
}

#[test]
fn a_commit_needs_exactly_its_own_receipt() {
    type Receipt = fn(&World, &StagedRow, &[u8]) -> Vec<u8>;
    const APPEND: LedgerClaim = LedgerClaim::Append;
    let rows: [(&str, Receipt); 13] = [
        ("none", |_, _, _| Vec::new()),
        ("a damaged one", |_, _, right| flipped(right, right.len() * 8 - 1)),
        ("one with a byte too many", |_, _, right| [right, &[0]].concat()),
        ("of another tag", |world, row, _| {
            world.ledger.claim(&APPEND, &LedgerTag([1; 32]), row.version, &row.digest)
        }),
        ("of another version", |world, row, _| {
            world.ledger.claim(&APPEND, &row.tag, row.version + 1, &row.digest)
        }),
        ("of another digest", |world, row, _| {
            world.ledger.claim(&APPEND, &row.tag, row.version, &Digest([1; 32]))
        }),
        ("of a read with a zero nonce", |world, row, _| {
            let read = LedgerClaim::Read([0; 32]);
            world.ledger.claim(&read, &row.tag, row.version, &row.digest)
        }),
        ("of a read with a nonce", |world, row, _| {
            let read = LedgerClaim::Read([7; 32]);
            world.ledger.claim(&read, &row.tag, row.version, &row.digest)
        }),
        ("of an append with a nonce", |world, row, _| {
            let mut claim = APPEND.bytes(&row.tag, row.version, &row.digest);
            claim[120] = 1;
            world.ledger.sign_claim(&claim)
        }),
        ("of another application of the ledger", |world, row, _| {
            let mut claim = APPEND.bytes(&row.tag, row.version, &row.digest);
            claim[0] ^= 1;
            world.ledger.sign_claim(&claim)
        }),
        ("of another ledger", |_, row, _| {
            Ledger::new().claim(&APPEND, &row.tag, row.version, &row.digest)
        }),
        ("of another issuer", |world, row, _| {
            let claim = APPEND.bytes(&row.tag, row.version, &row.digest);
            world.ledger.sign(&sha256(&[&claim]), "other.test", &[(true, [1; 32])])
        }),
        ("of the version before", |world, _, _| world.ledger.receipts[0].clone()),
    ];
    let (mut world, laptop) = World::enrolled();
    let request = approve(&world, &TestDevice::new("phone"));
    let (_, row) = world.stage(&laptop, &request, Class::Guard);
    let right = world.ledger.append(row.tag, row.version, row.digest).expect("appended");
    for (name, receipt) in rows {
        let receipt = receipt(&world, &row, &right);
        let reply = world.commit(&row, &receipt);
        let refused = HostReply::Refused(HostRefusal::Receipt);
        assert_eq!(decode(&reply), refused, "the receipt was {name}");
    }
    let reply = world.commit(&row, &right);
    assert!(matches!(decode(&reply), HostReply::Committed(_)), "its own receipt commits");
}

#[test]
fn a_staged_guard_commits_only_as_what_it_is() {
    let (mut world, laptop) = World::enrolled();
    let request = approve(&world, &TestDevice::new("phone"));
    let (_, row) = world.stage(&laptop, &request, Class::Guard);

    let mut other_version = row.clone();
    other_version.version += 1;
    let mut damaged = row.clone();
    damaged.guard = flipped(&row.guard, 32 * 8);
    let mut short = row.clone();
    short.guard.pop();
    for (name, row) in
        [("another version", other_version), ("damaged", damaged), ("too short", short)]
    {
        let receipt = world.ledger.claim(&LedgerClaim::Append, &row.tag, row.version, &row.digest);
        let reply = world.commit(&row, &receipt);
        assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::State), "{name}");
    }
    // Under the tags of other accounts, as a ledger would that the host has written to.
    for account in [world.next_generation(), Account { id: AccountId([1; 32]), generation: 1 }] {
        let (_, reply) = world.in_account(account, |world| {
            let tag = own_tag(world);
            let receipt = world.ledger.claim(&LedgerClaim::Append, &tag, row.version, &row.digest);
            world.commit(&row, &receipt)
        });
        assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::State), "{account:?}");
    }
}

/// The ledger's name of the account in use.
fn own_tag(world: &mut World) -> LedgerTag {
    let device = TestDevice::new("probe");
    world.stage(&device, &enroll(&device), Class::Enroll).1.tag
}

#[test]
fn a_staged_guard_of_another_deployment_does_not_commit() {
    let (mut world, laptop) = World::enrolled();
    let request = approve(&world, &TestDevice::new("phone"));
    let (_, row) = world.stage(&laptop, &request, Class::Guard);
    world.config.deployment = label("other");
    world.reboot();
    // The ledger would even vouch for it, under the other deployment's tag: the home must stop it.
    let tag = own_tag(&mut world);
    let receipt = world.ledger.claim(&LedgerClaim::Append, &tag, row.version, &row.digest);
    let reply = world.commit(&row, &receipt);
    assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::State));
}

#[test]
fn a_replayed_commit_is_the_same_guard_and_nothing_more() {
    let (mut world, mut laptop, _) = World::with_phone();
    let row = world.stored.staged[1].clone();
    let receipt = world.ledger.receipts[1].clone();
    let first = world.stored.guards[&2].clone();
    let reply = world.commit(&row, &receipt);
    let HostReply::Committed(again) = decode(&reply) else { panic!("not committed") };
    assert_eq!(again.version, 2);
    let again = again.guard.to_vec();
    assert_ne!(again, first, "every sealing has its own salt");
    for (name, guard) in [("first", &first), ("again", &again)] {
        let attach = |attach: &mut Attach| attach.guard = Some((2, guard.clone()));
        let request = Request::Status;
        world
            .request_with(&laptop, KeyKind::Presence, &request, Class::Status, attach)
            .unwrap_or_else(|denied| panic!("{name}: the ledger knows another: {denied:?}"));
    }

    // Once the guard has moved, the old transition can be committed again but leads nowhere.
    let anchor = Request::Anchor(world.base());
    world.change_guard(&mut laptop, &anchor).expect("anchored");
    let reply = world.commit(&row, &receipt);
    let HostReply::Committed(old) = decode(&reply) else { panic!("not committed") };
    let old = old.guard.to_vec();
    for (name, guard_seen, expected) in [
        ("a device that knows better", 3, Refusal::StaleGuard),
        ("a device that does not, but asks the ledger", 0, Refusal::NotFresh),
    ] {
        laptop.guard_seen = guard_seen;
        let attach = |attach: &mut Attach| attach.guard = Some((2, old.clone()));
        let denied = world
            .request_with(&laptop, KeyKind::Presence, &Request::Status, Class::Status, attach)
            .err();
        assert_eq!(denied, Some(Denied::Client(expected)), "{name}");
    }
}

#[test]
fn of_two_guards_staged_for_one_version_only_one_goes_live() {
    let (mut world, laptop) = World::enrolled();
    let stage = |world: &mut World| {
        let request = approve(world, &TestDevice::new("phone"));
        world.stage(&laptop, &request, Class::Guard).1
    };
    let (one, two) = (stage(&mut world), stage(&mut world));
    let receipt = world.ledger.append(one.tag, one.version, one.digest).expect("appended");
    assert_eq!(world.ledger.append(two.tag, two.version, two.digest), None);
    let reply = world.commit(&two, &receipt);
    assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::Receipt));
    let reply = world.commit(&one, &receipt);
    assert!(matches!(decode(&reply), HostReply::Committed(_)));
}

#[test]
fn the_same_change_twice_has_two_digests() {
    let (mut world, laptop) = World::enrolled();
    let anchor = Request::Anchor(world.base());
    let (_, one) = world.stage(&laptop, &anchor, Class::Guard);
    let (_, two) = world.stage(&laptop, &anchor, Class::Guard);
    assert_ne!(one.digest, two.digest, "the ledger's readers could tell which change it was");
    assert_eq!(one.tag, two.tag);
}

#[test]
fn an_accounts_tag_is_its_own() {
    let mut world = World::new();
    let own = own_tag(&mut world);
    assert_eq!(own_tag(&mut world), own, "whoever asks");
    let other = Account { id: AccountId([1; 32]), generation: 1 };
    for account in [other, world.next_generation()] {
        assert_ne!(world.in_account(account, own_tag).1, own, "{account:?}");
    }
    world.config.deployment = label("best");
    world.reboot();
    let there = own_tag(&mut world);
    assert_ne!(there, own, "another deployment");
    world.enclave = Enclave::boot(&world.config, &[1; 32]);
    world.open_session();
    assert_ne!(own_tag(&mut world), there, "another root");
}

#[test]
fn a_guard_request_counts_for_one_version_only() {
    let (mut world, mut laptop, phone) = World::with_phone();
    let anchor = Request::Anchor(world.base());
    world.change_guard(&mut laptop, &anchor).expect("anchored");
    for guard in [0, 1, 2, 4, u64::MAX] {
        for (name, request, class) in changes(GuardBase { guard, ..world.base() }, &phone) {
            let key = KeyKind::UserVerification;
            let denied = world.request(&mut laptop, key, &request, class).err();
            let expected = Some(Denied::Client(Refusal::GuardMoved));
            assert_eq!(denied, expected, "{name} for version {guard} on 3");
        }
    }
}

#[test]
fn a_replayed_guard_request_is_refused() {
    for index in 0..CHANGES {
        let (mut world, laptop, phone) = World::with_phone();
        let (name, request, class) = changes(world.base(), &phone)[index].clone();
        let key = KeyKind::UserVerification;
        let sent = world.session.seal(&laptop, key, &world.account, &request);
        world.forward(&sent, class).expect("the first time it counts");
        let denied = world.forward(&sent, class).err();
        // An ended account has no device whose request could be for the wrong version.
        let ended = matches!(request, Request::DeleteAccount(_));
        let expected = if ended { Refusal::Unauthorised } else { Refusal::GuardMoved };
        assert_eq!(denied, Some(Denied::Client(expected)), "{name}");
    }
}

#[test]
fn a_guard_older_than_the_device_knows_is_refused() {
    let (mut world, mut laptop, phone) = World::with_phone();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    laptop.guard_seen = 3;
    for (name, request, class) in every_request(&world, &created, phone.id()) {
        let denied = world.request(&mut laptop, KeyKind::UserVerification, &request, class).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::StaleGuard)), "{name}");
    }
}

#[test]
fn a_revoked_device_is_refused_everything() {
    let (mut world, mut laptop, mut phone) = World::with_phone();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let revoke = RevokeDevice { base: world.base(), device: phone.id() };
    world.change_guard(&mut laptop, &Request::RevokeDevice(revoke)).expect("revoked");
    for (name, request, class) in every_request(&world, &created, laptop.id()) {
        let denied = world.request(&mut phone, KeyKind::UserVerification, &request, class).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)), "{name}");
    }
}

#[test]
fn a_guard_serves_no_other_account() {
    let (mut world, laptop) = World::enrolled();
    let guard = world.stored.guards[&1].clone();
    for account in [world.next_generation(), Account { id: AccountId([1; 32]), generation: 1 }] {
        let (_, denied) = world.in_account(account, |world| {
            let touch = Request::Touch(world.vault());
            let attach = |attach: &mut Attach| attach.guard = Some((1, guard.clone()));
            world.request_with(&laptop, KeyKind::Presence, &touch, Class::Put(None), attach).err()
        });
        assert_eq!(denied, Some(STATE), "{account:?}");
    }
}

#[test]
fn a_guard_serves_no_other_deployment_ledger_or_root() {
    type Move = fn(&mut World);
    let foreign = Denied::Client(Refusal::ForeignGuard);
    let rows: [(&str, Move, Denied); 5] = [
        ("another deployment", |world| world.config.deployment = label("best"), foreign),
        ("another ledger", |world| world.config.ledger_key = Ledger::new().public_key(), foreign),
        ("another issuer", |world| world.config.ledger_issuer = label("ledger.best"), foreign),
        (
            "a deployment whose two names only look the same side by side",
            |world| {
                world.config.deployment = label(&format!("test{}", &ISSUER[..1]));
                world.config.ledger_issuer = label(&ISSUER[1..]);
            },
            foreign,
        ),
        ("another root", |_| {}, STATE),
    ];
    for (name, change, expected) in rows {
        let (mut world, mut laptop) = World::enrolled();
        change(&mut world);
        world.reboot();
        if expected == STATE {
            world.enclave = Enclave::boot(&world.config, &[1; 32]);
            world.open_session();
        }
        let touch = Request::Touch(world.vault());
        let denied = world.request(&mut laptop, KeyKind::Presence, &touch, Class::Put(None)).err();
        assert_eq!(denied, Some(expected), "{name}");
    }
}

#[test]
fn a_guard_of_another_version_or_with_one_bit_changed_does_not_open() {
    type Bend = fn(&mut Attach);
    let rows: [(&str, Bend, HostRefusal); 6] = [
        ("named as the next version", |a| misname(&mut a.guard), HostRefusal::State),
        ("salt", |a| damage(&mut a.guard, 0), HostRefusal::State),
        ("ciphertext", |a| damage(&mut a.guard, 32 * 8), HostRefusal::State),
        ("padding", |a| damage(&mut a.guard, 4100 * 8), HostRefusal::State),
        ("tag", |a| damage(&mut a.guard, (32 + 4096 + 16) * 8 - 1), HostRefusal::State),
        ("none at all", |a| a.guard = None, HostRefusal::State),
    ];
    let (mut world, laptop) = World::enrolled();
    for (name, bend, expected) in rows {
        let touch = Request::Touch(world.vault());
        let denied =
            world.request_with(&laptop, KeyKind::Presence, &touch, Class::Put(None), bend).err();
        assert_eq!(denied, Some(Denied::Host(expected)), "{name}");
    }
}

#[test]
fn an_account_is_opened_once() {
    let (mut world, _) = World::enrolled();
    let intruder = TestDevice::new("intruder");
    let (_, row) = world.stage(&intruder, &enroll(&intruder), Class::Enroll);
    assert_eq!(row.version, 1);
    assert_eq!(row.tag, world.stored.tag.expect("a tag"));
    assert_eq!(world.append_and_commit(&row).err(), Some(Denied::Ledger));
    let receipt = world.ledger.receipts[0].clone();
    let reply = world.commit(&row, &receipt);
    assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::Receipt));
}

#[test]
fn a_second_guard_of_an_account_opens_nothing_of_the_first() {
    let (mut world, mut laptop) = World::enrolled();
    let created = world.create(&mut laptop, RP, "alice").expect("created");

    // A ledger that lost its memory lets an intruder open the very same account again.
    let mut intruder = TestDevice::new("intruder");
    let (_, row) = world.stage(&intruder, &enroll(&intruder), Class::Enroll);
    let receipt = world.ledger.claim(&LedgerClaim::Append, &row.tag, 1, &row.digest);
    let reply = world.commit(&row, &receipt);
    let HostReply::Committed(second) = decode(&reply) else { panic!("not committed") };
    world.stored.guards.insert(1, second.guard.to_vec());

    let slot = created.put.event.slot;
    let sync = Request::Sync(world.genesis());
    let assert = Request::Assert(assert_request(&created));
    let audit = Request::Audit(world.audit_genesis());
    for (name, request, class) in [
        ("vault", sync, Class::Sync(0)),
        ("record", assert, Class::Assert(slot)),
        ("history", audit, Class::Audit(0)),
    ] {
        let key = KeyKind::UserVerification;
        let sent = world.session.seal(&intruder, key, &world.account, &request);
        let mut attach = world.attach(class, &sent.frame);
        let read = LedgerClaim::Read(sha256(&[&sent.frame]));
        attach.fresh = Some(world.ledger.claim(&read, &row.tag, 1, &row.digest));
        let denied = world.finish(&sent, class, &attach).err();
        assert_eq!(denied, Some(STATE), "the first account's {name}");
    }

    // Nor does it even find the first one's slots.
    let guards = world.stored.guards.clone();
    world.stored = Stored { guards, tag: Some(row.tag), ..Stored::default() };
    let again = world.create(&mut intruder, RP, "alice").expect("a passkey of its own");
    assert_ne!(again.put.event.slot, slot);
}

#[test]
fn a_guard_change_names_the_attached_vault() {
    let (mut world, mut laptop, phone) = World::with_phone();
    world.create(&mut laptop, RP, "alice").expect("created");
    world.create(&mut laptop, RP, "bob").expect("created");
    let vault = world.vault();
    for (point, of) in [
        (world.genesis(), "the empty vault"),
        (ChainPoint { version: 1, ..vault }, "an older version"),
        (ChainPoint { version: 3, ..vault }, "a newer version"),
        (ChainPoint { head: Digest([1; 32]), ..vault }, "another head"),
    ] {
        let base = GuardBase { vault: point, ..world.base() };
        for (name, request, class) in changes(base, &phone) {
            let key = KeyKind::UserVerification;
            let denied = world.request(&mut laptop, key, &request, class).err();
            assert_eq!(denied, Some(Denied::Client(Refusal::SyncFirst)), "{name} at {of}");
        }
    }
}

#[test]
fn a_guard_change_names_the_guards_anchor() {
    let (mut world, mut laptop, phone) = World::with_phone();
    world.create(&mut laptop, RP, "alice").expect("created");
    world.change_guard(&mut laptop, &Request::Anchor(world.base())).expect("anchored");
    world.create(&mut laptop, RP, "bob").expect("created");
    let base = world.base();
    assert_eq!(base.anchor.version, 1);
    for (anchor, of) in [
        (world.genesis(), "an older one"),
        (world.vault(), "a newer point"),
        (ChainPoint { head: Digest([1; 32]), ..base.anchor }, "another head"),
    ] {
        for (name, request, class) in changes(GuardBase { anchor, ..base }, &phone) {
            let key = KeyKind::UserVerification;
            let denied = world.request(&mut laptop, key, &request, class).err();
            assert_eq!(denied, Some(Denied::Client(Refusal::BrokenChain)), "{name}, {of}");
        }
    }
}

#[test]
fn every_guard_change_anchors_the_vault() {
    for index in 0..CHANGES {
        let (mut world, mut laptop, phone) = World::with_phone();
        world.create(&mut laptop, RP, "alice").expect("created");
        world.create(&mut laptop, RP, "bob").expect("created");
        let (name, request, _) = changes(world.base(), &phone)[index].clone();
        let changed = world.change_guard(&mut laptop, &request).expect("changed");
        assert_eq!(changed.vault, world.vault(), "{name}");
        let older = world.stored.vaults[&1].clone();
        // An ended account has no device to show an older vault to.
        let ended = matches!(request, Request::DeleteAccount(_));
        let expected = if ended { Refusal::Unauthorised } else { Refusal::StaleVault };
        for (vault, of) in [(Some((1, older)), "an older vault"), (None, "no vault")] {
            let sync = Request::Sync(world.genesis());
            let attach = |attach: &mut Attach| attach.vault = vault;
            let denied =
                world.request_with(&laptop, KeyKind::Presence, &sync, Class::Sync(0), attach).err();
            assert_eq!(denied, Some(Denied::Client(expected)), "{name}, then {of}");
        }
    }
}
