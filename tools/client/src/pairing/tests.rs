//! Pairing, and what a host in the middle may try.

use std::sync::Arc;

use keyfold_protocol::client::KeyKind;
use keyfold_protocol::ids::AccountId;

use super::*;
use crate::account::Overview;
use crate::client::Client;
use crate::device::{DeviceKeys, SoftwareKeys};
use crate::error::{Error, Fork};
use crate::requests::{NewPasskey, user_names};
use crate::testing::World;

fn offer(account: u8) -> Offer {
    let keys = SoftwareKeys::generate();
    let device = Device {
        name: "phone".try_into().unwrap(),
        device_key: keys.presence_key(),
        uv_key: keys.uv_key(),
    };
    Offer { account: AccountId([account; 32]), device }
}

fn answer(account: u8, device: DeviceId) -> Answer {
    Answer {
        account: Account { id: AccountId([account; 32]), generation: 1 },
        device,
        guard: 2,
        audit_head: Digest([1; 32]),
        vault: ChainPoint { version: 3, head: Digest([2; 32]) },
        statement_serial: 7,
        statement: [3; 32],
    }
}

#[test]
fn messages_open_for_holders_of_the_secret_only() {
    let secret = PairingSecret::generate();
    let keys = Keys::new(&secret);
    let sealed = keys.seal_offer(&offer(1));
    let candidate = Keys::new(&PairingSecret::parse(&secret.code()).unwrap())
        .open_offer(sealed.clone())
        .unwrap();
    let reply = keys.seal_answer(&answer(1, candidate.id()), &sealed);
    assert_eq!(keys.open_answer(&reply, &sealed), Ok(answer(1, candidate.id())));
    assert!(sealed.len() <= MESSAGE && reply.len() == sealed.len());

    let other = Keys::new(&PairingSecret::generate());
    assert_ne!(other.mailbox, keys.mailbox);
    // Read, forged or replayed from another pairing.
    assert_eq!(other.open_offer(sealed.clone()).err(), Some(PairingError::Forged));
    assert_eq!(other.open_answer(&reply, &sealed).err(), Some(PairingError::Forged));
    // Reflected to its sender.
    assert_eq!(keys.open_offer(reply.clone()).err(), Some(PairingError::Forged));
    assert_eq!(keys.open_answer(&sealed, &sealed).err(), Some(PairingError::Forged));
    // An answer to another offer under the same secret.
    let second = keys.seal_offer(&offer(1));
    assert_eq!(keys.open_answer(&reply, &second).err(), Some(PairingError::Forged));
    // Keys or anything else swapped.
    for byte in 0..sealed.len() {
        let mut bent = sealed.clone();
        bent[byte] ^= 1;
        assert_eq!(keys.open_offer(bent).err(), Some(PairingError::Forged), "byte {byte}");
    }
}

#[test]
fn only_a_holder_of_the_secret_declines_and_the_host_cannot_tell() {
    let keys = Keys::new(&PairingSecret::generate());
    let offered = keys.seal_offer(&offer(1));
    let declined = keys.seal_decline(&offered);
    assert_eq!(keys.open_answer(&declined, &offered), Err(PairingError::Declined));
    let device = keys.open_offer(offered.clone()).unwrap().id();
    assert_eq!(declined.len(), keys.seal_answer(&answer(1, device), &offered).len());
    let stranger = Keys::new(&PairingSecret::generate()).seal_decline(&offered);
    assert_eq!(keys.open_answer(&stranger, &offered), Err(PairingError::Forged));
    // Of another offer under the same secret.
    let second = keys.seal_offer(&offer(1));
    assert_eq!(keys.open_answer(&declined, &second), Err(PairingError::Forged));
}

#[test]
fn fingerprints_are_for_comparing() {
    let id = DeviceId(std::array::from_fn(|at| at as u8));
    assert_eq!(fingerprint(&id), "0001 0203 0405 0607 0809 0a0b 0c0d 0e0f");
}

/// A laptop with an account, a passkey in it, and a phone without.
async fn devices(world: &World) -> (Client, Client) {
    let laptop = world.enrolled(Arc::new(SoftwareKeys::generate()));
    let new = NewPasskey {
        rp_id: "example.org".try_into().unwrap(),
        user_handle: heapless::Vec::from_slice(b"ana").unwrap(),
        names: user_names("ana", "Ana"),
        algorithms: vec![-7],
        prf: None,
    };
    laptop.create_passkey(&new, KeyKind::Presence).await.unwrap();
    (laptop, world.client("phone", "ana"))
}

