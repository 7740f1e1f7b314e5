//! Passkeys against a hostile host and client: a record is used only as what it is, where it is,
//! by whom it may; and what a relying party gets is what WebAuthn says.

use std::collections::BTreeSet;

use keyfold_protocol::client::{
    Algorithm, Assert, Asserted, Class, Created, DeletePasskey, KeyKind, PasskeyView, PrfInputs,
    Refusal, Request, Success,
};
use keyfold_protocol::host::HostRefusal;
use keyfold_protocol::ids::{Account, AccountId, CredentialId, Digest, RpId, SlotId};
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::TestDevice;
use keyfold_tests::enclave::{Enclave, ROOT, TestPlatform};
use keyfold_tests::hostile::{
    RP, assert_request, damage, encoded, every_request, misname, rename_request,
};
use keyfold_tests::world::{Attach, Denied, World, heapless_algorithms};
use ring::{hmac, signature};

const PRESENCE: KeyKind = KeyKind::Presence;
const UV: KeyKind = KeyKind::UserVerification;
const STATE: Option<Denied> = Some(Denied::Host(HostRefusal::State));
const NO_SUCH: Option<Denied> = Some(Denied::Client(Refusal::NoSuchPasskey));
const RECORD_CHANGED: Option<Denied> = Some(Denied::Client(Refusal::RecordChanged));

/// An account with alice's and bob's passkeys.
fn scene() -> (World, TestDevice, Created, Created) {
    let (mut world, mut laptop) = World::enrolled();
    let alice = world.create(&mut laptop, RP, "alice").expect("created");
    let bob = world.create(&mut laptop, RP, "bob").expect("created");
    (world, laptop, alice, bob)
}

fn slot(created: &Created) -> SlotId {
    created.put.event.slot
}

fn create_with(
    world: &mut World, device: &mut TestDevice, key: KeyKind, user: &str, algorithms: &[i32],
    prf: Option<PrfInputs>,
) -> Result<Created, Denied> {
    let mut request = world.create_request(RP, user);
    request.algorithms = heapless_algorithms(algorithms);
    request.prf = prf;
    let request = Request::CreatePasskey(request);
    let opened = world.request(device, key, &request, Class::Put(None))?;
    match opened.outcome() {
        Ok(Success::Created(created)) => Ok(created),
        other => panic!("not a creation: {other:?}"),
    }
}

fn sign_in(
    world: &mut World, device: &mut TestDevice, key: KeyKind, created: &Created,
    prf: Option<PrfInputs>,
) -> Asserted {
    let mut request = assert_request(created);
    request.prf = prf;
    world.assert(device, key, slot(created), &request).expect("signed in")
}

/// That a signature is the passkey's, over this authenticator data and [`assert_request`]'s hash.
fn verifies(created: &Created, asserted: &Asserted) -> bool {
    let message = [&asserted.authenticator_data.0[..], &[3; 32]].concat();
    let algorithm: &dyn signature::VerificationAlgorithm = match created.algorithm {
        Algorithm::Es256 => &signature::ECDSA_P256_SHA256_ASN1,
        Algorithm::EdDsa => &signature::ED25519,
    };
    let key = signature::UnparsedPublicKey::new(algorithm, &created.public_key);
    key.verify(&message, &asserted.signature).is_ok()
}

#[test]
fn a_passkey_signs_only_as_itself_at_its_relying_party() {
    type Bend = fn(&mut Assert, &Created);
    let rows: [(&str, Bend); 7] = [
        ("another relying party", |r, _| r.rp_id = RpId::try_from("evil.com").expect("short")),
        ("a subdomain", |r, _| r.rp_id = RpId::try_from("a.example.com").expect("short")),
        ("a parent domain", |r, _| r.rp_id = RpId::try_from("com").expect("short")),
        ("capitals", |r, _| r.rp_id = RpId::try_from("Example.com").expect("short")),
        ("no relying party", |r, _| r.rp_id = RpId::new()),
        ("another user's credential", |r, bob| r.credential = bob.credential),
        ("a credential that never was", |r, _| r.credential = CredentialId([1; 32])),
    ];
    let (mut world, mut laptop, alice, bob) = scene();
    for (name, bend) in rows {
        let mut request = assert_request(&alice);
        bend(&mut request, &bob);
        let denied = world.assert(&mut laptop, UV, slot(&alice), &request).err();
        assert_eq!(denied, NO_SUCH, "{name}");
    }
}

