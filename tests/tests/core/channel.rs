//! The channel against a hostile host: a frame opens where it was sealed, a reply opens for its
//! frame, and bytes that are no message are one refusal.

use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::{
    Algorithm, ApproveDevice, Class, CreatePasskey, Enroll, KeyKind, Outcome, PrfInputs, Refusal,
    Request, SignedRequest, StretchedPin,
};
use keyfold_protocol::host::{
    Committed, FreshRead, HostRefusal, HostReply, HostRequest, Next, OpenSession, Staged,
};
use keyfold_protocol::ids::{
    Account, AccountId, ChannelKeyId, Digest, Name, RpId, SessionId, SlotId,
};
use keyfold_protocol::limits::{ENCAPSULATED_KEY, FRAME, REQUEST, SESSIONS, TAG};
use keyfold_protocol::transcript::{LedgerClaim, session_id};
use keyfold_protocol::wire::decode_padded;
use keyfold_tests::crypto::{random, sha256};
use keyfold_tests::device::{Sent, Session, TestDevice};
use keyfold_tests::enclave::{Enclave, ROOT, config, decode, encode};
use keyfold_tests::generate::Variants;
use keyfold_tests::hostile::{Forgery, RP, encoded, every_request, flipped, reply_of};
use keyfold_tests::ledger::Ledger;
use keyfold_tests::world::{Denied, StagedRow, World, heapless_algorithms};

const FRAME_REFUSED: Option<Denied> = Some(Denied::Host(HostRefusal::Frame));

/// The number that the next variant of an append-only enum will have.
fn first_unknown<T: Variants>() -> u8 {
    u8::try_from(T::NAMES.len()).ok().filter(|next| *next < 0x80).expect("a varint of one byte")
}

fn touch(world: &World) -> Request {
    Request::Touch(world.vault())
}

#[test]
fn a_frame_opens_only_where_it_was_sealed() {
    let (mut world, laptop) = World::enrolled();
    let class = Class::Put(None);
    let sent = {
        let touch = touch(&world);
        world.session.seal(&laptop, KeyKind::Presence, &world.account, &touch)
    };
    let attach = world.attach(class, &sent.frame);
    let own = world.account;
    for (name, account) in [
        ("another account", Account { id: AccountId([1; 32]), ..own }),
        ("the next generation", world.next_generation()),
    ] {
        world.account = account;
        assert_eq!(world.finish(&sent, class, &attach).err(), FRAME_REFUSED, "{name}");
        world.account = own;
    }
    for counter in [0, sent.counter + 1, sent.counter | 1 << 32, u64::MAX] {
        let moved = world.session.expect_reply(counter, sent.frame.clone());
        assert_eq!(world.finish(&moved, class, &attach).err(), FRAME_REFUSED, "{counter}");
    }
    for bit in [0, sent.frame.len() * 4, sent.frame.len() * 8 - 1] {
        let damaged = world.session.expect_reply(sent.counter, flipped(&sent.frame, bit));
        assert_eq!(world.finish(&damaged, class, &attach).err(), FRAME_REFUSED, "bit {bit}");
    }
    let first = world.session.id;
    world.open_session();
    assert_ne!(world.session.id, first);
    assert_eq!(world.finish(&sent, class, &attach).err(), FRAME_REFUSED, "another session");
    world.session.id = first;
    world.finish(&sent, class, &attach).expect("and where it was sealed it opens");
}

#[test]
fn a_signature_of_one_session_counts_in_no_other() {
    // The device's signed request, carried over by whoever can open sessions: everybody.
    let (mut world, laptop) = World::enrolled();
    let touch = touch(&world);
    let mut forgery = Forgery::honest(&world, &laptop, KeyKind::Presence, &touch);
    world.open_session();
    forgery.counter = world.session.counter;
    let account = world.account;
    let sent = forgery.seal(&mut world.session, &account, &laptop);
    let denied = world.forward(&sent, Class::Put(None)).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)));
}

