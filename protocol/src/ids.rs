//! Names of things: ids, digests and public keys, each its own type.

use crate::bytes::{Bytes, hex};
use core::fmt;
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::limits;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                hex(&self.0, f)
            }
        }
    };
}

id!(
    /// A person at an identity issuer: [`crate::transcript::account_id`] of issuer and subject.
    AccountId, 32);
id!(
    /// SHA-256 of something the context names.
    Digest, 32);
id!(
    /// SHA-256 of an X-Wing public key; says which enclave boot a session belongs to.
    ChannelKeyId, 32);
id!(
    /// The first 16 bytes of SHA-256 of a session's encapsulated key.
    SessionId, 16);
id!(
    /// The first 16 bytes of [`crate::transcript::device_id`]: a device is its two keys.
    DeviceId, 16);
id!(
    /// Where a passkey lives in a vault: one slot per user of a relying party.
    SlotId, 32);
id!(
    /// WebAuthn credential id, drawn anew at every creation.
    CredentialId, 32);
id!(
    /// The account's name on the ledger, which the ledger cannot link to a person.
    LedgerTag, 32);

/// An account as everything in Keyfold means it: the person, and which of their successive
/// accounts. A deleted account is never continued, only followed by the next generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Account {
    /// The person.
    pub id: AccountId,
    /// Counts from 1.
    pub generation: u32,
}

/// A place in an event chain: how many events led there, and what they hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainPoint {
    /// Events so far.
    pub version: u64,
    /// Hash over them, in order.
    pub head: Digest,
}

/// Uncompressed SEC1 point of a P-256 key.
pub type P256PublicKey = Bytes<65>;
/// Uncompressed SEC1 point of a P-384 key.
pub type P384PublicKey = Bytes<97>;
/// ECDSA P-256 signature, r and s of 32 bytes each.
pub type P256Signature = Bytes<64>;

/// A person's name for a device, or a relying party's name for a user.
pub type Name = String<{ limits::NAME }>;
/// WebAuthn relying party id.
pub type RpId = String<{ limits::RP_ID }>;
/// WebAuthn user handle.
pub type UserHandle = Vec<u8, { limits::USER_HANDLE }>;
/// Deployment name or ledger issuer.
pub type Label = String<{ limits::LABEL }>;
