//! Encoding: postcard, made strict. One value has one encoding, and padding is part of it.
//!
//! postcard alone accepts over-long integers and leaves trailing bytes to the caller; [`decode`]
//! refuses both by encoding what it decoded again and comparing as it goes, without a buffer.

use crate::bytes::at_once;
use core::marker::PhantomData;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

/// Bytes that are no encoding of the expected type, or a buffer too small for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Encodes `value` at the start of `out` and returns its length.
pub fn encode<T: Serialize>(value: &T, out: &mut [u8]) -> Result<usize, Malformed> {
    postcard::to_slice(value, out).map(|used| used.len()).map_err(|_| Malformed)
}

/// Decodes exactly `bytes`: no trailing bytes, no second encoding of the same value.
pub fn decode<'a, T: Serialize + Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    let (value, rest) = decode_first(bytes)?;
    if rest.is_empty() { Ok(value) } else { Err(Malformed) }
}

fn decode_first<'a, T: Serialize + Deserialize<'a>>(
    bytes: &'a [u8],
) -> Result<(T, &'a [u8]), Malformed> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| Malformed)?;
    let used = bytes.len().checked_sub(rest.len()).and_then(|n| bytes.get(..n)).ok_or(Malformed)?;
    match postcard::serialize_with_flavor(&value, Matches(used)) {
        Ok(true) => Ok((value, rest)),
        _ => Err(Malformed),
    }
}

/// A postcard sink that keeps nothing: it succeeds only when what is written equals its bytes.
struct Matches<'a>(&'a [u8]);

impl Flavor for Matches<'_> {
    type Output = bool;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0 = self.0.strip_prefix(bytes).ok_or(postcard::Error::DeserializeBadEncoding)?;
        Ok(())
    }

    fn finalize(self) -> postcard::Result<bool> {
        Ok(self.0.is_empty())
    }
}

/// Encodes `value` with its length in front and zeros behind, filling `out` to the last byte.
pub fn encode_padded<T: Serialize>(value: &T, out: &mut [u8]) -> Result<(), Malformed> {
    let (length, body) = out.split_first_chunk_mut::<PADDING_HEADER>().ok_or(Malformed)?;
    let used = encode(value, body)?;
    *length = u32::try_from(used).map_err(|_| Malformed)?.to_be_bytes();
    body.get_mut(used..).ok_or(Malformed)?.fill(0);
    Ok(())
}

/// Decodes what [`encode_padded`] made; padding other than zeros is refused.
pub fn decode_padded<'a, T: Serialize + Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    decode(unpad(bytes)?)
}

/// The encoded value inside a padded plaintext.
pub fn unpad(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let (length, body) = bytes.split_first_chunk::<PADDING_HEADER>().ok_or(Malformed)?;
    let used = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Malformed)?;
    let (value, padding) = body.split_at_checked(used).ok_or(Malformed)?;
    if padding.iter().all(|byte| *byte == 0) { Ok(value) } else { Err(Malformed) }
}

/// Bytes in front of a padded plaintext: its length, big-endian.
pub const PADDING_HEADER: usize = 4;

/// A list whose items are decoded one at a time, so that a page needs no table of its own.
///
/// Encoded as bytes: the items' encodings, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Items<'a, T> {
    #[serde(borrow, serialize_with = "at_once")]
    bytes: &'a [u8],
    #[serde(skip)]
    item: PhantomData<fn() -> T>,
}

impl<'a, T> Items<'a, T> {
    /// The list these bytes hold. Whether they are well-formed shows when they are read.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, item: PhantomData }
    }

    /// No items.
    pub const fn empty() -> Self {
        Self::new(&[])
    }

    /// The items' encodings, one after the other.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a, T: Serialize + Deserialize<'a>> Iterator for Items<'a, T> {
    type Item = Result<T, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let first = decode_first(self.bytes);
        self.bytes = first.as_ref().map_or(&[], |(_, rest)| *rest);
        Some(first.map(|(item, _)| item))
    }
}
