//! The channel, against what others wrote of it: the X-Wing draft's vectors, RFC 9180's, and the
//! `hpke` crate as the other end, 200 times, half of them with a damaged encapsulation.

use keyfold_protocol::client::{Class, KeyKind, Refusal, Request};
use keyfold_protocol::host::{FreshRead, HostRefusal, HostReply, HostRequest, OpenSession};
use keyfold_protocol::transcript::{self, channel_info};
use keyfold_protocol::{limits, wire};
use keyfold_tests::crypto::{aead_seal, hkdf_expand, random, sha256};
use keyfold_tests::device::{Session, TestDevice};
use keyfold_tests::enclave::{self, Enclave, ROOT, TestPlatform, decode};
use keyfold_tests::ledger::Ledger;
use keyfold_tests::oracle::{SessionKeys, channel_public, expand_channel_seed};
use keyfold_tests::world::{Attach, Stored, World};
use ring::hmac;
use serde_json::Value;

/// RFC 9180 section 4: LabeledExtract and LabeledExpand with HKDF-SHA256, for any suite.
struct Schedule<'a> {
    suite: &'a [u8],
}

impl Schedule<'_> {
    fn extract(&self, salt: &[u8], label: &[u8], input: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
        let input = [b"HPKE-v1", self.suite, label, input].concat();
        hmac::sign(&key, &input).as_ref().try_into().expect("32 bytes")
    }

    fn expand(&self, secret: &[u8; 32], label: &[u8], info: &[u8]) -> [u8; 32] {
        hkdf_expand(secret, &[&[0, 32], b"HPKE-v1", self.suite, label, info])
    }

    /// Section 5.1, base mode: the exporter secret.
    fn exporter(&self, shared_secret: &[u8], info: &[u8]) -> [u8; 32] {
        let psk_id_hash = self.extract(&[], b"psk_id_hash", &[]);
        let info_hash = self.extract(&[], b"info_hash", info);
        let context = [&[0][..], &psk_id_hash, &info_hash].concat();
        let secret = self.extract(shared_secret, b"secret", &[]);
        self.expand(&secret, b"exp", &context)
    }

    /// Section 5.3.
    fn export(&self, exporter: &[u8; 32], context: &[u8]) -> [u8; 32] {
        self.expand(exporter, b"sec", context)
    }
}

/// KEM X-Wing, KDF HKDF-SHA256, AEAD export-only.
const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\xff\xff";

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).expect("hex").try_into().expect("the right length")
}

/// RFC 9180 appendix A.7.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, export-only, base mode. The
/// suite's name is the only thing that the core's schedule has different.
#[test]
fn the_key_schedule_is_that_of_rfc_9180() {
    let schedule = Schedule { suite: b"HPKE\x00\x20\x00\x01\xff\xff" };
    let shared: [u8; 32] =
        bytes("e81716ce8f73141d4f25ee9098efc968c91e5b8ce52ffff59d64039e82918b66");
    let exporter = schedule.exporter(&shared, b"Ode on a Grecian Urn");
    let expected: [u8; 32] =
        bytes("79dc8e0509cf4a3364ca027e5a0138235281611ca910e435e8ed58167c72f79b");
    assert_eq!(exporter, expected);
    for (context, expected) in [
        (&b""[..], "7a36221bd56d50fb51ee65edfd98d06a23c4dc87085aa5866cb7087244bd2a36"),
        (&[0], "d5535b87099c6c3ce80dc112a2671c6ec8e811a2f284f948cec6dd1708ee33f0"),
        (b"TestContext", "ffaabc85a776136ca0c378e5d084c9140ab552b78f039d2e8775f26efff4c70e"),
    ] {
        assert_eq!(schedule.export(&exporter, context), bytes(expected));
    }
}

/// A deployment whose channel has the private key of this seed.
fn world(seed: &[u8; 32]) -> World {
    let ledger = Ledger::new();
    let config = enclave::config(&ledger, FreshRead::Reports);
    let platform = TestPlatform::new().with_channel(expand_channel_seed(seed));
    let enclave = Enclave::boot_on(platform, &config, &ROOT);
    let session = Session::open(&enclave.config_hash, &enclave.channel_key);
    let account = keyfold_tests::samples::account();
    World { enclave, ledger, stored: Stored::default(), account, config, session, time: 0 }
}

fn open(world: &mut World, enc: &[u8]) -> Vec<u8> {
    let channel_key = world.enclave.channel_key_id();
    let open = OpenSession { channel_key, encapsulated_key: enc };
    world.enclave.call(&HostRequest::OpenSession(open))
}

