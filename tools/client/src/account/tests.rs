//! Enrolling, devices, history; conflicts, lost answers, rollbacks.

use std::sync::Arc;

use keyfold_protocol::client::AuditKind;
use keyfold_protocol::ids::{AccountId, Digest};

use super::*;
use crate::device::{KeyError, SoftwareKeys};
use crate::pin::Pin;
use crate::testing::World;

fn pin() -> Pin {
    Pin::new("593021").unwrap()
}

async fn enrolled(world: &World) -> Client {
    connected(world, Arc::new(SoftwareKeys::generate())).await
}

/// Registered, signed in, its session open.
async fn connected(world: &World, keys: Arc<SoftwareKeys>) -> Client {
    let client = world.enrolled(keys);
    client.status().await.unwrap();
    world.log();
    client
}

/// A further device, registered behind the client's back.
fn add_device(world: &World) -> DeviceId {
    use crate::device::DeviceKeys;
    let keys = SoftwareKeys::generate();
    let device = Device {
        name: "phone".try_into().unwrap(),
        device_key: keys.presence_key(),
        uv_key: keys.uv_key(),
    };
    world.with_account(|account| {
        account.devices.push(device);
        account.changed(AuditKind::DeviceAdded, keys.id(), keys.id());
    });
    keys.id()
}

fn fork<T: std::fmt::Debug>(result: Result<T, Error>) -> Fork {
    match result {
        Err(Error::ForkAlarm(alarm)) => alarm.kind,
        other => panic!("no alarm: {other:?}"),
    }
}

#[tokio::test]
async fn enrolling_opens_the_account_of_whoever_signed_in() {
    let world = World::start().await;
    let client = world.client("laptop", "ana");
    assert!(matches!(client.status().await, Err(Error::NotRegistered)));
    let overview = client.enroll(pin(), "laptop").await.unwrap();
    assert_eq!((overview.guard, overview.account.generation), (1, 1));
    assert_eq!(overview.devices[0].id, client.keys().id());
    assert_eq!(world.log(), ["deployment", "account", "session", "enroll", "status", "audit"]);
    let known = client.registered().unwrap();
    assert_eq!((known.guard_seen, known.audit.version), (1, 1));
    let again = client.enroll(pin(), "laptop").await;
    assert!(matches!(again, Err(Error::AlreadyRegistered)));
}

#[tokio::test]
async fn an_anchor_that_goes_back_or_leaves_the_vault_behind_is_an_alarm() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    client.touch().await.unwrap();
    client.anchor().await.unwrap();
    let known = client.registered().unwrap();
    assert_eq!((known.anchor, known.anchor_of), (known.vault, 2));
    let set = |version, head| {
        world.with_account(|account| account.anchor = ChainPoint { version, head: Digest(head) });
    };
    set(0, [0; 32]);
    let expected = Fork::AnchorRolledBack { known: 1, came: 0 };
    assert_eq!(fork(client.status().await), expected);
    set(2, [0; 32]);
    assert!(matches!(fork(client.status().await), Fork::VaultRolledBack { .. }));
    set(1, [0; 32]);
    assert!(matches!(fork(client.status().await), Fork::VaultForked { .. }));
    set(1, known.vault.head.0);
    client.status().await.unwrap();
}

/// A device that a host keeps on a fork finds out at the first status that shows it what the ledger
/// anchors, however far ahead its fork is; and before it anchors that over the other.
#[tokio::test]
async fn an_anchor_beside_the_devices_chain_is_an_alarm() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    client.touch().await.unwrap();
    client.touch().await.unwrap();
    let known = client.registered().unwrap();
    let anchored_elsewhere = |head| {
        world.with_account(|account| {
            account.anchor = ChainPoint { version: 1, head };
            account.changed(AuditKind::Anchored, known.device, known.device);
        });
    };
    // By another device, on the same chain: no alarm, and this device anchors its own point next.
    let passed = world.with_account(|account| account.point(&known.account(), 1).head);
    anchored_elsewhere(passed);
    assert_eq!(client.anchor().await.unwrap(), 3);
    assert_eq!(client.registered().unwrap().anchor, known.vault);

    client.touch().await.unwrap();
    client.touch().await.unwrap();
    world.with_account(|account| {
        account.anchor = ChainPoint { version: 3, head: Digest([7; 32]) };
        account.changed(AuditKind::Anchored, known.device, known.device);
    });
    let refused = Fork::RefusedState(Refusal::BrokenChain);
    assert_eq!(fork(client.status().await), refused);
    assert_eq!(fork(client.anchor().await), refused);
}

