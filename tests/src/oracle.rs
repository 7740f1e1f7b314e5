//! How stored state is sealed, written down a second time and from the outside: with the root key
//! a test can open everything the core ever sealed, and so knows every secret it must not leak.

use heapless::Vec as Short;
use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR};
use keyfold_protocol::client::{Algorithm, AuditEvent, Device, Refusal, UserNames};
use keyfold_protocol::ids::{
    Account, ChainPoint, ChannelKeyId, CredentialId, DeviceId, Digest, RpId, SlotId, UserHandle,
};
use keyfold_protocol::transcript;
use keyfold_protocol::wire;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shake::digest::{ExtendableOutput, Update, XofReader};

use crate::crypto::{aead_open, hkdf, hkdf_expand, sha256};

/// Kinds of sealed objects, by the number in their context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A guard that authorises nothing.
    GuardStaged = 1,
    /// A guard.
    GuardLive = 2,
    /// A vault.
    Vault = 3,
    /// A record.
    Record = 4,
    /// An audit event.
    Audit = 5,
}

/// What is inside a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Its version.
    pub version: u64,
    /// The account secret.
    pub secret: [u8; 32],
    /// The PIN's verifier.
    pub pin: [u8; 32],
    /// Tries in a row that were not found right.
    pub failures: u8,
    /// A try that is charged and not compared.
    pub pending: Option<Try>,
    /// Registered devices.
    pub devices: Short<(DeviceId, Device), 16>,
    /// Deployment, ledger and root key.
    pub home: Digest,
    /// The anchored vault point.
    pub floor: ChainPoint,
    /// Head of the audit chain.
    pub audit_head: Digest,
    /// Random at every change.
    pub blind: [u8; 32],
}

/// A charged try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// The candidate's verifier.
    pub verifier: [u8; 32],
    /// The device that tries.
    pub device: Device,
    /// Key of the reply that waits.
    pub reply_key: [u8; 32],
    /// The host's clock at the charge.
    pub host_time: u64,
}

/// What is inside a staged guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedGuard {
    /// The guard to be.
    pub guard: Guard,
    /// What made it.
    pub event: AuditEvent,
    /// The reply that waits, unless the guard is a charge: its key, and the refusal it says.
    pub answer: Option<([u8; 32], Option<Refusal>)>,
}

/// What is inside a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vault {
    /// Where it stands.
    pub point: ChainPoint,
    /// The oldest guard that may use it.
    pub guard_floor: u64,
}

/// What is inside a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
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
    /// P-256 scalar or Ed25519 seed.
    pub private_key: [u8; 32],
    /// Its public key.
    pub public_key: Short<u8, 65>,
    /// PRF seed.
    pub prf_seed: [u8; 32],
    /// The oldest guard that may use it.
    pub guard_floor: u64,
    /// Random at every put.
    pub blind: [u8; 32],
}

/// Opens one account's objects.
pub struct Oracle {
    root: [u8; 32],
    account: Account,
}

impl Oracle {
    /// For an account of the deployment with this root key.
    pub const fn new(root: [u8; 32], account: Account) -> Self {
        Self { root, account }
    }

    /// A live guard.
    pub fn guard(&self, version: u64, sealed: &[u8]) -> Option<Guard> {
        self.open(&self.guard_key(), Kind::GuardLive, NO_OBJECT, version, sealed)
    }

    /// A guard staged under this digest.
    pub fn staged(&self, digest: Digest, version: u64, sealed: &[u8]) -> Option<StagedGuard> {
        self.open(&self.guard_key(), Kind::GuardStaged, SlotId(digest.0), version, sealed)
    }

    /// A vault of the account with this secret.
    pub fn vault(&self, secret: &[u8; 32], version: u64, sealed: &[u8]) -> Option<Vault> {
        let key = hkdf_expand(secret, &[b"keyfold/account/vault/1"]);
        self.open(&key, Kind::Vault, NO_OBJECT, version, sealed)
    }

    /// A record of the account with this secret.
    pub fn record(
        &self, secret: &[u8; 32], slot: SlotId, version: u64, sealed: &[u8],
    ) -> Option<Record> {
        let key = hkdf_expand(secret, &[b"keyfold/account/record/1"]);
        self.open(&key, Kind::Record, slot, version, sealed)
    }

