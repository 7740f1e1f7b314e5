//! What can go wrong, and what to do about it.

use std::borrow::Cow;
use std::time::Duration;

use keyfold_protocol::client::Refusal;
use keyfold_protocol::ids::{AccountId, ChainPoint};

use crate::channel::ChannelError;
use crate::deployment::DeploymentError;
use crate::device::KeyError;
use crate::identity::IdentityError;
use crate::pairing::PairingError;
use crate::pin::PinError;
use crate::store::StoreError;

/// Any failure of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The service showed another past than this device remembers. Show it to the person.
    #[error(transparent)]
    ForkAlarm(#[from] ForkAlarm),
    /// The deployment is not the one it should be; nothing was sent to it.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// Signing in did not work.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Somebody else signed in.
    #[error(
        "signed in as another person: this device belongs to account {expected}, the sign-in to \
         {found}; sign in as the person who set this device up"
    )]
    OtherAccount {
        /// The account of the local state.
        expected: AccountId,
        /// The account of the sign-in.
        found: AccountId,
    },
    /// A device key did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The PIN is not acceptable.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Local state cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A frame could not be made or read.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// A sync did not bring what it must.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// A device could not be joined or approved.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// The enclave said no.
    #[error("{}", refusal_text(*.0))]
    Refused(Refusal),
    /// The host said no.
    #[error(transparent)]
    Host(#[from] Problem),
    /// The host does not answer.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The enclave's answer is of another kind than the request.
    #[error("the enclave answered {0}; update this program, or report this deployment")]
    Unexpected(&'static str),
    /// This device belongs to no account.
    #[error("this device belongs to no account yet: enroll it, or join an account")]
    NotRegistered,
    /// The person has no account to recover.
    #[error(
        "nobody with this sign-in has an account here; check who signed in, or enroll to open one"
    )]
    NoAccount,
    /// The answer to a try of the PIN was lost.
    #[error(
        "the PIN was sent, and what came of it is not known: the try may have counted, or may still \
         be carried out. Recover again later: it looks first whether this device got in. What was \
         heard: {0}"
    )]
    TryUnanswered(Box<Error>),
    /// This device belongs to an account already.
    #[error("this device belongs to an account already; use another directory for another account")]
    AlreadyRegistered,
    /// The account has a first device, and it is not this one.
    #[error(
        "this account exists already: approve this device from one of its devices, or recover with \
         its PIN"
    )]
    AccountExists,
    /// The synced list has no such passkey.
    #[error("no such passkey on this device; sync, and check its name")]
    NoSuchPasskey,
    /// A name is longer than the protocol takes.
    #[error("{what} is longer than {limit} bytes; shorten it")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its limit, in bytes of UTF-8.
        limit: usize,
    },
    /// Retried, and it was moved under our hands each time.
    #[error("other devices of this account were faster {0} times; try again")]
    Contended(u32),
}

/// The service showed an older or another state than this device has already seen.
///
/// The library never accepts such a state. An honest service can cause it only by restoring an old
/// backup; either way the person must know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "ALARM: the service shows another past of this account than this device has seen ({kind}). \
     Do not approve or recover devices now; compare `status` on another device and report this \
     deployment"
)]
pub struct ForkAlarm {
    /// What does not fit.
    pub kind: Fork,
}

/// See [`ForkAlarm`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fork {
    /// The account's guard is older than a version that was seen.
    #[error("account version {came} after {known}")]
    GuardRolledBack {
        /// The highest version seen.
        known: u64,
        /// The version that came.
        came: u64,
    },
    /// The account's history does not contain the one that was seen.
    #[error("account history {} instead of {}", .came.head, .known.head)]
    AuditForked {
        /// The point that was seen.
        known: ChainPoint,
        /// The point that came.
        came: ChainPoint,
    },
    /// The vault is older than the one that was seen.
    #[error("vault version {} after {}", .came.version, .known.version)]
    VaultRolledBack {
        /// The point that was seen.
        known: ChainPoint,
        /// The point that came.
        came: ChainPoint,
    },
    /// The vault has another past than the one that was seen.
    #[error("vault {} at version {} instead of {}", .came.head, .came.version, .known.head)]
    VaultForked {
        /// The point that was seen.
        known: ChainPoint,
        /// The point that came.
        came: ChainPoint,
    },
    /// The vault's point in the ledger is older than the one that was seen there.
    #[error("the ledger anchors vault version {came} after {known}")]
    AnchorRolledBack {
        /// The highest anchored version seen.
        known: u64,
        /// The version that came.
        came: u64,
    },
    /// An account is shown as open, or as not there yet, that this device has seen deleted.
    #[error("generation {came} of the account, after generation {ended} was deleted")]
    EndedBefore {
        /// The generation that is over.
        ended: u32,
        /// The generation that came.
        came: u32,
    },
    /// The enclave itself found what the host attached older than, or foreign to, what this device
    /// or the account has seen.
    #[error("the enclave refuses the stored state: {0:?}")]
    RefusedState(Refusal),
}

