//! Any message of the protocol, made from bytes: what the property tests and the fuzzers draw from.
//!
//! The lists of variants below are complete: one more in the protocol and this does not compile.

use arbitrary::{Result, Unstructured};
use heapless::{String, Vec};
use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::*;
use keyfold_protocol::host::*;
use keyfold_protocol::ids::*;
use keyfold_protocol::wire::Items;

/// The bytes a value is made from.
pub type Source<'a> = Unstructured<'a>;

/// Can be made from bytes; every value can be reached.
pub trait Generate<'a>: Sized {
    /// A value, and fewer bytes left. Runs out gracefully: zeros come after the last byte.
    ///
    /// # Errors
    /// Never in practice; the source's interface has them.
    fn generate(from: &mut Source<'a>) -> Result<Self>;
}

/// An enum of the protocol, with its variants by name.
pub trait Variants {
    /// All of them, in the order of their encoding.
    const NAMES: &'static [&'static str];
    /// This value's.
    fn variant(&self) -> &'static str;
}

macro_rules! structs {
    ($l:lifetime $($ty:ty { $($field:ident),* })*) => {$(
        impl<$l> Generate<$l> for $ty {
            fn generate(from: &mut Source<$l>) -> Result<Self> {
                Ok(Self { $($field: Generate::generate(from)?),* })
            }
        }
    )*};
}

macro_rules! enums {
    ($l:lifetime $($name:ident $ty:ty { $($variant:ident $(($inner:ty))?),* })*) => {$(
        impl<$l> Variants for $ty {
            const NAMES: &'static [&'static str] = &[$(stringify!($variant)),*];
            fn variant(&self) -> &'static str {
                match self {
                    $($name::$variant { .. } => stringify!($variant),)*
                }
            }
        }

        impl<$l> Generate<$l> for $ty {
            fn generate(from: &mut Source<$l>) -> Result<Self> {
                let all: &[fn(&mut Source<$l>) -> Result<Self>] = &[$(
                    |_from| Ok($name::$variant $((<$inner>::generate(_from)?))?),
                )*];
                from.choose(all)?(from)
            }
        }
    )*};
}

macro_rules! newtypes {
    ($($ty:ident)*) => {$(
        impl<'a> Generate<'a> for $ty {
            fn generate(from: &mut Source<'a>) -> Result<Self> {
                Ok(Self(Generate::generate(from)?))
            }
        }
    )*};
}

newtypes! {
    AccountId Digest ChannelKeyId SessionId DeviceId SlotId CredentialId LedgerTag StretchedPin
}

structs! { 'a
    Account { id, generation }
    ChainPoint { version, head }
    Envelope<'a> { account, counter, class, frame }
    SignedRequest<'a> { device, key, guard_seen, signature, request }
    Enroll { pin, device }
    Device { name, device_key, uv_key }
    GuardBase { guard, vault, anchor }
    ApproveDevice { base, device }
    RevokeDevice { base, device }
    Recover { guard, pin, device }
    ChangePin { base, pin }
    PrfInputs { first, second }
    PrfResults { first, second }
    UserNames { name, display_name }
    CreatePasskey { vault, rp_id, user_handle, names, algorithms, prf }
    Assert { rp_id, credential, client_data_hash, prf }
    UpdatePasskey { vault, slot, record, names }
    DeletePasskey { vault, slot }
    GuardChanged { guard, audit_head, vault }
    PutDone { guard, event, vault }
    Created { put, credential, algorithm, authenticator_data, public_key, prf }
    Asserted { guard, authenticator_data, signature, user_handle, prf }
    Synced<'a> { guard, vault, cursor, items }
    SyncedEvent { event, passkey }
    PasskeyView { credential, rp_id, user_handle, names, algorithm }
    AccountStatus { guard, audit_head, anchor, vault, devices, failures }
    DeviceView { id, name }
    Audited<'a> { guard, audit_head, cursor, items }
    AuditEvent { version, kind, actor, subject, host_time }
    Config { deployment, ledger_key, ledger_issuer, fresh_read }
    Unlock<'a> { algorithm, wrapped }
    OpenSession<'a> { channel_key, encapsulated_key }
    Handle<'a> {
        session, account, counter, class, frame, time, guard, vault, record, fresh, events, audit
    }
    Attached<'a> { version, sealed }
    Event { version, slot, action, digest }
    AttachedEvent<'a> { event, record }
    Commit<'a> { account, staged, digest, receipt }
    Settle<'a> { account, guard }
    Evidence<'a> { claims, report }
    ChannelEvidence<'a> { channel_key, evidence }
    Reply<'a> { sealed, put }
    Put<'a> { guard, event, vault, record, only_if_empty }
    Staged<'a> { tag, version, digest, guard }
    Committed<'a> { version, guard, audit, next }
}

