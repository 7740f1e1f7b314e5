//! Sealed blobs: how everything the host stores is encrypted.
//!
//! A blob is `salt(32) ‖ ciphertext ‖ tag(16)`. Its key is HKDF(type key, salt, context), so no key
//! ever meets two plaintexts and the nonce can be zero. Of what is stored, the context says which
//! object it is, and is the AAD as well; opening under any other context fails, and every failure is
//! the same. A reply's context is [`REPLY_SEAL`]: its key is of one frame alone.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::crypto::{Failed, aead_open, aead_seal, hkdf_expand, hkdf_extract, sha256};
use crate::keys::Secret;
use crate::platform::{Platform, random};
use crate::protocol::*;

/// A sealed guard, staged or live.
pub(crate) const GUARD: usize = GUARD_PADDED.saturating_add(SEAL_OVERHEAD);
/// A sealed vault.
pub(crate) const VAULT: usize = VAULT_PADDED.saturating_add(SEAL_OVERHEAD);
/// A sealed record.
pub(crate) const RECORD: usize = RECORD_PADDED.saturating_add(SEAL_OVERHEAD);
/// A sealed audit event.
pub(crate) const AUDIT: usize = AUDIT_PADDED.saturating_add(SEAL_OVERHEAD);

/// What kind of object a blob is. The numbers are stored: append-only.
#[derive(Clone, Copy)]
pub(crate) struct Kind(u8);

impl Kind {
    const GUARD_STAGED: Self = Self(1);
    pub(crate) const GUARD_LIVE: Self = Self(2);
    pub(crate) const VAULT: Self = Self(3);
    const RECORD: Self = Self(4);
    pub(crate) const AUDIT: Self = Self(5);
}

/// What a blob is. Whoever opens it must know all of it.
pub(crate) struct Context<'a> {
    kind: Kind,
    account: &'a Account,
    object: SlotId,
    version: u64,
}

impl<'a> Context<'a> {
    /// An object of which an account has one.
    pub(crate) const fn sole(kind: Kind, account: &'a Account, version: u64) -> Self {
        Self { kind, account, object: SlotId([0; 32]), version }
    }

    /// A staged guard, under the digest that the ledger records of it: another's receipt does not
    /// open it.
    pub(crate) const fn staged(account: &'a Account, digest: Digest, version: u64) -> Self {
        Self { kind: Kind::GUARD_STAGED, account, object: SlotId(digest.0), version }
    }

    /// The record of a slot.
    pub(crate) const fn record(account: &'a Account, slot: SlotId, version: u64) -> Self {
        Self { kind: Kind::RECORD, account, object: slot, version }
    }

    /// `label(14) ‖ kind(1) ‖ account id(32) ‖ generation(4) ‖ object(32) ‖ version(8)`, numbers
    /// big-endian.
    fn bytes(&self) -> [u8; 91] {
        join([
            b"keyfold/seal/1",
            &[self.kind.0],
            &self.account.id.0,
            &self.account.generation.to_be_bytes(),
            &self.object.0,
            &self.version.to_be_bytes(),
        ])
    }
}

/// Seals `value`, padded to the blob's size.
pub(crate) fn seal<T: Serialize, const BLOB: usize>(
    platform: &mut impl Platform, type_key: &Secret, context: &Context, value: &T,
) -> Result<[u8; BLOB], Failed> {
    let mut blob = [0; BLOB];
    let context = context.bytes();
    seal_into(platform, type_key, &context, &context, value, &mut blob)?;
    Ok(blob)
}

/// Seals `value`, padded to fill `blob`, under a key of this one sealing.
pub(crate) fn seal_into<T: Serialize>(
    platform: &mut impl Platform, base_key: &Secret, info: &[u8], aad: &[u8], value: &T,
    blob: &mut [u8],
) -> Result<(), Failed> {
    let (salt, rest) = blob.split_first_chunk_mut::<SALT>().ok_or(Failed)?;
    let (body, tag) = rest.split_last_chunk_mut::<TAG>().ok_or(Failed)?;
    *salt = random(platform)?;
    wire::encode_padded(value, body).map_err(|_| Failed)?;
    *tag = aead_seal(&blob_key(base_key, info, salt), [0; 12], aad, body)?;
    Ok(())
}

/// Opens a blob that the host attached.
pub(crate) fn open<T: DeserializeOwned, const BLOB: usize>(
    type_key: &Secret, context: &Context, sealed: &[u8],
) -> Result<T, HostRefusal> {
    let blob = sealed.try_into().map_err(|_| HostRefusal::State)?;
    open_blob::<T, BLOB>(type_key, &context.bytes(), blob).ok_or(HostRefusal::State)
}

/// It was ours, so its plaintext has the one encoding it should.
fn open_blob<T: DeserializeOwned, const BLOB: usize>(
    type_key: &Secret, context: &[u8], mut blob: [u8; BLOB],
) -> Option<T> {
    let (salt, body) = blob.split_first_chunk_mut::<SALT>()?;
    let plaintext = aead_open(&blob_key(type_key, context, salt), [0; 12], context, body).ok()?;
    postcard::from_bytes(wire::unpad(plaintext).ok()?).ok()
}

fn blob_key(base_key: &Secret, info: &[u8], salt: &[u8; SALT]) -> Secret {
    hkdf_expand(&hkdf_extract(salt, &[base_key.expose()]), &[info])
}

/// SHA-256 of a label and a plaintext's encoding. Guards and records carry 32 random bytes, so that
/// their digests, which the host sees, give nothing away; an audit event's stays sealed.
pub(crate) fn digest<T: Serialize>(label: &[u8], value: &T) -> Result<Digest, Failed> {
    let mut encoded = [0; GUARD_PADDED];
    let used = wire::encode(value, &mut encoded).map_err(|_| Failed)?;
    Ok(Digest(sha256(&[label, encoded.get(..used).ok_or(Failed)?])))
}
