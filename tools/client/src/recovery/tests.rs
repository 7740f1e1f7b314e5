//! Recoveries whose answers get lost, whose hints lie, whose vault is old; a new PIN.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyfold_protocol::client::Action;
use keyfold_protocol::host::Event;
use keyfold_protocol::ids::{AccountId, DeviceId, Digest, SlotId};
use serde_json::json;

use super::*;
use crate::device::SoftwareKeys;
use crate::error::Fork;
use crate::requests::{NewPasskey, user_names};
use crate::testing::World;

const PIN: &str = "593021";
const WRONG: &str = "730512";

fn pin(typed: &str) -> Pin {
    Pin::existing(typed).unwrap()
}

/// Ana's laptop with its account and two passkeys, both anchored.
async fn with_laptop(world: &World) -> Client {
    let laptop = world.enrolled(Arc::new(SoftwareKeys::generate()));
    let id = laptop.registered().unwrap().id;
    let stretched = pin(PIN).stretched(id).await.unwrap();
    world.with_account(|account| account.pin = stretched.0);
    for user in ["ana", "bert"] {
        create(&laptop, user).await;
    }
    laptop.anchor().await.unwrap();
    world.log();
    laptop
}

async fn create(client: &Client, user: &str) {
    let new = NewPasskey {
        rp_id: "example.org".try_into().unwrap(),
        user_handle: heapless::Vec::from_slice(user.as_bytes()).unwrap(),
        names: user_names(user, user),
        algorithms: vec![-7],
        prf: None,
    };
    client.create_passkey(&new, KeyKind::UserVerification).await.unwrap();
}

fn count(world: &World, class: &str) -> usize {
    world.log().iter().filter(|logged| *logged == class).count()
}

fn failures(world: &World) -> u8 {
    world.with_account(|account| account.failures)
}

/// Loses the answer to the next try, and whatever comes while `also` says so.
fn lose_answer(world: &World, also: Arc<AtomicBool>) {
    let armed = Arc::new(AtomicBool::new(false));
    let arm = armed.clone();
    let mut asked = 0;
    world.hook(move |_, class| {
        // The first asks for the version.
        asked += u32::from(class == "recover");
        arm.fetch_or(class == "recover" && asked == 2, Ordering::SeqCst);
        let down = also.load(Ordering::SeqCst) && class == "status";
        down.then_some((503, "ledger-unreachable"))
    });
    world.state().relay =
        Some(Box::new(move |reply| (!armed.swap(false, Ordering::SeqCst)).then_some(reply)));
}

fn fork<T: std::fmt::Debug>(result: Result<T, Error>) -> Fork {
    match result {
        Err(Error::ForkAlarm(alarm)) => alarm.kind,
        other => panic!("no alarm: {other:?}"),
    }
}

#[tokio::test]
async fn a_new_device_gets_in_with_the_pin_and_finds_the_passkeys() {
    let world = World::start().await;
    let laptop = with_laptop(&world).await;
    let phone = world.client("phone", "ana");
    let overview = phone.recover(pin(PIN), "phone").await.unwrap();
    let names: Vec<_> = overview.devices.iter().map(|device| &*device.name).collect();
    assert_eq!(names, ["laptop", "phone"]);
    assert_eq!((overview.guard, overview.failures, overview.tries_left()), (4, 0, 10));
    let joining = ["deployment", "account", "session", "recover", "account", "recover"];
    assert_eq!(world.log(), [&joining[..], &["status", "sync"]].concat());
    assert_eq!(world.state().tried, [0, 2], "asked, then tried");
    assert_eq!(phone.passkeys().unwrap(), laptop.passkeys().unwrap());
    let known = phone.registered().unwrap();
    assert_eq!((known.guard_seen, known.audit.version, known.generation), (4, 4, 1));
    assert_eq!((known.vault.version, known.vault_floor, known.anchor.version), (2, None, 2));
    assert!(phone.status().await.unwrap().news.is_empty());

    create(&phone, "carla").await;
    laptop.sync().await.unwrap();
    assert_eq!(laptop.passkeys().unwrap().len(), 3);
    let kinds: Vec<_> = laptop.audit().await.unwrap().iter().map(|event| event.kind).collect();
    assert_eq!(kinds[2..], [AuditKind::TryCharged, AuditKind::Recovered]);
    let again = phone.recover(pin(PIN), "phone").await;
    assert!(matches!(again, Err(Error::AlreadyRegistered)));
}