#[test]
fn a_reply_opens_for_its_frame_only() {
    let (mut world, laptop) = World::enrolled();
    let seal = |world: &mut World| {
        world.session.seal(&laptop, KeyKind::Presence, &world.account, &Request::Status)
    };
    let (first, second) = (seal(&mut world), seal(&mut world));
    let answer = |world: &mut World, sent: &Sent| {
        let attach = world.attach(Class::Status, &sent.frame);
        let raw = world.handle(sent, Class::Status, &attach);
        reply_of(&raw).sealed.to_vec()
    };
    let to_first = answer(&mut world, &first);
    assert!(first.open(&to_first).is_some());
    assert_eq!(second.open(&to_first), None, "another frame of the same session");

    // Replayed verbatim: it answers, and only the first client can open.
    let again = answer(&mut world, &first);
    assert_ne!(again[..32], to_first[..32], "every sealing has its own salt");
    assert_eq!(first.open(&again), first.open(&to_first));
    assert_eq!(second.open(&again), None);
    for bit in [0, 32 * 8, again.len() * 8 - 1] {
        assert_eq!(first.open(&flipped(&again, bit)), None, "bit {bit}");
    }
}

#[test]
fn the_same_frame_of_another_session_has_another_reply_key() {
    let (mut world, laptop) = World::enrolled();
    let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &Request::Status);
    let attach = world.attach(Class::Status, &sent.frame);
    let raw = world.handle(&sent, Class::Status, &attach);
    let elsewhere = Session::open(&world.enclave.config_hash, &world.enclave.channel_key);
    let other = elsewhere.expect_reply(sent.counter, sent.frame);
    assert_eq!(other.open(reply_of(&raw).sealed), None);
}

fn open(enclave: &mut Enclave, key: ChannelKeyId, enc: &[u8]) -> Result<SessionId, HostRefusal> {
    let open = OpenSession { channel_key: key, encapsulated_key: enc };
    match decode(&enclave.call(&HostRequest::OpenSession(open))) {
        HostReply::Session(id) => Ok(id),
        HostReply::Refused(refusal) => Err(refusal),
        other => panic!("not an answer to an opening: {other:?}"),
    }
}

#[test]
fn a_session_dies_with_its_boot() {
    let (mut world, mut laptop) = World::enrolled();
    let (old_key, old_enc) = (world.enclave.channel_key_id(), world.session.enc.clone());
    world.enclave = Enclave::boot(&world.config, &ROOT);
    let touch = touch(&world);
    let denied = world.request(&mut laptop, KeyKind::Presence, &touch, Class::Put(None)).err();
    assert_eq!(denied, Some(Denied::Host(HostRefusal::UnknownSession)));

    assert_eq!(open(&mut world.enclave, old_key, &old_enc), Err(HostRefusal::ChannelKey));
    // A host that lies about the key gets a session that its client does not share.
    let new_key = world.enclave.channel_key_id();
    assert_eq!(open(&mut world.enclave, new_key, &old_enc), Ok(world.session.id));
    let denied = world.request(&mut laptop, KeyKind::Presence, &touch, Class::Put(None)).err();
    assert_eq!(denied, FRAME_REFUSED);
}

#[test]
fn a_session_is_bound_to_its_configuration() {
    // The same channel key under another configuration would be another deployment's promise.
    let (mut world, mut laptop) = World::enrolled();
    world.session = Session::open(&Digest([1; 32]), &world.enclave.channel_key);
    let key = world.enclave.channel_key_id();
    open(&mut world.enclave, key, &world.session.enc.clone()).expect("opened");
    let touch = touch(&world);
    let denied = world.request(&mut laptop, KeyKind::Presence, &touch, Class::Put(None)).err();
    assert_eq!(denied, FRAME_REFUSED);
}

#[test]
fn only_a_whole_enc_for_this_key_opens_a_session() {
    let mut enclave = Enclave::boot(&config(&Ledger::new(), FreshRead::Reports), &ROOT);
    let key = enclave.channel_key_id();
    let enc = [7; ENCAPSULATED_KEY + 1];
    for length in [0, 1, 32, ENCAPSULATED_KEY - 1, ENCAPSULATED_KEY + 1] {
        let refused = open(&mut enclave, key, &enc[..length]);
        assert_eq!(refused, Err(HostRefusal::Malformed), "{length} bytes");
    }
    let refused = open(&mut enclave, ChannelKeyId([1; 32]), &enc[..ENCAPSULATED_KEY]);
    assert_eq!(refused, Err(HostRefusal::ChannelKey));
}

