//! Recovery: nobody gets more than ten wrong tries in a row, whatever the host repeats, withholds,
//! forks or runs twice; and nobody learns the outcome of a try before it was paid for.

use keyfold_protocol::client::{
    AccountStatus, ApproveDevice, AuditEvent, AuditKind, ChangePin, Class, Enroll, KeyKind,
    Refusal, Request, RevokeDevice, StretchedPin, Success,
};
use keyfold_protocol::host::{
    Attached, Claimed, Commit, HostRefusal, HostReply, HostRequest, Next, Settle,
};
use keyfold_protocol::ids::{Account, AccountId, ChainPoint, Digest};
use keyfold_protocol::limits::{DEVICES, NAME, TRIES};
use keyfold_protocol::transcript::{self, LedgerClaim};
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::{Enclave, ROOT, decode};
use keyfold_tests::hostile::{Forgery, RP, assert_request};
use keyfold_tests::ledger::Ledger;
use keyfold_tests::oracle::Oracle;
use keyfold_tests::world::{Attach, Denied, PIN, StagedRow, World};

const WRONG: [u8; 32] = [8; 32];
const STATE: Denied = Denied::Host(HostRefusal::State);

fn refused(refusal: Refusal) -> Option<Denied> {
    Some(Denied::Client(refusal))
}

fn stranger() -> TestDevice {
    TestDevice::new("stranger")
}

/// What Status says, by the ledger's confirmation.
fn status(world: &mut World, device: &mut TestDevice) -> AccountStatus {
    let opened = world.request(device, KeyKind::Presence, &Request::Status, Class::Status);
    match opened.expect("a status").outcome() {
        Ok(Success::Status(status)) => status,
        other => panic!("not a status: {other:?}"),
    }
}

fn history(world: &mut World, device: &mut TestDevice) -> Vec<AuditEvent> {
    let request = Request::Audit(world.audit_genesis());
    let opened = world.request(device, KeyKind::Presence, &request, Class::Audit(0));
    match opened.expect("a history").outcome() {
        Ok(Success::Audited(page)) => page.items.map(|event| event.expect("an event")).collect(),
        other => panic!("not a history: {other:?}"),
    }
}

/// A try, staged: what the host holds before the ledger knows of it.
fn charge(world: &mut World, device: &TestDevice, pin: [u8; 32]) -> StagedRow {
    let request = world.recover_request(device, pin);
    world.stage(device, &request, Class::Recover).1
}

/// A try, charged in the ledger and live; not settled.
fn charged(world: &mut World, device: &TestDevice, pin: [u8; 32]) -> StagedRow {
    let row = charge(world, device, pin);
    assert_eq!(world.append_and_commit_one(&row), Ok(None), "a charge has no answer");
    row
}

fn change_pin(world: &World, pin: [u8; 32]) -> Request {
    Request::ChangePin(ChangePin { base: world.base(), pin: StretchedPin(pin) })
}

#[test]
fn a_new_device_recovers_with_the_pin() {
    let (mut world, mut laptop) = World::enrolled();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    world.change_guard(&mut laptop, &Request::Anchor(world.base())).expect("anchored");
    world.time += 60;
    let mut phone = TestDevice::new("phone");
    let recovered = world.recover(&mut phone, PIN).expect("recovered");
    assert_eq!(recovered.guard, 4, "enrolled, anchored, charged, recovered");
    assert_eq!(recovered.vault, world.vault(), "the anchor a recovered device starts from");

    let (_, _, events) = world.sync_page(&mut phone, world.genesis()).expect("synced");
    assert_eq!(events[0].passkey.as_ref().expect("a passkey").credential, created.credential);
    let slot = events[0].event.slot;
    let (uv, request) = (KeyKind::UserVerification, assert_request(&created));
    world.assert(&mut phone, uv, slot, &request).expect("signed in");
    world.assert(&mut laptop, uv, slot, &request).expect("the old device stays");

    let found = status(&mut world, &mut phone);
    let devices: Vec<_> = found.devices.iter().map(|device| device.id).collect();
    assert_eq!((devices, found.failures), (vec![laptop.id(), phone.id()], 0));
    let told: Vec<_> = history(&mut world, &mut laptop)[2..]
        .iter()
        .map(|event| (event.kind, event.actor, event.subject, event.host_time))
        .collect();
    let (id, time) = (phone.id(), world.time);
    let expected = [AuditKind::TryCharged, AuditKind::Recovered].map(|kind| (kind, id, id, time));
    assert_eq!(told, expected);
}

