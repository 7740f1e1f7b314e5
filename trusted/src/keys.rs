//! Keys: what each is for, in one table, and the types that keep them from leaking.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::{hkdf_expand, hmac_sha256};
use crate::platform::RootKey;
use crate::protocol::*;

/// Domain labels. Every stored or long-lived key that is derived from another has its line here, and
/// no two share one. A session's keys have theirs in the protocol's transcript, a blob's in `seal`.
mod label {
    pub(super) const ROOT_COMMITMENT: &[u8] = b"keyfold/root/commitment/1";
    pub(super) const ROOT_LEDGER_TAG: &[u8] = b"keyfold/root/ledger-tag/1";
    pub(super) const ROOT_GUARD: &[u8] = b"keyfold/root/guard/1";
    pub(super) const ROOT_PIN: &[u8] = b"keyfold/root/pin/1";
    pub(super) const GUARD_SETTLED: &[u8] = b"keyfold/guard/settled/1";
    pub(super) const ACCOUNT_VAULT: &[u8] = b"keyfold/account/vault/1";
    pub(super) const ACCOUNT_RECORD: &[u8] = b"keyfold/account/record/1";
    pub(super) const ACCOUNT_AUDIT: &[u8] = b"keyfold/account/audit/1";
    pub(super) const ACCOUNT_SLOT: &[u8] = b"keyfold/account/slot/1";
}

/// 32 secret bytes: no copy, no print, no comparison; wiped on drop.
///
/// Not `Serialize`: only [`in_sealed`] writes one, and only fields that are about to be sealed
/// name it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// In a time that does not depend on either.
    pub(crate) fn equals(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// `#[serde(with)]` for secrets inside plaintexts that are sealed before they leave the core.
pub(crate) mod in_sealed {
    use super::{Deserialize, Deserializer, Secret, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        secret.0.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        <[u8; 32]>::deserialize(from).map(Secret)
    }
}

/// Everything derived from the root key. The root key itself is dropped once this exists.
pub(crate) struct RootKeys {
    /// Public: names the root key without giving anything away.
    pub(crate) commitment: Digest,
    ledger_tag: Secret,
    pub(crate) guard: Secret,
    pin: Secret,
}

impl RootKeys {
    pub(crate) fn derive(root: RootKey) -> Self {
        let root = Secret::new(*root.expose());
        Self {
            commitment: Digest(*hkdf_expand(&root, &[label::ROOT_COMMITMENT]).expose()),
            ledger_tag: hkdf_expand(&root, &[label::ROOT_LEDGER_TAG]),
            guard: hkdf_expand(&root, &[label::ROOT_GUARD]),
            pin: hkdf_expand(&root, &[label::ROOT_PIN]),
        }
    }

    /// The account's name on this deployment's ledger.
    pub(crate) fn ledger_tag(&self, deployment: &str, account: &Account) -> LedgerTag {
        let generation = account.generation.to_be_bytes();
        let parts = [&account.id.0, &generation[..], deployment.as_bytes()];
        LedgerTag(hmac_sha256(self.ledger_tag.expose(), &parts))
    }

    /// What a PIN is compared with. Bound to the account: equal PINs do not look equal.
    pub(crate) fn pin_verifier(&self, account: &Account, pin: &StretchedPin) -> Secret {
        let parts = [&account.id.0, &account.generation.to_be_bytes()[..], &pin.0];
        Secret::new(hmac_sha256(self.pin.expose(), &parts))
    }
}

/// The random bytes of the guard that settles the try pending in a guard with these: every settling
/// is the same.
pub(crate) fn settled_blind(blind: &[u8; 32]) -> [u8; 32] {
    *hkdf_expand(&Secret::new(*blind), &[label::GUARD_SETTLED]).expose()
}

/// Born with the account, inside its guard: a second guard for the same account opens none of the
/// first one's objects.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct AccountSecret(#[serde(with = "in_sealed")] Secret);

impl AccountSecret {
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    pub(crate) fn vault(&self) -> Secret {
        hkdf_expand(&self.0, &[label::ACCOUNT_VAULT])
    }

    pub(crate) fn record(&self) -> Secret {
        hkdf_expand(&self.0, &[label::ACCOUNT_RECORD])
    }

    pub(crate) fn audit(&self) -> Secret {
        hkdf_expand(&self.0, &[label::ACCOUNT_AUDIT])
    }

    /// Where the passkey of this user of this relying party lives.
    pub(crate) fn slot(&self, rp_id: &RpId, user_handle: &UserHandle) -> SlotId {
        let key = hkdf_expand(&self.0, &[label::ACCOUNT_SLOT]);
        // At most 253, by its type.
        let length = [u8::try_from(rp_id.len()).unwrap_or(u8::MAX)];
        SlotId(hmac_sha256(key.expose(), &[&length, rp_id.as_bytes(), user_handle]))
    }
}