async fn approve(
    laptop: Client, secret: Arc<PairingSecret>,
) -> Result<crate::account::Overview, Error> {
    let candidate = laptop.await_candidate(&secret).await?;
    assert_eq!(candidate.name(), "phone");
    laptop.approve(&secret, &candidate).await
}

#[tokio::test]
async fn a_device_joins_and_syncs() {
    let world = World::start().await;
    let (laptop, phone) = devices(&world).await;
    let secret = Arc::new(laptop.invite().unwrap());
    let approving = tokio::spawn(approve(laptop.clone(), secret.clone()));
    let typed = PairingSecret::parse(&secret.code()).unwrap();
    let joined = phone.join(&typed, "phone").await.unwrap();
    let approved = approving.await.unwrap().unwrap();
    assert_eq!(joined.devices, approved.devices);
    let names: Vec<_> = joined.devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["laptop", "phone"]);
    assert!(joined.news.is_empty(), "the phone was told where the history stands");

    let known = phone.registered().unwrap();
    assert_eq!(known.guard_seen, 2);
    assert_eq!(known.vault_floor.unwrap().version, 1);
    assert_eq!(phone.sync().await.unwrap(), laptop.passkeys().unwrap());
    assert_eq!(phone.registered().unwrap().vault_floor, None);
    assert!(matches!(phone.join(&typed, "again").await, Err(Error::AlreadyRegistered)));
}

