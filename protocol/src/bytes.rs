//! Byte arrays longer than serde's own support (32), encoded as their bytes and nothing else.

use core::fmt;
use serde::de::{Error, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Exactly `N` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bytes<const N: usize>(pub [u8; N]);

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(N)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Exactly<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for Exactly<N> {
            type Value = Bytes<N>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{N} bytes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut bytes = [0; N];
                for byte in &mut bytes {
                    *byte = seq.next_element()?.ok_or_else(|| A::Error::custom("too short"))?;
                }
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_tuple(N, Exactly::<N>)
    }
}

impl<const N: usize> fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// `#[serde(serialize_with)]` for borrowed bytes: written at once, where serde's own way is a byte at a
/// time. The encoding is the same.
pub(crate) fn at_once<S: Serializer>(bytes: &&[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// The same for bytes that may be absent.
pub(crate) fn optional_at_once<S: Serializer>(
    bytes: &Option<&[u8]>, to: S,
) -> Result<S::Ok, S::Error> {
    struct AtOnce<'a>(&'a [u8]);
    impl Serialize for AtOnce<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            at_once(&self.0, to)
        }
    }
    bytes.map(AtOnce).serialize(to)
}

/// Concatenates parts whose lengths add up to `N`: they are arrays and constants, so that every test
/// of a caller sees a sum that is wrong.
pub fn join<const N: usize, const PARTS: usize>(parts: [&[u8]; PARTS]) -> [u8; N] {
    let mut joined = [0; N];
    let bytes = parts.into_iter().flatten();
    debug_assert_eq!(bytes.clone().count(), N);
    joined.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    joined
}

/// Lower-case hexadecimal, for `Debug` of ids and keys that are public.
pub(crate) fn hex(bytes: &[u8], f: &mut fmt::Formatter) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
