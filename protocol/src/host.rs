//! What the host and the enclave say to each other, in plain sight: frames on a pipe or vsock.
//!
//! Each frame is a [`HostRequest`] behind a 32-bit little-endian length; each is answered, in
//! order, by one [`HostReply`] framed the same way. State travels as sealed blobs that the host
//! stores and attaches; whatever it says of them is [`Claimed`] until the core has checked it.

use serde::{Deserialize, Serialize};

use crate::bytes::{at_once, optional_at_once};
use crate::client::{Action, Class};
use crate::ids::{
    Account, ChannelKeyId, Digest, Label, LedgerTag, P384PublicKey, SessionId, SlotId,
};
use crate::wire::Items;

/// Something the host alleges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed<T>(pub T);

/// A frame to the enclave. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostRequest<'a> {
    /// First: what deployment this is. Its hash is in every claim that follows.
    Configure(Config),
    /// Asks for evidence that earns the root key.
    ReleaseClaims,
    /// Brings the root key, wrapped to the key in the release claims.
    #[serde(borrow)]
    Unlock(Unlock<'a>),
    /// Asks for evidence that clients check.
    Evidence,
    /// Opens a session.
    OpenSession(OpenSession<'a>),
    /// Carries a client's request.
    Handle(Handle<'a>),
    /// Turns a staged guard into a live one.
    Commit(Commit<'a>),
    /// Compares the PIN of a charged try, and stages what comes of it.
    Settle(Settle<'a>),
}

/// What makes one measured image the enclave of one deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Name of the deployment.
    pub deployment: Label,
    /// Service key of the ledger: the one key whose receipts count.
    pub ledger_key: P384PublicKey,
    /// `iss` of the ledger's receipts.
    pub ledger_issuer: Label,
    /// Which requests demand a fresh ledger read.
    pub fresh_read: FreshRead,
}

/// Which requests demand a fresh ledger read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FreshRead {
    /// Status and Audit.
    Reports,
    /// Every request that reads a guard.
    Always,
}

/// See [`HostRequest::Unlock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlock<'a> {
    /// How it is wrapped.
    pub algorithm: KeyWrap,
    /// RSA-OAEP of an AES-256 key, then AES-KWP of the root key.
    #[serde(borrow, serialize_with = "at_once")]
    pub wrapped: &'a [u8],
}

/// Managed HSM's wrapping algorithms, by the hash of OAEP and MGF1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyWrap {
    /// `CKM_RSA_AES_KEY_WRAP`: SHA-1.
    Sha1,
    /// `RSA_AES_KEY_WRAP_256`.
    Sha256,
    /// `RSA_AES_KEY_WRAP_384`.
    Sha384,
}

/// See [`HostRequest::OpenSession`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession<'a> {
    /// The channel key the client encapsulated to.
    pub channel_key: ChannelKeyId,
    /// HPKE `enc`, [`crate::limits::ENCAPSULATED_KEY`] bytes.
    #[serde(borrow, serialize_with = "at_once")]
    pub encapsulated_key: &'a [u8],
}

/// A client's request with the state it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle<'a> {
    /// Session of the request.
    pub session: SessionId,
    /// Account, from the envelope.
    pub account: Account,
    /// Counter, from the envelope.
    pub counter: u64,
    /// Class, from the envelope.
    pub class: Class,
    /// Sealed [`crate::client::SignedRequest`], from the envelope.
    #[serde(borrow, serialize_with = "at_once")]
    pub frame: &'a [u8],
    /// The host's clock, in seconds since 1970.
    pub time: Claimed<u64>,
    /// Live guard.
    pub guard: Option<Attached<'a>>,
    /// Vault; absent while nothing was ever put.
    pub vault: Option<Attached<'a>>,
    /// Record of the slot the class names.
    pub record: Option<Attached<'a>>,
    /// Receipt of a ledger read whose nonce is SHA-256 of `frame`.
    #[serde(serialize_with = "optional_at_once")]
    pub fresh: Option<&'a [u8]>,
    /// Vault events after the version the class names, without a gap.
    pub events: Items<'a, AttachedEvent<'a>>,
    /// Sealed audit events after the version the class names, without a gap.
    pub audit: Items<'a, &'a [u8]>,
}

/// A sealed object and the version the host says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached<'a> {
    /// Part of the seal's context: a wrong one does not open.
    pub version: Claimed<u64>,
    /// The sealed object.
    #[serde(borrow, serialize_with = "at_once")]
    pub sealed: &'a [u8],
}

/// An event of a chain, as it is hashed. The host stores vault events in the clear: it sees which
/// slot changed anyway, and the digest hides behind the record's random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The version it leads to.
    pub version: u64,
    /// Its slot; zeros where it has none.
    pub slot: SlotId,
    /// What it did.
    pub action: Action,
    /// Of the record, or of the audit event; random where there is neither.
    pub digest: Digest,
}

/// A vault event with the record it put, unless a later event superseded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedEvent<'a> {
    /// The event.
    pub event: Event,
    /// The sealed record.
    #[serde(borrow, serialize_with = "optional_at_once")]
    pub record: Option<&'a [u8]>,
}

