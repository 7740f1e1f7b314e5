//! Devices and their keys: who may register, sign for and strike off whom.

use keyfold_protocol::client::{
    ApproveDevice, Class, Device, KeyKind, Refusal, Request, RevokeDevice, Success,
};
use keyfold_protocol::ids::{AccountId, ChainPoint};
use keyfold_protocol::limits::DEVICES;
use keyfold_tests::device::TestDevice;
use keyfold_tests::hostile::{Forgery, encoded};
use keyfold_tests::world::{Denied, World};

use crate::guard::{approve, changes, enroll};

#[test]
fn an_enrolment_is_signed_by_the_device_it_registers() {
    let (mut world, stranger) = (World::new(), TestDevice::new("stranger"));
    let device = TestDevice::new("laptop");
    let request = enroll(&device);
    type Bend = fn(&mut Forgery, &TestDevice);
    let rows: [(&str, Bend, bool); 5] = [
        ("signed by a stranger", |_, _| {}, true),
        ("in the name of a stranger", |f, stranger| f.named_device = stranger.id(), false),
        ("a stranger's in its own name", |f, stranger| f.named_device = stranger.id(), true),
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
    for (name, bend, by_stranger) in rows {
        let mut forgery = Forgery::honest(&world, &device, KeyKind::Presence, &request);
        bend(&mut forgery, &stranger);
        let signer = if by_stranger { &stranger } else { &device };
        let account = world.account;
        let sent = forgery.seal(&mut world.session, &account, signer);
        let denied = world.forward(&sent, Class::Enroll).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)), "{name}");
    }
}

#[test]
fn a_signature_counts_only_for_what_was_signed() {
    type Bend = fn(&mut Forgery, &World);
    let rows: [(&str, Bend); 11] = [
        ("over another binding", |f, _| f.binding = [0; 32]),
        ("over another counter", |f, _| f.counter += 1),
        ("over another account", |f, _| f.account.id = AccountId([1; 32])),
        ("over another generation", |f, _| f.account.generation += 1),
        ("as the other key", |f, _| f.key = KeyKind::UserVerification),
        ("over another guard_seen", |f, _| f.guard_seen = 0),
        ("over another request", |f, world| {
            let genesis = Request::Touch(ChainPoint { version: 7, ..world.vault() });
            f.request = encoded(&genesis);
        }),
        ("by the other key", |f, _| f.signs_with = KeyKind::UserVerification),
        ("by the presence key in the name of the UV key", |f, _| {
            f.key = KeyKind::UserVerification;
            f.named_key = KeyKind::UserVerification;
        }),
        ("by the presence key, called the UV key", |f, _| {
            f.named_key = KeyKind::UserVerification;
        }),
        ("of a lower guard_seen than was signed", |f, _| f.named_guard_seen = 0),
    ];
    let (mut world, laptop, phone) = World::with_phone();
    let touch = Request::Touch(world.vault());
    let account = world.account;
    for (name, bend) in rows {
        let mut forgery = Forgery::honest(&world, &laptop, KeyKind::Presence, &touch);
        bend(&mut forgery, &world);
        let sent = forgery.seal(&mut world.session, &account, &laptop);
        let denied = world.forward(&sent, Class::Put(None)).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)), "signed {name}");
    }
    let stranger = stranger();
    for (name, named, signer) in [
        ("another device of the account", laptop.id(), &phone),
        ("a stranger in a device's name", laptop.id(), &stranger),
        ("a stranger in its own name", stranger.id(), &stranger),
    ] {
        let mut forgery = Forgery::honest(&world, &laptop, KeyKind::Presence, &touch);
        forgery.named_device = named;
        let sent = forgery.seal(&mut world.session, &account, signer);
        let denied = world.forward(&sent, Class::Put(None)).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)), "{name}");
    }
    let honest = Forgery::honest(&world, &laptop, KeyKind::Presence, &touch);
    let sent = honest.seal(&mut world.session, &account, &laptop);
    world.forward(&sent, Class::Put(None)).expect("the honest one counts");
}