#[tokio::test]
async fn a_wrong_pin_costs_one_try_and_says_what_is_left() {
    let world = World::start().await;
    let laptop = with_laptop(&world).await;
    let phone = world.client("phone", "ana");
    for left in [9, 8] {
        let wrong = phone.recover(pin(WRONG), "phone").await;
        let is_it = matches!(wrong, Err(Error::Refused(Refusal::WrongPin(found))) if found == left);
        assert!(is_it, "{wrong:?}");
        assert_eq!(count(&world, "recover"), 2);
        assert!(phone.store().load().unwrap().account.is_none());
    }
    let told = laptop.status().await.unwrap();
    assert_eq!((told.failures, told.tries_left(), told.failed_since()), (2, 8, 2));
    assert_eq!(laptop.status().await.unwrap().failed_since(), 0, "told once");
    phone.recover(pin(PIN), "phone").await.unwrap();
    let told = laptop.status().await.unwrap();
    assert_eq!((told.failures, told.failed_since()), (0, 0));
}

#[tokio::test]
async fn locked_closed_and_unknown_are_told_apart() {
    let world = World::start().await;
    let nobody = world.client("nobody", "zoe").recover(pin(PIN), "phone").await;
    assert!(matches!(nobody, Err(Error::NoAccount)));
    assert_eq!(count(&world, "recover"), 0);

    let laptop = with_laptop(&world).await;
    world.with_account(|account| account.failures = 10);
    let phone = world.client("phone", "ana");
    let locked = phone.recover(pin(PIN), "phone").await;
    assert!(matches!(locked, Err(Error::Refused(Refusal::Locked))), "{locked:?}");
    assert_eq!(laptop.status().await.unwrap().tries_left(), 0);

    laptop.delete_account().await.unwrap();
    let closed = phone.recover(pin(PIN), "phone").await;
    assert!(matches!(closed, Err(Error::Refused(Refusal::Closed))), "{closed:?}");
    assert_eq!(count(&world, "recover"), 4, "a question and a try each");
}

#[tokio::test]
async fn a_try_for_a_guard_that_moved_is_signed_again() {
    let world = World::start().await;
    with_laptop(&world).await;
    // By the enclave's word, twice, then by the host's.
    let mut moves = 3;
    let stranger = DeviceId([7; 16]);
    world.hook(move |state, class| {
        if class != "recover" || moves == 0 {
            return None;
        }
        moves -= 1;
        let account = state.accounts.values_mut().next().unwrap();
        account.changed(AuditKind::Anchored, stranger, stranger);
        (moves == 0).then_some((409, "guard-moved"))
    });
    let overview = world.client("phone", "ana").recover(pin(PIN), "phone").await.unwrap();
    assert_eq!((overview.guard, failures(&world)), (7, 0));
    assert_eq!(count(&world, "recover"), 5);
    // The third was stopped by the host.
    assert_eq!(world.state().tried, [0, 3, 0, 5]);
}

#[tokio::test]
async fn hints_that_lie_cost_no_try_and_open_nothing() {
    let world = World::start().await;
    with_laptop(&world).await;
    let phone = world.client("phone", "ana");
    let hint = |generation: u32, guard: u64| {
        let hint = json!({"generation": generation, "closed": false, "guard": guard, "vault": 2});
        world.state().hint = Some(hint);
    };
    for generation in [0, 2] {
        hint(generation, 2);
        let unknown = phone.recover(pin(PIN), "phone").await;
        let is_it =
            matches!(&unknown, Err(Error::Host(problem)) if problem.name == "account-unknown");
        assert!(is_it, "{generation}: {unknown:?}");
    }
    world.state().hint = Some(json!({"generation": "one"}));
    let garbled = phone.recover(pin(PIN), "phone").await;
    assert!(matches!(garbled, Err(Error::Unreachable(_))), "{garbled:?}");
    assert_eq!((failures(&world), world.with_account(|account| account.guard)), (0, 2));

    // That an account is over, only the enclave can say: what the host says keeps nobody out. Nor is
    // anything signed for a version that the host names, which it could keep until it comes.
    let closed = json!({"generation": 1, "closed": true, "guard": 9, "vault": 0});
    world.state().hint = Some(closed);
    assert_eq!(phone.recover(pin(PIN), "phone").await.unwrap().devices.len(), 2);
    assert_eq!(world.state().tried, [0, 2]);
}

