//! Any request, from a device that may be registered, rightly sealed and signed or with edits, with
//! any attachments out of an account's history. The answer opens for its client alone, has the one
//! size of its class, and never is more than the request asked for.
#![no_main]

use std::cell::RefCell;

use keyfold_fuzz::{below, edited};
use keyfold_protocol::client::{Class, GuardBase, KeyKind, Outcome, Refusal, Request, Success};
use keyfold_protocol::host::{HostReply, Reply};
use keyfold_protocol::ids::SlotId;
use keyfold_protocol::limits::{SEAL_OVERHEAD, TRIES};
use keyfold_protocol::wire;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::{ROOT, decode};
use keyfold_tests::generate::{Generate, Source};
use keyfold_tests::hostile::{assert_request, every_request};
use keyfold_tests::oracle;
use keyfold_tests::samples::encode;
use keyfold_tests::world::{Attach, PIN, World};
use libfuzzer_sys::fuzz_target;

/// An account with a history; every input starts from it, because the core keeps none of it.
struct Fixture {
    world: World,
    laptop: TestDevice,
    phone: TestDevice,
    stranger: TestDevice,
    /// Requests that are valid now, with their classes.
    valid: Vec<(Request, Class)>,
    slots: Vec<SlotId>,
    /// Where the account stands.
    base: GuardBase,
}

thread_local! {
    /// An account with a try left, and one without.
    static FIXTURES: RefCell<[Fixture; 2]> = RefCell::new([fixture(TRIES - 1), fixture(TRIES)]);
}

fn fixture(failures: u8) -> Fixture {
    let (mut world, mut laptop, phone) = World::with_phone();
    let first = world.create(&mut laptop, "example.com", "alice").expect("created");
    let second = world.create(&mut laptop, "example.com", "bob").expect("created");
    for _ in 0..failures {
        world.recover(&mut TestDevice::new("else"), [1; 32]).expect_err("wrong");
    }
    let stranger = TestDevice::new("stranger");
    let valid = every_request(&world, &second, phone.id());
    let mut valid: Vec<_> = valid.into_iter().map(|(_, request, class)| (request, class)).collect();
    let slots = vec![first.put.event.slot, second.put.event.slot];
    valid.push((Request::Assert(assert_request(&first)), Class::Assert(slots[0])));
    valid.push((world.recover_request(&stranger, PIN), Class::Recover));
    let base = world.base();
    Fixture { world, laptop, phone, stranger, valid, slots, base }
}

fuzz_target!(init: keyfold_fuzz::write_seeds(seeds()), |bytes: &[u8]| {
    let mut source = Source::new(bytes);
    let which = below(&mut source, 2);
    FIXTURES.with_borrow_mut(|fixtures| run(&mut fixtures[which], &mut source));
});

