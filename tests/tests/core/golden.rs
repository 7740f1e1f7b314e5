//! Golden bytes: what crosses a boundary, or lies on somebody's disk, must never change by itself.
//!
//! `protocol/vectors/README.md` says what is in the files. A deliberate change is written with
//! `KEYFOLD_BLESS=1 cargo test -p keyfold-tests --test core golden`, and reviewed as what it is: a break
//! with every client and every stored account.

use std::path::PathBuf;

use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::{
    Action, Algorithm, Assert, Class, Enroll, KeyKind, Outcome, Request, StretchedPin,
};
use keyfold_protocol::host::{
    Attached, Claimed, Commit, Event, FreshRead, HostReply, HostRequest, KeyWrap, Next,
    OpenSession, Settle, Unlock,
};
use keyfold_protocol::ids::{ChannelKeyId, Digest, LedgerTag, RpId, SessionId};
use keyfold_protocol::transcript::{self, Chain, LedgerClaim, SignedContext};
use keyfold_protocol::wire;
use keyfold_tests::crypto::sha256;
use keyfold_tests::device::{Session, TestDevice};
use keyfold_tests::enclave::{self, Enclave, ROOT, TestPlatform, decode};
use keyfold_tests::ledger::Ledger;
use keyfold_tests::oracle::{Oracle, SessionKeys, expand_channel_seed};
use keyfold_tests::samples;
use keyfold_tests::world::{Attach, PIN, StagedRow, Stored, World, heapless_algorithms};
use serde_json::{Value, json};

/// Of the platform that made `core.json`.
const SEED: [u8; 32] = [0x5e; 32];
/// Of its channel's private key.
const CHANNEL_SEED: [u8; 32] = [0xc5; 32];

#[test]
fn every_message_has_its_bytes() {
    let entries = samples::all().into_iter().map(|sample| {
        let value = format!("{},\n  \"hex\": \"{}\"", sample.value, hex::encode(&sample.bytes));
        format!("{{\"name\": \"{}\",\n  \"value\": {value}}}", sample.name)
    });
    compare("messages.json", &list(entries));
}

#[test]
fn every_transcript_has_its_bytes() {
    let entries = transcripts().into_iter().map(|(name, input, bytes)| {
        let hex = hex::encode(bytes);
        format!("{{\"name\": \"{name}\",\n  \"input\": {input},\n  \"hex\": \"{hex}\"}}")
    });
    compare("transcripts.json", &list(entries));
}

/// Replays recorded frames to a core that draws recorded randomness: the same replies, to the bit.
#[test]
fn every_sealed_object_has_its_bytes() {
    let frames = if is_blessing() { record() } else { recorded() };
    compare("core.json", &replay(&frames));
}