#[tokio::test]
async fn a_guard_that_moves_before_every_try_ends_in_an_error() {
    let world = World::start().await;
    with_laptop(&world).await;
    let stranger = DeviceId([7; 16]);
    world.hook(move |state, class| {
        if class == "recover" {
            let account = state.accounts.values_mut().next().unwrap();
            account.changed(AuditKind::Anchored, stranger, stranger);
        }
        None
    });
    let never = world.client("phone", "ana").recover(pin(PIN), "phone").await;
    assert!(matches!(never, Err(Error::Contended(Attempts::MOST))), "{never:?}");
    assert_eq!((count(&world, "recover"), failures(&world)), (1 + Attempts::MOST as usize, 0));
}

/// A host could name one account until the enclave says its version, and then another, for which that
/// version is still to come: a try signed for it could be kept.
#[tokio::test]
async fn a_version_named_for_one_account_is_not_signed_for_another() {
    let world = World::start().await;
    with_laptop(&world).await;
    let mut other = world.with_account(|account| account.clone());
    other.guard = 21;
    let id = *world.state().accounts.keys().next().unwrap();
    world.state().accounts.insert(Account { generation: 2, ..id }, other);
    let mut asked = 0;
    world.hook(move |state, class| {
        if class == "account" {
            asked += 1;
            let generation = if asked == 1 { 2 } else { 1 };
            let hint = json!({"generation": generation, "closed": false, "guard": 2, "vault": 2});
            state.hint = Some(hint);
        }
        None
    });
    world.client("phone", "ana").recover(pin(PIN), "phone").await.unwrap();
    assert_eq!(world.state().tried, [0, 0, 2], "asked again, for the other account");
}

#[tokio::test]
async fn a_generation_that_is_over_does_not_come_back() {
    let world = World::start().await;
    let laptop = with_laptop(&world).await;
    let old = world.with_account(|account| account.clone());
    laptop.delete_account().await.unwrap();
    world.with_account(|account| *account = old);
    world.log();
    let expected = Fork::EndedBefore { ended: 1, came: 1 };
    assert_eq!(fork(laptop.recover(pin(PIN), "laptop").await), expected);
    assert_eq!(fork(laptop.enroll(pin(PIN), "laptop").await), expected);
    world.state().accounts.clear();
    assert_eq!(fork(laptop.enroll(pin(PIN), "laptop").await), expected);
    let log = world.log();
    assert!(!log.iter().any(|class| class == "recover" || class == "enroll"), "{log:?}");
}