#[test]
fn ten_wrong_pins_in_a_row_lock() {
    assert_eq!(TRIES, 10);
    let (mut world, mut laptop) = World::enrolled();
    for tried in 1..=TRIES {
        let denied = world.recover(&mut stranger(), WRONG).err();
        assert_eq!(denied, refused(Refusal::WrongPin(TRIES - tried)), "try {tried}");
        assert_eq!(status(&mut world, &mut laptop).failures, tried);
    }
    let guards = world.stored.guards.len();
    for pin in [WRONG, PIN] {
        assert_eq!(world.recover(&mut stranger(), pin).err(), refused(Refusal::Locked));
    }
    assert_eq!(world.stored.guards.len(), guards, "a lockout costs nothing");
    let kinds: Vec<_> = history(&mut world, &mut laptop).iter().map(|event| event.kind).collect();
    let try_ = [AuditKind::TryCharged, AuditKind::TryFailed];
    assert_eq!(kinds[1..], try_.repeat(usize::from(TRIES)));

    // The host is told, for its operator; the client is told by the core.
    let (device, class) = (stranger(), Class::Recover);
    let request = world.recover_request(&device, PIN);
    let sent = world.session.seal(&device, KeyKind::Presence, &world.account, &request);
    let attach = world.attach(class, &sent.frame);
    let reply = world.handle(&sent, class, &attach);
    let HostReply::Locked(sealed) = decode(&reply) else { panic!("not locked") };
    assert_eq!(sealed.len(), 256 + 48, "as long as any answer to a recovery");
    sent.open(sealed).expect("an answer for the client");

    // A trusted device lifts it, and the old PIN counts no more.
    let request = change_pin(&world, [7; 32]);
    world.change_guard(&mut laptop, &request).expect("changed");
    assert_eq!(status(&mut world, &mut laptop).failures, 0);
    assert_eq!(world.recover(&mut stranger(), PIN).err(), refused(Refusal::WrongPin(TRIES - 1)));
    world.recover(&mut stranger(), [7; 32]).expect("recovered");
}

#[test]
fn a_right_pin_starts_the_count_again() {
    let (mut world, mut laptop) = World::enrolled();
    for round in 0..2 {
        for _ in 1..TRIES {
            world.recover(&mut stranger(), WRONG).expect_err("wrong");
        }
        world.recover(&mut stranger(), PIN).expect("the tenth try is a try");
        assert_eq!(status(&mut world, &mut laptop).failures, 0, "round {round}");
    }
}

#[test]
fn a_charge_counts_whether_or_not_it_is_settled() {
    let (mut world, mut laptop) = World::enrolled();
    for tried in 1..=TRIES {
        charged(&mut world, &stranger(), PIN);
        assert_eq!(status(&mut world, &mut laptop).failures, tried, "before anything is compared");
    }
    assert_eq!(world.recover(&mut stranger(), PIN).err(), refused(Refusal::Locked));
    // The tenth may still be settled: it was paid for.
    let version = world.base().guard;
    let outcome = world.settle(version).expect("settled");
    world.append_and_commit_one(&outcome).expect("committed").expect("an answer");
    assert_eq!(status(&mut world, &mut laptop).failures, 0);
}

#[test]
fn only_a_live_charge_is_settled() {
    let (mut world, _) = World::enrolled();
    let staged = charge(&mut world, &stranger(), PIN);
    let mut elsewhere = World::new();
    elsewhere.enroll("laptop");
    charged(&mut elsewhere, &stranger(), PIN);
    let foreign = elsewhere.stored.guards[&2].clone();
    let enrolled = world.stored.guards[&1].clone();
    let account = world.account;
    world.append_and_commit_one(&staged).expect("charged");
    let live = world.stored.guards[&2].clone();
    let other = Account { generation: 2, ..account };
    let rows: [(&str, Account, u64, &[u8]); 6] = [
        ("a staged charge", account, 2, &staged.guard),
        ("a guard without a charge", account, 1, &enrolled),
        ("another deployment's charge", account, 2, &foreign),
        ("as another version", account, 3, &live),
        ("as another account's", other, 2, &live),
        ("a damaged one", account, 2, &live[1..]),
    ];
    for (name, account, version, sealed) in rows {
        let guard = Attached { version: Claimed(version), sealed };
        let refusal = world.enclave.refusal(&HostRequest::Settle(Settle { account, guard }));
        assert_eq!(refusal, HostRefusal::State, "{name}");
    }
    let outcome = world.settle(2).expect("the live charge");
    world.append_and_commit_one(&outcome).expect("committed");
    assert_eq!(world.settle(3).err(), Some(STATE), "an outcome is not settled again");
}