/// A status that was asked for before the vault moved says nothing about where it has moved to: an
/// anchor that only looked as if it were ahead is judged again.
#[tokio::test]
async fn an_anchor_that_the_device_has_overtaken_meanwhile_is_judged_again() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let before = client.registered().unwrap();
    client.touch().await.unwrap();
    client.touch().await.unwrap();
    world.with_account(|account| {
        account.anchor = ChainPoint { version: 1, head: Digest([7; 32]) };
        account.changed(AuditKind::Anchored, before.device, before.device);
    });
    let expected = Fork::RefusedState(Refusal::BrokenChain);
    assert_eq!(fork(client.read_status(before).await), expected);
    assert_eq!(fork(client.anchor().await), expected);
}

/// An answer about an account that has ended meanwhile changes nothing of the next one.
#[tokio::test]
async fn a_late_answer_of_an_ended_account_is_not_written_into_the_next() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let ended = client.registered().unwrap();
    client
        .store()
        .update(|state| {
            let next = Account { generation: 2, ..ended.account() };
            state.account = Some(AccountState::new(next, ended.device, ended.device_name.clone()));
            Ok::<_, Error>(())
        })
        .unwrap();
    let next = client.store().load().unwrap().account;
    let late = client.read_status(ended).await;
    assert!(matches!(late, Err(Error::Refused(Refusal::Closed))), "{late:?}");
    assert_eq!(client.store().load().unwrap().account, next);
}

#[tokio::test]
async fn an_account_that_exists_is_not_taken_over() {
    let world = World::start().await;
    enrolled(&world).await;
    let second = world.client("second", "ana");
    assert!(matches!(second.enroll(pin(), "second").await, Err(Error::AccountExists)));
    assert!(second.store().load().unwrap().account.is_none());
}

#[tokio::test]
async fn an_enrolment_whose_answer_was_lost_is_found_at_once_or_later() {
    let world = World::start().await;
    let client = world.client("laptop", "ana");
    world.state().relay = Some(Box::new(|_| None));
    assert!(client.enroll(pin(), "laptop").await.is_err());
    assert!(matches!(client.status().await, Err(Error::NotRegistered)));
    world.state().relay = None;
    assert_eq!(client.enroll(pin(), "laptop").await.unwrap().guard, 1);

    let world = World::start().await;
    let mut lose = true;
    world.state().relay =
        Some(Box::new(move |reply| (!std::mem::take(&mut lose)).then_some(reply)));
    let overview = world.client("laptop", "ana").enroll(pin(), "laptop").await.unwrap();
    assert_eq!(overview.guard, 1);
}

#[tokio::test]
async fn sessions_enclaves_and_sign_ins_that_are_gone_are_replaced() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    world.state().enclave.forget_sessions();
    client.status().await.unwrap();
    assert_eq!(world.log(), ["status", "session", "status"]);

    world.reboot();
    client.status().await.unwrap();
    let expected = ["status", "session", "deployment", "session", "status"];
    assert_eq!(world.log(), expected);

    // A host that says so without end is not asked without end.
    let before = world.issuer.sign_ins();
    world.hook(|_, _| Some((401, "sign-in-required")));
    assert!(matches!(client.status().await, Err(Error::Host(_))));
    assert_eq!(world.issuer.sign_ins(), before + 1);
    world.hook(|_, _| Some((409, "session-unknown")));
    assert!(matches!(client.status().await, Err(Error::Host(_))));
    assert!(world.log().len() < 12);
}

#[tokio::test]
async fn an_enclave_whose_evidence_no_longer_holds_gets_nothing() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    world.reboot();
    world.state().document["enclaves"][0]["claims"] = "e30".into();
    assert!(matches!(client.status().await, Err(Error::Deployment(_))));
    assert_eq!(world.log(), ["status", "session", "deployment"]);
}