#[test]
fn a_record_opens_only_in_its_place() {
    type Bend = fn(&World, &Created, &mut Attach);
    let rows: [(&str, Bend, Option<Denied>); 8] = [
        ("another slot's", |world, bob, a| a.record = world.stored.record(&slot(bob)), STATE),
        (
            "an older one named as the newest",
            |world, _, a| {
                let (version, _) = a.record.clone().expect("a record");
                let old = world.stored.records.values().next().expect("a record").clone();
                a.record = Some((version, old));
            },
            STATE,
        ),
        ("named as another version", |_, _, a| misname(&mut a.record), STATE),
        ("salt damaged", |_, _, a| damage(&mut a.record, 7), STATE),
        ("ciphertext damaged", |_, _, a| damage(&mut a.record, 40 * 8), STATE),
        ("tag damaged", |_, _, a| damage(&mut a.record, (32 + 1024 + 16) * 8 - 1), STATE),
        ("a vault", |world, _, a| a.record = Some((2, world.stored.vaults[&2].clone())), STATE),
        ("none", |_, _, a| a.record = None, NO_SUCH),
    ];
    let (mut world, mut laptop, alice, bob) = scene();
    let rename = Request::UpdatePasskey(rename_request(&world, &alice, "renamed"));
    let renamed = world.put(&mut laptop, PRESENCE, &rename).expect("renamed");
    let mut update = rename_request(&world, &alice, "again");
    update.record = renamed.event.digest;
    let slot = slot(&alice);
    let requests = [
        ("Assert", Request::Assert(assert_request(&alice)), Class::Assert(slot)),
        ("UpdatePasskey", Request::UpdatePasskey(update), Class::Put(Some(slot))),
    ];
    for (name, bend, expected) in rows {
        for (request_name, request, class) in &requests {
            let sent = world.session.seal(&laptop, UV, &world.account, request);
            let mut attach = world.attach(*class, &sent.frame);
            bend(&world, &bob, &mut attach);
            let denied = world.finish(&sent, *class, &attach).err();
            assert_eq!(denied, expected, "{request_name} with {name}");
        }
    }
}

#[test]
fn another_accounts_record_does_not_open() {
    let (mut world, laptop, alice, _) = scene();
    for other in [world.next_generation(), Account { id: AccountId([1; 32]), generation: 1 }] {
        let (theirs, created) = world.in_account(other, |world| {
            let mut device = world.enroll("tablet");
            world.create(&mut device, RP, "alice").expect("created")
        });
        let record = theirs.record(&slot(&created));
        let request = Request::Assert(assert_request(&created));
        for class in [Class::Assert(slot(&created)), Class::Assert(slot(&alice))] {
            let attach = |attach: &mut Attach| attach.record = record.clone();
            let denied = world.request_with(&laptop, UV, &request, class, attach).err();
            assert_eq!(denied, STATE, "{other:?}");
        }
    }
}

#[test]
fn a_host_that_names_another_slot_gets_nothing_signed() {
    let (mut world, laptop, alice, bob) = scene();
    let request = Request::Assert(assert_request(&alice));
    let class = Class::Assert(slot(&bob));
    let denied = world.request_with(&laptop, UV, &request, class, |_| {}).err();
    assert_eq!(denied, NO_SUCH);
}

#[test]
fn a_guard_older_than_the_record_signs_nothing() {
    let (mut world, mut laptop, phone) = World::with_phone();
    world.approve(&mut laptop, &TestDevice::new("tablet")).expect("approved");
    let created = world.create(&mut laptop, RP, "alice").expect("created under guard 3");
    let older = (2, world.stored.guards[&2].clone());
    let slot = slot(&created);
    let requests = [
        ("Assert", Request::Assert(assert_request(&created)), Class::Assert(slot)),
        (
            "UpdatePasskey",
            Request::UpdatePasskey(rename_request(&world, &created, "new")),
            Class::Put(Some(slot)),
        ),
    ];
    for (name, request, class) in requests {
        let attach = |attach: &mut Attach| attach.guard = Some(older.clone());
        let denied = world.request_with(&phone, UV, &request, class, attach).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::StaleGuard)), "{name}");
    }
}

