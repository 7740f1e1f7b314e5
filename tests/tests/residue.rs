//! Secrets do not outlive their request: after every frame of a core's whole life its stack, its
//! own memory and its output are searched for everything that should be gone.
//!
//! The core runs on a stack of the test's own, filled with a pattern beforehand, so that "its
//! stack" is exact. Debug builds spill far more than release builds do; they say nothing here, so
//! run with `--cargo-profile fast` (nextest) or `--profile fast` (cargo test).
//!
//! Not searched: registers, and what the kernel saved of them.
#![cfg_attr(debug_assertions, allow(dead_code))]

use std::collections::BTreeMap;
use std::hint::black_box;

use keyfold_protocol::client::{Algorithm, SignedRequest};
use keyfold_protocol::host::{FreshRead, HostReply, HostRequest, OpenSession};
use keyfold_protocol::ids::ChannelKeyId;
use keyfold_protocol::limits::{ENCAPSULATED_KEY, FRAME};
use keyfold_protocol::{transcript, wire};
use keyfold_tests::crypto::{aead_open, sha256};
use keyfold_tests::enclave::{self, ROOT, TestPlatform, decode};
use keyfold_tests::oracle::{Guard, Oracle, Record, SessionKeys, channel_public};
use keyfold_tests::samples;
use keyfold_tests::script::{self, CHANNEL_SEED, MARKED_NAME};
use keyfold_trusted::Core;

/// Size of the stack the core runs on.
const STACK: usize = 1024 * 1024;
/// What the stack is filled with beforehand.
const PATTERN: u8 = 0xa7;
/// What the caller and the entry themselves may use, on top of all that is wiped.
const TOP: usize = 2048;
/// What the wiping function itself leaves at its own bottom: return addresses, saved registers.
const BOTTOM: usize = 256;
/// How far down the core says it wipes.
const WIPED: usize = 128 * 1024;

/// A core with a stack of its own.
struct Subject {
    core: Box<Core<TestPlatform>>,
    out: Box<[u8; FRAME]>,
    stack: Vec<u8>,
}

impl Subject {
    fn new() -> Self {
        Self {
            core: Box::new(Core::new(script::platform())),
            out: Box::new([0; FRAME]),
            stack: vec![PATTERN; STACK],
        }
    }

    fn run(&mut self, frame: &[u8]) -> Vec<u8> {
        let (core, out) = (&mut self.core, &mut self.out);
        let written = on_stack(&mut self.stack, || core.handle(frame, out));
        self.out[..written].to_vec()
    }

    /// The core object, every byte of it.
    fn memory(&self) -> Vec<u8> {
        let start = (&raw const *self.core).cast::<u8>();
        // SAFETY: in bounds of one live object that nothing writes to meanwhile. Padding may be
        // uninitialised to the compiler; a volatile read takes whatever byte is there.
        (0..size_of::<Core<TestPlatform>>())
            .map(|offset| unsafe { start.add(offset).read_volatile() })
            .collect()
    }
}

/// Runs `work` on this stack, filled with the pattern first.
fn on_stack<T>(stack: &mut [u8], work: impl FnOnce() -> T) -> T {
    stack.fill(PATTERN);
    // The stack's ends must be aligned as the platform's stacks are.
    let slack = stack.as_ptr().align_offset(64);
    let size = (stack.len() - slack) & !63;
    let base = stack[slack..].as_mut_ptr();
    // SAFETY: `base..base + size` is memory of ours that nothing else uses while `work` runs.
    // `work` does not unwind out: the core does not panic, and the controls do not either.
    unsafe { psm::on_stack(base, size, work) }
}

/// Windows of secrets, to be looked for at every offset.
#[derive(Default)]
struct Needles {
    windows: BTreeMap<[u8; 8], String>,
    /// Whether a window starts with these two bytes: most offsets are done with this.
    starts: Vec<bool>,
}

