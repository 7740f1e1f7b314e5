//! Frames over a byte stream: a 32-bit little-endian length, then the frame.
//!
//! A wake costs more than a signature, so one wake serves every frame that has arrived, and replies
//! leave in batches.

use std::io::{self, Read, Write};

use keyfold_protocol::limits::FRAME;
use keyfold_trusted::{Core, Platform};
use vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

/// Both directions of a link to the host.
pub(crate) struct Link {
    from_host: Box<dyn Read>,
    to_host: Box<dyn Write>,
}

/// Standard input and output.
pub(crate) fn pipe() -> Link {
    Link { from_host: Box::new(io::stdin().lock()), to_host: Box::new(io::stdout().lock()) }
}

/// The first connection to a vsock port.
pub(crate) fn vsock(port: u32) -> io::Result<Link> {
    let listener = VsockListener::bind(&VsockAddr::new(VMADDR_CID_ANY, port))?;
    let (stream, _) = listener.accept()?;
    Ok(Link { from_host: Box::new(stream.try_clone()?), to_host: Box::new(stream) })
}

/// Replies that leave together, at most, while more frames wait.
const BATCH: usize = 8;
const LENGTH: usize = 4;

/// Answers frames until the host closes the link.
pub(crate) fn run<P: Platform>(mut link: Link, core: &mut Core<P>) -> io::Result<()> {
    let mut input = vec![0; 2 * (LENGTH + FRAME)];
    let mut filled = 0;
    let mut replies = Vec::with_capacity(LENGTH + FRAME);
    let mut out = Box::new([0; FRAME]);
    loop {
        let read = link.from_host.read(&mut input[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut used = 0;
        let mut waiting = 0;
        while let Some(frame) = next_frame(&input[used..filled])? {
            let written = core.handle(frame, &mut out);
            let length = u32::try_from(written).map_err(io::Error::other)?;
            replies.extend_from_slice(&length.to_le_bytes());
            replies.extend_from_slice(&out[..written]);
            used += LENGTH + frame.len();
            waiting += 1;
            if waiting == BATCH {
                flush(&mut link, &mut replies)?;
                waiting = 0;
            }
        }
        flush(&mut link, &mut replies)?;
        input.copy_within(used..filled, 0);
        filled -= used;
    }
}

fn next_frame(input: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((length, rest)) = input.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
    if length > FRAME {
        return Err(io::Error::other(format!("a frame of {length} bytes; the limit is {FRAME}")));
    }
    Ok(rest.get(..length))
}

fn flush(link: &mut Link, replies: &mut Vec<u8>) -> io::Result<()> {
    link.to_host.write_all(replies)?;
    link.to_host.flush()?;
    replies.clear();
    Ok(())
}