fn stranger() -> TestDevice {
    TestDevice::new("stranger")
}

#[test]
fn registering_and_striking_off_need_user_verification() {
    let (mut world, mut laptop, phone) = World::with_phone();
    for (name, request, class) in changes(world.base(), &phone) {
        let outcome = world.request(&mut laptop, KeyKind::Presence, &request, class).err();
        let expected = match request {
            Request::Anchor(_) => None,
            _ => Some(Denied::Client(Refusal::UserVerificationRequired)),
        };
        assert_eq!(outcome, expected, "{name}");
    }
}

#[test]
fn a_seventeenth_device_is_refused() {
    let (mut world, mut laptop) = World::enrolled();
    // The longest name there is: sixteen of them fit every reply and the guard.
    let longest = "n".repeat(64);
    for _ in 1..DEVICES {
        let device = TestDevice::new(&longest);
        world.approve(&mut laptop, &device).expect("one of sixteen");
    }
    let denied = world.approve(&mut laptop, &TestDevice::new("one too many")).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::TooManyDevices)));
    let opened = world
        .request(&mut laptop, KeyKind::Presence, &Request::Status, Class::Status)
        .expect("status of a full account");
    let Ok(Success::Status(status)) = opened.outcome() else { panic!("no status") };
    assert_eq!(status.devices.len(), DEVICES);
}

#[test]
fn a_key_counts_in_one_role_of_one_device() {
    let (mut world, mut laptop) = World::enrolled();
    let (known, new, other) = (laptop.public(), stranger().public(), stranger().public());
    let with = |device_key, uv_key| Device { device_key, uv_key, ..new.clone() };
    for (name, device) in [
        ("one key for both", with(new.device_key, new.device_key)),
        ("another device's key", with(known.device_key, new.uv_key)),
        ("another device's key for verified users", with(new.device_key, known.uv_key)),
        ("another device's key in the other role", with(new.device_key, known.device_key)),
        ("the other way round", with(known.uv_key, new.uv_key)),
    ] {
        let request = Request::ApproveDevice(ApproveDevice { base: world.base(), device });
        let key = KeyKind::UserVerification;
        let denied = world.request(&mut laptop, key, &request, Class::Guard).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::KnownDevice)), "{name}");
    }
    let device = with(new.device_key, other.uv_key);
    let request = Request::ApproveDevice(ApproveDevice { base: world.base(), device });
    let approved = world.request(&mut laptop, KeyKind::UserVerification, &request, Class::Guard);
    approved.expect("keys that nobody has");
}

#[test]
fn generations_count_from_one() {
    let mut world = World::new();
    world.account.generation = 0;
    let mut device = TestDevice::new("laptop");
    let request = enroll(&device);
    let denied = world.request(&mut device, KeyKind::Presence, &request, Class::Enroll).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::Malformed)));
}

#[test]
fn devices_are_known_once_and_an_account_keeps_one() {
    let (mut world, mut laptop) = World::enrolled();
    world.approve(&mut laptop, &TestDevice::new("phone")).expect("approved");
    let known = (approve(&world, &laptop), Class::Guard);
    let rows = [
        ("a device that is there already", known, Refusal::KnownDevice),
        ("a device that is not there", revoke(&world, &stranger()), Refusal::UnknownDevice),
    ];
    for (name, (request, class), refusal) in rows {
        let key = KeyKind::UserVerification;
        let denied = world.request(&mut laptop, key, &request, class).err();
        assert_eq!(denied, Some(Denied::Client(refusal)), "{name}");
    }

    let (mut world, mut laptop) = World::enrolled();
    let (request, class) = revoke(&world, &laptop);
    let denied = world.request(&mut laptop, KeyKind::UserVerification, &request, class).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::LastDevice)));
}

fn revoke(world: &World, device: &TestDevice) -> (Request, Class) {
    let revoke = RevokeDevice { base: world.base(), device: device.id() };
    (Request::RevokeDevice(revoke), Class::GuardFresh)
}