#[test]
fn every_change_of_a_record_raises_its_guard_floor() {
    let (mut world, mut laptop, phone) = World::with_phone();
    let created = world.create(&mut laptop, RP, "alice").expect("created under guard 2");
    world.approve(&mut laptop, &TestDevice::new("tablet")).expect("approved");
    let rename = Request::UpdatePasskey(rename_request(&world, &created, "renamed"));
    world.put(&mut laptop, PRESENCE, &rename).expect("renamed under guard 3");
    let older = (2, world.stored.guards[&2].clone());
    let request = Request::Assert(assert_request(&created));
    let class = Class::Assert(slot(&created));
    let attach = |attach: &mut Attach| attach.guard = Some(older);
    let denied = world.request_with(&phone, UV, &request, class, attach).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::StaleGuard)));
}

#[test]
fn an_update_changes_names_and_nothing_else() {
    let inputs = Some(PrfInputs { first: [1; 32], second: None });
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let (mut world, mut laptop) = World::enrolled();
        let created =
            create_with(&mut world, &mut laptop, UV, "alice", &[algorithm.cose()], inputs)
                .expect("created");
        let before = sign_in(&mut world, &mut laptop, UV, &created, inputs);
        let genesis = world.genesis();
        let (_, _, old) = world.sync_page(&mut laptop, genesis).expect("synced");
        let rename = Request::UpdatePasskey(rename_request(&world, &created, "renamed"));
        let done = world.put(&mut laptop, PRESENCE, &rename).expect("renamed");
        assert_eq!(done.event.slot, slot(&created));
        assert_ne!(done.event.digest, created.put.event.digest);

        let after = sign_in(&mut world, &mut laptop, UV, &created, inputs);
        assert!(verifies(&created, &before) && verifies(&created, &after), "{algorithm:?}");
        assert_eq!((&after.prf, &after.user_handle), (&before.prf, &before.user_handle));
        assert_eq!(before.prf, created.prf);
        let (_, _, new) = world.sync_page(&mut laptop, genesis).expect("synced");
        let mut expected = old[0].passkey.clone().expect("alice");
        expected.names = rename_request(&world, &created, "renamed").names;
        assert_eq!(new[1].passkey, Some(expected));
    }
}

#[test]
fn an_update_is_made_for_one_exact_record() {
    let (mut world, mut laptop, alice, bob) = scene();
    let rename = Request::UpdatePasskey(rename_request(&world, &alice, "renamed"));
    let renamed = world.put(&mut laptop, PRESENCE, &rename).expect("renamed").event;
    let replaced = {
        let digest = bob.put.event.digest;
        create_with(&mut world, &mut laptop, UV, "bob", &[-7], None).expect("replaced");
        digest
    };
    let record = |world: &World, created: &Created, version| {
        Some((version, world.stored.records[&(slot(created), version)].clone()))
    };
    let newest_bob = world.stored.events[&4].digest;
    let rows = [
        ("names a digest that was", &alice, alice.put.event.digest, record(&world, &alice, 3)),
        ("names no digest", &alice, Digest([0; 32]), record(&world, &alice, 3)),
        ("names another slot's digest", &alice, newest_bob, record(&world, &alice, 3)),
        ("gets an older record attached", &alice, renamed.digest, record(&world, &alice, 1)),
        ("names a replaced passkey", &bob, replaced, record(&world, &bob, 4)),
        ("gets a replaced passkey attached", &bob, newest_bob, record(&world, &bob, 2)),
    ];
    for (name, created, digest, record) in rows {
        let mut update = rename_request(&world, created, "laundered");
        update.record = digest;
        let class = Class::Put(Some(slot(created)));
        let attach = |attach: &mut Attach| attach.record = record;
        let request = Request::UpdatePasskey(update);
        let denied = world.request_with(&laptop, PRESENCE, &request, class, attach).err();
        assert_eq!(denied, RECORD_CHANGED, "an update that {name}");
    }
}