#[tokio::test]
async fn signing_in_and_connecting_can_be_done_ahead() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let account = client.status().await.unwrap().account.id;
    assert_eq!(client.sign_in(false).await.unwrap(), account);
    world.log();

    let other = world.client("elsewhere", "bert");
    other.connect().await.unwrap();
    assert_eq!(world.log(), ["deployment", "session"]);
    other.connect().await.unwrap();
    assert!(world.log().is_empty(), "one session is enough");
    assert_ne!(other.sign_in(true).await.unwrap(), account);

    // A sign-in as somebody else is not passed off as this device's.
    let somebody_elses = |state: &mut AccountState| {
        state.id = AccountId([9; 32]);
        Ok(())
    };
    client.update(client.registered().unwrap().account(), somebody_elses).unwrap();
    assert!(matches!(client.sign_in(false).await, Err(Error::OtherAccount { .. })));
    assert!(matches!(client.connect().await, Err(Error::OtherAccount { .. })));
}

#[tokio::test]
async fn a_busy_service_is_asked_again_but_not_for_ever() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let mut busy = 2;
    world.hook(move |_, _| {
        busy -= 1;
        (busy >= 0).then_some((503, "enclave-starting"))
    });
    client.status().await.unwrap();
    // For its ledger the host has waited itself.
    for (status, name, times) in
        [(503, "enclave-starting", 4), (503, "ledger-unreachable", 1), (403, "account-mismatch", 1)]
    {
        world.hook(move |_, _| Some((status, name)));
        world.log();
        assert!(matches!(client.status().await, Err(Error::Host(_))));
        assert_eq!(world.log().len(), times, "{name}");
    }
}

#[tokio::test]
async fn revoking_asks_for_a_fresh_sign_in_and_touches_the_vault() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let phone = add_device(&world);
    let mut asked = false;
    world.hook(move |_, class| {
        let first = class == "guardfresh" && !std::mem::replace(&mut asked, true);
        first.then_some((401, "fresh-sign-in-required"))
    });
    let before = world.issuer.sign_ins();
    let revoked = client.revoke_device(phone).await.unwrap();
    assert_eq!((revoked.guard, revoked.vault_touched), (3, true));
    assert_eq!(world.issuer.sign_ins(), before + 1);
    assert_eq!(world.with_account(|account| account.devices.len()), 1);
    assert_eq!(world.log().iter().filter(|class| *class == "put").count(), 1);
    assert!(!client.registered().unwrap().touch_due);
    let unknown = client.revoke_device(phone).await;
    assert!(matches!(unknown, Err(Error::Refused(Refusal::UnknownDevice))));
}

#[tokio::test]
async fn a_touch_that_failed_is_made_up_for() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let phone = add_device(&world);
    world.hook(|_, class| (class == "put").then_some((500, "broken")));
    let revoked = client.revoke_device(phone).await.unwrap();
    assert!(!revoked.vault_touched);
    assert!(client.registered().unwrap().touch_due);
    world.hook(|_, _| None);
    client.sync().await.unwrap();
    assert!(!client.registered().unwrap().touch_due);
    assert_eq!(client.registered().unwrap().vault.version, 1);
}

#[tokio::test]
async fn user_verification_is_needed_where_it_is() {
    let world = World::start().await;
    let keys = Arc::new(SoftwareKeys::generate());
    let client = connected(&world, keys.clone()).await;
    let phone = add_device(&world);
    keys.lock();
    let refused = client.revoke_device(phone).await;
    assert!(matches!(refused, Err(Error::Key(KeyError::Locked))));
    assert_eq!(world.with_account(|account| account.devices.len()), 2);
}

#[tokio::test]
async fn a_guard_that_moved_is_read_and_signed_for_again() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    client.touch().await.unwrap();
    let phone = add_device(&world);
    // The client knows version 1; the guard is at 2.
    assert_eq!(client.anchor().await.unwrap(), 3);
    // And once more while it is signing.
    let mut moved = false;
    world.hook(move |state, class| {
        if class == "guardfresh" && !std::mem::replace(&mut moved, true) {
            let account = state.accounts.values_mut().next().unwrap();
            account.changed(AuditKind::Anchored, phone, phone);
        }
        None
    });
    assert_eq!(client.revoke_device(phone).await.unwrap().guard, 5);
}

