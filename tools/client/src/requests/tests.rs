//! Passkeys: the life of one, two devices at once, and replies that do not fit.

use std::sync::Arc;

use keyfold_protocol::ids::{Digest, SlotId};

use super::*;
use crate::device::SoftwareKeys;
use crate::error::SyncError;
use crate::testing::{State, World};

fn new(user: &str) -> NewPasskey {
    NewPasskey {
        rp_id: "example.org".try_into().unwrap(),
        user_handle: UserHandle::from_slice(user.as_bytes()).unwrap(),
        names: user_names(user, user),
        algorithms: vec![-257, -8, -7],
        prf: None,
    }
}

async fn enrolled(world: &World) -> Client {
    enrolled_with(world, Arc::new(SoftwareKeys::generate())).await
}

async fn enrolled_with(world: &World, keys: Arc<SoftwareKeys>) -> Client {
    let client = world.enrolled(keys);
    client.sync().await.unwrap();
    world.log();
    client
}

/// Another device's work: one event in the vault.
fn elsewhere(state: &mut State) {
    let (id, account) = state.accounts.iter_mut().next().unwrap();
    let point = account.vault(id);
    let zeros = Digest([0; 32]);
    account.put(id, &point, SlotId([0; 32]), Action::Touch, zeros).unwrap();
}

const UV: KeyKind = KeyKind::UserVerification;

#[tokio::test]
async fn a_passkey_is_made_used_renamed_and_deleted() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let created = client.create_passkey(&new("ana"), KeyKind::Presence).await.unwrap();
    assert_eq!(created.algorithm.cose(), -8, "the relying party's first that there is");
    let listed = client.passkeys().unwrap();
    assert_eq!(listed[0].credential, created.credential);

    let rp_id = "example.org".try_into().unwrap();
    let asserted = client.assert(&rp_id, &created.credential, [5; 32], None, UV).await.unwrap();
    assert_eq!(asserted.signature, [5; 32]);
    assert_eq!(asserted.authenticator_data.0[32], 0x1d);
    let other = "example.com".try_into().unwrap();
    let elsewhere = client.assert(&other, &created.credential, [5; 32], None, UV).await;
    assert!(matches!(elsewhere, Err(Error::NoSuchPasskey)));

    client.update_passkey(&created.credential, &user_names("new", "New")).await.unwrap();
    let renamed = client.passkeys().unwrap();
    assert_eq!(renamed[0].names.name, "new");
    assert_ne!(renamed[0].record, listed[0].record);

    client.delete_passkey(&created.credential).await.unwrap();
    assert!(client.passkeys().unwrap().is_empty());
    let gone = client.assert(&rp_id, &created.credential, [5; 32], None, UV).await;
    assert!(matches!(gone, Err(Error::NoSuchPasskey)));
    let gone = client.update_passkey(&created.credential, &user_names("a", "b")).await;
    assert!(matches!(gone, Err(Error::NoSuchPasskey)));
}

#[tokio::test]
async fn what_a_device_notes_is_what_a_sync_from_zero_brings() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    for user in ["ana", "bob", "cy", "ana"] {
        client.create_passkey(&new(user), KeyKind::Presence).await.unwrap();
    }
    let bob = client.passkeys().unwrap();
    let bob = bob.iter().find(|one| one.names.name == "bob").unwrap().credential;
    client.update_passkey(&bob, &user_names("rob", "Rob")).await.unwrap();
    let noted = client.passkeys().unwrap();
    assert_eq!(noted.len(), 3);
    world.state().page = 2;
    let forget = |state: &mut AccountState| {
        state.vault = Chain::Vault.genesis(sha256, &state.account());
        state.passkeys.clear();
        Ok(())
    };
    client.update(client.registered().unwrap().account(), forget).unwrap();
    assert_eq!(client.sync().await.unwrap(), noted);
}