/// See [`HostRequest::Commit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit<'a> {
    /// Whose guard.
    pub account: Account,
    /// The staged guard.
    #[serde(borrow)]
    pub staged: Attached<'a>,
    /// Its digest, as the ledger recorded it.
    pub digest: Claimed<Digest>,
    /// The ledger's receipt for its append.
    #[serde(serialize_with = "at_once")]
    pub receipt: &'a [u8],
}

/// See [`HostRequest::Settle`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle<'a> {
    /// Whose guard.
    pub account: Account,
    /// The live guard in which the try was charged.
    #[serde(borrow)]
    pub guard: Attached<'a>,
}

/// A frame from the enclave. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostReply<'a> {
    /// Of Configure: the hash of the configuration.
    Configured(Digest),
    /// Of ReleaseClaims.
    #[serde(borrow)]
    ReleaseClaims(Evidence<'a>),
    /// Of Unlock: the root key's public commitment.
    Unlocked(Digest),
    /// Of Evidence.
    Evidence(ChannelEvidence<'a>),
    /// Of OpenSession.
    Session(SessionId),
    /// Of Handle: forward `sealed` once `put` is durable.
    Reply(Reply<'a>),
    /// Of Handle and Settle: store, append to the ledger, commit.
    Staged(Staged<'a>),
    /// Of Commit: store the live guard, then do what comes next.
    Committed(Committed<'a>),
    /// Of anything.
    Refused(HostRefusal),
    /// Of Handle with a Recover: too many tries failed. Forward this sealed answer.
    #[serde(serialize_with = "at_once")]
    Locked(&'a [u8]),
}

/// Runtime claims and the report that binds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence<'a> {
    /// JSON text.
    #[serde(serialize_with = "at_once")]
    pub claims: &'a [u8],
    /// SNP report; its report data is SHA-256 of `claims`, then zeros.
    #[serde(serialize_with = "at_once")]
    pub report: &'a [u8],
}

/// Evidence for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelEvidence<'a> {
    /// X-Wing public key of this boot.
    #[serde(serialize_with = "at_once")]
    pub channel_key: &'a [u8],
    /// Claims and report.
    #[serde(borrow)]
    pub evidence: Evidence<'a>,
}

/// The answer to a request that leaves the guard alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply<'a> {
    /// Sealed [`crate::client::Outcome`].
    #[serde(serialize_with = "at_once")]
    pub sealed: &'a [u8],
    /// What has to be durable first.
    #[serde(borrow)]
    pub put: Option<Put<'a>>,
}

/// One event and what it changes, all in one transaction, if the vault is at `event.version - 1`
/// and the guard at `guard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put<'a> {
    /// Live guard version that authorised it.
    pub guard: u64,
    /// The event.
    pub event: Event,
    /// The vault at `event.version`.
    #[serde(borrow, serialize_with = "at_once")]
    pub vault: &'a [u8],
    /// The slot's record from now on; none empties the slot.
    #[serde(serialize_with = "optional_at_once")]
    pub record: Option<&'a [u8]>,
    /// Refuse it where the slot holds a record: the caller may not replace a passkey.
    pub only_if_empty: bool,
}

/// A guard that authorises nothing until the ledger has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged<'a> {
    /// The account's name on the ledger.
    pub tag: LedgerTag,
    /// Its version once committed.
    pub version: u64,
    /// What the ledger is to record.
    pub digest: Digest,
    /// The sealed staged guard.
    #[serde(borrow, serialize_with = "at_once")]
    pub guard: &'a [u8],
}

/// A guard that is live, and the answer its request was waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed<'a> {
    /// Version of the guard.
    pub version: u64,
    /// The sealed live guard.
    #[serde(borrow, serialize_with = "at_once")]
    pub guard: &'a [u8],
    /// The sealed audit event of this version.
    #[serde(serialize_with = "at_once")]
    pub audit: &'a [u8],
    /// What to do with it.
    #[serde(borrow)]
    pub next: Next<'a>,
}

/// What a committed guard asks of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next<'a> {
    /// Forward this sealed [`crate::client::Outcome`].
    #[serde(serialize_with = "at_once")]
    Answer(&'a [u8]),
    /// A try is charged: settle it.
    Settle,
    /// The account has ended: drop all of it but the guard, then forward this.
    #[serde(serialize_with = "at_once")]
    Closed(&'a [u8]),
}

/// Why the core did nothing, for the host. Append-only; tells it nothing it could not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostRefusal {
    /// Not one valid frame.
    Malformed,
    /// Not in this phase: configure, unlock, then serve; each once.
    WrongPhase,
    /// The platform gave no randomness, report or key.
    Platform,
    /// The wrapped root key does not unwrap. The key it was wrapped to is gone: boot again.
    Unwrap,
    /// Encapsulated to a key of another boot, or not a valid `enc`.
    ChannelKey,
    /// No such session (any more): the client opens another.
    UnknownSession,
    /// The request frame does not open in its session.
    Frame,
    /// A sealed object does not open: wrong version, wrong account, or damaged.
    State,
    /// The receipt is not the ledger's for this staged guard.
    Receipt,
}
