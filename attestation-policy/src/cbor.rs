//! CBOR over borrowed bytes (RFC 8949), as far as COSE_Sign1 needs it, and strict: definite lengths,
//! integers and lengths in their shortest form, and nothing left over. One message has one encoding.

/// Why bytes are not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CborError {
    #[error("it ends early")]
    Truncated,
    #[error("bytes behind the end")]
    Trailing,
    #[error("a length or number that is not in its shortest form, or indefinite")]
    NotShortest,
    #[error("expected {0}, found something else")]
    Type(&'static str),
    #[error("text that is not UTF-8")]
    Text,
    #[error("nested deeper than 8")]
    Depth,
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;

/// Floats and simple values of more than one byte carry bits instead of a length.
const SIMPLE: u8 = 7;

const MAX_DEPTH: usize = 8;

/// Reads one item after the other.
#[derive(Clone)]
pub(crate) struct Reader<'a>(&'a [u8]);

/// A key of a COSE header map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label<'a> {
    Number(i64),
    Name(&'a str),
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), CborError> {
        if self.0.is_empty() { Ok(()) } else { Err(CborError::Trailing) }
    }

    /// An integer that fits.
    pub(crate) fn integer(&mut self) -> Result<i64, CborError> {
        const EXPECTED: CborError = CborError::Type("an integer");
        match self.head()? {
            (UNSIGNED, value) => i64::try_from(value).map_err(|_| EXPECTED),
            (NEGATIVE, value) => i64::try_from(value).map(|value| -1 - value).map_err(|_| EXPECTED),
            _ => Err(EXPECTED),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        let length = self.expect(BYTES, "a byte string")?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, CborError> {
        let length = self.expect(TEXT, "a text")?;
        std::str::from_utf8(self.take(length)?).map_err(|_| CborError::Text)
    }

    /// How many items follow.
    pub(crate) fn array(&mut self) -> Result<u64, CborError> {
        self.expect(ARRAY, "an array")
    }

    /// How many pairs follow.
    pub(crate) fn map(&mut self) -> Result<u64, CborError> {
        self.expect(MAP, "a map")
    }

    /// The tag of the item that follows.
    pub(crate) fn tag(&mut self) -> Result<u64, CborError> {
        self.expect(TAG, "a tag")
    }

    pub(crate) fn label(&mut self) -> Result<Label<'a>, CborError> {
        match self.clone().head()?.0 {
            UNSIGNED | NEGATIVE => self.integer().map(Label::Number),
            TEXT => self.text().map(Label::Name),
            _ => Err(CborError::Type("an integer or a text")),
        }
    }

    /// Passes over one item, whatever it is, and gives a reader of it alone.
    pub(crate) fn item(&mut self) -> Result<Self, CborError> {
        let from = self.0;
        self.skip(0)?;
        let length = from.len() - self.0.len();
        Ok(Self(&from[..length]))
    }

    fn skip(&mut self, depth: usize) -> Result<(), CborError> {
        if depth > MAX_DEPTH {
            return Err(CborError::Depth);
        }
        let (kind, value) = self.head()?;
        let items = match kind {
            BYTES | TEXT => {
                self.take(value)?;
                0
            }
            ARRAY => value,
            MAP => value.checked_mul(2).ok_or(CborError::Truncated)?,
            TAG => 1,
            _ => 0,
        };
        for _ in 0..items {
            self.skip(depth + 1)?;
        }
        Ok(())
    }

    fn expect(&mut self, kind: u8, expected: &'static str) -> Result<u64, CborError> {
        match self.head()? {
            (found, value) if found == kind => Ok(value),
            _ => Err(CborError::Type(expected)),
        }
    }

    /// Major type, and number, length or count.
    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let [initial] = self.take_array::<1>()?;
        let kind = initial >> 5;
        let (value, minimum) = match initial & 0x1f {
            short @ 0..=23 => (u64::from(short), 0),
            24 => (u64::from(self.take_array::<1>()?[0]), 24),
            25 => (u16::from_be_bytes(self.take_array()?).into(), 1 << 8),
            26 => (u32::from_be_bytes(self.take_array()?).into(), 1 << 16),
            27 => (u64::from_be_bytes(self.take_array()?), 1 << 32),
            _ => return Err(CborError::NotShortest),
        };
        if value < minimum && kind != SIMPLE {
            return Err(CborError::NotShortest);
        }
        Ok((kind, value))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let length = usize::try_from(length).map_err(|_| CborError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CborError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CborError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }
}

/// Writes the head of a byte string, as [`Reader::bytes`] reads it.
pub(crate) fn byte_string(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u64;
    let big = length.to_be_bytes();
    let head = match length {
        0..=23 => vec![BYTES << 5 | big[7]],
        24..=0xff => vec![BYTES << 5 | 24, big[7]],
        0x100..=0xffff => [&[BYTES << 5 | 25], &big[6..]].concat(),
        0x1_0000..=0xffff_ffff => [&[BYTES << 5 | 26], &big[4..]].concat(),
        _ => [&[BYTES << 5 | 27], &big[..]].concat(),
    };
    [&head, bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 8949 appendix A that COSE headers are made of.
    #[test]
    fn integers_are_read_as_the_standard_writes_them() {
        for (encoded, value) in [
            ("00", 0),
            ("17", 23),
            ("1818", 24),
            ("1903e8", 1000),
            ("1a000f4240", 1_000_000),
            ("1b000000e8d4a51000", 1_000_000_000_000),
            ("20", -1),
            ("3863", -100),
            ("3903e7", -1000),
        ] {
            let bytes = hex::decode(encoded).unwrap();
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.integer(), Ok(value), "{encoded}");
            reader.finish().unwrap();
        }
    }

    #[test]
    fn one_value_has_one_encoding() {
        for encoded in
            ["1817", "190017", "1900ff", "1a0000ffff", "1b00000000ffffffff", "3800", "5f4100ff"]
        {
            let bytes = hex::decode(encoded).unwrap();
            assert_eq!(Reader::new(&bytes).item().err(), Some(CborError::NotShortest), "{encoded}");
        }
        // 2^63 fits no i64.
        let bytes = hex::decode("1b8000000000000000").unwrap();
        assert!(matches!(Reader::new(&bytes).integer(), Err(CborError::Type(_))));
    }

    #[test]
    fn what_ends_early_or_late_is_refused() {
        for encoded in
            ["", "18", "42", "4201", "6161ff", "82", "8201", "a101", "c1", "9bffffffffffffffff"]
        {
            let bytes = hex::decode(encoded).unwrap();
            let mut reader = Reader::new(&bytes);
            let read = reader.item().and_then(|_| reader.finish());
            assert!(matches!(read, Err(CborError::Truncated | CborError::Trailing)), "{encoded}");
        }
        let deep = [vec![0x81; 20], vec![0]].concat();
        assert_eq!(Reader::new(&deep).item().err(), Some(CborError::Depth));
        assert_eq!(Reader::new(&[0x61, 0xff]).text(), Err(CborError::Text));
    }

    #[test]
    fn byte_strings_are_written_as_they_are_read() {
        for length in [0, 23, 24, 255, 256, 65_535, 65_536] {
            let bytes = vec![7; length];
            let written = byte_string(&bytes);
            let mut reader = Reader::new(&written);
            assert_eq!(reader.bytes(), Ok(&bytes[..]));
            reader.finish().unwrap();
        }
    }
}
