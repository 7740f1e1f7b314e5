//! Any request, from a device that may be registered, rightly sealed and signed or with edits, with
//! any attachments out of an account's history. The answer opens for its client alone, has the one
//! size of its class, and never is more than the request asked for.
#![no_main]

use std::cell::RefCell;

use keyfold_fuzz::edited;
use keyfold_protocol::client::{Class, KeyKind, Outcome, Refusal, Request, Success};
use keyfold_protocol::host::{HostReply, Reply};
use keyfold_protocol::ids::{ChainPoint, SlotId};
use keyfold_protocol::limits::SEAL_OVERHEAD;
use keyfold_protocol::wire;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::decode;
use keyfold_tests::generate::{Generate, Source};
use keyfold_tests::hostile::{assert_request, every_request};
use keyfold_tests::samples::encode;
use keyfold_tests::world::{Attach, World};
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
    vault: ChainPoint,
}

thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(fixture());
}

fn fixture() -> Fixture {
    let (mut world, mut laptop, phone) = World::with_phone();
    let first = world.create(&mut laptop, "example.com", "alice").expect("created");
    let second = world.create(&mut laptop, "example.com", "bob").expect("created");
    let valid = every_request(&world, &second, phone.id());
    let mut valid: Vec<_> = valid.into_iter().map(|(_, request, class)| (request, class)).collect();
    let slots = vec![first.put.event.slot, second.put.event.slot];
    valid.push((Request::Assert(assert_request(&first)), Class::Assert(slots[0])));
    let vault = world.vault();
    Fixture { world, laptop, phone, stranger: TestDevice::new("stranger"), valid, slots, vault }
}

fuzz_target!(init: keyfold_fuzz::write_seeds(seeds()), |bytes: &[u8]| {
    FIXTURE.with_borrow_mut(|fixture| run(fixture, &mut Source::new(bytes)));
});

fn run(fixture: &mut Fixture, source: &mut Source) {
    let Fixture { world, laptop, phone, stranger, valid, slots, vault } = fixture;
    // 1. A request: one that is valid now, or any.
    let (mut request, mut class) =
        valid[source.int_in_range(0..=valid.len() - 1).unwrap_or(0)].clone();
    let mut bits: u8 = source.arbitrary().unwrap_or(0);
    if flip(&mut bits) {
        request = Request::generate(source).expect("the source does not fail");
        let slot = slots[usize::from(bits & 1)];
        place(&mut request, *vault, slot);
        class = natural_class(&request, slot);
    }
    if flip(&mut bits) {
        class = Class::generate(source).expect("the source does not fail");
    }
    let key = if flip(&mut bits) { KeyKind::Presence } else { KeyKind::UserVerification };
    let device = match (flip(&mut bits), flip(&mut bits)) {
        (false, false) => &*laptop,
        (true, false) => &*phone,
        _ => &*stranger,
    };
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
            assert!(matches!(class, Class::Enroll | Class::Guard | Class::GuardFresh));
            assert!(request.matches(class));
            assert!(sent.open(staged.guard).is_none(), "a staged guard is no reply");
        }
        other => panic!("not an answer to a request: {other:?}"),
    }
}

fn flip(bits: &mut u8) -> bool {
    let bit = *bits & 1 == 1;
    *bits >>= 1;
    bit
}

/// Puts a generated request where the account stands, so that it gets past the first check.
fn place(request: &mut Request, vault: ChainPoint, at: SlotId) {
    match request {
        Request::ApproveDevice(approve) => (approve.base.guard, approve.base.vault) = (2, vault),
        Request::RevokeDevice(revoke) => (revoke.base.guard, revoke.base.vault) = (2, vault),
        Request::Anchor(base) => (base.guard, base.vault) = (2, vault),
        Request::Touch(point) | Request::Sync(point) => *point = vault,
        Request::CreatePasskey(create) => create.vault = vault,
        Request::UpdatePasskey(update) => (update.vault, update.slot) = (vault, at),
        Request::DeletePasskey(delete) => delete.vault = vault,
        Request::Enroll(_) | Request::Assert(_) | Request::Status | Request::Audit(_) => {}
    }
}

fn natural_class(request: &Request, slot: SlotId) -> Class {
    match request {
        Request::Enroll(_) => Class::Enroll,
        Request::ApproveDevice(_) | Request::Anchor(_) => Class::Guard,
        Request::RevokeDevice(_) => Class::GuardFresh,
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

fn seeds() -> Vec<Vec<u8>> {
    // Each valid request, as it is; then with each switch on.
    let plain = (0..16).map(|index| vec![0, 0, 0, 0, index]);
    let switched = (0..8).map(|bit| [&[1 << bit; 1][..], &[0x55; 400]].concat());
    plain.chain(switched).collect()
}