#[tokio::test]
async fn a_vault_without_the_point_that_was_told_raises_the_alarm() {
    let world = World::start().await;
    let (laptop, phone) = devices(&world).await;
    let secret = Arc::new(laptop.invite().unwrap());
    let approving = tokio::spawn(approve(laptop, secret.clone()));
    phone.join(&secret, "phone").await.unwrap();
    approving.await.unwrap().unwrap();
    world.with_account(|account| {
        account.events.clear();
        account.records.clear();
    });
    match phone.sync().await {
        Err(Error::ForkAlarm(alarm)) => {
            assert!(matches!(alarm.kind, Fork::VaultRolledBack { .. }))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn devices_of_different_people_do_not_pair() {
    let world = World::start().await;
    let (laptop, _) = devices(&world).await;
    let stranger = world.client("stranger", "mallory");
    let secret = Arc::new(laptop.invite().unwrap());
    let approving = tokio::spawn(approve(laptop, secret.clone()));
    let joining = tokio::spawn(async move { stranger.join(&secret, "phone").await });
    let refused = approving.await.unwrap().err().unwrap();
    assert!(matches!(refused, Error::Pairing(PairingError::OtherAccount { .. })), "{refused}");
    joining.abort();
}

/// Makes the mailbox's owner wait until `mailbox` is filled, then puts `message` there instead.
async fn intercept(world: &World, mailbox: &str, change: impl FnOnce(&mut Vec<u8>)) {
    loop {
        {
            let mut state = world.state();
            let mut all = state.mailboxes.iter_mut();
            if let Some((_, message)) = all.find(|(path, _)| path.ends_with(mailbox)) {
                change(message);
                return;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_trusted_device_registers_no_swapped_keys() {
    let world = World::start().await;
    let (laptop, phone) = devices(&world).await;
    let secret = Arc::new(laptop.invite().unwrap());
    let theirs = secret.clone();
    let joining = tokio::spawn(async move { phone.join(&theirs, "phone").await });
    intercept(&world, "/offer", |message| {
        *message = Keys::new(&PairingSecret::generate()).seal_offer(&offer(1));
    })
    .await;
    let refused = approve(laptop, secret).await.err().unwrap();
    assert!(matches!(refused, Error::Pairing(PairingError::Forged)), "{refused}");
    assert_eq!(world.with_account(|account| account.devices.len()), 1);
    joining.abort();
}

/// Joins while `make` answers in the trusted device's place, holding the true secret: what remains
/// checked even then.
async fn join_answered(
    world: &World, phone: &Client, make: impl FnOnce(&Keys, &Candidate) -> Vec<u8>,
) -> Error {
    let secret = Arc::new(PairingSecret::generate());
    let (phone, theirs) = (phone.clone(), secret.clone());
    let joining = tokio::spawn(async move { phone.join(&theirs, "phone").await });
    let keys = Keys::new(&secret);
    let mut reply = Vec::new();
    intercept(world, "/offer", |message| {
        reply = make(&keys, &keys.open_offer(message.clone()).unwrap());
    })
    .await;
    let path = format!("{}/answer", hex::encode(keys.mailbox));
    world.state().mailboxes.insert(path, reply);
    let error = joining.await.unwrap().expect_err("joined");
    world.state().mailboxes.clear();
    error
}

#[tokio::test]
async fn the_new_device_checks_the_answer_against_what_it_knows_itself() {
    let world = World::start().await;
    let (laptop, phone) = devices(&world).await;
    let seen = laptop.deployment().await.unwrap().seen();
    let truth = move |candidate: &Candidate| Answer {
        account: Account { id: candidate.offer.account, generation: 1 },
        statement_serial: seen.serial,
        statement: *seen.payload.as_bytes(),
        ..answer(0, candidate.id())
    };
    type Change = fn(&mut Answer);
    type Expected = fn(&PairingError) -> bool;
    let cases: [(&str, Change, Expected); 4] = [
        (
            "another account",
            |answer| answer.account.id = AccountId([9; 32]),
            |error| matches!(error, PairingError::OtherAccount { .. }),
        ),
        (
            "another device",
            |answer| answer.device = DeviceId([9; 16]),
            |error| matches!(error, PairingError::OtherDevice),
        ),
        (
            "a newer statement",
            |answer| answer.statement_serial += 1,
            |error| matches!(error, PairingError::OtherStatement { ours: 7, theirs: 8 }),
        ),
        (
            "another statement of the serial",
            |answer| answer.statement = [9; 32],
            |error| matches!(error, PairingError::OtherStatement { ours: 7, theirs: 7 }),
        ),
    ];
    for (what, change, expected) in cases {
        let make = |keys: &Keys, candidate: &Candidate| {
            let mut answer = truth(candidate);
            change(&mut answer);
            keys.seal_answer(&answer, &candidate.sealed)
        };
        match join_answered(&world, &phone, make).await {
            Error::Pairing(error) if expected(&error) => {}
            other => panic!("{what}: {other}"),
        }
        assert!(matches!(phone.registered(), Err(Error::NotRegistered)), "{what}");
    }
    // Replayed from another offer.
    let replay = |keys: &Keys, candidate: &Candidate| {
        keys.seal_answer(&truth(candidate), &keys.seal_offer(&candidate.offer))
    };
    let error = join_answered(&world, &phone, replay).await;
    assert!(matches!(error, Error::Pairing(PairingError::Forged)), "{error}");
    // All true, but the account does not list the device.
    let lie =
        |keys: &Keys, candidate: &Candidate| keys.seal_answer(&truth(candidate), &candidate.sealed);
    assert!(matches!(join_answered(&world, &phone, lie).await, Error::Refused(_)));
    assert!(matches!(phone.registered(), Err(Error::NotRegistered)));
}

#[tokio::test]
async fn a_code_serves_once() {
    let world = World::start().await;
    let (laptop, phone) = devices(&world).await;
    let secret = Arc::new(laptop.invite().unwrap());
    let approving = tokio::spawn(approve(laptop, secret.clone()));
    phone.join(&secret, "phone").await.unwrap();
    approving.await.unwrap().unwrap();
    let tablet = world.client("tablet", "ana");
    let refused = tablet.join(&secret, "tablet").await.err().unwrap();
    assert!(matches!(refused, Error::Pairing(PairingError::Used)), "{refused}");
}

type Joining = tokio::task::JoinHandle<Result<Overview, Error>>;

/// A laptop whose invitation a phone has answered, and the phone, which waits.
async fn knocking(world: &World) -> (Client, Arc<PairingSecret>, Candidate, Joining) {
    let (laptop, phone) = devices(world).await;
    let secret = Arc::new(laptop.invite().unwrap());
    let theirs = secret.clone();
    let joining = tokio::spawn(async move { phone.join(&theirs, "phone").await });
    let candidate = laptop.await_candidate(&secret).await.unwrap();
    (laptop, secret, candidate, joining)
}

#[tokio::test]
async fn a_device_that_is_declined_hears_of_it() {
    let world = World::start().await;
    let (laptop, secret, candidate, joining) = knocking(&world).await;
    laptop.decline(&secret, &candidate).await.unwrap();
    let declined = joining.await.unwrap().err().unwrap();
    assert!(matches!(declined, Error::Pairing(PairingError::Declined)), "{declined}");
    assert_eq!(world.with_account(|account| account.devices.len()), 1);
}

#[tokio::test]
async fn an_approval_whose_answer_was_lost_can_be_repeated() {
    let world = World::start().await;
    let (laptop, secret, candidate, joining) = knocking(&world).await;
    laptop.approve_device(candidate.offer.device.clone()).await.unwrap();
    laptop.approve(&secret, &candidate).await.unwrap();
    assert_eq!(joining.await.unwrap().unwrap().devices.len(), 2);
}