fn run(fixture: &mut Fixture, source: &mut Source) {
    let Fixture { world, laptop, phone, stranger, valid, slots, base } = fixture;
    // 1. A request: one that is valid now, or any.
    let (mut request, mut class) = valid[below(source, valid.len())].clone();
    let mut bits: u8 = source.arbitrary().unwrap_or(0);
    let is_generated = flip(&mut bits);
    let has_any_class = flip(&mut bits);
    let key = if flip(&mut bits) { KeyKind::Presence } else { KeyKind::UserVerification };
    let device = match (flip(&mut bits), flip(&mut bits)) {
        (false, false) => &*laptop,
        (true, false) => &*phone,
        _ => &*stranger,
    };
    if is_generated {
        request = Request::generate(source).expect("the source does not fail");
        let slot = slots[below(source, slots.len())];
        place(&mut request, base, slot, device);
        class = natural_class(&request, slot);
    }
    if has_any_class {
        class = Class::generate(source).expect("the source does not fail");
    }
    let encoded = encode(&request);
    let is_edited = flip(&mut bits);
    let encoded = if is_edited { edited(&encoded, source) } else { encoded };
    if encoded.len() > 3000 {
        return;
    }

    // 2. What an honest host attaches, or a mixture from its history.
    let sent = world.session.seal_encoded(device, key, &world.account, &encoded);
    let mut attach = world.attach(class, &sent.frame);
    let is_mixed = flip(&mut bits);
    if is_mixed {
        mix(world, &mut attach, slots, source);
    }

    // 3. The answer.
    let reply = world.handle(&sent, class, &attach);
    match decode(&reply) {
        HostReply::Refused(_) => {}
        HostReply::Reply(reply) => {
            let opened = sent.open(reply.sealed).expect("an answer to this client");
            let outcome: Outcome = wire::decode_padded(&opened).expect("an outcome");
            check_size(class, &attach, &reply);
            check(&encoded, class, key, &outcome, &reply);
        }
        HostReply::Staged(staged) => {
            let request = wire::decode::<Request>(&encoded).expect("staged, so decoded");
            assert!(request.matches(class));
            assert!(sent.open(staged.guard).is_none(), "a staged guard is no reply");
            match &request {
                Request::Enroll(_) | Request::Anchor(_) => {}
                Request::Recover(recover) => {
                    let from = attached_guard(world, &attach);
                    assert!(from.failures < TRIES, "a try after the lockout");
                    assert_eq!(recover.guard, from.version, "a try at another version");
                    assert_eq!(key, KeyKind::Presence);
                }
                Request::ApproveDevice(_)
                | Request::RevokeDevice(_)
                | Request::ChangePin(_)
                | Request::DeleteAccount(_) => assert_eq!(key, KeyKind::UserVerification),
                other => panic!("staged for {other:?}"),
            }
        }
        HostReply::Locked(sealed) => {
            let request = wire::decode::<Request>(&encoded).expect("understood, so decoded");
            assert!(matches!(request, Request::Recover(_)) && class == Class::Recover);
            assert_eq!(attached_guard(world, &attach).failures, TRIES, "locked with a try left");
            assert_eq!(sealed.len(), class.reply_size(0) + SEAL_OVERHEAD, "one size per class");
            let opened = sent.open(sealed).expect("an answer to this client");
            assert_eq!(wire::decode_padded::<Outcome>(&opened), Ok(Err(Refusal::Locked)));
        }
        other => panic!("not an answer to a request: {other:?}"),
    }
}

fn flip(bits: &mut u8) -> bool {
    let bit = *bits & 1 == 1;
    *bits >>= 1;
    bit
}

/// The guard that was attached, opened. Only of one that the core has accepted.
fn attached_guard(world: &World, attach: &Attach) -> oracle::Guard {
    let (version, sealed) = attach.guard.as_ref().expect("accepted, so attached");
    let guard = oracle::Oracle::new(ROOT, world.account).guard(*version, sealed);
    guard.expect("accepted, so live")
}

/// Puts a generated request where the account and its sender stand, so that it gets past the first
/// check.
fn place(request: &mut Request, at: &GuardBase, slot: SlotId, sender: &TestDevice) {
    match request {
        Request::Enroll(enroll) => enroll.device = sender.public(),
        Request::Recover(recover) => (recover.guard, recover.device) = (at.guard, sender.public()),
        Request::ApproveDevice(approve) => approve.base = *at,
        Request::RevokeDevice(revoke) => revoke.base = *at,
        Request::ChangePin(change) => change.base = *at,
        Request::Anchor(base) | Request::DeleteAccount(base) => *base = *at,
        Request::Touch(point) | Request::Sync(point) => *point = at.vault,
        Request::CreatePasskey(create) => create.vault = at.vault,
        Request::UpdatePasskey(update) => (update.vault, update.slot) = (at.vault, slot),
        Request::DeletePasskey(delete) => delete.vault = at.vault,
        Request::Assert(_) | Request::Status | Request::Audit(_) => {}
    }
}

fn natural_class(request: &Request, slot: SlotId) -> Class {
    match request {
        Request::Enroll(_) => Class::Enroll,
        Request::ApproveDevice(_) | Request::Anchor(_) => Class::Guard,
        Request::RevokeDevice(_) | Request::ChangePin(_) | Request::DeleteAccount(_) => {
            Class::GuardFresh
        }
        Request::Recover(_) => Class::Recover,
        Request::Touch(_) | Request::CreatePasskey(_) | Request::DeletePasskey(_) => {
            Class::Put(None)
        }
        Request::UpdatePasskey(update) => Class::Put(Some(update.slot)),
        Request::Assert(_) => Class::Assert(slot),
        Request::Sync(from) => Class::Sync(from.version),
        Request::Status => Class::Status,
        Request::Audit(from) => Class::Audit(from.version),
    }
}