#[tokio::test]
async fn a_guard_that_always_moves_ends_in_an_error() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    client.touch().await.unwrap();
    let id = client.keys().id();
    world.hook(move |state, class| {
        if class == "guard" {
            state.accounts.values_mut().next().unwrap().changed(AuditKind::Anchored, id, id);
        }
        None
    });
    let never = client.anchor().await;
    assert!(matches!(never, Err(Error::Contended(Attempts::MOST))), "{never:?}");
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_found_by_status_and_not_repeated() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let phone = add_device(&world);
    client.status().await.unwrap();
    let mut lose = Some(());
    let armed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let arm = armed.clone();
    world.hook(move |_, class| {
        arm.store(class == "guardfresh", std::sync::atomic::Ordering::SeqCst);
        None
    });
    world.state().relay = Some(Box::new(move |reply| {
        let now = armed.load(std::sync::atomic::Ordering::SeqCst) && lose.take().is_some();
        (!now).then_some(reply)
    }));
    world.log();
    assert_eq!(client.revoke_device(phone).await.unwrap().guard, 3);
    assert_eq!(world.log().iter().filter(|class| *class == "guardfresh").count(), 1);
}

#[tokio::test]
async fn a_rolled_back_guard_raises_the_alarm() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let old = world.with_account(|account| account.clone());
    add_device(&world);
    client.status().await.unwrap();
    world.with_account(|account| *account = old);
    let expected = Fork::GuardRolledBack { known: 2, came: 1 };
    assert_eq!(fork(client.status().await), expected);
    assert_eq!(fork(client.sync().await), expected);
    assert_eq!(client.registered().unwrap().guard_seen, 2);
}

#[tokio::test]
async fn another_history_raises_the_alarm_at_the_same_version_and_at_a_higher_one() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let old = world.with_account(|account| account.clone());
    add_device(&world);
    client.status().await.unwrap();
    world.with_account(|account| *account = old);
    add_device(&world);
    assert!(matches!(fork(client.status().await), Fork::AuditForked { .. }));
    add_device(&world);
    // The enclave itself refuses a history that does not contain the known point.
    let expected = Fork::RefusedState(Refusal::BrokenChain);
    assert_eq!(fork(client.status().await), expected);
}

#[tokio::test]
async fn the_enclaves_own_alarms_are_alarms() {
    for refusal in [Refusal::StaleGuard, Refusal::StaleVault, Refusal::BrokenChain] {
        assert!(matches!(refused(refusal).await, Err(Error::ForkAlarm(_))), "{refusal:?}");
    }
    let other = refused(Refusal::NoSuchPasskey).await;
    assert!(matches!(other, Err(Error::Refused(Refusal::NoSuchPasskey))));
}

#[tokio::test]
async fn what_the_ledger_does_not_confirm_yet_is_asked_again_and_not_for_ever() {
    refused(Refusal::NotFresh).await.unwrap();

    let world = World::start().await;
    let client = enrolled(&world).await;
    world.hook(|state, _| {
        state.refuse = Some(Refusal::NotFresh);
        None
    });
    let never = client.status().await;
    assert!(matches!(never, Err(Error::Refused(Refusal::NotFresh))), "{never:?}");
}

/// A status that the enclave refuses so.
async fn refused(refusal: Refusal) -> Result<Overview, Error> {
    let world = World::start().await;
    let client = enrolled(&world).await;
    world.state().refuse = Some(refusal);
    client.status().await
}

