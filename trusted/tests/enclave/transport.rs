//! The link over streams in memory: one wake, one batch; and how a link ends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;

use keyfold_protocol::host::{HostRefusal, HostReply, HostRequest, KeyWrap};
use keyfold_protocol::limits::{FRAME, REPORT};
use keyfold_protocol::wire;
use keyfold_trusted::{Core, Platform, PlatformError, RELEASE_MODULUS, RootKey};

use crate::transport::{self, BATCH, Link, run};

/// Gives nothing: a core that was not configured asks for nothing.
struct Nothing;

impl Platform for Nothing {
    fn random(&mut self, _: &mut [u8]) -> Result<(), PlatformError> {
        Err(PlatformError)
    }

    fn report(&mut self, _: &[u8; 64]) -> Result<[u8; REPORT], PlatformError> {
        Err(PlatformError)
    }

    fn release_key(&mut self) -> Result<[u8; RELEASE_MODULUS], PlatformError> {
        Err(PlatformError)
    }

    fn unwrap_root(&mut self, _: KeyWrap, _: &[u8]) -> Result<RootKey, PlatformError> {
        Err(PlatformError)
    }
}

/// What arrives, piece by piece: no read gets more than the rest of one.
struct Pieces(VecDeque<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.0.front_mut() else { return Ok(0) };
        let read = piece.as_slice().read(buffer)?;
        piece.drain(..read);
        if piece.is_empty() {
            self.0.pop_front();
        }
        Ok(read)
    }
}

/// What left, by the writes it left in.
#[derive(Clone, Default)]
struct Batches(Rc<RefCell<Vec<Vec<u8>>>>);

impl Write for Batches {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How the link ended, and the refusals that left, batch by batch.
fn served(pieces: &[Vec<u8>]) -> (io::Result<()>, Vec<Vec<HostRefusal>>) {
    let batches = Batches::default();
    let from_host = Box::new(Pieces(pieces.to_vec().into()));
    let link = Link { from_host, to_host: Box::new(batches.clone()) };
    let ended = run(link, &mut Box::new(Core::new(Nothing)));
    let refusals = batches.0.borrow().iter().map(|batch| refusals(batch)).collect();
    (ended, refusals)
}

fn refusals(mut batch: &[u8]) -> Vec<HostRefusal> {
    let mut found = Vec::new();
    while let Some((length, rest)) = batch.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (reply, rest) = rest.split_at_checked(length).unwrap_or((&[], &[]));
        match wire::decode(reply) {
            Ok(HostReply::Refused(refusal)) => found.push(refusal),
            other => assert!(other.is_err(), "not a refusal: {other:?}"),
        }
        batch = rest;
    }
    assert!(batch.is_empty(), "half a reply");
    found
}

fn framed(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes(), frame].concat()
}

/// A frame that is refused for its time.
fn early() -> Vec<u8> {
    let mut frame = [0; 8];
    let used = wire::encode(&HostRequest::ReleaseClaims, &mut frame).unwrap_or_default();
    framed(frame.get(..used).unwrap_or_default())
}

const EARLY: HostRefusal = HostRefusal::WrongPhase;
const MALFORMED: HostRefusal = HostRefusal::Malformed;

#[test]
fn frames_that_arrive_together_are_answered_together_in_order() -> io::Result<()> {
    // Every third is no frame, so that the order of the answers shows.
    let frames: Vec<_> =
        (0..19).map(|at| if at % 3 == 0 { framed(b"none") } else { early() }).collect();
    let expected: Vec<_> = (0..19).map(|at| if at % 3 == 0 { MALFORMED } else { EARLY }).collect();
    let (ended, batches) = served(&[frames.concat()]);
    ended?;
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [BATCH, BATCH, 3]);
    assert_eq!(batches.concat(), expected);

    let (ended, batches) = served(&frames);
    ended?;
    assert_eq!(batches.concat(), expected);
    assert_eq!(batches.len(), frames.len(), "nobody waits for frames that have not arrived");
    Ok(())
}

#[test]
fn a_reply_waits_for_no_frame_that_has_half_arrived() -> io::Result<()> {
    let frame = early();
    for at in 0..=frame.len() {
        let (half, rest) = frame.split_at_checked(at).unwrap_or_default();
        let pieces = [[&frame, half].concat(), rest.to_vec()];
        let pieces: Vec<_> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let (ended, batches) = served(&pieces);
        ended?;
        let whole = at == frame.len();
        let expected = if whole { vec![vec![EARLY; 2]] } else { vec![vec![EARLY]; 2] };
        assert_eq!(batches, expected, "{at} bytes of the second frame");
    }
    Ok(())
}

#[test]
fn a_frame_over_the_limit_ends_the_link() -> io::Result<()> {
    let (ended, batches) = served(&[framed(&vec![0xff; FRAME])]);
    ended?;
    assert_eq!(batches, [[MALFORMED]], "the longest frame is answered");
    for over in [vec![0xff; FRAME + 1], vec![0xff; 2 * FRAME]] {
        let (ended, batches) = served(&[early(), framed(&over), early()]);
        assert!(ended.is_err(), "a frame of {} bytes", over.len());
        assert_eq!(batches, [[EARLY]], "what came before is answered, nothing after");
    }
    Ok(())
}

#[test]
fn a_link_ends_well_only_between_frames() {
    let frame = early();
    for at in 0..=frame.len() {
        let (half, _) = frame.split_at_checked(at).unwrap_or_default();
        let (ended, batches) = served(&[[&frame, half].concat()]);
        let is_between = at == 0 || at == frame.len();
        let kind = ended.err().map(|error| error.kind());
        let expected = (!is_between).then_some(io::ErrorKind::UnexpectedEof);
        assert_eq!(kind, expected, "{at} bytes of the second frame");
        assert_eq!(batches.concat().len(), if at == frame.len() { 2 } else { 1 });
    }
    let (ended, batches) = served(&[]);
    assert!(ended.is_ok() && batches.is_empty(), "no frame at all");
}

#[test]
fn a_socket_takes_the_place_of_a_socket_and_of_nothing_else() -> io::Result<()> {
    use std::os::unix::net::{UnixListener, UnixStream};
    let name = format!("keyfold-enclave-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let place = path.display().to_string();
    std::fs::write(&path, "somebody's")?;
    assert!(transport::socket(&place).is_err_and(|it| it.kind() == io::ErrorKind::AddrInUse));
    assert_eq!(std::fs::read(&path)?, b"somebody's");
    std::fs::remove_file(&path)?;

    // What a process leaves that was killed.
    drop(UnixListener::bind(&path)?);
    let enclave = std::thread::spawn(move || transport::socket(&place).map(drop));
    while UnixStream::connect(&path).is_err() {
        std::thread::yield_now();
    }
    enclave.join().map_err(|_| io::Error::other("it panicked"))??;
    std::fs::remove_file(&path)
}