/// Whether a request under these keys is understood, and its answer opens under them.
///
/// The request is signed by nobody the core knows, so a core that understands it says so.
fn agree(world: &mut World, enc: &[u8], keys: &SessionKeys) -> bool {
    let id = transcript::session_id(sha256, enc);
    assert_eq!(decode(&open(world, enc)), HostReply::Session(id));
    let device = TestDevice::new("nobody's");
    world.session.id = id;
    let enroll = keyfold_protocol::client::Enroll {
        pin: keyfold_protocol::client::StretchedPin([0; 32]),
        device: TestDevice::new("another").public(),
    };
    let request = keyfold_tests::samples::encode(&Request::Enroll(enroll));
    let signed = keyfold_protocol::client::SignedRequest {
        device: device.id(),
        key: KeyKind::Presence,
        guard_seen: 0,
        signature: keyfold_protocol::bytes::Bytes([1; 64]),
        request: &request,
    };
    let mut padded = [0; 2 * limits::REQUEST_STEP];
    wire::encode_padded(&signed, &mut padded).expect("it fits");
    let aad = transcript::request_aad(&id, &world.account);
    let frame = aead_seal(&keys.request, transcript::request_nonce(0), &aad, &padded);
    let mut sent = world.session.seal_plaintext(&world.account, &[0; 512]);
    (sent.counter, sent.frame) = (0, frame);
    match decode(&world.handle(&sent, Class::Enroll, &Attach::default())) {
        HostReply::Refused(HostRefusal::Frame) => false,
        HostReply::Reply(reply) => {
            let opened = keys.open_reply(&sent.frame, reply.sealed).expect("the reply opens");
            let outcome = wire::decode_padded::<keyfold_protocol::client::Outcome>(&opened);
            assert_eq!(outcome, Ok(Err(Refusal::Unauthorised)));
            true
        }
        other => panic!("unexpected: {other:?}"),
    }
}

/// Public key from the seed, shared secret from the encapsulated key, for every vector of the
/// draft; the shared secret shows in what the session it gives can open.
#[test]
fn the_draft_s_vectors_hold() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/vectors/x-wing.json");
    let text = std::fs::read_to_string(path).expect("the draft's vectors");
    let vectors: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(vectors.len(), 3);
    let field = |vector: &Value, name: &str| -> Vec<u8> {
        hex::decode(vector[name].as_str().expect("a string")).expect("hex")
    };
    for vector in &vectors {
        let seed: [u8; 32] = field(vector, "sk").try_into().expect("32 bytes");
        let mut world = world(&seed);
        assert_eq!(world.enclave.channel_key, field(vector, "pk"));

        let info = channel_info(&world.enclave.config_hash, &world.enclave.channel_key_id());
        let schedule = Schedule { suite: SUITE };
        let keys = |shared: &[u8]| {
            let exporter = schedule.exporter(shared, &info);
            SessionKeys {
                request: schedule.export(&exporter, transcript::EXPORT_REQUEST_KEY),
                response: schedule.export(&exporter, transcript::EXPORT_RESPONSE_KEY),
                binding: schedule.export(&exporter, transcript::EXPORT_BINDING),
            }
        };
        let (enc, mut shared) = (field(vector, "ct"), field(vector, "ss"));
        assert!(agree(&mut world, &enc, &keys(&shared)));
        // The same from the private key, by the hpke crate.
        let received = SessionKeys::receive(&seed, &world.enclave.config_hash, &enc);
        assert_eq!(received, keys(&shared));
        shared[31] ^= 1;
        assert!(!agree(&mut world, &enc, &keys(&shared)));
    }
}

/// The hpke crate's public key, sender and receiver agree with the core; a damaged encapsulation
/// opens a session, but not the client's.
#[test]
fn two_hundred_sessions_with_the_hpke_crate() {
    let seed: [u8; 32] = random();
    let mut world = world(&seed);
    let config = world.enclave.config_hash;
    assert_eq!(world.enclave.channel_key, channel_public(&seed));
    let laptop = TestDevice::new("laptop");
    for round in 0..200 {
        world.session = Session::open(&config, &world.enclave.channel_key);
        let enc = world.session.enc.clone();
        let received = SessionKeys::receive(&seed, &config, &enc);
        assert_eq!(received.binding, world.session.binding);
        if round % 2 == 0 {
            assert!(agree(&mut world, &enc, &received));
            // And through the client's own end: a request of the harness is understood.
            world.session.counter = 1;
            let request = Request::Status;
            let account = world.account;
            let sent = world.session.seal(&laptop, KeyKind::Presence, &account, &request);
            let reply = world.handle(&sent, Class::Status, &Attach::default());
            assert_eq!(decode(&reply), HostReply::Refused(HostRefusal::State));
        } else {
            let mut damaged = enc.clone();
            // Alternately in the ML-KEM ciphertext and in the X25519 share, whose last bit is
            // ignored by X25519 but bound by the combiner.
            let at = if round % 4 == 1 { round * 5 } else { 1088 + round % 32 };
            damaged[at] ^= if at == 1119 { 0x80 } else { 1 << (round % 8) };
            assert!(!agree(&mut world, &damaged, &received));
            // What the core derives from it instead is what hpke derives.
            let other = SessionKeys::receive(&seed, &config, &damaged);
            assert_ne!(other, received);
            assert!(agree(&mut world, &damaged, &other));
        }
    }
}

/// An encapsulation of another length, or to another key, is refused.
#[test]
fn what_is_no_encapsulation_is_refused() {
    let mut world = world(&random());
    let enc = world.session.enc.clone();
    for length in [0, 1, 1119, 1121, 2240] {
        let wrong: Vec<u8> = enc.iter().copied().cycle().take(length).collect();
        let refused = HostReply::Refused(HostRefusal::Malformed);
        assert_eq!(decode(&open(&mut world, &wrong)), refused, "{length} bytes");
    }
    let mut channel_key = world.enclave.channel_key_id();
    channel_key.0[0] ^= 1;
    let open = OpenSession { channel_key, encapsulated_key: &enc };
    let refusal = world.enclave.refusal(&HostRequest::OpenSession(open));
    assert_eq!(refusal, HostRefusal::ChannelKey);
}