impl Needles {
    /// Every eight bytes of a secret, forwards and backwards (as little-endian limbs lie).
    fn add(&mut self, name: &str, secret: &[u8]) {
        self.starts.resize(1 << 16, false);
        let backwards: Vec<u8> = secret.iter().rev().copied().collect();
        for bytes in [secret, &backwards] {
            for window in bytes.chunks_exact(8) {
                let window: [u8; 8] = window.try_into().expect("eight bytes");
                self.starts[usize::from(u16::from_be_bytes([window[0], window[1]]))] = true;
                self.windows.entry(window).or_insert_with(|| name.to_string());
            }
        }
    }

    fn add_guard(&mut self, guard: &Guard) {
        self.add("account secret", &guard.secret);
        self.add("PIN verifier", &guard.pin);
        if let Some(tried) = &guard.pending {
            self.add("candidate PIN's verifier", &tried.verifier);
            self.add("reply key", &tried.reply_key);
        }
    }

    fn add_record(&mut self, record: &Record) {
        self.add("passkey private key", &record.private_key);
        self.add("PRF seed", &record.prf_seed);
        if record.algorithm == Algorithm::Es256 {
            self.add("passkey scalar in Montgomery form", &montgomery(&record.private_key));
        }
    }

    fn found_in(&self, memory: &[u8]) -> Option<&str> {
        memory.windows(8).find_map(|window| {
            let start = usize::from(u16::from_be_bytes([window[0], window[1]]));
            let is_candidate = self.starts.get(start).is_some_and(|is_start| *is_start);
            if !is_candidate {
                return None;
            }
            let window: &[u8; 8] = window.try_into().expect("eight bytes");
            self.windows.get(window).map(String::as_str)
        })
    }
}

/// A P-256 scalar times 2^256, modulo the group's order: how ring holds it while it signs.
fn montgomery(scalar: &[u8; 32]) -> [u8; 32] {
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order: [u8; 32] = hex::decode(ORDER).expect("hex").try_into().expect("32 bytes");
    let mut value = *scalar;
    for _ in 0..256 {
        let carry = value[0] >> 7;
        for index in 0..32 {
            let next = value.get(index + 1).copied().unwrap_or(0);
            value[index] = value[index] << 1 | next >> 7;
        }
        if carry == 1 || value >= order {
            let mut borrow = 0;
            for index in (0..32).rev() {
                let difference = i16::from(value[index]) - i16::from(order[index]) - borrow;
                borrow = i16::from(difference < 0);
                value[index] = difference.rem_euclid(256) as u8;
            }
        }
    }
    value
}

/// What an observer with the root key learns from frames and replies: all there is to find.
struct Observer {
    oracle: Oracle,
    config_hash: keyfold_protocol::ids::Digest,
    keys: Option<SessionKeys>,
    needles: Needles,
    secret: Option<[u8; 32]>,
    names_seen: usize,
}

impl Observer {
    fn new(config_hash: keyfold_protocol::ids::Digest) -> Self {
        let mut needles = Needles::default();
        needles.add("root key", &ROOT);
        needles.add("PIN", &script::pin());
        needles.add("wrong PIN", &script::wrong_pin());
        needles.add("a name of a request", MARKED_NAME.as_bytes());
        let oracle = Oracle::new(ROOT, samples::account());
        Self { oracle, config_hash, keys: None, needles, secret: None, names_seen: 0 }
    }

