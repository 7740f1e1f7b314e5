//! Other people's HPKE at the client's end: npm's `@hpke/core` with `@hpke/hybridkem-x-wing` opens a
//! session, enrolls, and reads the answer. `tests/hpke-interop` is that client.
//!
//! Needs node and npm; without them this fails, it does not skip.

use std::path::Path;
use std::process::Command;

use keyfold_protocol::client::{Class, Outcome, Success};
use keyfold_protocol::host::{
    Attached, Claimed, Commit, Handle, HostReply, HostRequest, Next, OpenSession,
};
use keyfold_protocol::transcript::{self, Chain};
use keyfold_protocol::wire::{self, Items};
use keyfold_tests::crypto::sha256;
use keyfold_tests::enclave::{ROOT, decode};
use keyfold_tests::oracle::Oracle;
use keyfold_tests::program::{Program, install_node};
use keyfold_tests::world::World;
use serde_json::{Value, json};

/// The JavaScript client, installed under `target/` and running.
fn client() -> Program {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("hpke-interop");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = install_node(target, "hpke-interop", &source, "client.js");
    Program::start(Command::new("node").arg("client.js").current_dir(folder))
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a string")).expect("hexadecimal")
}

#[test]
fn a_javascript_client_enrolls() {
    let mut client = client();
    let mut world = World::new();
    let opened = client.ask(&json!({
        "channel_key": hex::encode(&world.enclave.channel_key),
        "config": hex::encode(world.enclave.config_hash.0),
        "account": hex::encode(world.account.id.0),
        "generation": world.account.generation,
        "pin": hex::encode([9; 32]),
    }));
    let (enc, frame) = (bytes(&opened["enc"]), bytes(&opened["frame"]));

    // The core opens its session and its frame, and knows its signature.
    let channel_key = world.enclave.channel_key_id();
    let open = OpenSession { channel_key, encapsulated_key: &enc };
    let session = transcript::session_id(sha256, &enc);
    let reply = world.enclave.call(&HostRequest::OpenSession(open));
    assert_eq!(decode(&reply), HostReply::Session(session));
    let reply = world.enclave.call(&HostRequest::Handle(Handle {
        session,
        account: world.account,
        counter: 0,
        class: Class::Enroll,
        frame: &frame,
        time: Claimed(world.time),
        guard: None,
        vault: None,
        record: None,
        fresh: None,
        events: Items::empty(),
        audit: Items::empty(),
    }));
    let HostReply::Staged(staged) = decode(&reply) else { panic!("not staged: {reply:02x?}") };
    let guard = Oracle::new(ROOT, world.account).staged(staged.digest, 1, staged.guard);
    let guard = guard.expect("staged").guard;
    assert_eq!(guard.devices[0].1.name, "a browser");
    let receipt = world.ledger.append(staged.tag, 1, staged.digest).expect("the first");
    let attached = Attached { version: Claimed(1), sealed: staged.guard };
    let (account, digest) = (world.account, Claimed(staged.digest));
    let commit = Commit { account, staged: attached, digest, receipt: &receipt };
    let reply = world.enclave.call(&HostRequest::Commit(commit));
    let HostReply::Committed(committed) = decode(&reply) else { panic!("no guard") };
    let Next::Answer(sealed) = committed.next else { panic!("no answer") };

    // The client opens the core's reply, and no other.
    let answer = client.ask(&json!({"reply": hex::encode(sealed)}));
    let outcome = bytes(&answer["outcome"]);
    let Ok(Ok(Success::GuardChanged(changed))) = wire::decode::<Outcome>(&outcome) else {
        panic!("not a guard change: {outcome:02x?}")
    };
    assert_eq!((changed.guard, changed.audit_head), (1, guard.audit_head));
    assert_eq!(changed.vault, Chain::Vault.genesis(sha256, &world.account));
    let mut damaged = sealed.to_vec();
    damaged[40] ^= 1;
    let answer = client.ask(&json!({"reply": hex::encode(damaged)}));
    assert_eq!(answer, json!({"refused": true}));
}