/// A host that settles in a core whose deployment pins another ledger gets nothing: its charges
/// would be free.
#[test]
fn a_charge_of_another_ledger_is_not_settled() {
    let (mut world, _) = World::enrolled();
    charged(&mut world, &stranger(), PIN);
    let config = keyfold_tests::enclave::config(&Ledger::new(), world.config.fresh_read);
    world.enclave = Enclave::boot(&config, &ROOT);
    assert_eq!(world.settle(2).err(), Some(STATE));
}

#[test]
fn settling_is_one_transition_however_often_it_is_done() {
    for pin in [PIN, WRONG] {
        let (mut world, _) = World::enrolled();
        let phone = TestDevice::new("phone");
        charged(&mut world, &phone, pin);
        let first = world.settle(2).expect("settled");
        world.time += 3600;
        let again = world.settle(2).expect("settled");
        world.reboot();
        let elsewhere = world.settle(2).expect("settled");
        for other in [&again, &elsewhere] {
            assert_eq!((other.version, other.digest), (first.version, first.digest));
            assert_ne!(other.guard, first.guard, "sealed anew");
        }
        // Whichever copy meets the receipt goes live.
        world.append_and_commit_one(&elsewhere).expect("committed").expect("an answer");
    }
}

/// Neither sizes, nor the number of ledger writes, nor anything else the host holds before the
/// second commit tells right from wrong.
#[test]
fn right_and_wrong_look_the_same_until_they_are_committed() {
    let sizes = |pin| {
        let (mut world, _) = World::enrolled();
        let row = charged(&mut world, &TestDevice::new("phone"), pin);
        let outcome = world.settle(2).expect("settled");
        let reply = outcome_committed(&mut world, &outcome);
        let HostReply::Committed(committed) = decode(&reply) else { panic!("not committed") };
        let Next::Answer(sealed) = committed.next else { panic!("no answer") };
        [
            row.guard.len(),
            outcome.guard.len(),
            committed.guard.len(),
            committed.audit.len(),
            sealed.len(),
        ]
    };
    assert_eq!(sizes(PIN), sizes(WRONG));
    assert_eq!(sizes(PIN), [4096 + 48, 4096 + 48, 4096 + 48, 128 + 48, 256 + 48]);
}

fn outcome_committed(world: &mut World, outcome: &StagedRow) -> Vec<u8> {
    let receipt = world.ledger.append(outcome.tag, outcome.version, outcome.digest).expect("free");
    world.commit(outcome, &receipt)
}

/// The outcome is sealed, and what is sealed is opened only with its own receipt.
#[test]
fn an_outcome_is_released_by_its_own_receipt_alone() {
    let (mut world, _) = World::enrolled();
    charged(&mut world, &TestDevice::new("phone"), PIN);
    let outcome = world.settle(2).expect("settled");
    let wrong = {
        let (mut other, _) = World::enrolled();
        charged(&mut other, &TestDevice::new("phone"), WRONG);
        other.settle(2).expect("settled").digest
    };
    let claim = |world: &World, digest: &Digest| {
        world.ledger.claim(&LedgerClaim::Append, &outcome.tag, outcome.version, digest)
    };
    let oracle = Oracle::new(ROOT, world.account);
    let opened = |digest| oracle.staged(digest, outcome.version, &outcome.guard);
    assert!(opened(outcome.digest).is_some() && opened(wrong).is_none(), "sealed under its digest");
    let none = world.commit(&outcome, &[]);
    assert_eq!(decode(&none), HostReply::Refused(HostRefusal::Receipt));
    // A host that had another digest recorded, and names that one.
    let receipt = claim(&world, &wrong);
    let commit = HostRequest::Commit(Commit {
        account: world.account,
        staged: Attached { version: Claimed(3), sealed: &outcome.guard },
        digest: Claimed(wrong),
        receipt: &receipt,
    });
    assert_eq!(world.enclave.refusal(&commit), HostRefusal::State);
    let receipt = claim(&world, &outcome.digest);
    let reply = world.commit(&outcome, &receipt);
    assert!(matches!(decode(&reply), HostReply::Committed(_)));
}

