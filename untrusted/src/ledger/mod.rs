//! What the host asks of a ledger: compare-and-set on tags, and receipts for it.
//!
//! Receipts are the core's to verify: the host only carries them.

use bytes::Bytes;
use keyfold_protocol::ids::{Digest, LedgerTag};
use std::future::Future;
use std::pin::Pin;

mod ccf;

pub use ccf::Ccf;

/// What a ledger's method returns.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// A ledger. An append that returns a receipt happened; one that returns
/// [`LedgerError::Unreachable`] may have, and the same append again answers with the first one's
/// receipt.
pub trait Ledger: Send + Sync + 'static {
    /// Moves `tag` to `version` with `digest`; the receipt, or where the tag stands instead.
    fn append<'a>(
        &'a self, tag: &'a LedgerTag, version: u64, digest: &'a Digest,
    ) -> Answer<'a, Appended>;
    /// A receipt that says where `tag` stands now, with the asker's nonce in it.
    fn read<'a>(&'a self, tag: &'a LedgerTag, nonce: &'a [u8; 32]) -> Answer<'a, Bytes>;
    /// Where `tag` stands, without a receipt: for decisions that a receipt backs up later.
    fn current<'a>(&'a self, tag: &'a LedgerTag) -> Answer<'a, Standing>;
    /// What its identity was last found to be.
    fn trust(&self) -> Trust;
}

/// Where a tag stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its version; 0 when it was never written.
    pub version: u64,
    /// The digest of that version.
    pub digest: Option<Digest>,
}

/// How an append ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is the tag's current entry: its receipt.
    Receipt(Bytes),
    /// The tag does not stand where the append starts.
    Conflict(Standing),
}

/// Why the ledger did not serve.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// No usable answer in time; an append may have happened.
    #[error("the ledger does not answer: {0}")]
    Unreachable(String),
    /// It has another service key. Everything stops until an operator has looked.
    #[error(
        "the ledger's service key is not the configured one (it shows {found}): \
         find out why before changing ledger.service_key, which is a new deployment to every client"
    )]
    IdentityChanged {
        /// SHA-256 of the key it shows.
        found: String,
    },
    /// It answers, but not as the ledger application does.
    #[error("the ledger's answer does not fit: {0}")]
    Unexpected(String),
}

/// What the ledger's certificate was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trust {
    /// Not looked at yet.
    Unknown = 0,
    /// The configured key.
    Trusted = 1,
    /// Another key.
    Changed = 2,
}
