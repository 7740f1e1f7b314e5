//! The content of `state.json`.

use keyfold_attestation_policy::statement::SeenStatement;
use keyfold_protocol::client::{Algorithm, PasskeyView, UserNames};
use keyfold_protocol::ids::{
    Account, AccountId, ChainPoint, CredentialId, DeviceId, Digest, Name, RpId, SlotId, UserHandle,
};
use keyfold_protocol::transcript::Chain;
use serde::{Deserialize, Serialize};

use crate::crypto::sha256;

/// The newest format of `state.json`.
pub(super) const FORMAT: u32 = 1;

/// All a client remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub(super) format: u32,
    /// The newest deployment statement ever accepted: no older one, and no other one of the same
    /// serial, is accepted after it.
    pub deployment: Option<SeenStatement>,
    /// The account, once this device tried to enroll, to recover or to join.
    pub account: Option<AccountState>,
    /// The account this device last saw the end of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// An account that is over. What follows it is of a higher generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Whose it was.
    #[serde(with = "hexed")]
    pub id: AccountId,
    /// Which of the person's successive accounts.
    pub generation: u32,
}

impl Default for State {
    fn default() -> Self {
        Self { format: FORMAT, deployment: None, account: None, ended: None }
    }
}

/// Where the account stood when this device last heard of it. Versions only ever rise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountState {
    /// Whose: hash of identity issuer and subject.
    #[serde(with = "hexed")]
    pub id: AccountId,
    /// Which of the person's successive accounts.
    pub generation: u32,
    /// This device.
    #[serde(with = "hexed")]
    pub device: DeviceId,
    /// This device's name.
    pub device_name: Name,
    /// False between the attempt to get in and the first answer that shows it succeeded.
    pub registered: bool,
    /// The highest guard version any reply named: signed in every request, older is refused.
    pub guard_seen: u64,
    /// The guard version up to which the audit chain is known, and its head there.
    #[serde(with = "point")]
    pub audit: ChainPoint,
    /// Up to where the person has been told what happened to the guard.
    #[serde(with = "point")]
    pub audit_told: ChainPoint,
    /// The vault's point this device has synced to.
    #[serde(with = "point")]
    pub vault: ChainPoint,
    /// A vault point that another device knew: the next sync must pass through it.
    #[serde(with = "optional_point")]
    pub vault_floor: Option<ChainPoint>,
    /// The vault point that the guard is anchored to. This device's chain has passed through it, or
    /// the next sync must.
    #[serde(with = "point")]
    pub anchor: ChainPoint,
    /// Of which guard version that is.
    pub anchor_of: u64,
    /// When an anchor was last tried, in seconds since 1970 by this machine's clock.
    pub anchor_tried: u64,
    /// A device was revoked and the vault's floor has not been raised since.
    pub touch_due: bool,
    /// The synced passkeys, by slot.
    pub passkeys: Vec<Passkey>,
}

impl AccountState {
    /// An account nothing is known of yet.
    pub(crate) fn new(account: Account, device: DeviceId, device_name: Name) -> Self {
        Self {
            id: account.id,
            generation: account.generation,
            device,
            device_name,
            registered: false,
            guard_seen: 0,
            audit: Chain::Audit.genesis(sha256, &account),
            audit_told: Chain::Audit.genesis(sha256, &account),
            vault: Chain::Vault.genesis(sha256, &account),
            vault_floor: None,
            anchor: Chain::Vault.genesis(sha256, &account),
            anchor_of: 0,
            anchor_tried: 0,
            touch_due: false,
            passkeys: Vec::new(),
        }
    }

    /// This version of the guard is anchored to `anchor`. Another process may know a later one.
    pub(crate) fn note_anchor(&mut self, guard: u64, anchor: ChainPoint) {
        if self.anchor_of <= guard {
            (self.anchor_of, self.anchor) = (guard, anchor);
        }
    }

    /// Id and generation.
    pub fn account(&self) -> Account {
        Account { id: self.id, generation: self.generation }
    }
}

/// A synced passkey: everything but its key and PRF seed, which never leave the enclave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passkey {
    /// Its place in the vault.
    #[serde(with = "hexed")]
    pub slot: SlotId,
    /// Version of the vault event that put it there.
    pub version: u64,
    /// Digest of its record, which an update names.
    #[serde(with = "hexed")]
    pub record: Digest,
    /// Credential id.
    #[serde(with = "hexed")]
    pub credential: CredentialId,
    /// Relying party id.
    pub rp_id: RpId,
    /// `user.id`.
    #[serde(with = "hexed")]
    pub user_handle: UserHandle,
    /// The relying party's names for the user.
    pub names: UserNames,
    /// Algorithm.
    pub algorithm: Algorithm,
}

impl Passkey {
    pub(crate) fn new(slot: SlotId, version: u64, record: Digest, view: PasskeyView) -> Self {
        Self {
            slot,
            version,
            record,
            credential: view.credential,
            rp_id: view.rp_id,
            user_handle: view.user_handle,
            names: view.names,
            algorithm: view.algorithm,
        }
    }
}

/// Byte strings as lower-case hexadecimal.
mod hexed {
    use super::*;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub(super) trait Hexed: Sized {
        fn bytes(&self) -> &[u8];
        fn from_bytes(bytes: &[u8]) -> Option<Self>;
    }

    macro_rules! ids {
        ($($name:ident),*) => {$(
            impl Hexed for $name {
                fn bytes(&self) -> &[u8] {
                    &self.0
                }
                fn from_bytes(bytes: &[u8]) -> Option<Self> {
                    bytes.try_into().ok().map(Self)
                }
            }
        )*};
    }
    ids!(AccountId, CredentialId, DeviceId, Digest, SlotId);

    impl Hexed for UserHandle {
        fn bytes(&self) -> &[u8] {
            self
        }
        fn from_bytes(bytes: &[u8]) -> Option<Self> {
            Self::from_slice(bytes).ok()
        }
    }

    pub(super) fn serialize<T: Hexed, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(value.bytes()))
    }

    pub(super) fn deserialize<'de, T: Hexed, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = hex::decode(&text).map_err(D::Error::custom)?;
        T::from_bytes(&bytes).ok_or_else(|| D::Error::custom("hexadecimal of the wrong length"))
    }
}

/// A chain point, its head in hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    version: u64,
    #[serde(with = "hexed")]
    head: Digest,
}

mod point {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(point: &ChainPoint, to: S) -> Result<S::Ok, S::Error> {
        Point { version: point.version, head: point.head }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ChainPoint, D::Error> {
        Point::deserialize(from).map(|Point { version, head }| ChainPoint { version, head })
    }
}

mod optional_point {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        point: &Option<ChainPoint>, to: S,
    ) -> Result<S::Ok, S::Error> {
        point.map(|ChainPoint { version, head }| Point { version, head }).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<ChainPoint>, D::Error> {
        let point = Option::<Point>::deserialize(from)?;
        Ok(point.map(|Point { version, head }| ChainPoint { version, head }))
    }
}
