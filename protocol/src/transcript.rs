//! What is hashed, signed and bound: the layout of every byte string two parties must agree on.
//!
//! Lengths are fixed or come first, integers are big-endian. What is signed or derived from starts
//! with a label of its own; session ids and AADs, which only one place compares, have none. Hashing
//! is the caller's (this crate has no cryptography): pass SHA-256 over the concatenation of the
//! parts.

use crate::bytes::join;
use crate::client::{Action, KeyKind};
use crate::host::{Config, Event};
use crate::ids::{
    Account, AccountId, ChainPoint, ChannelKeyId, DeviceId, Digest, LedgerTag, P256PublicKey,
    SessionId,
};
use crate::limits::PROTOCOL_VERSION;
use crate::wire::{self, Malformed};

/// SHA-256 over the concatenation of the parts.
pub type Sha256 = fn(&[&[u8]]) -> [u8; 32];

/// HPKE exporter context of a session's request key.
pub const EXPORT_REQUEST_KEY: &[u8] = b"keyfold/request-key/1";
/// HPKE exporter context of a session's response key.
pub const EXPORT_RESPONSE_KEY: &[u8] = b"keyfold/response-key/1";
/// HPKE exporter context of a session's binding value, which every request signs.
pub const EXPORT_BINDING: &[u8] = b"keyfold/binding/1";
/// HKDF info (before the frame's hash) of the key of one frame's reply.
pub const REPLY_KEY: &[u8] = b"keyfold/reply-key/1";
/// HKDF info of one sealing of a reply.
pub const REPLY_SEAL: &[u8] = b"keyfold/reply-seal/1";
/// What WebAuthn level 3 puts in front of a PRF salt before hashing it.
pub const PRF_PREFIX: &[u8] = b"WebAuthn PRF\0";

/// The person `subject` at the OpenID Connect issuer `issuer`.
pub fn account_id(sha256: Sha256, issuer: &str, subject: &str) -> AccountId {
    let length = u64::try_from(issuer.len()).unwrap_or(u64::MAX).to_be_bytes();
    let parts = [b"keyfold/account/1", &length[..], issuer.as_bytes(), subject.as_bytes()];
    AccountId(sha256(&parts))
}

/// A device is the pair of its keys.
pub fn device_id(sha256: Sha256, device_key: &P256PublicKey, uv_key: &P256PublicKey) -> DeviceId {
    DeviceId(first_16(sha256(&[b"keyfold/device/1", &device_key.0, &uv_key.0])))
}

/// The session opened by an encapsulated key.
pub fn session_id(sha256: Sha256, encapsulated_key: &[u8]) -> SessionId {
    SessionId(first_16(sha256(&[encapsulated_key])))
}

fn first_16(digest: [u8; 32]) -> [u8; 16] {
    digest.first_chunk().copied().unwrap_or_default()
}

/// What makes one image the enclave of one deployment; part of every claim, and of the policy under
/// which the root key is released.
pub fn config_hash(sha256: Sha256, config: &Config) -> Result<Digest, Malformed> {
    let mut encoded = [0; 512];
    let used = wire::encode(config, &mut encoded)?;
    Ok(Digest(sha256(&[b"keyfold/config/1", encoded.get(..used).ok_or(Malformed)?])))
}

/// HPKE `info`: what a session's keys are bound to.
pub fn channel_info(config: &Digest, key: &ChannelKeyId) -> [u8; 83] {
    join([b"keyfold/channel/1", &PROTOCOL_VERSION.to_be_bytes(), &config.0, &key.0])
}

/// AES-256-GCM nonce of a session's request `counter`.
pub fn request_nonce(counter: u64) -> [u8; 12] {
    join([&[0; 4], &counter.to_be_bytes()])
}

/// AAD of a sealed request.
pub fn request_aad(session: &SessionId, account: &Account) -> [u8; 52] {
    join([&session.0, &account.id.0, &account.generation.to_be_bytes()])
}

/// What a device signs for every request.
pub struct SignedContext<'a> {
    /// The session's binding value: a signature is worth nothing in another session.
    pub binding: &'a [u8; 32],
    /// The request's counter in its session.
    pub counter: u64,
    /// Whose account.
    pub account: &'a Account,
    /// Which of the device's keys signs.
    pub key: KeyKind,
    /// The highest guard version the device knows.
    pub guard_seen: u64,
}

/// The bytes a device signs; `request` is the encoded request.
pub fn signed_bytes(sha256: Sha256, context: &SignedContext, request: &[u8]) -> [u8; 134] {
    join([
        b"keyfold/request/1",
        context.binding,
        &context.counter.to_be_bytes(),
        &context.account.id.0,
        &context.account.generation.to_be_bytes(),
        &[match context.key {
            KeyKind::Presence => 1,
            KeyKind::UserVerification => 2,
        }],
        &context.guard_seen.to_be_bytes(),
        &sha256(&[request]),
    ])
}

/// Which event chain of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Puts: creations, updates, deletions, touches.
    Vault,
    /// Guard versions.
    Audit,
}

impl Chain {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Vault => b"keyfold/vault-chain/1",
            Self::Audit => b"keyfold/audit-chain/1",
        }
    }

    /// Where the account's chain starts: version 0.
    pub fn genesis(self, sha256: Sha256, account: &Account) -> ChainPoint {
        let parts = [self.label(), &account.id.0, &account.generation.to_be_bytes()];
        ChainPoint { version: 0, head: Digest(sha256(&parts)) }
    }

    /// The point that `event` leads to; `None` when it is not the next event after `from`.
    pub fn next(self, sha256: Sha256, from: &ChainPoint, event: &Event) -> Option<ChainPoint> {
        let version = from.version.checked_add(1)?;
        let head = sha256(&[
            self.label(),
            &from.head.0,
            &version.to_be_bytes(),
            &event.slot.0,
            &[event.action.code()],
            &event.digest.0,
        ]);
        (event.version == version).then_some(ChainPoint { version, head: Digest(head) })
    }
}

impl Action {
    fn code(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Delete => 2,
            Self::Touch => 3,
            Self::Audit => 4,
        }
    }
}

/// What a receipt of the ledger vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerClaim {
    /// The tag went from `version - 1` to `version`. The nonce is zero.
    Append,
    /// The tag stood at `version` when somebody asked with this nonce.
    Read([u8; 32]),
}

impl LedgerClaim {
    /// The claim's bytes; the receipt carries their SHA-256. 121 bytes: never 64 or 96, the sizes
    /// of a Merkle tree's inner nodes.
    pub fn bytes(&self, tag: &LedgerTag, version: u64, guard: &Digest) -> [u8; 121] {
        let (kind, nonce) = match self {
            Self::Append => (1, [0; 32]),
            Self::Read(nonce) => (2, *nonce),
        };
        let version = version.to_be_bytes();
        join([b"keyfold-ledger/1", &[kind], &tag.0, &version, &guard.0, &nonce])
    }
}