#[tokio::test]
async fn status_tells_the_news_once_and_audit_everything() {
    let world = World::start().await;
    let client = world.enrolled(Arc::new(SoftwareKeys::generate()));
    client.touch().await.unwrap();
    let kinds = |events: &[AuditEvent]| events.iter().map(|event| event.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&client.status().await.unwrap().news), [AuditKind::Enrolled]);
    add_device(&world);
    // Read by the library on its way: still news.
    client.anchor().await.unwrap();
    let added = [AuditKind::DeviceAdded, AuditKind::Anchored];
    assert_eq!(kinds(&client.status().await.unwrap().news), added);
    assert!(client.status().await.unwrap().news.is_empty());
    let all = [AuditKind::Enrolled, AuditKind::DeviceAdded, AuditKind::Anchored];
    assert_eq!(kinds(&client.audit().await.unwrap()), all);
    world.state().page = 1;
    assert_eq!(kinds(&client.audit().await.unwrap()), all);
}

#[tokio::test]
async fn replies_that_do_not_fit_their_request_are_refused() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    type Edit = fn(&mut Success);
    let edits: [(&str, Edit); 3] = [
        ("a skipped version", |success| {
            if let Success::GuardChanged(changed) = success {
                changed.guard += 1;
            }
        }),
        ("another vault", |success| {
            if let Success::GuardChanged(changed) = success {
                changed.vault.version += 1;
            }
        }),
        ("another kind", |success| {
            if let Success::GuardChanged(changed) = success {
                let GuardChanged { guard, audit_head, vault } = *changed;
                let devices = heapless::Vec::new();
                let status =
                    AccountStatus { guard, audit_head, anchor: vault, vault, devices, failures: 0 };
                *success = Success::Status(status);
            }
        }),
    ];
    for (what, edit) in edits {
        world.state().edit = Some(Box::new(edit));
        let result = client.anchor().await;
        assert!(matches!(result, Err(Error::Unexpected(_))), "{what}: {result:?}");
        world.state().edit = None;
        // A skipped version was claimed: make it true, so that the next case starts in step.
        let seen = client.registered().unwrap().guard_seen;
        let id = client.keys().id();
        world.with_account(|account| {
            while account.guard < seen {
                account.changed(AuditKind::Anchored, id, id);
            }
        });
        client.status().await.unwrap();
    }
}

#[tokio::test]
async fn a_sign_in_of_somebody_else_is_refused() {
    let world = World::start().await;
    let keys = Arc::new(SoftwareKeys::generate());
    let client = connected(&world, keys.clone()).await;
    std::fs::remove_file(client.store().directory().join("sign-in.json")).unwrap();
    let other = world.client_with("laptop", "mallory", keys);
    assert!(matches!(other.status().await, Err(Error::OtherAccount { .. })));
}

#[tokio::test]
async fn the_vault_is_anchored_once_a_day_when_it_moved() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    client.touch().await.unwrap();
    client.sync().await.unwrap();
    let known = client.registered().unwrap();
    let account = known.account();
    assert_eq!(known.anchor.version, 0);
    let yesterday = |state: &mut AccountState| {
        state.anchor_tried -= ANCHOR_EVERY;
        Ok(())
    };
    client.update(account, yesterday).unwrap();
    client.sync().await.unwrap();
    let known = client.registered().unwrap();
    assert_eq!((known.anchor.version, known.audit.version), (1, 2));
    client.update(account, yesterday).unwrap();
    client.sync().await.unwrap();
    assert_eq!(client.registered().unwrap().audit.version, 2, "nothing moved since");
    client.touch().await.unwrap();
    client.sync().await.unwrap();
    assert_eq!(client.registered().unwrap().audit.version, 3, "that was a day ago");
}

#[tokio::test]
async fn guard_seen_is_signed_and_raised_from_every_reply() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    add_device(&world);
    client.sync().await.unwrap();
    let known = client.registered().unwrap();
    assert_eq!((known.guard_seen, known.audit.version), (2, 1));
    assert_eq!(world.state().guard_seen, 1);
    client.sync().await.unwrap();
    assert_eq!(world.state().guard_seen, 2);
}

#[tokio::test]
async fn names_are_not_cut_silently() {
    let world = World::start().await;
    let client = world.client("laptop", "ana");
    let long = client.enroll(pin(), &"l".repeat(65)).await;
    assert!(matches!(long, Err(Error::TooLong { limit: 64, .. })));
    assert!(world.log().is_empty());
}
