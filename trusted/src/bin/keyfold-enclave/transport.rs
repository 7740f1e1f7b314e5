//! Frames over a byte stream: a 32-bit little-endian length, then the frame.
//!
//! A wake costs more than a signature, so one wake serves every frame that has arrived, and replies
//! leave in batches.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::{fs::FileTypeExt, net::UnixListener};

use keyfold_protocol::limits::FRAME;
use keyfold_trusted::{Core, Platform};
use vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

/// Both directions of a link to the host.
pub(crate) struct Link {
    pub(crate) from_host: Box<dyn Read>,
    pub(crate) to_host: Box<dyn Write>,
}

/// Standard input and output.
pub(crate) fn pipe() -> Link {
    Link { from_host: Box::new(io::stdin().lock()), to_host: Box::new(io::stdout().lock()) }
}

/// The first connection to a Unix socket, over one that an earlier process left there.
pub(crate) fn socket(path: &str) -> io::Result<Link> {
    if std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let (stream, _) = UnixListener::bind(path)?.accept()?;
    Ok(Link { from_host: Box::new(stream.try_clone()?), to_host: Box::new(stream) })
}

/// The first connection to a vsock port.
pub(crate) fn vsock(port: u32) -> io::Result<Link> {
    let (stream, _) = VsockListener::bind(&VsockAddr::new(VMADDR_CID_ANY, port))?.accept()?;
    Ok(Link { from_host: Box::new(stream.try_clone()?), to_host: Box::new(stream) })
}

/// Replies that leave together, at most, while more frames wait.
pub(crate) const BATCH: usize = 8;
const LENGTH: usize = 4;

/// Answers frames until the host closes the link.
pub(crate) fn run<P: Platform>(mut link: Link, core: &mut Core<P>) -> io::Result<()> {
    let mut from_host = BufReader::with_capacity(FRAME, link.from_host);
    let mut frame = Vec::with_capacity(FRAME);
    let mut out = Box::new([0; FRAME]);
    let mut replies = Vec::with_capacity(FRAME);
    let mut waiting = 0_usize;
    while next_frame(&mut from_host, &mut frame)? {
        let written = core.handle(&frame, &mut out);
        replies.extend_from_slice(&u32::try_from(written).map_err(io::Error::other)?.to_le_bytes());
        replies.extend_from_slice(out.get(..written).unwrap_or_default());
        waiting = waiting.saturating_add(1);
        if waiting >= BATCH || !has_frame(from_host.buffer()) {
            link.to_host.write_all(&replies)?;
            link.to_host.flush()?;
            replies.clear();
            waiting = 0;
        }
    }
    Ok(())
}

/// Reads one frame; false at the end of the link.
fn next_frame(from_host: &mut impl BufRead, frame: &mut Vec<u8>) -> io::Result<bool> {
    if from_host.fill_buf()?.is_empty() {
        return Ok(false);
    }
    let mut length = [0; LENGTH];
    from_host.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if length > FRAME {
        return Err(io::Error::other(format!("a frame of {length} bytes; the limit is {FRAME}")));
    }
    frame.resize(length, 0);
    from_host.read_exact(frame).map(|()| true)
}

/// Whether a whole frame has arrived already: then its reply can share a wake with this one.
fn has_frame(buffer: &[u8]) -> bool {
    let Some((length, rest)) = buffer.split_first_chunk::<LENGTH>() else { return false };
    usize::try_from(u32::from_le_bytes(*length)).is_ok_and(|length| rest.len() >= length)
}