/// What a try came to stands in the history, and comes out only with the outcome's commit: who has a
/// registered device cannot read it off an outcome that never was recorded.
#[test]
fn an_overtaken_outcome_leaves_no_event() {
    let (mut world, mut laptop) = World::enrolled();
    charged(&mut world, &TestDevice::new("phone"), PIN);
    let outcome = world.settle(2).expect("settled");
    let charge = Oracle::new(ROOT, world.account).guard(2, &world.stored.guards[&2]);
    let at_charge = ChainPoint { version: 2, head: charge.expect("a live guard").audit_head };
    for _ in 0..2 {
        let anchor = Request::Anchor(world.base());
        world.change_guard(&mut laptop, &anchor).expect("overtaken");
    }
    let overtaking = world.stored.audit[&3].clone();
    let mut read = |event: &[u8]| {
        let (request, class) = (Request::Audit(at_charge), Class::Audit(2));
        let attach = |attach: &mut Attach| attach.audit = vec![event.to_vec()];
        world.request_with(&laptop, KeyKind::Presence, &request, class, attach).map(drop)
    };
    assert_eq!(read(&overtaking), Ok(()));
    assert_eq!(read(&outcome.guard), Err(STATE));
}

/// A frame with the right PIN is worth one try at one version, and no reset afterwards.
#[test]
fn a_replayed_right_pin_does_nothing() {
    let (mut world, mut laptop) = World::enrolled();
    let phone = TestDevice::new("phone");
    let request = world.recover_request(&phone, PIN);
    let sent = world.session.seal(&phone, KeyKind::Presence, &world.account, &request);
    let first = world.attach(Class::Recover, &sent.frame);
    world.finish(&sent, Class::Recover, &first).expect("recovered");
    for _ in 0..3 {
        world.recover(&mut stranger(), WRONG).expect_err("wrong");
    }
    // On the newest guard: it was signed for another version.
    let newest = world.attach(Class::Recover, &sent.frame);
    let denied = world.finish(&sent, Class::Recover, &newest).err();
    assert_eq!(denied, refused(Refusal::GuardAt(world.base().guard)));
    // On the guard it was signed for: the ledger has moved on.
    let denied = world.finish(&sent, Class::Recover, &first).err();
    assert_eq!(denied, Some(Denied::Ledger));
    // With that version's own receipt, which is of another charge.
    let reply = world.handle(&sent, Class::Recover, &first);
    let HostReply::Staged(staged) = decode(&reply) else { panic!("not staged") };
    let row = StagedRow::from(&staged);
    let reply = world.commit(&row, &world.ledger.receipts[1].clone());
    assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::Receipt));
    assert_eq!(status(&mut world, &mut laptop).failures, 3, "the count stands");
}

/// Two enclaves, both kept on the guard before the tries: the ledger takes one charge for each
/// version, and only that one can be settled.
#[test]
fn two_enclaves_give_no_more_tries_than_one() {
    let (mut world, mut laptop) = World::enrolled();
    let mut settled = 0;
    for pin in 0..3 * TRIES {
        let on_old = world.stored.clone();
        let one = charge(&mut world, &stranger(), [pin; 32]);
        world.reboot();
        world.stored = on_old;
        let two = charge(&mut world, &stranger(), [pin | 0x80; 32]);
        if world.append_and_commit_one(&one).is_ok() {
            world.settle(one.version).expect("settled");
            settled += 1;
        }
        assert_eq!(world.append_and_commit_one(&two).err(), Some(Denied::Ledger));
        let receipt = world.ledger.receipts.last().expect("a receipt").clone();
        let reply = world.commit(&two, &receipt);
        assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::Receipt));
        if settled == TRIES {
            break;
        }
    }
    assert_eq!(settled, TRIES);
    assert_eq!(world.recover(&mut stranger(), PIN).err(), refused(Refusal::Locked));
    assert_eq!(status(&mut world, &mut laptop).failures, TRIES);
}