fn transcripts() -> Vec<(&'static str, Value, Vec<u8>)> {
    let account = samples::account();
    let (session, binding) = (SessionId([0x50; 16]), [0xb1; 32]);
    let (config, key) = (Digest([0xc0; 32]), ChannelKeyId([0xc4; 32]));
    let (device_key, uv_key) = (Bytes([0x04; 65]), Bytes([0x05; 65]));
    let (tag, guard, nonce) = (LedgerTag([0x7a; 32]), Digest([0xde; 32]), [0x4e; 32]);
    let hex = |bytes: &[u8]| hex::encode(bytes);
    let mut all: Vec<(&'static str, Value, Vec<u8>)> = vec![
        (
            "account_id",
            json!({"issuer": "https://issuer.example", "subject": "alice"}),
            transcript::account_id(sha256, "https://issuer.example", "alice").0.to_vec(),
        ),
        (
            "device_id",
            json!({"device_key": hex(&device_key.0), "uv_key": hex(&uv_key.0)}),
            transcript::device_id(sha256, &device_key, &uv_key).0.to_vec(),
        ),
        (
            "session_id",
            json!({"encapsulated_key": hex(&[0xec; 1120])}),
            transcript::session_id(sha256, &[0xec; 1120]).0.to_vec(),
        ),
        (
            "channel_info",
            json!({"config": hex(&config.0), "channel_key": hex(&key.0)}),
            transcript::channel_info(&config, &key).to_vec(),
        ),
        ("request_nonce", json!({"counter": 300}), transcript::request_nonce(300).to_vec()),
        (
            "request_aad",
            json!({"session": hex(&session.0), "account": hex(&account.id.0), "generation": 1}),
            transcript::request_aad(&session, &account).to_vec(),
        ),
        (
            "ledger_claim.append",
            json!({"tag": hex(&tag.0), "version": 8, "guard": hex(&guard.0)}),
            LedgerClaim::Append.bytes(&tag, 8, &guard).to_vec(),
        ),
        (
            "ledger_claim.read",
            json!({"tag": hex(&tag.0), "version": 8, "guard": hex(&guard.0), "nonce": hex(&nonce)}),
            LedgerClaim::Read(nonce).bytes(&tag, 8, &guard).to_vec(),
        ),
    ];
    for (name, label) in [
        ("label.request_key", transcript::EXPORT_REQUEST_KEY),
        ("label.response_key", transcript::EXPORT_RESPONSE_KEY),
        ("label.binding", transcript::EXPORT_BINDING),
        ("label.reply_key", transcript::REPLY_KEY),
        ("label.reply_seal", transcript::REPLY_SEAL),
        ("label.prf_prefix", transcript::PRF_PREFIX),
    ] {
        all.push((name, json!({}), label.to_vec()));
    }
    for key in [KeyKind::Presence, KeyKind::UserVerification] {
        let context = SignedContext {
            binding: &binding,
            counter: 300,
            account: &account,
            key,
            guard_seen: 7,
        };
        let request = samples::encode(&Request::Status);
        all.push((
            "signed_bytes",
            json!({
                "binding": hex(&binding), "counter": 300, "account": hex(&account.id.0),
                "generation": 1, "key": format!("{key:?}"), "guard_seen": 7,
                "request": hex(&request),
            }),
            transcript::signed_bytes(sha256, &context, &request).to_vec(),
        ));
    }
    all.extend(chains());
    all
}

fn chains() -> Vec<(&'static str, Value, Vec<u8>)> {
    let account = samples::account();
    let from = samples::point();
    let mut all = Vec::new();
    for chain in [Chain::Vault, Chain::Audit] {
        let (genesis_name, next_name) = match chain {
            Chain::Vault => ("vault_chain.genesis", "vault_chain.next"),
            Chain::Audit => ("audit_chain.genesis", "audit_chain.next"),
        };
        let genesis = chain.genesis(sha256, &account);
        let input = json!({"account": hex::encode(account.id.0), "generation": 1});
        all.push((genesis_name, input, genesis.head.0.to_vec()));
        for action in [Action::Put, Action::Delete, Action::Touch, Action::Audit] {
            let event: Event = samples::event(action);
            let next = chain.next(sha256, &from, &event).expect("the next event");
            let input = json!({
                "head": hex::encode(from.head.0), "version": event.version,
                "slot": hex::encode(event.slot.0), "action": format!("{action:?}"),
                "digest": hex::encode(event.digest.0),
            });
            all.push((next_name, input, next.head.0.to_vec()));
        }
    }
    all
}

/// A frame to the core and what it does.
type Frame = (String, Vec<u8>);