#[test]
fn a_corrupt_enc_opens_a_session_nobody_shares() {
    let (mut world, mut laptop) = World::enrolled();
    let key = world.enclave.channel_key_id();
    let enc = world.session.enc.clone();
    let mut low_order = enc.clone();
    low_order[ENCAPSULATED_KEY - 32..].fill(0);
    for (name, corrupt) in [
        ("first bit", flipped(&enc, 0)),
        ("last bit of ML-KEM's share", flipped(&enc, 1088 * 8 - 1)),
        ("first bit of X25519's share", flipped(&enc, 1088 * 8)),
        ("last bit", flipped(&enc, ENCAPSULATED_KEY * 8 - 1)),
        ("X25519's share of low order", low_order),
        ("nothing but zeros", vec![0; ENCAPSULATED_KEY]),
    ] {
        let id = open(&mut world.enclave, key, &corrupt).expect("opened");
        assert_eq!(id, session_id(sha256, &corrupt), "{name}");
        // The client takes the session for its own.
        world.session.id = id;
        let touch = touch(&world);
        let denied = world.request(&mut laptop, KeyKind::Presence, &touch, Class::Put(None)).err();
        assert_eq!(denied, FRAME_REFUSED, "{name}");
    }
}

#[test]
fn four_thousand_sessions_live_side_by_side() {
    let (mut world, laptop) = World::enrolled();
    let key = world.enclave.channel_key_id();
    // Any bytes open a session; a client's own lies among four thousand strangers'.
    let own = SESSIONS / 2;
    let mut ids = Vec::with_capacity(SESSIONS);
    for index in 0..SESSIONS {
        if index == own {
            world.open_session();
        }
        let enc: Vec<u8> = (0..ENCAPSULATED_KEY / 32).flat_map(|_| random::<32>()).collect();
        ids.push(open(&mut world.enclave, key, &enc).expect("opened"));
    }
    let touch = touch(&world);
    let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &touch);
    let attach = world.attach(Class::Put(None), &sent.frame);
    world.finish(&sent, Class::Put(None), &attach).expect("the client's own is among them");

    // A live session refuses the frame that is not its own; a lost one is unknown. None opens it.
    let own = world.session.id;
    let mut alive = 0;
    for id in ids {
        world.session.id = id;
        match world.finish(&sent, Class::Put(None), &attach).err() {
            FRAME_REFUSED => alive += 1,
            Some(Denied::Host(HostRefusal::UnknownSession)) => {}
            other => panic!("a stranger's session answered: {other:?}"),
        }
    }
    world.session.id = own;
    assert!(alive > SESSIONS * 97 / 100, "{alive} of {SESSIONS} sessions are alive");
}

#[test]
fn the_class_is_the_requests() {
    let (mut world, mut laptop, phone) = World::with_phone();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let slot = created.put.event.slot;
    let classes = [
        Class::Enroll,
        Class::Guard,
        Class::GuardFresh,
        Class::Put(None),
        Class::Put(Some(slot)),
        Class::Put(Some(SlotId([1; 32]))),
        Class::Assert(slot),
        Class::Sync(0),
        Class::Sync(1),
        Class::Status,
        Class::Audit(0),
        Class::Audit(1),
        Class::Recover,
    ];
    let mut requests = every_request(&world, &created, phone.id());
    let enroll = Enroll { pin: StretchedPin([9; 32]), device: laptop.public() };
    requests.push(("Enroll", Request::Enroll(enroll), Class::Enroll));
    let recover = world.recover_request(&TestDevice::new("tablet"), [9; 32]);
    requests.push(("Recover", recover, Class::Recover));
    for (name, request, right) in requests {
        for class in classes.into_iter().filter(|class| *class != right) {
            let key = KeyKind::UserVerification;
            let denied = world.request_with(&laptop, key, &request, class, |_| {}).err();
            assert_eq!(denied, Some(Denied::Client(Refusal::Malformed)), "{name} as {class:?}");
        }
    }
}

