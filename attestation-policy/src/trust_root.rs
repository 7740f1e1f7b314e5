//! R: the n offline keys of a deployment, and how many of them must sign.
//!
//! A client pins one. It moves to the next only by a root that the pinned one's keys signed, and
//! whose own keys signed as well: the first shows the owner's will, the second that the new keys
//! exist and are in their holders' hands.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, PayloadKind, SignatureError};
use crate::values::{SignerKey, shorten};

/// The keys a client believes, as JSON:
/// `{"version":1,"threshold":2,"keys":["<hex64>","<hex64>","<hex64>"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct TrustRoot {
    version: u64,
    threshold: usize,
    keys: Vec<SignerKey>,
}

/// Why a trust root is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustRootError {
    /// The version counts from 1.
    #[error("version: expected 1 or more, found 0")]
    NoVersion,
    /// One key alone would be a single point of compromise.
    #[error("threshold: expected {minimum} to {keys} (the number of keys), found {found}")]
    Threshold {
        /// 2, or 1 with the feature `development`.
        minimum: usize,
        /// How many keys there are.
        keys: usize,
        /// What came.
        found: usize,
    },
    /// More than anybody gathers.
    #[error("keys: expected at most {MAX_KEYS}, found {0}")]
    TooManyKeys(usize),
    /// One holder would count twice.
    #[error("keys: expected each key once, found {0} twice")]
    RepeatedKey(SignerKey),
    /// Not the JSON of a root.
    #[error("the trust root cannot be read: {0}")]
    Malformed(String),
    /// Roots follow one another without a gap.
    #[error("version: expected {expected}, the one after the pinned root's, found {found}")]
    NotTheNext {
        /// The pinned root's version plus one.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The pinned root's keys, or its own, have not signed it.
    #[error("signed by {whose} keys: {source}")]
    Signature {
        /// "the pinned root's" or "its own".
        whose: &'static str,
        /// What is wrong with the signatures.
        source: SignatureError,
    },
}

/// One key is enough only where nothing is protected.
const MINIMUM_THRESHOLD: usize = if cfg!(feature = "development") { 1 } else { 2 };

const MAX_KEYS: usize = 16;

impl TrustRoot {
    /// `threshold` of `keys` must sign.
    ///
    /// # Errors
    /// Fewer than two needed (one, with the feature `development`), more needed than there are,
    /// a repeated key, more than 16 keys, version 0.
    pub fn new(
        version: u64, threshold: usize, keys: Vec<SignerKey>,
    ) -> Result<Self, TrustRootError> {
        if version == 0 {
            return Err(TrustRootError::NoVersion);
        }
        if keys.len() > MAX_KEYS {
            return Err(TrustRootError::TooManyKeys(keys.len()));
        }
        let mut different = BTreeSet::new();
        if let Some(repeated) = keys.iter().find(|key| !different.insert(*key)) {
            return Err(TrustRootError::RepeatedKey(*repeated));
        }
        if !(MINIMUM_THRESHOLD..=keys.len()).contains(&threshold) {
            return Err(TrustRootError::Threshold {
                minimum: MINIMUM_THRESHOLD,
                keys: keys.len(),
                found: threshold,
            });
        }
        Ok(Self { version, threshold, keys })
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// Malformed JSON, and what [`TrustRoot::new`] refuses.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TrustRootError> {
        serde_json::from_slice::<Unchecked>(bytes)
            .map_err(|error| TrustRootError::Malformed(shorten(&error.to_string())))?
            .try_into()
    }

    /// The JSON form: what clients pin and what the next root's signers sign.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and strings always have a JSON form")
    }

    /// The root that replaces this one, from bytes signed by this one's keys and its own.
    ///
    /// # Errors
    /// Too few signatures of either, a version that is not the next, a root that is none.
    pub fn successor(&self, signed: &[u8]) -> Result<Self, TrustRootError> {
        let refuse = |whose| move |source| TrustRootError::Signature { whose, source };
        let envelope =
            Envelope::parse(PayloadKind::TrustRoot, signed).map_err(refuse("the pinned root's"))?;
        let payload = envelope.verify(self).map_err(refuse("the pinned root's"))?;
        let next = Self::from_json(payload)?;
        envelope.verify(&next).map_err(refuse("its own"))?;
        let expected = self.version.saturating_add(1);
        if next.version != expected {
            return Err(TrustRootError::NotTheNext { expected, found: next.version });
        }
        Ok(next)
    }

    /// Counts up with each replacement.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many keys must sign.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The keys, all different.
    pub fn keys(&self) -> &[SignerKey] {
        &self.keys
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    version: u64,
    threshold: usize,
    keys: Vec<SignerKey>,
}

impl TryFrom<Unchecked> for TrustRoot {
    type Error = TrustRootError;

    fn try_from(root: Unchecked) -> Result<Self, TrustRootError> {
        Self::new(root.version, root.threshold, root.keys)
    }
}

impl From<TrustRoot> for Unchecked {
    fn from(TrustRoot { version, threshold, keys }: TrustRoot) -> Self {
        Self { version, threshold, keys }
    }
}