/// The frames of an account's first steps, with fresh device, ledger and session keys.
fn record() -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let ledger = Ledger::new();
    let config = enclave::config(&ledger, FreshRead::Reports);
    let platform = TestPlatform::seeded(SEED).with_channel(expand_channel_seed(&CHANNEL_SEED));
    let unlock = Unlock { algorithm: KeyWrap::Sha1, wrapped: &ROOT };
    frames.push(("configure".into(), enclave::encode(&HostRequest::Configure(config.clone()))));
    frames.push(("release claims".into(), enclave::encode(&HostRequest::ReleaseClaims)));
    frames.push(("unlock".into(), enclave::encode(&HostRequest::Unlock(unlock))));
    frames.push(("evidence".into(), enclave::encode(&HostRequest::Evidence)));

    let enclave = Enclave::boot_on(platform, &config, &ROOT);
    let session = Session::open(&enclave.config_hash, &enclave.channel_key);
    let mut world = World {
        enclave,
        ledger,
        stored: Stored::default(),
        account: samples::account(),
        config,
        session,
        time: 1_800_000_000,
    };
    let channel_key = world.enclave.channel_key_id();
    let open = OpenSession { channel_key, encapsulated_key: &world.session.enc };
    let open = enclave::encode(&HostRequest::OpenSession(open));
    world.enclave.call_raw(&open);
    frames.push(("open session".into(), open));

    let mut laptop = TestDevice::new("laptop");
    let enroll = Enroll { pin: StretchedPin([9; 32]), device: laptop.public() };
    let reply = step(&mut world, &mut frames, &laptop, &Request::Enroll(enroll), Class::Enroll);
    commit(&mut world, &mut frames, &reply);
    laptop.guard_seen = 1;

    // EdDSA: ring makes its P-256 keys from its own randomness.
    let mut create = world.create_request("example.com", "alice");
    create.algorithms = heapless_algorithms(&[Algorithm::EdDsa.cose()]);
    let request = Request::CreatePasskey(create);
    let reply = step(&mut world, &mut frames, &laptop, &request, Class::Put(None));
    let HostReply::Reply(reply) = decode(&reply) else { panic!("no reply") };
    let put = reply.put.expect("a put");
    world.store_put(&put);

    let slot = put.event.slot;
    let sealed = put.record.expect("a record");
    let secret = oracle().guard(1, &world.stored.guards[&1]).expect("the live guard").secret;
    let record = oracle().record(&secret, slot, 1, sealed).expect("the record");
    let assert = Request::Assert(Assert {
        rp_id: RpId::try_from("example.com").expect("short"),
        credential: record.credential,
        client_data_hash: [3; 32],
        prf: None,
    });
    step(&mut world, &mut frames, &laptop, &assert, Class::Assert(slot));
    let genesis = world.genesis();
    step(&mut world, &mut frames, &laptop, &Request::Sync(genesis), Class::Sync(0));
    step(&mut world, &mut frames, &laptop, &Request::Status, Class::Status);
    let genesis = Chain::Audit.genesis(sha256, &world.account);
    step(&mut world, &mut frames, &laptop, &Request::Audit(genesis), Class::Audit(0));
    step(&mut world, &mut frames, &laptop, &assert, Class::Put(None));

    // A wrong PIN and a right one.
    for pin in [[8; 32], PIN] {
        let phone = TestDevice::new("phone");
        let request = world.recover_request(&phone, pin);
        let reply = step(&mut world, &mut frames, &phone, &request, Class::Recover);
        commit(&mut world, &mut frames, &reply);
        let (version, sealed) = world.stored.guards.last_key_value().expect("a guard");
        let guard = Attached { version: Claimed(*version), sealed };
        let settle = HostRequest::Settle(Settle { account: world.account, guard });
        let settle = enclave::encode(&settle);
        let reply = world.enclave.call_raw(&settle);
        frames.push(("settle".into(), settle));
        commit(&mut world, &mut frames, &reply);
    }
    frames
}

fn step(
    world: &mut World, frames: &mut Vec<Frame>, device: &TestDevice, request: &Request,
    class: Class,
) -> Vec<u8> {
    use keyfold_tests::generate::Variants;
    let sent = world.session.seal(device, KeyKind::Presence, &world.account, request);
    let attach: Attach = world.attach(class, &sent.frame);
    let frame = world.frame(&sent, class, &attach);
    frames.push((format!("{} as {}", request.variant(), class.variant()), frame.clone()));
    world.enclave.call_raw(&frame)
}