#[test]
fn replies_of_a_class_have_one_size_whatever_the_outcome() {
    let (mut world, mut laptop, phone) = World::with_phone();
    let created = world.create(&mut laptop, RP, "alice").expect("created");
    let (account, key) = (world.account, KeyKind::UserVerification);
    let (sync, audit) = (576 + 256, 2 * 64 + 256);
    let sizes = [256, 256, 256, 768, 768, 384, 768, 768, sync, 2048, audit, 256, 256];
    let requests = every_request(&world, &created, phone.id());
    assert_eq!(requests.len(), sizes.len());
    for ((name, request, class), size) in requests.into_iter().zip(sizes) {
        let mut ahead = Forgery::honest(&world, &laptop, key, &request);
        (ahead.guard_seen, ahead.named_guard_seen) = (9, 9);
        let frames = [
            ("on a guard behind the device", ahead.seal(&mut world.session, &account, &laptop)),
            ("by a stranger", world.session.seal(&stranger(), key, &account, &request)),
            ("garbage", world.session.seal_encoded(&laptop, key, &account, &[0xff; 9])),
            ("with nothing attached", world.session.seal(&laptop, key, &account, &request)),
            ("served", world.session.seal(&laptop, key, &account, &request)),
        ];
        for (outcome, sent) in frames {
            let mut attach = world.attach(class, &sent.frame);
            if outcome == "with nothing attached" {
                (attach.vault, attach.record, attach.fresh) = (None, None, None);
            }
            let raw = world.handle(&sent, class, &attach);
            let sealed = match decode(&raw) {
                HostReply::Reply(reply) => reply.sealed.to_vec(),
                HostReply::Staged(staged) => committed(&mut world, &staged),
                other => panic!("{name} {outcome}: {other:?}"),
            };
            assert_eq!(sealed.len(), size + 48, "{name} {outcome}");
            let plaintext = sent.open(&sealed).expect("its reply");
            let opened = decode_padded::<Outcome>(&plaintext).expect("an outcome");
            assert_eq!(opened.is_ok(), outcome == "served", "{name} {outcome}");
        }
    }
}

/// The sealed reply of a guard change, by a ledger that forgets it again.
fn committed(world: &mut World, staged: &Staged) -> Vec<u8> {
    let Staged { tag, version, digest, .. } = *staged;
    let guard = staged.guard.to_vec();
    let receipt = world.ledger.claim(&LedgerClaim::Append, &tag, version, &digest);
    let raw = world.commit(&StagedRow { tag, version, digest, guard }, &receipt);
    match decode(&raw) {
        HostReply::Committed(Committed { next: Next::Answer(sealed), .. })
        | HostReply::Committed(Committed { next: Next::Closed(sealed), .. }) => sealed.to_vec(),
        other => panic!("not committed: {other:?}"),
    }
}

fn stranger() -> TestDevice {
    TestDevice::new("stranger")
}

/// What the core says to bytes that are no frame.
fn refuse_raw(world: &mut World, frame: &[u8]) -> HostReply<'static> {
    match decode(&world.enclave.call_raw(frame)) {
        HostReply::Refused(refusal) => HostReply::Refused(refusal),
        other => panic!("answered: {other:?}"),
    }
}

#[test]
fn bytes_that_are_no_frame_are_one_refusal() {
    let (mut world, laptop) = World::enrolled();
    let touch = touch(&world);
    let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &touch);
    let attach = world.attach(Class::Put(None), &sent.frame);
    let handle = world.frame(&sent, Class::Put(None), &attach);
    let configure = encode(&HostRequest::Configure(world.config.clone()));
    let fixed = [("Configure", &configure), ("Handle", &handle)];
    let unknown_kind = first_unknown::<HostRequest>();
    let malformed = HostReply::Refused(HostRefusal::Malformed);

    for (name, frame) in fixed {
        assert_ne!(decode(&world.enclave.call_raw(frame)), malformed, "{name} is a frame");
        for length in (0..frame.len()).filter(|length| *length < 200 || length % 97 == 0) {
            assert_eq!(refuse_raw(&mut world, &frame[..length]), malformed, "{name}, {length}");
        }
        let longer = [&frame[..], &[0]].concat();
        assert_eq!(refuse_raw(&mut world, &longer), malformed, "{name} and a byte");
        // The first byte is the kind of request.
        let over_long = [&[frame[0] | 0x80, 0], &frame[1..]].concat();
        assert_eq!(refuse_raw(&mut world, &over_long), malformed, "{name}, an over-long kind");
        let unknown = [&[unknown_kind], &frame[1..]].concat();
        assert_eq!(refuse_raw(&mut world, &unknown), malformed, "{name}, an unknown kind");
    }

    // Configure: kind, length of the name, name.
    assert_eq!(configure[1], 4);
    let with = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut frame = configure.clone();
        frame.splice(range, bytes.iter().copied());
        frame
    };
    let fresh_read = configure.len() - 1;
    for (name, frame) in [
        ("an over-long length", with(1..2, &[0x84, 0])),
        ("a length past the end", with(1..2, &[0x7f])),
        ("a length past memory", with(1..2, &[0xff; 10])),
        ("a name over its limit", with(1..6, &[&[0x81, 1][..], &[b'n'; 129]].concat())),
        ("a name that is no UTF-8", with(2..3, &[0xff])),
        ("an unknown policy", with(fresh_read..fresh_read + 1, &[2])),
    ] {
        assert_eq!(refuse_raw(&mut world, &frame), malformed, "{name}");
    }
    world.finish(&sent, Class::Put(None), &attach).expect("nothing was broken by all that");
}