#[test]
fn the_same_names_twice_have_two_digests() {
    // Else the host, which sees digests, could tell a rename that changed nothing.
    let (mut world, mut laptop, alice, _) = scene();
    let mut rename = |digest| {
        let mut update = rename_request(&world, &alice, "alice");
        update.record = digest;
        let update = Request::UpdatePasskey(update);
        world.put(&mut laptop, PRESENCE, &update).expect("renamed").event.digest
    };
    let created = alice.put.event.digest;
    let once = rename(created);
    let twice = rename(once);
    assert!(created != once && once != twice && twice != created);
}

#[test]
fn a_creation_replaces_the_users_passkey() {
    let (mut world, mut laptop, first, _) = scene();
    // Whoever only holds the device makes new ones, and ends none: the host is told to see to it.
    assert_eq!(world.create(&mut laptop, RP, "alice").err(), Some(Denied::SlotTaken));
    let asserted = sign_in(&mut world, &mut laptop, UV, &first, None);
    assert!(verifies(&first, &asserted), "what there was still signs");

    let algorithms = [Algorithm::Es256.cose()];
    let second = create_with(&mut world, &mut laptop, UV, "alice", &algorithms, None);
    let second = second.expect("created again");
    assert_eq!(slot(&second), slot(&first), "one slot per user of a relying party");
    assert_ne!(second.credential, first.credential);
    assert_ne!(second.public_key, first.public_key);
    let denied = world.assert(&mut laptop, UV, slot(&first), &assert_request(&first)).err();
    assert_eq!(denied, NO_SUCH, "the credential that was");
    let asserted = sign_in(&mut world, &mut laptop, UV, &second, None);
    assert!(verifies(&second, &asserted) && !verifies(&first, &asserted));

    let elsewhere = world.create(&mut laptop, "example.org", "alice").expect("created");
    assert_ne!(slot(&elsewhere), slot(&first), "another relying party, another slot");
}

#[test]
fn slots_do_not_run_together() {
    // The rp id's length stands in front: "ab" + "c" is not "a" + "bc".
    let (mut world, mut laptop) = World::enrolled();
    let one = world.create(&mut laptop, "example.com", "malice").expect("created");
    let two = world.create(&mut laptop, "example.comm", "alice").expect("created");
    assert_ne!(slot(&one), slot(&two));
}

#[test]
fn the_relying_partys_favourite_algorithm_is_made() {
    let (es256, eddsa) = (Some(Algorithm::Es256), Some(Algorithm::EdDsa));
    let rows: [(&[i32], Option<Algorithm>); 9] = [
        (&[-7], es256),
        (&[-8], eddsa),
        (&[-7, -8], es256),
        (&[-8, -7], eddsa),
        (&[-257, -8, -7], eddsa),
        (&[-35, -36, -257, -7], es256),
        (&[-257], None),
        (&[7, 8, i32::MIN, i32::MAX], None),
        (&[], None),
    ];
    let (mut world, mut laptop) = World::enrolled();
    for (algorithms, expected) in rows {
        let made = create_with(&mut world, &mut laptop, UV, "alice", algorithms, None);
        match expected {
            Some(algorithm) => {
                let created = made.expect("created");
                assert_eq!(created.algorithm, algorithm, "{algorithms:?}");
                let asserted = sign_in(&mut world, &mut laptop, PRESENCE, &created, None);
                assert!(verifies(&created, &asserted), "{algorithms:?}");
            }
            None => {
                let refusal = Denied::Client(Refusal::UnsupportedAlgorithm);
                assert_eq!(made.err(), Some(refusal), "{algorithms:?}");
            }
        }
    }
}

#[test]
fn a_signature_covers_the_client_data() {
    let (mut world, mut laptop, alice, _) = scene();
    let mut request = assert_request(&alice);
    request.client_data_hash = [4; 32];
    let asserted = world.assert(&mut laptop, UV, slot(&alice), &request).expect("signed in");
    assert!(!verifies(&alice, &asserted), "it was made for other client data");
}