/// Appends what was staged to the ledger, commits it and stores it.
fn commit(world: &mut World, frames: &mut Vec<Frame>, staged: &[u8]) {
    let HostReply::Staged(staged) = decode(staged) else { panic!("not staged") };
    let row = StagedRow::from(&staged);
    let receipt = world.ledger.append(row.tag, row.version, row.digest).expect("free");
    let commit = enclave::encode(&HostRequest::Commit(Commit {
        account: world.account,
        staged: Attached { version: Claimed(row.version), sealed: &row.guard },
        digest: Claimed(row.digest),
        receipt: &receipt,
    }));
    let reply = world.enclave.call_raw(&commit);
    frames.push(("commit".into(), commit));
    let HostReply::Committed(committed) = decode(&reply) else { panic!("not committed") };
    world.stored.guards.insert(committed.version, committed.guard.to_vec());
    world.stored.audit.insert(committed.version, committed.audit.to_vec());
    world.stored.tag = Some(row.tag);
}

/// The frames of the checked-in file.
fn recorded() -> Vec<Frame> {
    let text = std::fs::read_to_string(path("core.json")).expect("protocol/vectors/core.json");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let frames = file["frames"].as_array().expect("frames");
    let frame = |entry: &Value| {
        let name = entry["name"].as_str().expect("a name").to_string();
        (name, hex::decode(entry["frame"].as_str().expect("a frame")).expect("hex"))
    };
    frames.iter().map(frame).collect()
}

/// Runs the frames and writes down the replies and everything sealed in them.
fn replay(frames: &[Frame]) -> String {
    let platform = TestPlatform::seeded(SEED).with_channel(expand_channel_seed(&CHANNEL_SEED));
    let mut enclave = Enclave::unconfigured(platform);
    let mut objects = Objects { oracle: oracle(), ..Objects::default() };
    let mut entries = Vec::new();
    for (name, frame) in frames {
        let reply = enclave.call_raw(frame);
        objects.take(name, frame, &reply);
        let (frame, reply) = (hex::encode(frame), hex::encode(&reply));
        entries.push(format!(
            "{{\"name\": \"{name}\",\n  \"frame\": \"{frame}\",\n  \"reply\": \"{reply}\"}}"
        ));
    }
    let kinds = ["guard-staged", "guard-live", "vault", "record", "audit", "reply"];
    for kind in kinds {
        assert!(objects.kinds.contains(&kind), "no {kind} was sealed");
    }
    format!(
        "{{\n\"seed\": \"{}\",\n\"channel_seed\": \"{}\",\n\"root\": \"{}\",\n\"frames\": {},\n\"objects\": {}}}\n",
        hex::encode(SEED),
        hex::encode(CHANNEL_SEED),
        hex::encode(ROOT),
        list(entries).trim_end(),
        list(objects.entries).trim_end(),
    )
}

fn oracle() -> Oracle {
    Oracle::new(ROOT, samples::account())
}

/// Sealed objects, opened from outside with the root key.
struct Objects {
    oracle: Oracle,
    config: Digest,
    session: Option<SessionKeys>,
    /// Frame whose reply waits for its commit.
    waiting: Vec<u8>,
    secret: [u8; 32],
    kinds: Vec<&'static str>,
    entries: Vec<String>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            oracle: oracle(),
            config: Digest([0; 32]),
            session: None,
            waiting: Vec::new(),
            secret: [0; 32],
            kinds: Vec::new(),
            entries: Vec::new(),
        }
    }
}

impl Objects {
    fn add<T: serde::Serialize>(&mut self, kind: &'static str, sealed: &[u8], value: &T) {
        let (sealed, plaintext) = (hex::encode(sealed), hex::encode(samples::encode(value)));
        self.kinds.push(kind);
        self.entries.push(format!(
            "{{\"kind\": \"{kind}\",\n  \"plaintext\": \"{plaintext}\",\n  \"sealed\": \"{sealed}\"}}"
        ));
    }