#[tokio::test]
async fn a_lost_answer_to_the_right_pin_is_found() {
    let world = World::start().await;
    with_laptop(&world).await;
    lose_answer(&world, Arc::default());
    let phone = world.client("phone", "ana");
    let overview = phone.recover(pin(PIN), "phone").await.unwrap();
    assert_eq!((overview.guard, overview.devices.len()), (4, 2));
    assert_eq!(count(&world, "recover"), 2);
    assert_eq!(phone.passkeys().unwrap().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_to_a_wrong_pin_is_not_tried_again() {
    let world = World::start().await;
    with_laptop(&world).await;
    lose_answer(&world, Arc::default());
    let phone = world.client("phone", "ana");
    let unknown = phone.recover(pin(WRONG), "phone").await;
    assert!(matches!(unknown, Err(Error::TryUnanswered(_))), "{unknown:?}");
    let said = unknown.unwrap_err().to_string();
    assert!(said.contains("may have counted"), "{said}");
    assert_eq!((count(&world, "recover"), failures(&world)), (2, 1));
    // The next run looks first, then tries.
    phone.recover(pin(PIN), "phone").await.unwrap();
    assert_eq!(world.log()[..3], ["status", "account", "recover"]);
}

#[tokio::test]
async fn an_earlier_attempt_is_resolved_before_anything_is_tried() {
    let world = World::start().await;
    with_laptop(&world).await;
    let down = Arc::new(AtomicBool::new(true));
    lose_answer(&world, down.clone());
    let phone = world.client("phone", "ana");
    let unknown = phone.recover(pin(PIN), "phone").await;
    assert!(matches!(unknown, Err(Error::TryUnanswered(_))), "{unknown:?}");
    // As long as the account cannot be read, nothing is tried: it could be the second time.
    let still = phone.recover(pin(PIN), "phone").await;
    assert!(matches!(still, Err(Error::Host(_))), "{still:?}");
    assert_eq!(count(&world, "recover"), 2);
    down.store(false, Ordering::SeqCst);
    // In already: not even a wrong PIN costs anything now.
    assert_eq!(phone.recover(pin(WRONG), "phone").await.unwrap().devices.len(), 2);
    assert_eq!((count(&world, "recover"), failures(&world)), (0, 0));
    assert_eq!(phone.passkeys().unwrap().len(), 2);
}

#[tokio::test]
async fn a_try_is_sent_again_only_where_it_cannot_have_counted() {
    let world = World::start().await;
    with_laptop(&world).await;
    for (status, name) in [(503, "enclave-starting"), (503, "ledger-unreachable"), (500, "broken")]
    {
        let mut asked = 0;
        world.hook(move |_, class| {
            asked += u32::from(class == "recover");
            (class == "recover" && asked == 2).then_some((status, name))
        });
        let phone = world.client("phone", "ana");
        let unknown = phone.recover(pin(PIN), "phone").await;
        assert!(matches!(unknown, Err(Error::TryUnanswered(_))), "{name}: {unknown:?}");
        assert_eq!(count(&world, "recover"), 2, "{name}");
    }
    // Before it was sent, where the service says that it did nothing, and where it was a question.
    let mut refused = vec!["busy", "session-unknown", "session", "account"];
    world.hook(move |_, class| match (refused.last(), class) {
        (Some(&"busy"), "recover") => {
            refused.pop();
            Some((503, "enclave-starting"))
        }
        (Some(&"session-unknown"), "recover") => {
            refused.pop();
            Some((409, "session-unknown"))
        }
        (Some(&next), class) if next == class => {
            refused.pop();
            Some((503, "enclave-starting"))
        }
        _ => None,
    });
    world.client("tablet", "ana").recover(pin(PIN), "tablet").await.unwrap();
    assert_eq!((count(&world, "recover"), failures(&world)), (4, 0));
}

#[tokio::test]
async fn an_old_or_other_vault_raises_the_alarm() {
    for (what, rolled_back) in [("older", true), ("other", false)] {
        let world = World::start().await;
        with_laptop(&world).await;
        world.with_account(|account| match rolled_back {
            true => account.events.truncate(1),
            false => account.events[0].digest = Digest([7; 32]),
        });
        let phone = world.client("phone", "ana");
        let alarm = fork(phone.recover(pin(PIN), "phone").await);
        let expected = match alarm {
            Fork::VaultRolledBack { .. } => rolled_back,
            Fork::VaultForked { .. } => !rolled_back,
            _ => false,
        };
        assert!(expected, "{what}: {alarm:?}");
        assert!(phone.passkeys().unwrap().is_empty(), "{what}");
    }
    // A longer one, complete in itself, that does not lead through the anchored point.
    let world = World::start().await;
    let laptop = with_laptop(&world).await;
    create(&laptop, "carla").await;
    world.with_account(|account| {
        let event = &mut account.events[0];
        account.records.remove(&event.slot);
        *event = Event { slot: SlotId([0; 32]), action: Action::Touch, ..*event };
    });
    let phone = world.client("phone", "ana");
    let alarm = fork(phone.recover(pin(PIN), "phone").await);
    assert!(matches!(alarm, Fork::VaultForked { .. }), "{alarm:?}");
    assert!(phone.passkeys().unwrap().is_empty());
}

#[tokio::test]
async fn passkeys_that_cannot_come_now_come_later() {
    let world = World::start().await;
    with_laptop(&world).await;
    world.hook(|_, class| (class == "sync").then_some((500, "broken")));
    let phone = world.client("phone", "ana");
    assert_eq!(phone.recover(pin(PIN), "phone").await.unwrap().devices.len(), 2);
    let known = phone.registered().unwrap();
    assert_eq!((known.vault.version, known.anchor.version), (0, 2), "still to be passed");
    world.hook(|_, _| None);
    assert_eq!(phone.sync().await.unwrap().len(), 2);
    assert_eq!(phone.registered().unwrap().vault.version, 2);
}

#[tokio::test]
async fn a_recovery_of_another_version_is_refused() {
    let world = World::start().await;
    with_laptop(&world).await;
    world.state().edit = Some(Box::new(|success| {
        if let Success::GuardChanged(changed) = success {
            changed.guard += 1;
        }
    }));
    let phone = world.client("phone", "ana");
    let wrong = phone.recover(pin(PIN), "phone").await;
    assert!(matches!(wrong, Err(Error::Unexpected(_))), "{wrong:?}");
    assert!(matches!(phone.registered(), Err(Error::NotRegistered)));
}

#[tokio::test]
async fn a_new_pin_starts_the_count_again() {
    let world = World::start().await;
    let keys = Arc::new(SoftwareKeys::generate());
    let laptop = world.enrolled(keys.clone());
    let id = laptop.registered().unwrap().id;
    world.with_account(|account| account.failures = 10);
    assert_eq!(laptop.change_pin(pin(PIN)).await.unwrap(), 2);
    let stretched = pin(PIN).stretched(id).await.unwrap().0;
    assert_eq!(world.with_account(|account| (account.pin, account.failures)), (stretched, 0));
    keys.lock();
    let locked = laptop.change_pin(pin(WRONG)).await;
    assert!(matches!(locked, Err(Error::Key(_))), "{locked:?}");
    assert_eq!(world.with_account(|account| account.pin), stretched);
}

/// Loses the answer to the first change of the PIN; `meanwhile` happens in its place if it says so.
async fn change_pin_unheard(
    meanwhile: impl Fn(&mut crate::testing::State) -> bool + Send + 'static,
) {
    let world = World::start().await;
    let laptop = world.enrolled(Arc::new(SoftwareKeys::generate()));
    laptop.status().await.unwrap();
    let armed = Arc::new(AtomicBool::new(false));
    let (arm, mut first) = (armed.clone(), true);
    world.hook(move |state, class| {
        if class != "guardfresh" || !std::mem::take(&mut first) {
            return None;
        }
        if meanwhile(state) {
            return Some((500, "broken"));
        }
        arm.store(true, Ordering::SeqCst);
        None
    });
    world.state().relay =
        Some(Box::new(move |reply| (!armed.swap(false, Ordering::SeqCst)).then_some(reply)));
    world.log();
    let stretched = pin(PIN).stretched(laptop.registered().unwrap().id).await.unwrap().0;
    let guard = laptop.change_pin(pin(PIN)).await.unwrap();
    assert_eq!(world.with_account(|account| (account.pin, account.guard)), (stretched, guard));
    let sent = count(&world, "guardfresh");
    let changes = world.with_account(|account| {
        let this = laptop.keys().id();
        let of = |event: &&AuditEvent| event.kind == AuditKind::PinChanged && event.actor == this;
        account.audit.iter().filter(of).count()
    });
    assert_eq!((sent, changes), (if guard == 2 { 1 } else { 2 }, 1));
}

#[tokio::test]
async fn a_new_pin_whose_answer_was_lost_is_found_in_the_history() {
    // It happened.
    change_pin_unheard(|_| false).await;
    // Another device's did: this one is set all the same.
    change_pin_unheard(|state| {
        let other = DeviceId([7; 16]);
        let account = state.accounts.values_mut().next().unwrap();
        account.pin = [1; 32];
        account.changed(AuditKind::PinChanged, other, other);
        true
    })
    .await;
}

#[tokio::test]
async fn a_new_pin_that_never_arrived_is_set_by_trying_again() {
    let world = World::start().await;
    let laptop = world.enrolled(Arc::new(SoftwareKeys::generate()));
    let mut first = true;
    world.hook(move |_, class| {
        (class == "guardfresh" && std::mem::take(&mut first)).then_some((500, "broken"))
    });
    assert_eq!(laptop.change_pin(pin(PIN)).await.unwrap(), 2);
    assert_eq!(count(&world, "guardfresh"), 2);
}

#[tokio::test]
async fn a_sign_in_of_somebody_else_recovers_nothing_of_this_account() {
    let world = World::start().await;
    with_laptop(&world).await;
    let mallory = world.client("mallory", "mallory");
    assert!(matches!(mallory.recover(pin(PIN), "phone").await, Err(Error::NoAccount)));
    let state = mallory.store().load().unwrap();
    assert_eq!(state.account.map(|account| account.id), None::<AccountId>);
    assert_eq!(failures(&world), 0);
}
