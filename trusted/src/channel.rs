//! The channel from a client into the core, across the host.
//!
//! HPKE (RFC 9180), base mode, KEM X-Wing, KDF HKDF-SHA256, export-only. The key pair is made anew
//! at every boot and never stored: an image taken off the accepted list keeps no power, and a key
//! found later opens nothing recorded earlier. Sessions live in a table of fixed size; the oldest
//! of a full set makes room, and its client opens another.

use zeroize::Zeroizing;

use crate::crypto::{Failed, XWing, hkdf_expand, hkdf_extract, sha256};
use crate::keys::Secret;
use crate::platform::{Platform, random};
use crate::protocol::*;

/// RFC 9180 suite: "HPKE", KEM 0x647a (X-Wing), KDF 0x0001 (HKDF-SHA256), AEAD 0xffff (export-only).
const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\xff\xff";
const HPKE_VERSION: &[u8] = b"HPKE-v1";
const MODE_BASE: &[u8] = &[0];

/// This boot's channel key.
pub(crate) struct ChannelKey {
    key: XWing,
    /// SHA-256 of the public key.
    pub(crate) id: ChannelKeyId,
    /// RFC 9180 `key_schedule_context`: the same for every session of a boot.
    context: [u8; 65],
}

impl ChannelKey {
    /// Makes the boot's key pair, for the configuration with this hash.
    pub(crate) fn generate(platform: &mut impl Platform, config: &Digest) -> Result<Self, Failed> {
        let seed = Zeroizing::new(random::<96>(platform)?);
        let key = XWing::from_expanded(&seed)?;
        let id = ChannelKeyId(sha256(&[&key.public]));
        let context = key_schedule_context(&channel_info(config, &id));
        Ok(Self { key, id, context })
    }

    pub(crate) fn public(&self) -> &[u8; CHANNEL_KEY] {
        &self.key.public
    }

    /// The session that `enc` opens.
    pub(crate) fn open_session(&self, enc: &[u8; ENCAPSULATED_KEY]) -> Result<Session, Failed> {
        let shared = self.key.decapsulate(enc)?;
        let secret = labeled_extract(shared.expose(), b"secret", &[]);
        let exporter = labeled_expand(&secret, b"exp", &self.context);
        let export = |context| labeled_expand(&exporter, b"sec", context);
        Ok(Session {
            id: session_id(sha256, enc),
            request_key: export(EXPORT_REQUEST_KEY),
            response_key: export(EXPORT_RESPONSE_KEY),
            binding: export(EXPORT_BINDING),
        })
    }
}

fn key_schedule_context(info: &[u8]) -> [u8; 65] {
    let psk_id_hash = labeled_extract(&[], b"psk_id_hash", &[]);
    let info_hash = labeled_extract(&[], b"info_hash", info);
    join([MODE_BASE, psk_id_hash.expose(), info_hash.expose()])
}

/// RFC 9180 section 4.
fn labeled_extract(salt: &[u8], label: &[u8], input: &[u8]) -> Secret {
    hkdf_extract(salt, &[HPKE_VERSION, SUITE, label, input])
}

/// RFC 9180 section 4, to 32 bytes.
fn labeled_expand(key: &Secret, label: &[u8], info: &[u8]) -> Secret {
    hkdf_expand(key, &[&32u16.to_be_bytes(), HPKE_VERSION, SUITE, label, info])
}

/// An open session's keys.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) request_key: Secret,
    response_key: Secret,
    /// Signed by every request: a signature made for one session is worth nothing in another.
    pub(crate) binding: Secret,
}

impl Session {
    /// The key of the reply to this very frame, and of no other.
    pub(crate) fn reply_key(&self, frame: &[u8]) -> Secret {
        hkdf_expand(&self.response_key, &[REPLY_KEY, &sha256(&[frame])])
    }
}

/// Sessions of a set. Clients choose session ids, so the set is chosen by a keyed hash.
const WAYS: usize = 8;
/// Twice the slots of the limit: at 4,096 random sessions, about one in a hundred lost its place.
const SETS: usize = SESSIONS.saturating_mul(2).div_ceil(WAYS);

/// The open sessions of a boot.
pub(crate) struct SessionTable {
    sets: [[Option<Entry>; WAYS]; SETS],
    hash_key: [u8; 32],
    clock: u64,
}

struct Entry {
    session: Session,
    used: u64,
}

impl SessionTable {
    pub(crate) const fn new() -> Self {
        const EMPTY: [Option<Entry>; WAYS] = [const { None }; WAYS];
        Self { sets: [EMPTY; SETS], hash_key: [0; 32], clock: 0 }
    }

    /// Sets the key of the hash; before the first session.
    pub(crate) fn set_hash_key(&mut self, key: [u8; 32]) {
        self.hash_key = key;
    }

    fn set(&mut self, id: &SessionId) -> Option<&mut [Option<Entry>; WAYS]> {
        self.clock = self.clock.saturating_add(1);
        let hash = sha256(&[&self.hash_key, &id.0]);
        let index = usize::from(u16::from_be_bytes(*hash.first_chunk()?)).checked_rem(SETS)?;
        self.sets.get_mut(index)
    }

    /// Adds a session, over the same one or over the set's least recently used.
    pub(crate) fn insert(&mut self, session: Session) {
        let clock = self.clock;
        let Some(set) = self.set(&session.id) else { return };
        let is_same = |e: &Option<Entry>| e.as_ref().is_some_and(|e| e.session.id == session.id);
        let place = match set.iter().position(is_same) {
            Some(index) => set.get_mut(index),
            None => set.iter_mut().min_by_key(|entry| entry.as_ref().map(|e| e.used)),
        };
        if let Some(place) = place {
            *place = Some(Entry { session, used: clock });
        }
    }

    pub(crate) fn get(&mut self, id: &SessionId) -> Option<&Session> {
        let clock = self.clock;
        let entry = self.set(id)?.iter_mut().flatten().find(|entry| entry.session.id == *id)?;
        entry.used = clock;
        Some(&entry.session)
    }
}