/// Old state, other state, no state.
fn mix(world: &World, attach: &mut Attach, slots: &[SlotId], source: &mut Source) {
    let stored = &world.stored;
    let any = |source: &mut Source, count: usize| source.int_in_range(0..=count).unwrap_or(0);
    let guards: Vec<_> = stored.guards.iter().map(|(v, b)| (*v, b.clone())).collect();
    let vaults: Vec<_> = stored.vaults.iter().map(|(v, b)| (*v, b.clone())).collect();
    match any(source, 6) {
        0 => attach.guard = guards.get(any(source, guards.len())).cloned(),
        1 => attach.vault = vaults.get(any(source, vaults.len())).cloned(),
        2 => attach.record = stored.record(&slots[any(source, slots.len() - 1)]),
        3 => attach.guard = attach.vault.clone(),
        4 => attach.events.truncate(any(source, 2)),
        5 => attach.events.reverse(),
        _ => {
            let staged = &stored.staged[any(source, stored.staged.len() - 1)];
            attach.guard = Some((staged.version, staged.guard.clone()));
        }
    }
}

fn check_size(class: Class, attach: &Attach, reply: &Reply) {
    let items = match class {
        Class::Sync(_) => attach.events.len(),
        Class::Audit(_) => attach.audit.len(),
        _ => 0,
    };
    assert_eq!(reply.sealed.len(), class.reply_size(items) + SEAL_OVERHEAD, "one size per class");
}

/// What was answered is what was asked, by whom it may be asked.
fn check(encoded: &[u8], class: Class, key: KeyKind, outcome: &Outcome, reply: &Reply) {
    let request = wire::decode::<Request>(encoded);
    let fits = request.as_ref().is_ok_and(|request| request.matches(class));
    let Ok(success) = outcome else {
        assert!(reply.put.is_none(), "a refusal writes nothing");
        assert!(fits || *outcome == Err(Refusal::Malformed), "{outcome:?}");
        assert_ne!(*outcome, Err(Refusal::Locked), "the host, too, hears of a lockout");
        let is_told_where = matches!(outcome, Err(Refusal::GuardAt(_)));
        assert!(!is_told_where || class == Class::Recover, "{outcome:?}");
        return;
    };
    let request = request.expect("understood, so decoded");
    assert!(fits, "{class:?} for {request:?}");
    let prf = match success {
        Success::Created(created) => created.prf.as_ref(),
        Success::Asserted(asserted) => asserted.prf.as_ref(),
        _ => None,
    };
    assert!(prf.is_none() || key == KeyKind::UserVerification, "PRF without user verification");
    match (&request, success) {
        (Request::Touch(_) | Request::UpdatePasskey(_), Success::Put(_)) => {
            assert!(reply.put.is_some());
        }
        (Request::DeletePasskey(_), Success::Put(_)) => {
            assert!(reply.put.is_some_and(|put| put.record.is_none()));
            assert_eq!(key, KeyKind::UserVerification);
        }
        (Request::CreatePasskey(_), Success::Created(_)) => {
            assert!(reply.put.is_some_and(|put| put.record.is_some()));
        }
        (Request::Assert(assert), Success::Asserted(asserted)) => {
            assert!(reply.put.is_none());
            let verified = asserted.authenticator_data.0[32] & 0x04 != 0;
            assert_eq!(verified, key == KeyKind::UserVerification, "{assert:?}");
        }
        (Request::Sync(_), Success::Synced(_))
        | (Request::Status, Success::Status(_))
        | (Request::Audit(_), Success::Audited(_)) => assert!(reply.put.is_none()),
        (request, success) => panic!("{success:?} for {request:?}"),
    }
}

/// Each valid request, as it is; then with each switch on, of either account. The try is a new
/// device's, with its device key.
fn seeds() -> Vec<Vec<u8>> {
    const SWITCHES: u8 = 7;
    const NEW_DEVICE: u8 = 0b10100;
    let plain = |which: u8, index: u8| vec![which, index, 0];
    let requests = FIXTURES.with_borrow(|fixtures| fixtures[0].valid.len());
    let requests = u8::try_from(requests).expect("few requests");
    let tries = [vec![0, requests - 1, NEW_DEVICE], vec![1, requests - 1, NEW_DEVICE]];
    let seeds = [0, 1].into_iter().flat_map(|which| {
        let switched =
            (0..SWITCHES).map(move |bit| [&[which, bit, 1 << bit][..], &[0x55; 400]].concat());
        (0..requests).map(move |index| plain(which, index)).chain(switched)
    });
    seeds.chain(tries).collect()
}
