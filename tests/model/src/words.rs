//! The words of the protocol: accounts, devices, PINs, requests, guards. Small values in place of
//! keys and bytes; a seal or a signature is a field that only its owner fills in.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// A guard's version, on the ledger and in the account.
pub type Version = u8;

/// One person's account: its generation. Every account of the model is of the same person.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Account(pub u8);

/// The account whose PIN everything is about.
pub const REAL: Account = Account(1);
/// A generation that a thief of the account's sign-in opens.
pub const DECOY: Account = Account(2);

/// Who signs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Device {
    /// The user's first device. A thief holds its presence key; after its revocation, all of it.
    Laptop,
    /// The user's second device.
    Phone,
    /// A new device of the user's, by number.
    Tablet(u8),
    /// A device of the adversary's, by number.
    Stranger(u8),
}

impl Device {
    /// Whether it is the user's own.
    pub const fn is_users(self) -> bool {
        matches!(self, Self::Laptop | Self::Phone | Self::Tablet(_))
    }
}

/// Which key of a device signs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// Somebody was there.
    Presence,
    /// The device's user was there.
    UserVerification,
}

/// A PIN, by what it is worth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Pin {
    /// The user's first, second, ... choice. Nobody else knows it.
    Users(u8),
    /// The adversary's own, for accounts and changes of its own.
    Thiefs,
    /// A guess or a slip that is no PIN of any account.
    Wrong,
    /// What an ended account is left with: random bytes.
    Nobodys,
}

/// What a PIN is compared by: bound to the account it was given for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Verifier(pub Account, pub Pin);

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    /// Opens an account with this PIN and the signing device.
    Enroll(Pin),
    /// Tries a PIN; if it is right, the signing device joins.
    Recover(Pin),
    /// Sets the PIN and with it the count.
    ChangePin(Pin),
    /// Lets a device join.
    Approve(Device),
    /// Strikes a device off.
    Revoke(Device),
    /// A change that changes nothing the model has: one transition.
    Anchor,
    /// Ends the account.
    Delete,
    /// Asks what the account looks like now.
    Status,
}

/// A request in its sealed frame: the host can repeat and withhold it, not read or alter it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frame {
    /// The account that was signed for.
    pub account: Account,
    /// The device that signed.
    pub signer: Device,
    /// The key it signed with.
    pub key: Key,
    /// The guard version that was signed for.
    pub base: Version,
    /// What is asked.
    pub op: Op,
    /// Ghost: the user made it; else the adversary did.
    pub by_user: bool,
    /// Ghost: where the account stood on the ledger when it was made.
    pub asked_at: Version,
}

/// The enclaves a host can reach that hold the genuine root key, and the ledger each pins. A guard's
/// `home` is the one that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Home {
    /// What the deployment statement names, any number of them.
    Genuine,
    /// One that pins a ledger which the host runs itself.
    HostsLedger,
}

/// A guard's name on the ledger: a hash of its account and all of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Digest(pub u64);

/// A hash that is the same in every run.
pub fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Who may use an account.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Guard {
    /// One more than the guard it was made from.
    pub version: Version,
    /// Deployment, ledger and root key.
    pub home: Home,
    /// The account's PIN.
    pub pin: Verifier,
    /// Tries charged and not found right.
    pub failures: u8,
    /// A PIN that was charged for and not compared yet.
    pub pending: Option<Try>,
    /// Oldest first. None: the account has ended.
    pub devices: Vec<Device>,
    /// Drawn anew at every change; derived from the charge's at a settling.
    pub blind: u64,
}

/// A PIN that waits in a guard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Try {
    /// What was tried.
    pub verifier: Verifier,
    /// The request: it names the device that wants to join and the key of its answer.
    pub frame: Frame,
}

/// A guard on its way, as the host holds it; and once recorded, the live guard of the same content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Staged {
    /// Whose it is; sealed with it.
    pub account: Account,
    /// What will be live.
    pub guard: Guard,
    /// Whether an answer waits for its commit, and if so whether it says success.
    pub answer: Option<bool>,
    /// Ghost: the guard it was made from, unless it opens an account.
    pub parent: Option<Digest>,
    /// Ghost: what was done.
    pub act: Act,
    /// Ghost: by which request.
    pub frame: Frame,
    /// Ghost: which of several results of the same call it is.
    pub copy: u8,
}

/// Ghost: what made a guard of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Act {
    /// A request's own change, or the charge of its try.
    Requested,
    /// A try found right.
    FoundRight,
    /// A try found wrong.
    FoundWrong,
}

impl Staged {
    /// What the ledger records of it.
    pub fn digest(&self) -> Digest {
        Digest(hash((self.account, &self.guard)))
    }
}

/// Ghost: a PIN was compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Comparison {
    /// With this.
    pub against: Verifier,
    /// In this guard.
    pub within: Digest,
    /// Of this version.
    pub version: Version,
    /// Of this account, or so it was presented.
    pub account: Account,
    /// The PIN of this request.
    pub candidate: Frame,
}