    fn observe(&mut self, frame: &[u8], reply: &[u8]) {
        match wire::decode(frame) {
            Ok(HostRequest::OpenSession(open)) if self.keys.is_none() => {
                let enc = open.encapsulated_key;
                self.keys = Some(SessionKeys::receive(&CHANNEL_SEED, &self.config_hash, enc));
            }
            Ok(HostRequest::Handle(handle)) => {
                let keys = self.keys.as_ref().expect("a session");
                self.needles.add("reply key", &keys.reply_key(handle.frame));
                let nonce = transcript::request_nonce(handle.counter);
                let aad = transcript::request_aad(&handle.session, &handle.account);
                if let Some(opened) = aead_open(&keys.request, nonce, &aad, handle.frame) {
                    let signed: SignedRequest = wire::decode_padded(&opened).expect("a request");
                    self.needles.add("signature of a request", &signed.signature.0);
                    let name = MARKED_NAME.as_bytes();
                    let marked = signed.request.windows(name.len()).any(|window| window == name);
                    self.names_seen += usize::from(marked);
                }
                if let (Some(record), Some(secret), keyfold_protocol::client::Class::Assert(slot)) =
                    (handle.record, self.secret, handle.class)
                {
                    let version = record.version.0;
                    let record = self.oracle.record(&secret, slot, version, record.sealed);
                    self.needles.add_record(&record.expect("a record"));
                }
            }
            _ => {}
        }
        match decode(reply) {
            HostReply::Staged(staged) => {
                let opened = self
                    .oracle
                    .staged(staged.digest, staged.version, staged.guard)
                    .expect("staged");
                self.secret = Some(opened.guard.secret);
                self.needles.add_guard(&opened.guard);
                if let Some((reply_key, _)) = &opened.answer {
                    self.needles.add("reply key", reply_key);
                }
            }
            HostReply::Reply(reply) => {
                let (Some(put), Some(secret)) = (reply.put, self.secret) else { return };
                let Some(sealed) = put.record else { return };
                let (slot, version) = (put.event.slot, put.event.version);
                let record = self.oracle.record(&secret, slot, version, sealed);
                self.needles.add_record(&record.expect("a record"));
            }
            _ => {}
        }
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "a debug build's stack says nothing: use --profile fast")]
fn nothing_secret_survives_a_request() {
    let script = script::record(FreshRead::Always);
    let mut subject = Subject::new();
    let mut observer = Observer::new(script.config_hash);
    for (number, frame) in script.frames.iter().enumerate() {
        let reply = subject.run(frame);
        observer.observe(frame, &reply);
        let what = match wire::decode::<HostRequest>(frame) {
            Ok(HostRequest::Handle(handle)) => format!("{:?}", handle.class),
            Ok(request) => format!("{request:?}").chars().take(24).collect(),
            Err(_) => "no frame".to_string(),
        };
        let at = format!("frame {number} ({what})");

        let needles = &observer.needles;
        assert_eq!(needles.found_in(&subject.stack), None, "on the stack after {at}");
        assert_eq!(needles.found_in(&subject.memory()), None, "in the core after {at}");
        assert_eq!(needles.found_in(&subject.out[..]), None, "in the output after {at}");
        assert_wiped(&subject.stack, &at);
    }
    let kinds: std::collections::BTreeSet<&str> =
        observer.needles.windows.values().map(String::as_str).collect();
    assert_eq!(kinds.len(), 12, "{kinds:?}");
    assert!(observer.names_seen > 4, "requests carried the names");

    // The control: what does stay is found. The session's keys are in the table.
    let keys = observer.keys.expect("a session");
    let mut present = Needles::default();
    present.add("request key", &keys.request);
    assert_eq!(present.found_in(&subject.memory()), Some("request key"));
}

/// Below the entry's own frame: zeros, then what was never touched. Whatever form a secret took.
fn assert_wiped(stack: &[u8], at: &str) {
    let below = &stack[..stack.len() - TOP];
    let untouched = below.iter().position(|byte| *byte != PATTERN).unwrap_or(below.len());
    let depth = stack.len() - untouched;
    assert!(depth <= WIPED + TOP, "{depth} bytes of stack were used: more than is wiped; {at}");
    assert!(depth >= WIPED, "only {depth} bytes were wiped; {at}");
    let wiped = &below[untouched + BOTTOM..];
    let dirty = wiped.iter().rposition(|byte| *byte != 0);
    let deep = dirty.map(|index| TOP + wiped.len() - index);
    assert_eq!(deep, None, "a byte at this depth was not wiped; {at}");
}