#[test]
fn whatever_else_happens_to_a_charged_guard_ends_the_try_and_keeps_the_count() {
    type Change = fn(&World, &TestDevice) -> Request;
    let rows: [(&str, Change, u8); 5] = [
        ("Anchor", |world, _| Request::Anchor(world.base()), 1),
        (
            "ApproveDevice",
            |world, _| {
                let device = TestDevice::new("new").public();
                Request::ApproveDevice(ApproveDevice { base: world.base(), device })
            },
            1,
        ),
        (
            "RevokeDevice",
            |world, phone| {
                Request::RevokeDevice(RevokeDevice { base: world.base(), device: phone.id() })
            },
            1,
        ),
        ("ChangePin", |world, _| change_pin(world, PIN), 0),
        ("another try", |world, _| world.recover_request(&stranger(), WRONG), 2),
    ];
    for (name, change, failures) in rows {
        let (mut world, mut laptop, phone) = World::with_phone();
        charged(&mut world, &TestDevice::new("tablet"), PIN);
        let pending = world.base().guard;
        if name == "another try" {
            charged(&mut world, &stranger(), WRONG);
        } else {
            let request = change(&world, &phone);
            world.change_guard(&mut laptop, &request).expect(name);
        }
        let after = world.base().guard;
        assert_eq!(status(&mut world, &mut laptop).failures, failures, "{name}");
        // Settled on the old guard it stays a fork that the ledger has not taken.
        let late = world.settle(pending).expect("that guard has a charge");
        assert_eq!(world.append_and_commit_one(&late).err(), Some(Denied::Ledger), "{name}");
        if name == "another try" {
            let outcome = world.settle(after).expect("the second try's");
            world.append_and_commit_one(&outcome).expect("committed");
            assert_eq!(status(&mut world, &mut laptop).failures, 2, "the second was wrong");
        } else {
            assert_eq!(world.settle(after).err(), Some(STATE), "{name}");
        }
        let devices = status(&mut world, &mut laptop).devices;
        assert!(devices.iter().all(|device| device.name != "tablet"), "{name}");
    }
}

#[test]
fn a_full_account_gives_its_oldest_place() {
    // Names as long as they may be: this is the largest guard there is, with a try pending.
    let longest = "n".repeat(NAME);
    let mut world = World::new();
    let mut laptop = world.enroll(&longest);
    let mut phones = Vec::new();
    for _ in 1..DEVICES {
        let phone = TestDevice::new(&longest);
        world.approve(&mut laptop, &phone).expect("approved");
        phones.push(phone);
    }
    let mut tablet = TestDevice::new(&longest);
    world.recover(&mut tablet, WRONG).expect_err("wrong");
    assert_eq!(status(&mut world, &mut laptop).devices[0].id, laptop.id(), "nobody goes");
    world.recover(&mut tablet, PIN).expect("recovered");
    let denied = world.request(&mut laptop, KeyKind::Presence, &Request::Status, Class::Status);
    assert_eq!(denied.err(), refused(Refusal::Unauthorised), "the oldest made room");
    let devices: Vec<_> =
        status(&mut world, &mut tablet).devices.iter().map(|device| device.id).collect();
    let expected: Vec<_> = phones.iter().chain([&tablet]).map(TestDevice::id).collect();
    assert_eq!(devices, expected);
    let last = *history(&mut world, &mut tablet).last().expect("an event");
    let (kind, actor, subject) = (AuditKind::Recovered, tablet.id(), laptop.id());
    assert_eq!((last.kind, last.actor, last.subject), (kind, actor, subject));
}

#[test]
fn a_try_is_signed_by_the_device_it_registers() {
    let (mut world, mut laptop) = World::enrolled();
    let (phone, thief) = (TestDevice::new("phone"), stranger());
    let request = world.recover_request(&phone, PIN);
    type Bend = fn(&mut Forgery, &TestDevice);
    let rows: [(&str, Bend, bool); 5] = [
        ("signed by a stranger", |_, _| {}, true),
        ("in the name of a stranger", |f, thief| f.named_device = thief.id(), false),
        ("a stranger's in its own name", |f, thief| f.named_device = thief.id(), true),
        (
            "called verified",
            |f, _| {
                f.key = KeyKind::UserVerification;
                f.named_key = KeyKind::UserVerification;
            },
            false,
        ),
        (
            "signed by the UV key",
            |f, _| {
                f.key = KeyKind::UserVerification;
                f.named_key = KeyKind::UserVerification;
                f.signs_with = KeyKind::UserVerification;
            },
            false,
        ),
    ];
    for (name, bend, by_thief) in rows {
        let mut forgery = Forgery::honest(&world, &phone, KeyKind::Presence, &request);
        bend(&mut forgery, &thief);
        let signer = if by_thief { &thief } else { &phone };
        let account = world.account;
        let sent = forgery.seal(&mut world.session, &account, signer);
        let denied = world.forward(&sent, Class::Recover).err();
        assert_eq!(denied, refused(Refusal::Unauthorised), "{name}");
    }
    assert_eq!(status(&mut world, &mut laptop).failures, 0, "none of them was charged");
}