enums! { 'a
    Class Class {
        Enroll, Guard, GuardFresh, Put(Option<SlotId>), Assert(SlotId), Sync(u64), Status,
        Audit(u64), Recover
    }
    KeyKind KeyKind { Presence, UserVerification }
    Request Request {
        Enroll(Enroll), ApproveDevice(ApproveDevice), RevokeDevice(RevokeDevice),
        Anchor(GuardBase), Touch(ChainPoint), CreatePasskey(CreatePasskey), Assert(Assert),
        UpdatePasskey(UpdatePasskey), DeletePasskey(DeletePasskey), Sync(ChainPoint), Status,
        Audit(ChainPoint), Recover(Recover), ChangePin(ChangePin), DeleteAccount(GuardBase)
    }
    Algorithm Algorithm { Es256, EdDsa }
    Action Action { Put, Delete, Touch, Audit }
    Success Success<'a> {
        GuardChanged(GuardChanged), Put(PutDone), Created(Created), Asserted(Asserted),
        Synced(Synced<'a>), Status(AccountStatus), Audited(Audited<'a>)
    }
    AuditKind AuditKind {
        Enrolled, DeviceAdded, DeviceRevoked, Anchored, PinChanged, TryCharged, TryFailed,
        Recovered, Deleted
    }
    Refusal Refusal {
        Malformed, Unauthorised, UserVerificationRequired, StaleGuard, ForeignGuard, GuardMoved,
        SyncFirst, StaleVault, BrokenChain, NotFresh, TooManyDevices, KnownDevice, UnknownDevice,
        LastDevice, NoSuchPasskey, RecordChanged, UnsupportedAlgorithm, WrongPin(u8), Locked,
        Closed, GuardAt(u64)
    }
    HostRequest HostRequest<'a> {
        Configure(Config), ReleaseClaims, Unlock(Unlock<'a>), Evidence,
        OpenSession(OpenSession<'a>), Handle(Handle<'a>), Commit(Commit<'a>), Settle(Settle<'a>)
    }
    FreshRead FreshRead { Reports, Always }
    KeyWrap KeyWrap { Sha1, Sha256, Sha384 }
    HostReply HostReply<'a> {
        Configured(Digest), ReleaseClaims(Evidence<'a>), Unlocked(Digest),
        Evidence(ChannelEvidence<'a>), Session(SessionId), Reply(Reply<'a>), Staged(Staged<'a>),
        Committed(Committed<'a>), Refused(HostRefusal), Locked(&'a [u8])
    }
    Next Next<'a> { Answer(&'a [u8]), Settle, Closed(&'a [u8]) }
    HostRefusal HostRefusal {
        Malformed, WrongPhase, Platform, Unwrap, ChannelKey, UnknownSession, Frame, State, Receipt
    }
}

impl<'a> Generate<'a> for Outcome<'a> {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        Ok(if from.arbitrary()? {
            Ok(Generate::generate(from)?)
        } else {
            Err(Generate::generate(from)?)
        })
    }
}

/// Every length of encoding is as likely as any other.
impl<'a> Generate<'a> for u64 {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        let unused = from.int_in_range(0..=64)?;
        Ok(from.arbitrary::<u64>()?.checked_shr(unused).unwrap_or(0))
    }
}

impl<'a> Generate<'a> for u32 {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        let unused = from.int_in_range(0..=32)?;
        Ok(from.arbitrary::<u32>()?.checked_shr(unused).unwrap_or(0))
    }
}

impl<'a> Generate<'a> for i32 {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        let unused = from.int_in_range(0..=31)?;
        Ok(from.arbitrary::<i32>()? >> unused)
    }
}

impl<'a> Generate<'a> for bool {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        from.arbitrary()
    }
}

impl<'a> Generate<'a> for u8 {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        from.arbitrary()
    }
}

impl<'a, const N: usize> Generate<'a> for [u8; N] {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        let mut bytes = [0; N];
        from.fill_buffer(&mut bytes).map(|()| bytes)
    }
}

impl<'a, const N: usize> Generate<'a> for Bytes<N> {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        Generate::generate(from).map(Self)
    }
}

impl<'a, T: Generate<'a>> Generate<'a> for Claimed<T> {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        Generate::generate(from).map(Self)
    }
}

impl<'a, T: Generate<'a>> Generate<'a> for Option<T> {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        if from.arbitrary()? { Generate::generate(from).map(Some) } else { Ok(None) }
    }
}

impl<'a> Generate<'a> for &'a [u8] {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        let length = from.int_in_range(0..=300)?;
        from.bytes(length.min(from.len()))
    }
}

impl<'a, T> Generate<'a> for Items<'a, T> {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        Generate::generate(from).map(Items::new)
    }
}

impl<'a, T: Generate<'a>, const N: usize> Generate<'a> for Vec<T, N> {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        let length = from.int_in_range(0..=N)?;
        (0..length).map(|_| Generate::generate(from)).collect()
    }
}

/// Characters of one to four bytes, up to the limit.
impl<'a, const N: usize> Generate<'a> for String<N> {
    fn generate(from: &mut Source<'a>) -> Result<Self> {
        let length = from.int_in_range(0..=N)?;
        let mut text = Self::new();
        while text.len() < length {
            let next = *from.choose(&['a', '-', '\0', 'ü', '鍵', '🔑'])?;
            if text.push(next).is_err() {
                break;
            }
        }
        Ok(text)
    }
}
