//! What a client and the enclave say to each other, sealed: requests, replies, refusals.
//!
//! A client posts an [`Envelope`] to the host. Its `frame` is a padded [`SignedRequest`] under the
//! session's request key; the answer is a padded [`Outcome`] under the reply key of that frame.
//! The host sees the envelope, so it holds only what the host must know to do its work.

use heapless::Vec;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::bytes::{Bytes, at_once};
use crate::host::Event;
use crate::ids::{
    Account, ChainPoint, CredentialId, DeviceId, Digest, Name, P256PublicKey, P256Signature, RpId,
    SlotId, UserHandle,
};
use crate::limits;
use crate::wire::Items;

/// Body of `POST /v1/sessions/{id}/requests`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<'a> {
    /// Whose account; also bound into the sealed frame.
    pub account: Account,
    /// The request's counter in its session; never used twice.
    pub counter: u64,
    /// What the host has to attach, and whether it has to ask for a fresh sign-in.
    pub class: Class,
    /// Sealed [`SignedRequest`].
    #[serde(borrow, serialize_with = "at_once")]
    pub frame: &'a [u8],
}

/// What kind of work a request is, as far as the host must know. The core refuses a request whose
/// class is not its own, so a client cannot talk its host out of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Opens an account. Needs a fresh sign-in; the guard that the person's account before ended with
    /// is attached, where there was one.
    Enroll,
    /// Changes the guard. Guard and vault are attached.
    Guard,
    /// Changes the guard and needs a fresh sign-in. Guard and vault are attached.
    GuardFresh,
    /// Appends to the vault. Guard, vault and the slot's record, if one is named, are attached.
    Put(Option<SlotId>),
    /// Signs in. Guard and the slot's record are attached.
    Assert(SlotId),
    /// Reads. Guard, vault and the events after this version, with records, are attached.
    Sync(u64),
    /// Reads. Guard, vault and a ledger read are attached.
    Status,
    /// Reads. Guard, a ledger read and the audit events after this version are attached.
    Audit(u64),
    /// Tries a PIN: the guard changes twice. Needs a fresh sign-in; the guard is attached.
    Recover,
}

/// Which of a device's two keys signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyKind {
    /// The device key: somebody at the device consented.
    Presence,
    /// The user-verification key: the device verified who it was.
    UserVerification,
}

/// Plaintext of a request frame, padded to a multiple of [`limits::REQUEST_STEP`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRequest<'a> {
    /// The device that signs.
    pub device: DeviceId,
    /// With which of its keys.
    pub key: KeyKind,
    /// The highest guard version the device knows: an older guard is refused.
    pub guard_seen: u64,
    /// ECDSA P-256 over [`crate::transcript::signed_bytes`].
    pub signature: P256Signature,
    /// Encoded [`Request`].
    #[serde(borrow, serialize_with = "at_once")]
    pub request: &'a [u8],
}

/// What a client asks for. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Opens the account: guard 0 to 1. Signed by the device it registers.
    Enroll(Enroll),
    /// Registers a further device. User verification.
    ApproveDevice(ApproveDevice),
    /// Strikes a device off. User verification, fresh sign-in.
    RevokeDevice(RevokeDevice),
    /// Writes the vault's point into the guard, and with it into the ledger.
    Anchor(GuardBase),
    /// Raises the vault's guard floor: an event without a slot.
    Touch(ChainPoint),
    /// Makes a passkey, replacing the slot's earlier one.
    CreatePasskey(CreatePasskey),
    /// Signs in at a relying party.
    Assert(Assert),
    /// Changes a passkey's names.
    UpdatePasskey(UpdatePasskey),
    /// Deletes a passkey. User verification.
    DeletePasskey(DeletePasskey),
    /// Reads what happened in the vault after a point.
    Sync(ChainPoint),
    /// Reads devices and versions, checked against the ledger.
    Status,
    /// Reads the guard's history after a point, checked against the ledger.
    Audit(ChainPoint),
    /// Registers a device by PIN. Signed by that device; fresh sign-in.
    Recover(Recover),
    /// Sets the PIN and lifts a lockout. User verification, fresh sign-in.
    ChangePin(ChangePin),
    /// Ends the account for good: no devices, no PIN, no secret. User verification, fresh sign-in.
    DeleteAccount(GuardBase),
}

/// A PIN after the client's Argon2id. Never printed; wiped on drop.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[zeroize(drop)]
pub struct StretchedPin(pub [u8; 32]);