/// A session that lost its place in the table leaves no key behind.
#[test]
#[cfg_attr(debug_assertions, ignore = "too slow, and no use, in a debug build: use --profile fast")]
fn an_evicted_session_leaves_nothing() {
    let script = script::record(FreshRead::Reports);
    let mut subject = Subject::new();
    let mut observer = Observer::new(script.config_hash);
    let opens = |frame: &&Vec<u8>| matches!(wire::decode(frame), Ok(HostRequest::OpenSession(_)));
    let boot = script.frames.iter().take_while(|frame| !opens(frame)).count();
    for frame in &script.frames[..=boot] {
        let reply = subject.run(frame);
        observer.observe(frame, &reply);
    }
    let keys = observer.keys.expect("a session");
    let mut needles = Needles::default();
    for (name, key) in
        [("request", &keys.request), ("response", &keys.response), ("binding", &keys.binding)]
    {
        needles.add(name, key);
    }
    assert!(needles.found_in(&subject.memory()).is_some(), "the session is there");

    let channel_key = ChannelKeyId(sha256(&[&channel_public(&CHANNEL_SEED)]));
    for number in 0u64..30_000 {
        // Any bytes of the right length open a session, if one that nobody can use.
        let enc: Vec<u8> = (0u8..35)
            .flat_map(|part| sha256(&[&number.to_be_bytes(), &[part]]))
            .take(ENCAPSULATED_KEY)
            .collect();
        let open = OpenSession { channel_key, encapsulated_key: &enc };
        let frame = enclave::encode(&HostRequest::OpenSession(open));
        let written = subject.core.handle(&frame, &mut subject.out);
        assert!(matches!(decode(&subject.out[..written]), HostReply::Session(_)));
    }
    assert_eq!(needles.found_in(&subject.memory()), None);
}

/// The controls: a secret on the stack is found, in each form, and stack that was not wiped is
/// seen.
#[test]
fn residue_is_seen() {
    /// A callee with a secret among its locals, as a library that does not clean up has.
    #[inline(never)]
    fn careless(secret: &[u8; 32]) -> u8 {
        let mut copy = black_box([0u8; 4096]);
        copy[1024..1056].copy_from_slice(secret);
        black_box(&mut copy)[black_box(1024)]
    }
    let secret = sha256(&[b"a secret"]);
    let mut needles = Needles::default();
    needles.add("the secret", &secret);
    let mut stack = vec![PATTERN; STACK];
    let backwards: [u8; 32] = std::array::from_fn(|index| secret[31 - index]);
    for form in [secret, backwards] {
        on_stack(&mut stack, || careless(&form));
        assert_eq!(needles.found_in(&stack), Some("the secret"));
        assert!(std::panic::catch_unwind(|| assert_wiped(&stack, "a careless call")).is_err());
    }
    on_stack(&mut stack, || careless(&[1; 32]));
    assert_eq!(needles.found_in(&stack), None);

    // A library that does not clean up, really: ring, called without the core around it.
    on_stack(&mut stack, || {
        let mut hashed = ring::digest::Context::new(&ring::digest::SHA512);
        hashed.update(&secret);
        black_box(hashed).finish().as_ref().first().copied()
    });
    assert_eq!(needles.found_in(&stack), Some("the secret"));
}

/// 1 in Montgomery form is 2^256 modulo the order; and the form is linear.
#[test]
fn the_montgomery_form_is_right() {
    let mut one = [0; 32];
    one[31] = 1;
    let expected = "00000000ffffffff00000000000000004319055258e8617b0c46353d039cdaaf";
    assert_eq!(hex::encode(montgomery(&one)), expected);
    let mut two = [0; 32];
    two[31] = 2;
    let expected = "00000001fffffffe00000000000000008632 0aa4b1d0c2f6188c6a7a0739b55e";
    assert_eq!(hex::encode(montgomery(&two)), expected.replace(' ', ""));
}