#[test]
fn no_bytes_make_the_core_panic() {
    let (mut world, laptop) = World::enrolled();
    let touch = touch(&world);
    let sent = world.session.seal(&laptop, KeyKind::Presence, &world.account, &touch);
    let attach = world.attach(Class::Put(None), &sent.frame);
    let handle = world.frame(&sent, Class::Put(None), &attach);
    for bit in (0..handle.len() * 8).filter(|bit| *bit < 1000 || bit % 61 == 0) {
        decode(&world.enclave.call_raw(&flipped(&handle, bit)));
    }
    for length in [0, 1, 2, 100, 5000, FRAME] {
        let noise: Vec<u8> = (0..length.div_ceil(32)).flat_map(|_| random::<32>()).collect();
        decode(&world.enclave.call_raw(&noise[..length]));
    }
}

#[test]
fn plaintexts_that_are_no_request_are_one_refusal() {
    let (mut world, laptop) = World::enrolled();
    let touch = encoded(&touch(&world));
    let signed = SignedRequest {
        device: laptop.id(),
        key: KeyKind::Presence,
        guard_seen: 1,
        signature: Bytes([0; 64]),
        request: &touch,
    };
    let signed = encoded(&signed);
    let padded = |value: &[u8], size: usize| {
        let mut plaintext = u32::try_from(value.len()).expect("short").to_be_bytes().to_vec();
        plaintext.extend(value);
        plaintext.resize(size, 0);
        plaintext
    };
    let right = padded(&signed, 512);
    let changed = |at: usize, byte: u8| {
        let mut plaintext = right.clone();
        plaintext[at] = byte;
        plaintext
    };
    // Device id 16, then the key kind, then guard_seen.
    let splice = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut value = signed.clone();
        value.splice(range, bytes.iter().copied());
        padded(&value, 512)
    };
    let own = world.account;
    for (name, plaintext) in [
        ("nothing", Vec::new()),
        ("half a length", vec![0; 3]),
        ("zeros", vec![0; 512]),
        ("padding of another value", changed(511, 1)),
        ("padding right behind the value", changed(4 + signed.len(), 1)),
        ("a length past the end", changed(0, 1)),
        ("a length one short", changed(3, right[3] - 1)),
        ("a length one long", changed(3, right[3] + 1)),
        ("an unknown key kind", splice(16..17, &[2])),
        ("an over-long key kind", splice(16..17, &[0x80, 0])),
        ("an over-long guard version", splice(17..18, &[0x81, 0])),
        ("a request longer than the frame", splice(82..83, &[0x7f])),
    ] {
        let sent = world.session.seal_plaintext(&own, &plaintext);
        let denied = world.forward(&sent, Class::Put(None)).err();
        assert_eq!(denied, FRAME_REFUSED, "{name}");
    }
    assert_eq!(usize::from(signed[82]), touch.len(), "the request's length stands at 82");
    let sent = world.session.seal_plaintext(&own, &right);
    let denied = world.forward(&sent, Class::Put(None)).err();
    assert_eq!(denied, Some(Denied::Client(Refusal::Unauthorised)), "the right form is read");
    // The host sees a length that says little, whatever the client's author forgot.
    for (size, expected) in [
        (signed.len() + 4, FRAME_REFUSED),
        (511, FRAME_REFUSED),
        (513, FRAME_REFUSED),
        (1024, Some(Denied::Client(Refusal::Unauthorised))),
        (1536, Some(Denied::Client(Refusal::Unauthorised))),
    ] {
        let sent = world.session.seal_plaintext(&own, &padded(&signed, size));
        let denied = world.forward(&sent, Class::Put(None)).err();
        assert_eq!(denied, expected, "padded to {size} bytes");
    }
}