#[test]
fn flags_say_who_was_there() {
    const UP_BE_BS: u8 = 0x01 | 0x08 | 0x10;
    let (mut world, mut laptop) = World::enrolled();
    for (key, uv) in [(PRESENCE, 0), (UV, 0x04)] {
        let created = create_with(&mut world, &mut laptop, key, "alice", &[-7], None);
        let created = created.expect("created");
        assert_eq!(created.authenticator_data[32], UP_BE_BS | uv | 0x40, "{key:?}, creation");
        for (key, uv) in [(PRESENCE, 0), (UV, 0x04)] {
            let data = sign_in(&mut world, &mut laptop, key, &created, None).authenticator_data.0;
            assert_eq!(data[..32], sha256(&[RP.as_bytes()]));
            assert_eq!(data[32], UP_BE_BS | uv, "{key:?}, sign-in");
            assert_eq!(data[33..], [0; 4], "a counter that several devices cannot share");
        }
    }
}

#[test]
fn registration_data_is_what_webauthn_says() {
    let aaguid = hex::decode("7a2c1b0e6b654966b66f6c640a110001").expect("hex");
    let (mut world, mut laptop) = World::enrolled();
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let made = create_with(&mut world, &mut laptop, UV, "alice", &[algorithm.cose()], None);
        let created = made.expect("created");
        let cose = match (algorithm, &created.public_key[..]) {
            (Algorithm::Es256, [4, point @ ..]) => {
                let (x, y) = point.split_at(32);
                [&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32], x, &[0x22, 0x58, 32], y].concat()
            }
            (Algorithm::EdDsa, x) => {
                assert_eq!(x.len(), 32);
                [&[0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21, 0x58, 32], x].concat()
            }
            (_, key) => panic!("no uncompressed point: {key:?}"),
        };
        let expected = [
            &sha256(&[RP.as_bytes()])[..],
            &[0x5d, 0, 0, 0, 0],
            &aaguid,
            &[0, 32],
            &created.credential.0,
            &cose,
        ]
        .concat();
        assert_eq!(created.authenticator_data.as_slice(), expected, "{algorithm:?}");
    }
}

/// A deployment whose every random draw the test can repeat.
fn seeded() -> (World, TestDevice) {
    let mut world = World::new();
    world.enclave = Enclave::boot_on(TestPlatform::seeded([5; 32]), &world.config, &ROOT);
    world.open_session();
    let laptop = world.enroll("laptop");
    (world, laptop)
}

fn draw(index: u64) -> [u8; 32] {
    sha256(&[&[5; 32], &index.to_be_bytes()])
}

#[test]
fn prf_is_an_hmac_of_the_credentials_own_seed() {
    let (mut world, mut laptop) = seeded();
    let inputs = PrfInputs { first: [1; 32], second: Some([2; 32]) };
    let hmac = |seed: &[u8], input: &[u8; 32]| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seed), input);
        <[u8; 32]>::try_from(tag.as_ref()).expect("32 bytes")
    };
    let mut seen = Vec::new();
    for (user, algorithm) in [("alice", -7), ("bob", -8), ("alice", -7)] {
        let made = create_with(&mut world, &mut laptop, UV, user, &[algorithm], Some(inputs));
        let created = made.expect("created");
        // The seed is drawn right after the credential id.
        let at = (0..1000).find(|at| draw(*at) == created.credential.0).expect("a draw");
        let seed = draw(at + 1);
        let at_creation = created.prf.clone().expect("results");
        assert_eq!(at_creation.first, hmac(&seed, &[1; 32]));
        assert_eq!(at_creation.second, Some(hmac(&seed, &[2; 32])));
        let later = sign_in(&mut world, &mut laptop, UV, &created, Some(inputs)).prf;
        assert_eq!(later.as_ref(), Some(&at_creation), "at creation as later");
        let one = PrfInputs { first: [2; 32], second: None };
        let one = sign_in(&mut world, &mut laptop, UV, &created, Some(one)).prf.expect("results");
        assert_eq!((one.first, one.second), (hmac(&seed, &[2; 32]), None));
        assert!(!seen.contains(&at_creation.first), "every credential has a seed of its own");
        seen.push(at_creation.first);
    }
}