#[tokio::test]
async fn whoever_comes_second_syncs_and_signs_again() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let mut faster = 2;
    world.hook(move |state, class| {
        if class == "put" && faster > 0 {
            faster -= 1;
            elsewhere(state);
        }
        None
    });
    client.create_passkey(&new("ana"), KeyKind::Presence).await.unwrap();
    assert_eq!(world.log(), ["put", "sync", "put", "sync", "put"]);
    assert_eq!(client.registered().unwrap().vault.version, 3);

    // The host's own compare-and-set says the same.
    let mut refused = false;
    world.hook(move |_, class| {
        let first = class == "put" && !std::mem::replace(&mut refused, true);
        first.then_some((409, "sync-first"))
    });
    client.create_passkey(&new("bob"), KeyKind::Presence).await.unwrap();
    let mut refused = false;
    world.hook(move |_, class| {
        let first = class == "put" && !std::mem::replace(&mut refused, true);
        first.then_some((409, "guard-moved"))
    });
    client.create_passkey(&new("cy"), KeyKind::Presence).await.unwrap();

    world.hook(|state, class| {
        if class == "put" {
            elsewhere(state);
        }
        None
    });
    let never = client.create_passkey(&new("dan"), KeyKind::Presence).await;
    assert!(matches!(never, Err(Error::Contended(Attempts::MOST))), "{never:?}");
}

#[tokio::test]
async fn a_passkey_of_another_device_is_found_by_one_sync() {
    let world = World::start().await;
    let keys = Arc::new(SoftwareKeys::generate());
    let client = enrolled_with(&world, keys.clone()).await;
    let twin = world.client_with("twin", "ana", keys);
    let state = client.store().load().unwrap();
    let copy = |to: &mut crate::store::State| {
        *to = state;
        Ok::<_, Error>(())
    };
    twin.store().update(copy).unwrap();
    let created = twin.create_passkey(&new("ana"), KeyKind::Presence).await.unwrap();
    world.log();
    let rp_id = "example.org".try_into().unwrap();
    client.assert(&rp_id, &created.credential, [1; 32], None, UV).await.unwrap();
    assert!(world.log().ends_with(&["sync".into(), "assert".into()]));
    // Replaced behind its back: a new credential id, and the old one is gone.
    twin.create_passkey(&new("ana"), KeyKind::Presence).await.unwrap();
    let gone = client.assert(&rp_id, &created.credential, [1; 32], None, UV).await;
    assert!(matches!(gone, Err(Error::NoSuchPasskey)), "{gone:?}");
}

#[tokio::test]
async fn two_processes_with_one_store_do_not_lose_each_others_passkeys() {
    let world = World::start().await;
    let keys = Arc::new(SoftwareKeys::generate());
    let one = enrolled_with(&world, keys.clone()).await;
    let two = world.client_with("laptop", "ana", keys);
    let make = |client: Client, names: [&'static str; 3]| async move {
        for name in names {
            // Each may be outrun as often as there are attempts; the person would try again.
            while let Err(error) = client.create_passkey(&new(name), KeyKind::Presence).await {
                assert!(matches!(error, Error::Contended(_)), "{error}");
            }
        }
    };
    let first = tokio::spawn(make(one.clone(), ["a", "b", "c"]));
    let second = tokio::spawn(make(two, ["d", "e", "f"]));
    first.await.unwrap();
    second.await.unwrap();
    let mut names: Vec<_> =
        one.passkeys().unwrap().iter().map(|one| one.names.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(one.sync().await.unwrap().len(), 6);
}

#[tokio::test]
async fn a_rolled_back_or_forked_vault_raises_the_alarm() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    client.create_passkey(&new("ana"), KeyKind::Presence).await.unwrap();
    let old = world.with_account(|account| account.clone());
    client.create_passkey(&new("bob"), KeyKind::Presence).await.unwrap();
    world.with_account(|account| *account = old);
    let is_rolled_back = |error: &Error| match error {
        Error::ForkAlarm(alarm) => matches!(
            alarm.kind,
            Fork::VaultRolledBack { .. } | Fork::RefusedState(Refusal::StaleVault)
        ),
        _ => false,
    };
    assert!(is_rolled_back(&client.sync().await.unwrap_err()));
    assert!(is_rolled_back(&client.status().await.unwrap_err()));
    let create = client.create_passkey(&new("cy"), KeyKind::Presence).await;
    assert!(is_rolled_back(&create.unwrap_err()));
    assert_eq!(client.passkeys().unwrap().len(), 2, "nothing was forgotten");

    // As long as before, with another past.
    elsewhere(&mut world.state());
    let status = client.status().await.unwrap_err();
    let Error::ForkAlarm(alarm) = status else { panic!("{status}") };
    assert!(matches!(alarm.kind, Fork::VaultForked { .. }));
    assert!(matches!(client.sync().await, Err(Error::ForkAlarm(_))));
}