#[test]
fn a_frame_over_its_limit_is_refused() {
    let (mut world, _) = World::enrolled();
    let own = world.account;
    for (length, expected) in
        [(REQUEST - TAG, HostRefusal::Frame), (REQUEST - TAG + 1, HostRefusal::Malformed)]
    {
        let sent = world.session.seal_plaintext(&own, &vec![0; length]);
        let denied = world.forward(&sent, Class::Status).err();
        assert_eq!(denied, Some(Denied::Host(expected)), "{length} bytes of plaintext");
    }
}

#[test]
fn requests_that_are_no_request_are_refused_to_the_client() {
    let (mut world, laptop) = World::enrolled();
    let create = encoded(&Request::CreatePasskey(CreatePasskey {
        rp_id: RpId::try_from("r").expect("short"),
        ..world.create_request(RP, "u")
    }));
    // Kind in 1 byte, vault in 1 + 32, then rp id, user handle, name, display name, algorithms, PRF.
    let with = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut request = create.clone();
        request.splice(range, bytes.iter().copied());
        request
    };
    assert_eq!(create[34..42], [1, b'r', 1, b'u', 1, b'u', 1, b'u']);
    assert_eq!(create[42..], [2, 0x0d, 0x0f, 0], "two algorithms in zigzag, no PRF");
    assert_eq!(Algorithm::Es256.cose(), -7);
    let long = |length: u8, fill: u8| {
        let mut bytes = vec![length | 0x80, 1];
        bytes.extend(vec![fill; usize::from(length) + 128]);
        bytes
    };
    let end = create.len();
    for (name, request) in [
        ("nothing", Vec::new()),
        ("an unknown kind", with(0..1, &[first_unknown::<Request>()])),
        ("an over-long kind", with(0..1, &[0x85, 0])),
        ("a byte behind it", with(end..end, &[0])),
        ("a byte short", create[..end - 1].to_vec()),
        ("an rp id of 254 bytes", with(34..36, &long(126, b'r'))),
        ("an rp id that is no UTF-8", with(35..36, &[0xff])),
        ("a user handle of 65 bytes", with(36..38, &[&[65][..], &[1; 65]].concat())),
        ("a name of 65 bytes", with(38..40, &[&[65][..], &[b'n'; 65]].concat())),
        ("seventeen algorithms", with(42..45, &[&[17][..], &[0x0d; 17]].concat())),
        ("an algorithm past 32 bits", with(43..44, &[0xff, 0xff, 0xff, 0xff, 0x1f])),
        ("a PRF that is neither there nor not", with(45..46, &[2])),
    ] {
        let own = world.account;
        let sent = world.session.seal_encoded(&laptop, KeyKind::Presence, &own, &request);
        let denied = world.forward(&sent, Class::Put(None)).err();
        assert_eq!(denied, Some(Denied::Client(Refusal::Malformed)), "{name}");
    }
    let own = world.account;
    let sent = world.session.seal_encoded(&laptop, KeyKind::Presence, &own, &create);
    world.forward(&sent, Class::Put(None)).expect("the right form is served");
}

#[test]
fn the_largest_requests_fit_a_frame() {
    let (mut world, mut laptop) = World::enrolled();
    let name = Name::try_from("n".repeat(64).as_str()).expect("64 bytes");
    let mut device = TestDevice::new(name.as_str()).public();
    device.name = name;
    let approve = ApproveDevice { base: world.base(), device };
    world.change_guard(&mut laptop, &Request::ApproveDevice(approve)).expect("approved");
    let mut create = world.create_request(&"r".repeat(253), &"u".repeat(64));
    create.algorithms = heapless_algorithms(&[i32::MIN; 15]);
    create.algorithms.push(-7).expect("the sixteenth");
    create.prf = Some(PrfInputs { first: [1; 32], second: Some([2; 32]) });
    let request = Request::CreatePasskey(create);
    let key = KeyKind::UserVerification;
    world.request(&mut laptop, key, &request, Class::Put(None)).expect("created");
}
