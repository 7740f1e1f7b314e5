//! The main job, through the core's one entry: enroll, create, sign in, sync, approve, revoke.

use keyfold_protocol::client::{
    ApproveDevice, Assert, Class, KeyKind, Request, RevokeDevice, Success,
};
use keyfold_protocol::ids::RpId;
use keyfold_tests::device::TestDevice;
use keyfold_tests::world::World;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

#[test]
fn a_passkey_roams() {
    let (mut world, mut laptop) = World::enrolled();
    let created = world.create(&mut laptop, "example.com", "alice").expect("created");

    let mut phone = TestDevice::new("phone");
    let approve = ApproveDevice { base: world.base(), device: phone.public() };
    world.change_guard(&mut laptop, &Request::ApproveDevice(approve)).expect("approved");
    let (sealed, cursor, events) = world.sync_page(&mut phone, world.genesis()).expect("synced");
    assert_eq!((sealed, cursor), (world.vault(), world.vault()));
    let passkey = events[0].passkey.as_ref().expect("the passkey");
    assert_eq!(passkey.credential, created.credential);

    let assert = Assert {
        rp_id: RpId::try_from("example.com").unwrap(),
        credential: created.credential,
        client_data_hash: [3; 32],
        prf: None,
    };
    let slot = events[0].event.slot;
    let asserted = world.assert(&mut phone, KeyKind::Presence, slot, &assert).expect("signed in");
    let message = [&asserted.authenticator_data.0[..], &[3; 32]].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &created.public_key);
    key.verify(&message, &asserted.signature).expect("a signature of the passkey");

    let revoke = RevokeDevice { base: world.base(), device: phone.id() };
    world.change_guard(&mut laptop, &Request::RevokeDevice(revoke)).expect("revoked");
    let opened = world
        .request(&mut laptop, KeyKind::Presence, &Request::Status, Class::Status)
        .expect("status");
    let Ok(Success::Status(status)) = opened.outcome() else { panic!("no status") };
    assert_eq!(status.devices.len(), 1);
    assert!(world.assert(&mut phone, KeyKind::Presence, slot, &assert).is_err());
}