#[test]
fn prf_needs_user_verification_and_a_question() {
    let inputs = Some(PrfInputs { first: [1; 32], second: Some([2; 32]) });
    let (mut world, mut laptop) = World::enrolled();
    for (user, key, asked, answered) in [
        ("alice", PRESENCE, inputs, false),
        ("bob", UV, inputs, true),
        ("carol", PRESENCE, None, false),
        ("dave", UV, None, false),
    ] {
        let made = create_with(&mut world, &mut laptop, key, user, &[-7], asked);
        let created = made.expect("created");
        assert_eq!(created.prf.is_some(), answered, "creation by {key:?}, {asked:?}");
        let asserted = sign_in(&mut world, &mut laptop, key, &created, asked);
        assert_eq!(asserted.prf.is_some(), answered, "sign-in by {key:?}, {asked:?}");
    }
}

#[test]
fn a_deletion_needs_user_verification_and_leaves_nothing() {
    let (mut world, mut laptop, alice, _) = scene();
    let delete = |world: &World| {
        Request::DeletePasskey(DeletePasskey { vault: world.vault(), slot: slot(&alice) })
    };
    let request = delete(&world);
    let denied = world.put(&mut laptop, PRESENCE, &request).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::UserVerificationRequired)));
    sign_in(&mut world, &mut laptop, UV, &alice, None);

    world.put(&mut laptop, UV, &request).expect("deleted");
    let denied = world.assert(&mut laptop, UV, slot(&alice), &assert_request(&alice)).err();
    assert_eq!(denied, NO_SUCH);
}

#[test]
fn the_user_handle_comes_back() {
    let (mut world, mut laptop, alice, bob) = scene();
    for (created, user) in [(&alice, "alice"), (&bob, "bob")] {
        let asserted = sign_in(&mut world, &mut laptop, PRESENCE, created, None);
        assert_eq!(asserted.user_handle.as_slice(), user.as_bytes());
    }
}

#[test]
fn no_reply_carries_a_secret() {
    let (mut world, mut laptop) = seeded();
    let made = create_with(&mut world, &mut laptop, UV, "alice", &[-8], None).expect("created");

    // By type: a view has these fields and no others.
    let genesis = world.genesis();
    let (_, _, events) = world.sync_page(&mut laptop, genesis).expect("synced");
    let PasskeyView { credential, rp_id: _, user_handle: _, names: _, algorithm: _ } =
        events[0].passkey.clone().expect("a passkey");
    assert_eq!(credential, made.credential);

    // By search: of all the core ever drew (the Ed25519 seed, the account secret and the PRF seed
    // among it), replies show credential ids and digests of events, nothing else.
    let (mut replies, mut public) = (Vec::new(), vec![made.credential.0]);
    let nobody = TestDevice::new("nobody").id();
    for index in 0..every_request(&world, &made, nobody).len() {
        // Made anew each time: what the one before did has moved the guard or the vault.
        let (name, request, class) = every_request(&world, &made, nobody).swap_remove(index);
        let Ok(opened) = world.request(&mut laptop, UV, &request, class) else { continue };
        match opened.outcome() {
            Ok(Success::Created(created)) => public.push(created.credential.0),
            // A touch and a tombstone are told apart by what was drawn for them.
            Ok(Success::Put(done)) => public.push(done.event.digest.0),
            _ => {}
        }
        replies.push((name, encoded(&opened.outcome())));
    }
    assert_eq!(replies.len(), 12, "all but the revocation of nobody");
    let draws: BTreeSet<[u8; 32]> = (0..1000).map(draw).collect();
    let mut found = BTreeSet::new();
    for (name, reply) in &replies {
        for drawn in reply.windows(32).filter(|window| draws.contains(*window)) {
            assert!(public.iter().any(|id| id == drawn), "the reply to {name} shows a secret");
            found.insert(*name);
        }
    }
    let found: Vec<_> = found.into_iter().collect();
    let expected = ["CreatePasskey", "DeletePasskey", "Sync", "Touch"];
    assert_eq!(found, expected, "the search finds what is there");
}
