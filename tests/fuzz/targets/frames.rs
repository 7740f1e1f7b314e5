//! Any frame into `Core::handle`: raw bytes, generated messages, and the frames of a core's whole
//! life with edits. Whatever comes, the answer is one valid reply, and without the right keys
//! nothing is ever staged, committed or put.
#![no_main]

use std::cell::RefCell;
use std::sync::LazyLock;

use keyfold_fuzz::edited;
use keyfold_protocol::client::{Class, Outcome, Refusal};
use keyfold_protocol::host::{FreshRead, HostReply, HostRequest, Next};
use keyfold_protocol::limits::TRIES;
use keyfold_protocol::wire;
use keyfold_tests::enclave::{self, Enclave, decode};
use keyfold_tests::generate::{Generate, Source};
use keyfold_tests::oracle::{Oracle, SessionKeys};
use keyfold_tests::samples;
use keyfold_tests::script::{self, CHANNEL_SEED, Script};
use libfuzzer_sys::fuzz_target;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| script::record(FreshRead::Reports));
static KEYS: LazyLock<SessionKeys> = LazyLock::new(|| {
    let open = SCRIPT.frames.iter().find_map(|frame| match wire::decode(frame) {
        Ok(HostRequest::OpenSession(open)) => Some(open.encapsulated_key.to_vec()),
        _ => None,
    });
    SessionKeys::receive(&CHANNEL_SEED, &SCRIPT.config_hash, &open.expect("a session"))
});

thread_local! {
    static KEYED: RefCell<Enclave> = RefCell::new({
        let mut enclave = Enclave::unconfigured(script::platform());
        let is_request =
            |frame: &&Vec<u8>| matches!(wire::decode(frame), Ok(HostRequest::Handle(_)));
        for frame in SCRIPT.frames.iter().take_while(|frame| !is_request(frame)) {
            enclave.call_raw(frame);
        }
        enclave
    });
}

fuzz_target!(init: keyfold_fuzz::write_seeds(seeds()), |bytes: &[u8]| {
    let mut source = Source::new(bytes);
    let kind: u8 = source.arbitrary().unwrap_or(0);
    let (frame, is_authentic) = match kind % 4 {
        0 => {
            let request = HostRequest::generate(&mut source).expect("the source does not fail");
            (enclave::encode(&request), false)
        }
        1 => (source.take_rest().to_vec(), false),
        _ => {
            let frames = &SCRIPT.frames;
            let chosen: u16 = source.arbitrary().unwrap_or(0);
            (edited(&frames[usize::from(chosen) % frames.len()], &mut source), true)
        }
    };
    if kind & 0x40 != 0 {
        // A core that knows nothing yet: without a configuration nothing is served.
        let mut fresh = Enclave::unconfigured(script::platform());
        let reply = fresh.call_raw(&frame);
        assert!(matches!(decode(&reply), HostReply::Refused(_) | HostReply::Configured(_)));
        return;
    }
    KEYED.with_borrow_mut(|keyed| {
        let reply = keyed.call_raw(&frame);
        check(&frame, &decode(&reply), is_authentic);
    });
});

fn check(frame: &[u8], reply: &HostReply, is_authentic: bool) {
    match reply {
        HostReply::Refused(_) | HostReply::Session(_) | HostReply::Evidence(_) => {}
        HostReply::Configured(_) | HostReply::ReleaseClaims(_) | HostReply::Unlocked(_) => {
            panic!("a core has one configuration and one root key")
        }
        HostReply::Reply(reply) => {
            assert!(is_authentic, "an answer to a frame that nobody sealed");
            let Ok(HostRequest::Handle(handle)) = wire::decode(frame) else { panic!("a Handle") };
            KEYS.open_reply(handle.frame, reply.sealed).expect("an answer to its client alone");
        }
        HostReply::Locked(sealed) => {
            assert!(is_authentic, "an answer to a frame that nobody sealed");
            let Ok(HostRequest::Handle(handle)) = wire::decode(frame) else { panic!("a Handle") };
            assert_eq!(handle.class, Class::Recover, "only a try meets the lock");
            let opened = KEYS.open_reply(handle.frame, sealed).expect("for its client alone");
            assert_eq!(wire::decode_padded::<Outcome>(&opened), Ok(Err(Refusal::Locked)));
        }
        HostReply::Staged(staged) => {
            assert!(is_authentic, "staged for nobody");
            let oracle = Oracle::new(enclave::ROOT, samples::account());
            let (digest, version) = (staged.digest, staged.version);
            let opened = oracle.staged(digest, version, staged.guard).expect("under its digest");
            assert_eq!(opened.answer.is_none(), opened.guard.pending.is_some(), "a try waits");
            assert!(opened.guard.failures <= TRIES);
            assert!(oracle.guard(version, staged.guard).is_none(), "staged is not live");
        }
        HostReply::Committed(committed) => {
            assert!(is_authentic, "committed without a receipt");
            let oracle = Oracle::new(enclave::ROOT, samples::account());
            let live = oracle.guard(committed.version, committed.guard).expect("a live guard");
            assert_eq!(matches!(committed.next, Next::Settle), live.pending.is_some());
            assert_eq!(matches!(committed.next, Next::Closed(_)), live.devices.is_empty());
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let raw = samples::all().into_iter().filter(|sample| sample.name.contains("HostRequest"));
    let raw = raw.map(|sample| [&[1], &sample.bytes[..]].concat());
    // The frames of the script, unedited.
    let script = (0..SCRIPT.frames.len()).map(|index| {
        let index = u16::try_from(index).expect("few frames");
        [&[2][..], &index.to_le_bytes()].concat()
    });
    raw.chain(script).collect()
}
