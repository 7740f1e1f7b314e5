//! The core allocates nothing: every request, every refusal, under an allocator that counts while
//! it is armed. `tests/no-alloc` proves the same of what can be reached, by linking.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::hint::black_box;

use keyfold_protocol::client::{Outcome, Refusal, Request, SignedRequest};
use keyfold_protocol::host::{Committed, FreshRead, HostRefusal, HostReply, HostRequest, Next};
use keyfold_protocol::{transcript, wire};
use keyfold_tests::crypto::aead_open;
use keyfold_tests::enclave::{Enclave, decode};
use keyfold_tests::generate::Variants;
use keyfold_tests::oracle::SessionKeys;
use keyfold_tests::script::{self, CHANNEL_SEED};

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is the system allocator's, with the same arguments; counting touches
// thread-local cells that need no allocation and no drop.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count() {
    if ARMED.get() {
        COUNT.set(COUNT.get() + 1);
    }
}

/// Calls of the allocator on this thread while `work` runs.
fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    COUNT.set(0);
    ARMED.set(true);
    let done = work();
    ARMED.set(false);
    (COUNT.get(), done)
}

/// Replays frames on an armed core; the replies.
fn replay(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut enclave = Enclave::unconfigured(script::platform());
    frames
        .iter()
        .map(|frame| {
            let (count, written) = allocations(|| enclave.run(frame));
            let reply = enclave.reply(written).to_vec();
            assert_eq!(count, 0, "allocations while answering with {:?}", decode(&reply));
            reply
        })
        .collect()
}

/// What the client of a frame asked for, and what it was told.
fn exchange(keys: &SessionKeys, frame: &[u8], reply: &[u8]) -> Option<(String, Option<Refusal>)> {
    let Ok(HostRequest::Handle(handle)) = wire::decode(frame) else { return None };
    let nonce = transcript::request_nonce(handle.counter);
    let aad = transcript::request_aad(&handle.session, &handle.account);
    let opened = aead_open(&keys.request, nonce, &aad, handle.frame)?;
    let signed: SignedRequest = wire::decode_padded(&opened).ok()?;
    let request: Request = wire::decode(signed.request).ok()?;
    let refusal = match decode(reply) {
        HostReply::Reply(reply) => refusal(keys, handle.frame, reply.sealed),
        HostReply::Locked(sealed) => refusal(keys, handle.frame, sealed),
        _ => None,
    };
    Some((request.variant().to_string(), refusal))
}

fn refusal(keys: &SessionKeys, frame: &[u8], sealed: &[u8]) -> Option<Refusal> {
    let opened = keys.open_reply(frame, sealed).expect("its reply");
    wire::decode_padded::<Outcome>(&opened).expect("an outcome").err()
}

#[test]
fn no_request_allocates() {
    for fresh_read in [FreshRead::Reports, FreshRead::Always] {
        let recorded = script::record(fresh_read);
        let replies = replay(&recorded.frames);

        let mut asked = BTreeSet::new();
        let mut refused = BTreeSet::new();
        let mut host_refused = BTreeSet::new();
        let mut frames_seen = BTreeSet::new();
        let (mut keys, mut staged) = (None, Vec::new());
        for (frame, reply) in recorded.frames.iter().zip(&replies) {
            if let Ok(request) = wire::decode::<HostRequest>(frame) {
                frames_seen.insert(request.variant());
                if let HostRequest::OpenSession(open) = &request {
                    let enc = open.encapsulated_key;
                    let opened = SessionKeys::receive(&CHANNEL_SEED, &recorded.config_hash, enc);
                    keys.get_or_insert(opened);
                }
            }
            if let HostReply::Refused(refusal) = decode(reply) {
                host_refused.insert(refusal.variant());
                continue;
            }
            let Some(keys) = &keys else { continue };
            // A guard's change is answered at its commit, or at that of its outcome.
            match (wire::decode(frame), decode(reply)) {
                (Ok(HostRequest::Handle(handle)), HostReply::Staged(_)) => {
                    staged = handle.frame.to_vec();
                }
                (_, HostReply::Committed(Committed { next: Next::Answer(sealed), .. })) => {
                    let refusal = refusal(keys, &staged, sealed);
                    refused.extend(refusal.map(|refusal| refusal.variant()));
                }
                _ => {}
            }
            match exchange(keys, frame, reply) {
                Some((_, Some(refusal))) => drop(refused.insert(refusal.variant())),
                Some((request, None)) => drop(asked.insert(request)),
                None => {}
            }
        }
        // The script left nothing out. A root key that does not unwrap is the next test's; this
        // platform never fails.
        assert!(Request::NAMES.iter().all(|name| asked.contains(*name)), "{asked:?}");
        assert_eq!(frames_seen, HostRequest::NAMES.iter().copied().collect());
        assert_eq!(refused, Refusal::NAMES.iter().copied().collect());
        let unseen = HostRefusal::NAMES.iter().filter(|name| !host_refused.contains(*name));
        assert_eq!(unseen.copied().collect::<Vec<_>>(), ["Platform", "Unwrap"]);
    }
}

#[test]
fn a_failed_unlock_does_not_allocate() {
    let replies = replay(&script::halted());
    let refusals: Vec<_> = replies.iter().skip(1).map(|reply| decode(reply)).collect();
    let expected = [HostRefusal::Unwrap, HostRefusal::WrongPhase].map(HostReply::Refused);
    assert_eq!(refusals, expected);
}

/// The control: the counter counts.
#[test]
fn an_allocation_is_seen() {
    let (count, _kept) = allocations(|| black_box(Box::new(black_box(1))));
    assert_eq!(count, 1);
    let (count, ()) = allocations(|| drop(black_box(Vec::<u8>::with_capacity(black_box(16)))));
    assert_eq!(count, 2, "an allocation and its release");
    assert_eq!(allocations(|| black_box(1 + black_box(1))).0, 0);
}