impl core::fmt::Debug for StretchedPin {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        f.write_str("StretchedPin(..)")
    }
}

/// See [`Request::Enroll`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enroll {
    /// What recovery will be checked against.
    pub pin: StretchedPin,
    /// The first device.
    pub device: Device,
}

/// A device as its account lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The person's name for it.
    pub name: Name,
    /// Key bound to the device: signs with presence.
    pub device_key: P256PublicKey,
    /// Key bound to the device and released by user verification.
    pub uv_key: P256PublicKey,
}

/// The exact state a guard change starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardBase {
    /// Live guard version that this request changes; any other is refused.
    pub guard: u64,
    /// Vault point of the device that asks; must be the attached vault's.
    pub vault: ChainPoint,
    /// The point that this version of the guard is anchored to. By naming it the device says that its
    /// own chain has passed through it, which a vault version cannot show.
    pub anchor: ChainPoint,
}

/// See [`Request::ApproveDevice`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApproveDevice {
    /// What is changed.
    pub base: GuardBase,
    /// The device to register.
    pub device: Device,
}

/// See [`Request::RevokeDevice`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeDevice {
    /// What is changed.
    pub base: GuardBase,
    /// The device to strike off.
    pub device: DeviceId,
}

/// See [`Request::Recover`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recover {
    /// Live guard version this try counts at; any other is refused, and told. A client signs only
    /// versions it was told so: a host could keep a try for a version still to come, and reset the
    /// count with it after tries of its own. To ask, 0.
    pub guard: u64,
    /// The PIN to try.
    pub pin: StretchedPin,
    /// The device to register if it is right.
    pub device: Device,
}

/// See [`Request::ChangePin`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangePin {
    /// What is changed.
    pub base: GuardBase,
    /// The PIN from now on.
    pub pin: StretchedPin,
}

/// PRF inputs, already hashed as WebAuthn says (prefix and salt): one or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrfInputs {
    /// `eval.first`.
    pub first: [u8; 32],
    /// `eval.second`.
    pub second: Option<[u8; 32]>,
}

/// PRF results, in the order of the inputs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[zeroize(drop)]
pub struct PrfResults {
    /// `results.first`.
    pub first: [u8; 32],
    /// `results.second`.
    pub second: Option<[u8; 32]>,
}

impl core::fmt::Debug for PrfResults {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        f.write_str("PrfResults(..)")
    }
}

/// Signature algorithm of a passkey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The identifier of COSE's registry.
    pub const fn cose(self) -> i32 {
        match self {
            Self::Es256 => -7,
            Self::EdDsa => -8,
        }
    }

    /// The first of a relying party's choices, best first, that Keyfold can make.
    pub fn choose(preferred: &[i32]) -> Option<Self> {
        preferred
            .iter()
            .find_map(|id| [Self::Es256, Self::EdDsa].into_iter().find(|a| a.cose() == *id))
    }
}

/// A relying party's names for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNames {
    /// `user.name`.
    pub name: Name,
    /// `user.displayName`.
    pub display_name: Name,
}

/// See [`Request::CreatePasskey`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePasskey {
    /// The vault's exact point.
    pub vault: ChainPoint,
    /// Relying party id, already checked against the origin by the client.
    pub rp_id: RpId,
    /// `user.id`.
    pub user_handle: UserHandle,
    /// The relying party's names for the user.
    pub names: UserNames,
    /// COSE algorithm identifiers, the relying party's favourite first.
    pub algorithms: Vec<i32, { limits::ALGORITHMS }>,
    /// PRF evaluation at creation.
    pub prf: Option<PrfInputs>,
}

/// See [`Request::Assert`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assert {
    /// Relying party id; must be the record's.
    pub rp_id: RpId,
    /// The credential to sign with; must be the record's.
    pub credential: CredentialId,
    /// SHA-256 of the collected client data.
    pub client_data_hash: [u8; 32],
    /// PRF evaluation.
    pub prf: Option<PrfInputs>,
}

/// See [`Request::UpdatePasskey`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatePasskey {
    /// The vault's exact point.
    pub vault: ChainPoint,
    /// Where the passkey is.
    pub slot: SlotId,
    /// Digest of the record that is changed.
    pub record: Digest,
    /// The names from now on.
    pub names: UserNames,
}

