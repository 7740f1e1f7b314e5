//! Small values shared by every text format here: fixed-length hex strings and points in time.
//!
//! A value that exists is right: hex is lower case and of exactly its length, a time is a UTC
//! second between 1970 and 9999. Each value has one spelling, so that equal values have equal bytes.

use std::fmt;
use std::time::{Duration, SystemTime};

use der::DateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not the value it should be; the message says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub struct ValueError {
    expected: String,
    found: String,
}

macro_rules! hex_value {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Length in bytes.
            pub const LENGTH: usize = $length;

            /// Wraps the raw bytes.
            pub const fn new(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }

            /// Reads exactly the lower-case hex spelling.
            ///
            /// # Errors
            /// Any other length, an upper-case digit or another character.
            pub fn from_hex(text: &str) -> Result<Self, ValueError> {
                let mut bytes = [0; $length];
                let lower_case = !text.bytes().any(|byte| byte.is_ascii_uppercase());
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) if lower_case => Ok(Self(bytes)),
                    _ => Err(ValueError {
                        expected: format!("{} lower-case hex digits", 2 * $length),
                        found: shorten(text),
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::from_hex(&text).map_err(de::Error::custom)
            }
        }
    };
}

hex_value!(
    /// Hash of the configuration that an enclave was started with.
    ConfigHash,
    32
);
hex_value!(
    /// Public commitment to the root key: tells a host-chosen root from the deployment's.
    RootCommitment,
    32
);
hex_value!(
    /// Launch measurement of an SNP guest (SHA-384, report offset 0x90).
    Measurement,
    48
);
hex_value!(
    /// Digest of an SNP ID key or author key (SHA-384, report offsets 0xE0 and 0x110).
    KeyDigest,
    48
);
hex_value!(
    /// SHA-256 of something the context names.
    Sha256,
    32
);
hex_value!(
    /// CHIP_ID of a processor (report offset 0x1A0).
    ChipId,
    64
);
hex_value!(
    /// Ed25519 public key of an offline signer.
    SignerKey,
    32
);

impl Sha256 {
    /// Hashes `data`.
    pub fn of(data: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, data);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

/// A UTC second between 1970 and 9999, written as RFC 3339 with a `Z`: `2026-11-22T00:00:00Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(DateTime);

impl Timestamp {
    /// The system clock's time.
    ///
    /// # Errors
    /// The clock stands before 1970 or after 9999.
    pub fn now() -> Result<Self, ValueError> {
        Self::try_from(SystemTime::now())
    }

    /// From seconds since 1970.
    ///
    /// # Errors
    /// A time after 9999.
    pub fn from_unix_seconds(seconds: u64) -> Result<Self, ValueError> {
        DateTime::from_unix_duration(Duration::from_secs(seconds))
            .map(Self)
            .map_err(|_| bad_time(&seconds.to_string()))
    }

    /// Seconds since 1970.
    pub fn unix_seconds(self) -> u64 {
        self.0.unix_duration().as_secs()
    }

    /// Reads exactly `YYYY-MM-DDThh:mm:ssZ`.
    ///
    /// # Errors
    /// Any other spelling, or a date that does not exist.
    pub fn from_rfc3339(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| bad_time(text))
    }

    /// How far this time lies after `earlier`; zero when it does not.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.unix_duration().saturating_sub(earlier.0.unix_duration())
    }
}

impl TryFrom<SystemTime> for Timestamp {
    type Error = ValueError;

    fn try_from(time: SystemTime) -> Result<Self, ValueError> {
        let seconds = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_err(|_| bad_time("a time before 1970"))?
            .as_secs();
        Self::from_unix_seconds(seconds)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = &self.0;
        let (year, month, day) = (time.year(), time.month(), time.day());
        let (hour, minute, second) = (time.hour(), time.minutes(), time.seconds());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({self})")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_rfc3339(&text).map_err(de::Error::custom)
    }
}

fn bad_time(found: &str) -> ValueError {
    ValueError {
        expected: "a UTC time such as 2026-11-22T00:00:00Z, between 1970 and 9999".into(),
        found: shorten(found),
    }
}

/// Keeps a stranger's text from flooding a message.
pub(crate) fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_one_spelling() {
        let text = "ab".repeat(32);
        assert_eq!(Sha256::from_hex(&text).unwrap().to_string(), text);
        for wrong in ["AB".repeat(32), "ab".repeat(31), "ab".repeat(33), "zz".repeat(32)] {
            let error = Sha256::from_hex(&wrong).unwrap_err().to_string();
            assert!(error.contains("64 lower-case hex digits"), "{error}");
        }
    }

    #[test]
    fn time_has_one_spelling() {
        let time = Timestamp::from_rfc3339("2026-11-22T01:02:03Z").unwrap();
        assert_eq!(time.to_string(), "2026-11-22T01:02:03Z");
        assert_eq!(time.unix_seconds(), 1_795_309_323);
        assert_eq!(Timestamp::from_unix_seconds(1_795_309_323).unwrap(), time);
        for wrong in [
            "2026-11-22",
            "2026-02-30T00:00:00Z",
            "2026-11-22T00:00:00+00:00",
            "1969-12-31T23:59:59Z",
        ] {
            assert!(Timestamp::from_rfc3339(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sha256_is_the_standards() {
        // FIPS 180-4 example "abc".
        assert_eq!(
            Sha256::of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