#[tokio::test]
async fn replies_that_do_not_fit_what_was_signed_are_not_kept() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    type Edit = fn(&mut PutDone);
    let edits: [(&str, Edit); 5] = [
        ("another head", |put| put.vault.head.0[0] ^= 1),
        ("another version", |put| put.vault.version += 1),
        ("another event", |put| put.event.version += 1),
        ("another slot", |put| put.event.slot.0[0] ^= 1),
        ("another digest", |put| put.event.digest.0[0] ^= 1),
    ];
    for (what, edit) in edits {
        let world_edit = move |success: &mut Success| {
            if let Success::Created(created) = success {
                edit(&mut created.put);
            }
        };
        world.state().edit = Some(Box::new(world_edit));
        let before = client.registered().unwrap().vault;
        let error = client.create_passkey(&new("ana"), KeyKind::Presence).await.unwrap_err();
        assert!(matches!(error, Error::ForkAlarm(_)), "{what}: {error}");
        assert_eq!(client.registered().unwrap().vault, before, "{what}");
        world.state().edit = None;
        client.sync().await.unwrap();
    }
    world.state().edit = Some(Box::new(|success| {
        if let Success::Put(done) = success {
            done.guard = 0;
        }
    }));
    let older = client.touch().await.unwrap_err();
    let Error::ForkAlarm(alarm) = older else { panic!("{older}") };
    assert_eq!(alarm.kind, Fork::GuardRolledBack { known: 1, came: 0 });
}

#[tokio::test]
async fn a_reply_from_elsewhere_is_not_taken() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let mut kept: Option<Vec<u8>> = None;
    world.state().relay = Some(Box::new(move |reply| match &kept {
        Some(old) => Some(old.clone()),
        None => {
            kept = Some(reply.clone());
            Some(reply)
        }
    }));
    client.sync().await.unwrap();
    let replayed = client.sync().await;
    assert!(matches!(replayed, Err(Error::Channel(_))), "{replayed:?}");
}

#[tokio::test]
async fn a_withheld_passkey_leaves_the_list_as_it_was() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    client.create_passkey(&new("ana"), KeyKind::Presence).await.unwrap();
    world.with_account(|account| account.records.clear());
    let known = client.passkeys().unwrap();
    let forget = |state: &mut AccountState| {
        state.vault = Chain::Vault.genesis(sha256, &state.account());
        Ok(())
    };
    client.update(client.registered().unwrap().account(), forget).unwrap();
    let withheld = client.sync().await;
    let expected = SyncError::RecordMissing { at: 1 };
    assert!(matches!(withheld, Err(Error::Sync(error)) if error == expected));
    assert_eq!(client.passkeys().unwrap(), known);
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_before_anything_is_sent() {
    let world = World::start().await;
    let client = enrolled(&world).await;
    let none = NewPasskey { algorithms: vec![-257, -37], ..new("ana") };
    let refused = client.create_passkey(&none, KeyKind::Presence).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::UnsupportedAlgorithm))));
    assert!(world.log().is_empty());
    // More than the protocol takes, the good one last.
    let algorithms = (0..40).map(|id| -1000 - id).chain([-7]).collect();
    let many = NewPasskey { algorithms, ..new("ana") };
    let created = client.create_passkey(&many, KeyKind::Presence).await.unwrap();
    assert_eq!(created.algorithm.cose(), -7);
}

#[test]
fn names_are_cut_at_a_characters_end() {
    let names = user_names(&"é".repeat(40), &format!("{}{}", "a".repeat(63), "é"));
    assert_eq!(names.name.len(), 64);
    assert_eq!(names.name.chars().count(), 32);
    assert_eq!(names.display_name.as_str(), "a".repeat(63));
    assert_eq!(user_names("", "short").display_name, "short");
}