/// See [`Request::DeletePasskey`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletePasskey {
    /// The vault's exact point.
    pub vault: ChainPoint,
    /// Where the passkey is.
    pub slot: SlotId,
}

/// What an event did to its slot. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// The slot holds the record of the event's digest.
    Put,
    /// The slot is empty: a tombstone.
    Delete,
    /// No slot; only the guard floor rose.
    Touch,
    /// Not of a vault: a version of the guard.
    Audit,
}

/// Plaintext of a reply, padded to [`Class::reply_size`].
pub type Outcome<'a> = Result<Success<'a>, Refusal>;

/// What a request brought. Append-only; each request has its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Success<'a> {
    /// Of whatever changes the guard: committed.
    GuardChanged(GuardChanged),
    /// Of Touch, UpdatePasskey, DeletePasskey.
    Put(PutDone),
    /// Of CreatePasskey.
    Created(Created),
    /// Of Assert.
    Asserted(Asserted),
    /// Of Sync.
    #[serde(borrow)]
    Synced(Synced<'a>),
    /// Of Status.
    Status(AccountStatus),
    /// Of Audit.
    Audited(Audited<'a>),
}

/// A guard change that the ledger has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardChanged {
    /// The guard's version from now on.
    pub guard: u64,
    /// Head of the audit chain at that version.
    pub audit_head: Digest,
    /// The vault point written into the guard.
    pub vault: ChainPoint,
}

/// An event appended to the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutDone {
    /// Version of the guard that authorised it.
    pub guard: u64,
    /// The event.
    pub event: Event,
    /// The vault's point from now on.
    pub vault: ChainPoint,
}

/// A new passkey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The event that holds it.
    pub put: PutDone,
    /// Its credential id.
    pub credential: CredentialId,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// WebAuthn authenticator data with attested credential data.
    pub authenticator_data: Vec<u8, 256>,
    /// The public key: SEC1 uncompressed point, or the 32 bytes of Ed25519.
    pub public_key: Vec<u8, 65>,
    /// PRF results, when asked for and the user was verified.
    pub prf: Option<PrfResults>,
}

/// A signature for a relying party.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asserted {
    /// Version of the guard that authorised it.
    pub guard: u64,
    /// WebAuthn authenticator data.
    pub authenticator_data: Bytes<37>,
    /// Signature over authenticator data and client data hash.
    pub signature: Vec<u8, 72>,
    /// `user.id` of the passkey.
    pub user_handle: UserHandle,
    /// PRF results, when asked for and the user was verified.
    pub prf: Option<PrfResults>,
}

/// A page of vault events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced<'a> {
    /// Version of the guard that authorised it.
    pub guard: u64,
    /// The vault's sealed point. Only a client whose cursor reaches it is in sync.
    pub vault: ChainPoint,
    /// The point this page leads to; where the next page starts.
    pub cursor: ChainPoint,
    /// The events, oldest first.
    #[serde(borrow)]
    pub items: Items<'a, SyncedEvent>,
}

/// One event, with the passkey it left in its slot unless a later event superseded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncedEvent {
    /// The event; its digest is the record's.
    pub event: Event,
    /// What the slot holds since, without its secrets.
    pub passkey: Option<PasskeyView>,
}

/// A passkey without its key and PRF seed. This type cannot carry them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasskeyView {
    /// Credential id.
    pub credential: CredentialId,
    /// Relying party id.
    pub rp_id: RpId,
    /// `user.id`.
    pub user_handle: UserHandle,
    /// The relying party's names for the user.
    pub names: UserNames,
    /// Algorithm.
    pub algorithm: Algorithm,
}

/// Where an account stands, as the ledger confirms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStatus {
    /// The guard's version.
    pub guard: u64,
    /// Head of the audit chain at that version.
    pub audit_head: Digest,
    /// The vault point the guard is anchored to.
    pub anchor: ChainPoint,
    /// The vault's point.
    pub vault: ChainPoint,
    /// Registered devices, oldest first.
    pub devices: Vec<DeviceView, { limits::DEVICES }>,
    /// PINs tried in a row, none of them right; at [`limits::TRIES`] recovery is locked.
    pub failures: u8,
}

/// A registered device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// The person's name for it.
    pub name: Name,
}

/// A page of the guard's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited<'a> {
    /// The guard's version.
    pub guard: u64,
    /// Head of the audit chain at that version.
    pub audit_head: Digest,
    /// The point this page leads to; where the next page starts.
    pub cursor: ChainPoint,
    /// The events, oldest first.
    #[serde(borrow)]
    pub items: Items<'a, AuditEvent>,
}