impl From<Fork> for Error {
    fn from(kind: Fork) -> Self {
        Self::ForkAlarm(ForkAlarm { kind })
    }
}

/// A sync that must not be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// Pages ended before the sealed head.
    #[error(
        "the sync stopped at version {reached} of {head}; try again, then report this deployment"
    )]
    Incomplete {
        /// Where the pages ended.
        reached: u64,
        /// Where the vault is.
        head: u64,
    },
    /// A page does not continue where the one before ended.
    #[error("the sync is damaged at version {at}; try again, then report this deployment")]
    Broken {
        /// The first version that does not fit.
        at: u64,
    },
    /// A slot's last event put a passkey that did not come.
    #[error(
        "the sync withheld the passkey put at version {at}; try again, then report this deployment"
    )]
    RecordMissing {
        /// The version that put it.
        at: u64,
    },
}

/// A problem document of the host (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service refused ({name}, {status}): {detail}")]
pub struct Problem {
    /// Last segment of the problem's type, such as `ledger-unreachable`.
    pub name: String,
    /// HTTP status.
    pub status: u16,
    /// What the service says to do. Written by the host: believe it no more than the host.
    pub detail: String,
    /// The host's id of the request, for its operator.
    pub request_id: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// No answer, or none that is an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url} does not answer ({reason}); check the connection and try again")]
pub struct Unreachable {
    /// What was asked.
    pub url: String,
    /// Why not.
    pub reason: String,
    /// Whether the request may have arrived and been carried out all the same.
    pub may_have_arrived: bool,
}

impl Error {
    /// Whether the request may have been carried out although no success came back.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unreachable(error) => error.may_have_arrived,
            Self::Host(problem) => problem.status >= 500 || problem.status == 408,
            Self::Channel(ChannelError::ForeignReply | ChannelError::MalformedReply) => true,
            _ => false,
        }
    }
}

fn refusal_text(refusal: Refusal) -> Cow<'static, str> {
    let text = match refusal {
        Refusal::Malformed => "the enclave could not read the request; update this program",
        Refusal::Unauthorised => {
            "this device is not registered with the account (any more); approve it from another one, \
             or recover with the PIN, in a new directory (--home DIR)"
        }
        Refusal::UserVerificationRequired => "this needs user verification: unlock and try again",
        Refusal::StaleGuard => {
            "the stored account is older than one that was seen; report this deployment"
        }
        Refusal::ForeignGuard => "the account belongs to another deployment; check the address",
        Refusal::GuardMoved => "another device changed the account meanwhile; try again",
        Refusal::SyncFirst => "another device changed the passkeys meanwhile; sync and try again",
        Refusal::StaleVault => {
            "the stored vault is older than one that was seen; report this deployment"
        }
        Refusal::BrokenChain => "the stored history does not fit together; report this deployment",
        Refusal::NotFresh => "the ledger does not confirm the account's state; try again later",
        Refusal::TooManyDevices => "sixteen devices are registered; revoke one first",
        Refusal::KnownDevice => "this device is registered already; look at the list of devices",
        Refusal::UnknownDevice => "the account has no such device; look at the list of devices",
        Refusal::LastDevice => {
            "this is the account's last device: approve another one first, or delete the account"
        }
        Refusal::NoSuchPasskey => "this passkey is gone or belongs to another site; sync and retry",
        Refusal::RecordChanged => "another device changed this passkey meanwhile; sync and retry",
        Refusal::UnsupportedAlgorithm => {
            "the site takes neither ES256 nor EdDSA, and Keyfold has no other; use another authenticator"
        }
        Refusal::WrongPin(0) => {
            "wrong PIN, and it was the last try: recovery is locked until a device of the account \
             sets a new PIN"
        }
        Refusal::WrongPin(1) => "wrong PIN; one try is left before recovery is locked",
        Refusal::WrongPin(left) => {
            return format!("wrong PIN; {left} tries are left before recovery is locked").into();
        }
        Refusal::Locked => {
            "recovery is locked after ten wrong PINs: set a new PIN on a device of the account, \
             then recover with it"
        }
        Refusal::GuardAt(_) => "another device changed the account meanwhile; try again",
        Refusal::Closed => "this account was deleted; enroll to open the next one",
    };
    text.into()
}