#[test]
fn what_cannot_become_a_recovery_is_not_charged() {
    let (mut world, mut laptop) = World::enrolled();
    let version = world.base().guard;
    let known = world.recover_request(&laptop, PIN);
    let denied = world.request(&mut laptop, KeyKind::Presence, &known, Class::Recover).err();
    assert_eq!(denied, refused(Refusal::KnownDevice));
    // One key in both roles: never a device, whatever the PIN.
    let phone = stranger();
    let Request::Recover(mut recover) = world.recover_request(&phone, PIN) else { panic!() };
    recover.device.uv_key = recover.device.device_key;
    let request = Request::Recover(recover);
    let mut forgery = Forgery::honest(&world, &phone, KeyKind::Presence, &request);
    let Request::Recover(recover) = &request else { panic!() };
    let (device_key, uv_key) = (&recover.device.device_key, &recover.device.uv_key);
    forgery.named_device = transcript::device_id(sha256, device_key, uv_key);
    let account = world.account;
    let sent = forgery.seal(&mut world.session, &account, &phone);
    assert_eq!(world.forward(&sent, Class::Recover).err(), refused(Refusal::KnownDevice));
    for guard in [0, version + 1] {
        let mut phone = stranger();
        let Request::Recover(mut recover) = world.recover_request(&phone, PIN) else { panic!() };
        recover.guard = guard;
        let request = Request::Recover(recover);
        let denied = world.request(&mut phone, KeyKind::Presence, &request, Class::Recover).err();
        assert_eq!(denied, refused(Refusal::GuardAt(version)), "at version {guard}");
    }
    let mut phone = stranger();
    phone.guard_seen = version + 1;
    let request = world.recover_request(&phone, PIN);
    let denied = world.request(&mut phone, KeyKind::Presence, &request, Class::Recover).err();
    assert_eq!(denied, refused(Refusal::StaleGuard));
    let without = world
        .request_with(&stranger(), KeyKind::Presence, &known, Class::Recover, |a| a.guard = None)
        .err();
    assert!(matches!(without, Some(Denied::Client(Refusal::Unauthorised) | STATE)), "{without:?}");
    assert_eq!(status(&mut world, &mut laptop).failures, 0);
    assert_eq!(world.base().guard, version);
}

#[test]
fn setting_a_pin_needs_user_verification_and_the_exact_version() {
    let (mut world, mut laptop) = World::enrolled();
    world.recover(&mut stranger(), WRONG).expect_err("wrong");
    let request = change_pin(&world, [7; 32]);
    let denied = world.request(&mut laptop, KeyKind::Presence, &request, Class::GuardFresh).err();
    assert_eq!(denied, refused(Refusal::UserVerificationRequired));
    let Request::ChangePin(mut stale) = request else { panic!() };
    stale.base.guard -= 1;
    let request = Request::ChangePin(stale);
    let denied = world.change_guard(&mut laptop, &request).err();
    assert_eq!(denied, refused(Refusal::GuardMoved));
    assert_eq!(status(&mut world, &mut laptop).failures, 1, "the count stands");
    world.recover(&mut stranger(), PIN).expect("the PIN stands");
    let kinds: Vec<_> = history(&mut world, &mut laptop).iter().map(|event| event.kind).collect();
    assert!(!kinds.contains(&AuditKind::PinChanged));
}