/// What made a version of the guard. One size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// The guard version it made.
    pub version: u64,
    /// What happened.
    pub kind: AuditKind,
    /// The device that asked.
    pub actor: DeviceId,
    /// The device it was about; the actor where it was about no other. Of a recovery, the device
    /// that made room.
    pub subject: DeviceId,
    /// Seconds since 1970, as the host claimed: no proof of time.
    pub host_time: u64,
}

/// What happened to a guard. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditKind {
    /// The account was opened.
    Enrolled,
    /// A device was registered by a trusted one.
    DeviceAdded,
    /// A device was struck off.
    DeviceRevoked,
    /// The vault's point was written into the guard.
    Anchored,
    /// The PIN was set by a trusted device.
    PinChanged,
    /// A try was charged, before anything was compared.
    TryCharged,
    /// The charged try was wrong.
    TryFailed,
    /// The charged try was right: the device that made it is registered.
    Recovered,
    /// The account was ended.
    Deleted,
}

/// Why the core said no, for the client's eyes only. Append-only. Advisory: a host can withhold or
/// repeat an old one, so a client resolves by a fresh Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No valid encoding, or a class that is not the request's.
    Malformed,
    /// Not signed by a registered device, in this session, over exactly this.
    Unauthorised,
    /// The request asks for the UV key.
    UserVerificationRequired,
    /// The attached guard is older than one the device, the vault or the record has seen.
    StaleGuard,
    /// The guard belongs to another deployment, ledger or root key.
    ForeignGuard,
    /// The signed guard version is not the live one: fetch Status, sign again.
    GuardMoved,
    /// The named vault point is not the attached vault's: sync, sign again.
    SyncFirst,
    /// The vault is older than the guard's floor, or missing.
    StaleVault,
    /// Events or records that do not fit their chain.
    BrokenChain,
    /// The ledger read is missing, of another frame, or shows another guard: a change may be on its
    /// way from the ledger to the storage, so ask again.
    NotFresh,
    /// Sixteen devices are registered.
    TooManyDevices,
    /// The device is registered already.
    KnownDevice,
    /// No such device.
    UnknownDevice,
    /// An account keeps at least one device.
    LastDevice,
    /// The attached record is not the named credential, or not at this relying party.
    NoSuchPasskey,
    /// The attached record is not the one the update was made for.
    RecordChanged,
    /// None of the relying party's algorithms.
    UnsupportedAlgorithm,
    /// Not the PIN; so many tries are left.
    WrongPin(u8),
    /// Too many wrong PINs in a row: a trusted device sets a new one.
    Locked,
    /// The account was ended; the person may open its next generation.
    Closed,
    /// The signed try is for another version than the live guard's, which is this one.
    GuardAt(u64),
}

impl Request {
    /// The class an envelope must name for this request.
    pub fn matches(&self, class: Class) -> bool {
        match self {
            Self::Enroll(_) => class == Class::Enroll,
            Self::ApproveDevice(_) | Self::Anchor(_) => class == Class::Guard,
            Self::RevokeDevice(_) | Self::ChangePin(_) | Self::DeleteAccount(_) => {
                class == Class::GuardFresh
            }
            Self::Recover(_) => class == Class::Recover,
            Self::Touch(_) | Self::CreatePasskey(_) | Self::DeletePasskey(_) => {
                class == Class::Put(None)
            }
            Self::UpdatePasskey(update) => class == Class::Put(Some(update.slot)),
            Self::Assert(_) => matches!(class, Class::Assert(_)),
            Self::Sync(from) => class == Class::Sync(from.version),
            Self::Status => class == Class::Status,
            Self::Audit(from) => class == Class::Audit(from.version),
        }
    }
}

impl Class {
    /// Padded size of a reply's plaintext: one per class and number of attached items, whatever
    /// the outcome.
    pub const fn reply_size(self, items: usize) -> usize {
        match self {
            Self::Enroll | Self::Guard | Self::GuardFresh | Self::Recover => 256,
            Self::Put(_) => 768,
            Self::Assert(_) => 384,
            Self::Sync(_) => items.saturating_mul(576).saturating_add(256),
            Self::Status => 2048,
            Self::Audit(_) => items.saturating_mul(64).saturating_add(256),
        }
    }
}