    fn take(&mut self, name: &str, frame: &[u8], reply: &[u8]) {
        match decode(reply) {
            HostReply::Configured(hash) => self.config = hash,
            HostReply::Session(_) => {
                let Ok(HostRequest::OpenSession(open)) = wire::decode(frame) else {
                    panic!("{name}: not a session")
                };
                let enc = open.encapsulated_key;
                self.session = Some(SessionKeys::receive(&CHANNEL_SEED, &self.config, enc));
            }
            HostReply::Staged(staged) => {
                // An outcome is the answer to the frame that was charged.
                if let Ok(HostRequest::Handle(handle)) = wire::decode(frame) {
                    self.waiting = handle.frame.to_vec();
                }
                let guard = self
                    .oracle
                    .staged(staged.digest, staged.version, staged.guard)
                    .expect("staged");
                self.secret = guard.guard.secret;
                self.add("guard-staged", staged.guard, &guard);
            }
            HostReply::Committed(committed) => {
                let guard = self.oracle.guard(committed.version, committed.guard).expect("live");
                self.add("guard-live", committed.guard, &guard);
                let audit = self.oracle.audit(&guard.secret, committed.version, committed.audit);
                self.add("audit", committed.audit, &audit.expect("an audit event"));
                if let Next::Answer(sealed) | Next::Closed(sealed) = committed.next {
                    let waiting = std::mem::take(&mut self.waiting);
                    self.add_reply(&waiting, sealed);
                }
            }
            HostReply::Reply(reply) => {
                if let Some(put) = reply.put {
                    let version = put.event.version;
                    let vault = self.oracle.vault(&self.secret, version, put.vault);
                    self.add("vault", put.vault, &vault.expect("a vault"));
                    let record = put.record.expect("a record");
                    let opened = self.oracle.record(&self.secret, put.event.slot, version, record);
                    self.add("record", record, &opened.expect("a record"));
                }
                self.add_reply(&request_frame(frame), reply.sealed);
            }
            HostReply::ReleaseClaims(_) | HostReply::Unlocked(_) | HostReply::Evidence(_) => {}
            HostReply::Locked(sealed) => self.add_reply(&request_frame(frame), sealed),
            HostReply::Refused(refusal) => panic!("{name}: {refusal:?}"),
        }
    }

    fn add_reply(&mut self, frame: &[u8], sealed: &[u8]) {
        let session = self.session.as_ref().expect("a session");
        let plaintext = session.open_reply(frame, sealed).expect("a reply of this frame");
        let outcome: Outcome = wire::decode_padded(&plaintext).expect("an outcome");
        self.add("reply", sealed, &outcome);
    }
}

fn request_frame(frame: &[u8]) -> Vec<u8> {
    match wire::decode(frame) {
        Ok(HostRequest::Handle(handle)) => handle.frame.to_vec(),
        _ => panic!("not a request"),
    }
}

fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../protocol/vectors", file].iter().collect()
}

fn list(entries: impl IntoIterator<Item = String>) -> String {
    let entries: Vec<String> = entries.into_iter().collect();
    format!("[\n {}\n]\n", entries.join(",\n "))
}

fn is_blessing() -> bool {
    std::env::var_os("KEYFOLD_BLESS").is_some()
}

fn compare(file: &str, made: &str) {
    let path = path(file);
    serde_json::from_str::<Value>(made).expect("the file is JSON");
    if is_blessing() {
        std::fs::write(&path, made).expect("the file is writable");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = kept.lines().zip(made.lines()).enumerate();
    if let Some((number, (kept, made))) = lines.find(|(_, (kept, made))| kept != made) {
        panic!(
            "{file}:{}: the bytes changed. Stored accounts and clients hold the old ones; if that \
             is meant, run again with KEYFOLD_BLESS=1.\n  was {kept}\n  is  {made}",
            number + 1
        );
    }
    assert_eq!(kept.len(), made.len(), "{file}: entries were added or removed: KEYFOLD_BLESS=1");
}

/// The control: a single changed byte is seen.
#[test]
#[should_panic(expected = "the bytes changed")]
fn a_changed_byte_is_seen() {
    let kept = std::fs::read_to_string(path("transcripts.json")).expect("the file");
    if is_blessing() {
        panic!("the bytes changed: not checked while they are rewritten");
    }
    let digit = kept.rfind(|c: char| c.is_ascii_digit()).expect("a digit");
    let other = if &kept[digit..=digit] == "1" { "2" } else { "1" };
    compare("transcripts.json", &format!("{}{other}{}", &kept[..digit], &kept[digit + 1..]));
}