    /// An audit event of the account with this secret.
    pub fn audit(&self, secret: &[u8; 32], version: u64, sealed: &[u8]) -> Option<AuditEvent> {
        let key = hkdf_expand(secret, &[b"keyfold/account/audit/1"]);
        self.open(&key, Kind::Audit, NO_OBJECT, version, sealed)
    }

    /// The key that guards are sealed under.
    pub fn guard_key(&self) -> [u8; 32] {
        hkdf_expand(&self.root, &[b"keyfold/root/guard/1"])
    }

    fn open<T: DeserializeOwned + Serialize>(
        &self, type_key: &[u8; 32], kind: Kind, object: SlotId, version: u64, sealed: &[u8],
    ) -> Option<T> {
        let context = [
            b"keyfold/seal/1",
            &[kind as u8][..],
            &self.account.id.0,
            &self.account.generation.to_be_bytes(),
            &object.0,
            &version.to_be_bytes(),
        ]
        .concat();
        let (salt, body) = sealed.split_at_checked(32)?;
        let key = hkdf(salt, type_key, &[&context]);
        let plaintext = aead_open(&key, [0; 12], &context, body)?;
        wire::decode_padded(&plaintext).ok()
    }
}

/// What a guard keeps of a stretched PIN.
pub fn pin_verifier(root: &[u8; 32], account: &Account, pin: &[u8; 32]) -> [u8; 32] {
    let key = hkdf_expand(root, &[b"keyfold/root/pin/1"]);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let message = [&account.id.0[..], &account.generation.to_be_bytes(), pin].concat();
    ring::hmac::sign(&key, &message).as_ref().try_into().expect("32 bytes")
}

const NO_OBJECT: SlotId = SlotId([0; 32]);

/// The 96 bytes that the X-Wing draft expands a private key's seed to.
pub fn expand_channel_seed(seed: &[u8; 32]) -> [u8; 96] {
    let mut expanded = [0; 96];
    let mut hash = shake::Shake256::default();
    hash.update(seed);
    hash.finalize_xof().read(&mut expanded);
    expanded
}

/// The public key of a private key's seed, by the `hpke` crate.
pub fn channel_public(seed: &[u8; 32]) -> Vec<u8> {
    let private = <XWing as Kem>::PrivateKey::from_bytes(seed).expect("32 bytes");
    hpke::Serializable::to_bytes(&XWing::sk_to_pk(&private)).to_vec()
}

/// What both ends of a session know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKeys {
    /// Seals requests.
    pub request: [u8; 32],
    /// Gives the replies' keys.
    pub response: [u8; 32],
    /// Signed by every request.
    pub binding: [u8; 32],
}

impl SessionKeys {
    /// The receiving end, by the `hpke` crate, from the seed of the channel's private key.
    pub fn receive(seed: &[u8; 32], config_hash: &Digest, enc: &[u8]) -> Self {
        let private = <XWing as Kem>::PrivateKey::from_bytes(seed).expect("32 bytes");
        let enc = <XWing as Kem>::EncappedKey::from_bytes(enc).expect("1120 bytes");
        let id = ChannelKeyId(sha256(&[&channel_public(seed)]));
        let info = transcript::channel_info(config_hash, &id);
        let context = hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, XWing>(
            &OpModeR::Base,
            &private,
            &enc,
            &info,
        )
        .expect("X-Wing rejects implicitly");
        let export = |label: &[u8]| {
            let mut key = [0; 32];
            context.export(label, &mut key).expect("32 bytes");
            key
        };
        Self {
            request: export(transcript::EXPORT_REQUEST_KEY),
            response: export(transcript::EXPORT_RESPONSE_KEY),
            binding: export(transcript::EXPORT_BINDING),
        }
    }

    /// The key of the reply to one frame.
    pub fn reply_key(&self, frame: &[u8]) -> [u8; 32] {
        hkdf_expand(&self.response, &[transcript::REPLY_KEY, &sha256(&[frame])])
    }

    /// The padded plaintext of the reply to one frame; `None` when it does not open.
    pub fn open_reply(&self, frame: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (salt, body) = sealed.split_at_checked(32)?;
        let key = hkdf(salt, &self.reply_key(frame), &[transcript::REPLY_SEAL]);
        aead_open(&key, [0; 12], &[], body)
    }
}
