//! What the host must not lose: sealed guards, vaults, records and their event chains.
//!
//! Everything here is ciphertext, a version or an opaque id. A [`Storage`] promises:
//! - a method that returned `Ok` is durable, and all of it or nothing;
//! - every change is a compare-and-set on versions, so that any number of hosts may share a store;
//! - a staged guard is never overwritten, and goes only by [`Storage::commit`] or [`Storage::drop_staged`];
//! - one [`Storage::load`] is one snapshot.
//!
//! `conformance` turns these sentences into tests that every implementation runs.

use bytes::Bytes;
use keyfold_protocol::host::Event;
use keyfold_protocol::ids::{Account, AccountId, Digest, LedgerTag, SlotId};
use std::future::Future;
use std::pin::Pin;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod sqlite;

pub use sqlite::Sqlite;

/// What a storage method returns.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send + 'a>>;

/// See the module's promises.
pub trait Storage: Send + Sync + 'static {
    /// What a request needs, in one snapshot.
    fn load<'a>(&'a self, account: &'a Account, want: Want) -> Answer<'a, Loaded>;
    /// Appends an event with what it changes.
    fn put(&self, put: PutWrite) -> Answer<'_, PutOutcome>;
    /// Keeps a staged guard. The same digest again changes nothing.
    fn stage(&self, staged: StagedGuard) -> Answer<'_, ()>;
    /// Makes a staged guard live, keeps its audit event, drops what it overtook and does what then
    /// is to be done, all at once.
    fn commit(&self, commit: CommitWrite) -> Answer<'_, CommitOutcome>;
    /// Forgets a staged guard that can no longer become live.
    fn drop_staged(&self, key: StagedKey) -> Answer<'_, ()>;
    /// Staged guards, at most `limit`: the oldest version of a tag first, of equal versions the newest row first.
    fn staged(&self, limit: usize) -> Answer<'_, Vec<StagedGuard>>;
    /// Versions of the person's latest account.
    fn heads(&self, person: AccountId) -> Answer<'_, Option<Heads>>;
}

/// What [`Storage::load`] is to bring beside the guard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Want {
    /// The vault.
    pub vault: bool,
    /// The record of this slot.
    pub record: Option<SlotId>,
    /// Up to a page of vault events after this version, with live records.
    pub events_after: Option<u64>,
    /// Up to a page of audit events after this version.
    pub audit_after: Option<u64>,
}

/// A live guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Its version.
    pub version: u64,
    /// The account's name on the ledger.
    pub tag: LedgerTag,
    /// What the ledger has of it.
    pub digest: Digest,
    /// The sealed guard.
    pub sealed: Vec<u8>,
}

/// A sealed object at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Its version.
    pub version: u64,
    /// The sealed object.
    pub sealed: Vec<u8>,
}

/// A vault event; with its record while no later event touched the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event.
    pub event: Event,
    /// The sealed record.
    pub record: Option<Vec<u8>>,
}

/// What a request needs. Without a guard everything is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The live guard.
    pub guard: Option<Guard>,
    /// The vault.
    pub vault: Option<Versioned>,
    /// The record of the wanted slot.
    pub record: Option<Versioned>,
    /// A page of events, oldest first.
    pub events: Vec<StoredEvent>,
    /// A page of sealed audit events, oldest first.
    pub audit: Vec<Vec<u8>>,
}

/// An event and what it changes.
#[derive(Clone, Debug)]
pub struct PutWrite {
    /// Whose vault.
    pub account: Account,
    /// The guard version that must be live.
    pub guard: u64,
    /// The event; the vault must be one version before it.
    pub event: Event,
    /// The sealed vault at the event's version.
    pub vault: Bytes,
    /// The slot's sealed record from now on; none empties the slot.
    pub record: Option<Bytes>,
    /// Not where the slot holds a record already.
    pub only_if_empty: bool,
}

/// How a put ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// Durable.
    Done,
    /// Another guard is live. Nothing changed.
    GuardMoved,
    /// The vault is elsewhere. Nothing changed.
    VaultMoved,
    /// The slot holds a record, and this put may not replace one. Nothing changed.
    SlotTaken,
}

/// Which staged guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StagedKey {
    /// The account's name on the ledger.
    pub tag: LedgerTag,
    /// The version it would make.
    pub version: u64,
    /// What the ledger is to record.
    pub digest: Digest,
}

/// A guard that waits for the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedGuard {
    /// Its name.
    pub key: StagedKey,
    /// Whose guard.
    pub account: Account,
    /// The sealed staged guard.
    pub sealed: Bytes,
    /// When it was staged, in seconds since 1970.
    pub staged_at: u64,
}

/// A guard the ledger has recorded and the core has made live.
#[derive(Clone, Debug)]
pub struct CommitWrite {
    /// Whose guard.
    pub account: Account,
    /// The staged guard it comes from.
    pub key: StagedKey,
    /// The sealed live guard.
    pub sealed: Bytes,
    /// The sealed audit event of its version.
    pub audit: Bytes,
    /// What this guard leads to.
    pub then: Then,
}

/// What a commit does beside making a guard live.
#[derive(Clone, Debug)]
pub enum Then {
    /// Nothing.
    Rest,
    /// Keeps the staged guard that must follow this one.
    Stage(StagedGuard),
    /// The account has ended: forgets all of it but the guard.
    Close,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Live from now on.
    Done,
    /// It was live already, or a later version is: another host or a recovery was first.
    Already,
    /// The version before it is not there, or another guard holds its version: this store is not
    /// what the ledger has recorded.
    Diverged,
}

/// Where a person's latest account stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Which of the person's accounts.
    pub generation: u32,
    /// Whether it has ended.
    pub closed: bool,
    /// Version of the live guard.
    pub guard: u64,
    /// Version of the vault.
    pub vault: u64,
}

/// Why the store could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// No space, or a size limit.
    #[error("the disk of the database is full: free space, then retry ({0})")]
    Full(String),
    /// The file is damaged.
    #[error("the database is damaged: stop the host, keep the file, restore a backup ({0})")]
    Corrupt(String),
    /// Somebody holds it for too long.
    #[error("the database is locked by another process for longer than the busy timeout ({0})")]
    Busy(String),
    /// The disk or its permissions.
    #[error("the database cannot be read or written: check the disk and the permissions ({0})")]
    Io(String),
    /// The schema is of a later release.
    #[error(
        "the database has schema version {found}, this release knows up to {known}: run the newer release"
    )]
    TooNew {
        /// Version of the file.
        found: u32,
        /// Latest version of this release.
        known: u32,
    },
    /// Anything else.
    #[error("the database failed: {0}")]
    Other(String),
    /// The writer has stopped.
    #[error("the storage is shut down")]
    Closed,
}
