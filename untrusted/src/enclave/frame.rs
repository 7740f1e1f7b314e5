//! Frames for the wire: a 32-bit little-endian length, then one encoded request.

use keyfold_protocol::host::HostRequest;
use keyfold_protocol::limits;
use keyfold_protocol::wire::{Malformed, encode};
use serde::Serialize;

/// Bytes in front of every frame.
pub(super) const HEADER: usize = 4;
/// More than a request's fixed parts can take, its configuration's labels included.
const FIXED: usize = 1024;

/// A request as it goes over the wire, its length in front.
#[derive(Debug)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// Encodes a request whose slices add up to about `size` bytes.
    pub fn encode(request: &HostRequest, size: usize) -> Result<Self, Malformed> {
        let mut bytes = vec![0; HEADER + FIXED + size];
        let length = encode(request, &mut bytes[HEADER..])?;
        if length > limits::FRAME {
            return Err(Malformed);
        }
        let header = u32::try_from(length).map_err(|_| Malformed)?.to_le_bytes();
        bytes[..HEADER].copy_from_slice(&header);
        bytes.truncate(HEADER + length);
        Ok(Self(bytes))
    }

    /// Length and request.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Encodes a list for [`keyfold_protocol::wire::Items`]. No item is larger than `largest`.
pub fn items<T: Serialize>(
    list: impl ExactSizeIterator<Item = T>, largest: usize,
) -> Result<Vec<u8>, Malformed> {
    let mut bytes = vec![0; list.len() * largest];
    let mut used = 0;
    for item in list {
        used += encode(&item, &mut bytes[used..])?;
    }
    bytes.truncate(used);
    Ok(bytes)
}
