//! The end of an account, and the one after it.

use std::sync::Arc;

use keyfold_protocol::client::AuditKind;

use super::*;
use crate::device::{DeviceKeys, KeyError, SoftwareKeys};
use crate::testing::World;

fn pin() -> Pin {
    Pin::new("593021").unwrap()
}

fn enrolled(world: &World) -> Client {
    world.enrolled(Arc::new(SoftwareKeys::generate()))
}

#[tokio::test]
async fn a_deleted_account_is_over_here_and_the_next_one_opens() {
    let world = World::start().await;
    let keys = Arc::new(SoftwareKeys::generate());
    let client = world.enrolled(keys.clone());
    keys.lock();
    assert!(matches!(client.delete_account().await, Err(Error::Key(KeyError::Locked))));
    assert!(client.registered().is_ok());

    let client = world.client("second", "ana");
    assert!(matches!(client.enroll(pin(), "second").await, Err(Error::AccountExists)));
    let world = World::start().await;
    let client = enrolled(&world);
    client.delete_account().await.unwrap();
    assert!(matches!(client.status().await, Err(Error::NotRegistered)));
    assert!(matches!(client.delete_account().await, Err(Error::NotRegistered)));
    let state = client.store().load().unwrap();
    assert_eq!(state.ended.map(|ended| ended.generation), Some(1));
    for generation in [2, 3] {
        let overview = client.enroll(pin(), "laptop").await.unwrap();
        assert_eq!((overview.account.generation, overview.guard), (generation, 1));
        client.delete_account().await.unwrap();
    }
    // A device that knows nothing opens the next one too.
    let phone = world.client("phone", "ana");
    assert_eq!(phone.enroll(pin(), "phone").await.unwrap().account.generation, 4);
}

#[tokio::test]
async fn a_deletion_whose_answer_was_lost_is_found() {
    let world = World::start().await;
    let client = enrolled(&world);
    let mut armed = false;
    client.status().await.unwrap();
    world.state().relay = Some(Box::new(move |reply| {
        let lost = !std::mem::replace(&mut armed, true);
        (!lost).then_some(reply)
    }));
    client.delete_account().await.unwrap();
    assert!(matches!(client.status().await, Err(Error::NotRegistered)));
}

#[tokio::test]
async fn that_an_account_is_over_is_the_enclaves_to_say() {
    let world = World::start().await;
    let client = enrolled(&world);
    world.state().hint =
        Some(serde_json::json!({"generation": 1, "closed": true, "guard": 1, "vault": 0}));
    // The deletion never arrives, and the host says that it did.
    world.hook(|_, class| (class == "guardfresh").then_some((500, "broken")));
    assert!(client.delete_account().await.is_err());
    assert!(client.registered().is_ok());
    // This device was struck off, and the host says that the account is over.
    world.hook(|_, _| None);
    let other = SoftwareKeys::generate();
    world.with_account(|account| {
        account.devices[0].device_key = other.presence_key();
    });
    let refused = client.status().await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::Unauthorised))), "{refused:?}");
    assert!(client.registered().is_ok());
    let second = world.client("second", "ana");
    assert!(matches!(second.enroll(pin(), "second").await, Err(Error::AccountExists)));
    let charged = world.with_account(|account| account.audit.len());
    assert_eq!(charged, 1, "asking costs no try");

    // It is over.
    let id = client.keys().id();
    world.with_account(|account| {
        account.devices.clear();
        account.changed(AuditKind::Deleted, id, id);
    });
    world.state().hint = None;
    let closed = client.status().await;
    assert!(matches!(closed, Err(Error::Refused(Refusal::Closed))), "{closed:?}");
    assert!(matches!(client.registered(), Err(Error::NotRegistered)));
}