/// A host that opened a second account beside the person's, with a PIN of its own choice, would learn
/// from a recovery there whether the person's is the same.
#[test]
fn a_generation_opens_when_the_one_before_has_ended() {
    let (mut world, mut laptop) = World::enrolled();
    let open = world.stored.guards[&1].clone();
    let next = world.next_generation();
    let other = Account { id: AccountId([1; 32]), generation: 1 };
    let other_ended = world.ended(other);
    let mut elsewhere = World::new();
    let foreign = elsewhere.ended(elsewhere.account);
    let mut rows = vec![
        ("beside an open one", (1, open.clone())),
        ("after another person's", other_ended),
        ("after another deployment's", foreign),
    ];
    let delete = Request::DeleteAccount(world.base());
    let (_, staged) = world.stage(&laptop, &delete, Class::GuardFresh);
    rows.push(("before the end is recorded", (2, staged.guard)));
    world.change_guard(&mut laptop, &Request::DeleteAccount(world.base())).expect("deleted");
    let ended = world.stored.guards[&2].clone();
    rows.push(("as if it had ended earlier", (1, ended.clone())));
    let enroll = |world: &mut World, guard: Option<(u64, Vec<u8>)>| {
        let device = TestDevice::new("phone");
        let pin = StretchedPin(PIN);
        let request = Request::Enroll(Enroll { pin, device: device.public() });
        let attach = |attach: &mut Attach| attach.guard = guard;
        world.request_with(&device, KeyKind::Presence, &request, Class::Enroll, attach).err()
    };
    for (name, guard) in rows {
        let (_, denied) = world.in_account(next, |world| enroll(world, Some(guard)));
        assert_eq!(denied, Some(STATE), "{name}");
    }
    let (_, denied) = world.in_account(next, |world| enroll(world, None));
    assert_eq!(denied, Some(STATE), "with nothing before");
    let skipped = Account { generation: 3, ..world.account };
    let after = Some((2, ended));
    let (_, denied) = world.in_account(skipped, |world| enroll(world, after.clone()));
    assert_eq!(denied, Some(STATE), "one after the next");
    let (_, denied) = world.in_account(next, |world| enroll(world, after));
    assert_eq!(denied, None);
}

#[test]
fn a_deleted_account_is_over_for_everybody() {
    let (mut world, mut laptop) = World::enrolled();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let delete = Request::DeleteAccount(world.base());
    let denied = world.request(&mut laptop, KeyKind::Presence, &delete, Class::GuardFresh).err();
    assert_eq!(denied, refused(Refusal::UserVerificationRequired));

    charged(&mut world, &stranger(), PIN);
    let before = Oracle::new(ROOT, world.account).guard(2, &world.stored.guards[&2]).expect("live");
    let delete = Request::DeleteAccount(world.base());
    let (_, row) = world.stage(&laptop, &delete, Class::GuardFresh);
    let reply = outcome_committed(&mut world, &row);
    let HostReply::Committed(committed) = decode(&reply) else { panic!("not committed") };
    assert!(matches!(committed.next, Next::Closed(_)), "the host forgets the rest");
    world.stored.guards.insert(3, committed.guard.to_vec());

    let after = Oracle::new(ROOT, world.account).guard(3, &world.stored.guards[&3]).expect("live");
    assert!(after.devices.is_empty() && after.pending.is_none());
    assert!(after.secret != before.secret && after.pin != before.pin, "nothing opens or compares");
    let slot = created.put.event.slot;
    let assert = world.assert(&mut laptop, KeyKind::Presence, slot, &assert_request(&created));
    assert_eq!(assert.err(), refused(Refusal::Unauthorised));
    assert_eq!(world.settle(3).err(), Some(STATE));
    assert_eq!(world.recover(&mut stranger(), PIN).err(), refused(Refusal::Closed));

    // The next generation is another account: another tag, another secret.
    let next = world.next_generation();
    let (stored, mut phone) = world.in_account(next, |world| world.enroll("phone"));
    assert_ne!(stored.tag, world.stored.tag);
    world.account = next;
    let deleted = std::mem::replace(&mut world.stored, stored);
    let record = deleted.record(&slot).expect("a host that kept it");
    let request = Request::Assert(assert_request(&created));
    let denied = world
        .request_with(&phone, KeyKind::Presence, &request, Class::Assert(slot), |attach| {
            attach.record = Some(record);
        })
        .err();
    assert_eq!(denied, Some(STATE), "it opens nothing of the account before");
    world.create(&mut phone, RP, "alice").expect("a new passkey");
}
