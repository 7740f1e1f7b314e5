//! The channel: sealed frames between this client and one boot of an enclave.
//!
//! HPKE (RFC 9180) in base mode with the KEM X-Wing, HKDF-SHA256, export-only. The key schedule is
//! bound to the protocol version, the deployment's config hash and the channel key that the
//! evidence vouched for. A session lives in memory only; its keys are wiped when it is dropped.
//!
//! ```text
//! open    -> channel key id (32) || enc (1120)        body of POST /v1/sessions
//! request -> AES-256-GCM(request key, nonce n, padded SignedRequest)
//! reply   <- salt (32) || AES-256-GCM(key of this frame and salt, padded Outcome)
//! ```
//!
//! A reply opens only for the frame it answers: a host can lose one, never swap two.

use std::sync::atomic::{AtomicU64, Ordering};

use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeS, Serializable};
use keyfold_protocol::client::{KeyKind, Outcome, SignedRequest};
use keyfold_protocol::ids::{Account, ChannelKeyId, Digest, SessionId};
use keyfold_protocol::{limits, transcript, wire};
use zeroize::Zeroizing;

use crate::crypto::{self, Key, sha256};

/// Why a frame could not be made or a reply not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The evidence vouched for bytes that are no X-Wing public key.
    #[error("the enclave's channel key is not a valid X-Wing public key; report this deployment")]
    InvalidKey,
    /// The request does not fit a frame.
    #[error("the request is too long for one frame; shorten its names")]
    TooLong,
    /// The reply is not the enclave's answer to this frame, or was damaged on its way.
    #[error("the reply does not open: it is not the enclave's answer to this request; try again")]
    ForeignReply,
    /// The reply opened but is no message of this protocol.
    #[error("the reply is not of this protocol version; update this program")]
    MalformedReply,
}

/// One session with one enclave boot.
pub struct Session {
    id: SessionId,
    opening: Vec<u8>,
    request_key: Key,
    response_key: Key,
    binding: Key,
    counter: AtomicU64,
}

impl Session {
    /// Encapsulates to `channel_key` (1,216 bytes), which must come from verified evidence for the
    /// configuration whose hash is `config`.
    ///
    /// # Errors
    /// [`ChannelError::InvalidKey`].
    pub fn open(config: &Digest, channel_key: &[u8]) -> Result<Self, ChannelError> {
        let key_id = ChannelKeyId(sha256(&[channel_key]));
        let public = <XWing as Kem>::PublicKey::from_bytes(channel_key)
            .map_err(|_| ChannelError::InvalidKey)?;
        let info = transcript::channel_info(config, &key_id);
        let (enc, exporter) =
            hpke::setup_sender::<ExportOnlyAead, HkdfSha256, XWing>(&OpModeS::Base, &public, &info)
                .map_err(|_| ChannelError::InvalidKey)?;
        let export = |label: &[u8]| {
            let mut key = Zeroizing::new([0; 32]);
            exporter.export(label, key.as_mut()).map_err(|_| ChannelError::InvalidKey)?;
            Ok(key)
        };
        let enc = enc.to_bytes();
        Ok(Self {
            id: transcript::session_id(sha256, &enc),
            opening: [&key_id.0[..], &enc].concat(),
            request_key: export(transcript::EXPORT_REQUEST_KEY)?,
            response_key: export(transcript::EXPORT_RESPONSE_KEY)?,
            binding: export(transcript::EXPORT_BINDING)?,
            counter: AtomicU64::new(0),
        })
    }

    /// What the host will call the session: the first 16 bytes of SHA-256 of `enc`.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Body of `POST /v1/sessions`: channel key id (32 bytes), then `enc` (1,120 bytes).
    pub fn opening(&self) -> &[u8] {
        &self.opening
    }

    /// Takes the next counter. Each turn seals at most one frame, so no nonce is used twice.
    pub fn turn(&self) -> Turn<'_> {
        Turn { session: self, counter: self.counter.fetch_add(1, Ordering::Relaxed) }
    }
}

/// The right to send one frame in a session.
pub struct Turn<'a> {
    session: &'a Session,
    counter: u64,
}

impl Turn<'_> {
    /// The frame's counter, which the envelope names.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// What the device signs for `request` (encoded) in this turn.
    pub fn signed_bytes(
        &self, account: &Account, key: KeyKind, guard_seen: u64, request: &[u8],
    ) -> [u8; 134] {
        let context = transcript::SignedContext {
            binding: &self.session.binding,
            counter: self.counter,
            account,
            key,
            guard_seen,
        };
        transcript::signed_bytes(sha256, &context, request)
    }

    /// Pads and seals `request` for `account`.
    ///
    /// # Errors
    /// [`ChannelError::TooLong`].
    pub fn seal(self, account: &Account, request: &SignedRequest) -> Result<Sent, ChannelError> {
        let plaintext = padded(request)?;
        let Session { id, request_key, response_key, .. } = self.session;
        let nonce = transcript::request_nonce(self.counter);
        let aad = transcript::request_aad(id, account);
        let frame = crypto::aead_seal(request_key, nonce, &aad, &plaintext);
        let info: [&[u8]; 2] = [transcript::REPLY_KEY, &sha256(&[&frame])];
        let reply_key = crypto::hkdf_expand(response_key, &info);
        Ok(Sent { counter: self.counter, frame, reply_key })
    }
}

fn padded(request: &SignedRequest) -> Result<Zeroizing<Vec<u8>>, ChannelError> {
    let mut size = limits::REQUEST_STEP;
    while size + limits::TAG <= limits::REQUEST {
        let mut plaintext = Zeroizing::new(vec![0; size]);
        if wire::encode_padded(request, &mut plaintext).is_ok() {
            return Ok(plaintext);
        }
        size += limits::REQUEST_STEP;
    }
    Err(ChannelError::TooLong)
}

/// A sealed frame, and the key that opens its reply and no other.
pub struct Sent {
    counter: u64,
    frame: Vec<u8>,
    reply_key: Key,
}

impl Sent {
    /// The frame's counter, which the envelope names.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The sealed frame.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Opens the reply to this frame.
    ///
    /// # Errors
    /// [`ChannelError::ForeignReply`] when it is not the enclave's answer to this very frame.
    pub fn open(&self, reply: &[u8]) -> Result<Reply, ChannelError> {
        crypto::open(&self.reply_key, transcript::REPLY_SEAL, &[], reply)
            .map(Reply)
            .ok_or(ChannelError::ForeignReply)
    }
}

/// The plaintext of a reply; wiped on drop, since it may hold PRF results.
pub struct Reply(Zeroizing<Vec<u8>>);

impl Reply {
    /// What the enclave answered.
    ///
    /// # Errors
    /// [`ChannelError::MalformedReply`].
    pub fn outcome(&self) -> Result<Outcome<'_>, ChannelError> {
        wire::decode_padded(&self.0).map_err(|_| ChannelError::MalformedReply)
    }
}

#[cfg(test)]
mod tests {
    use keyfold_protocol::bytes::Bytes;
    use keyfold_protocol::client::Refusal;
    use keyfold_protocol::ids::{AccountId, DeviceId};

    use super::*;
    use crate::testing::Enclave;

    const ACCOUNT: Account = Account { id: AccountId([7; 32]), generation: 1 };

    fn signed(request: &[u8]) -> SignedRequest<'_> {
        SignedRequest {
            device: DeviceId([1; 16]),
            key: KeyKind::Presence,
            guard_seen: 3,
            signature: Bytes([2; 64]),
            request,
        }
    }

    #[test]
    fn an_enclave_opens_what_the_client_seals_and_the_other_way() {
        let mut enclave = Enclave::boot();
        let session = Session::open(&enclave.config, &enclave.channel_key()).unwrap();
        let id = enclave.open_session(session.opening());
        assert_eq!(id, session.id());
        for expected in 0..3 {
            let turn = session.turn();
            assert_eq!(turn.counter(), expected);
            let bytes = turn.signed_bytes(&ACCOUNT, KeyKind::Presence, 3, b"request");
            let sent = turn.seal(&ACCOUNT, &signed(b"request")).unwrap();
            assert_eq!(sent.frame().len(), limits::REQUEST_STEP + limits::TAG);
            let opened = enclave.open_request(&id, &ACCOUNT, sent.counter(), sent.frame()).unwrap();
            let request: SignedRequest = wire::decode_padded(&opened).unwrap();
            assert_eq!(request, signed(b"request"));
            let binding = enclave.binding(&id);
            let context = transcript::SignedContext {
                binding: &binding,
                counter: expected,
                account: &ACCOUNT,
                key: KeyKind::Presence,
                guard_seen: 3,
            };
            assert_eq!(bytes, transcript::signed_bytes(sha256, &context, b"request"));
            let reply = enclave.seal_reply(&id, sent.frame(), &Err(Refusal::SyncFirst), 256);
            assert_eq!(sent.open(&reply).unwrap().outcome(), Ok(Err(Refusal::SyncFirst)));
        }
    }

    #[test]
    fn a_frame_is_bound_to_its_account_counter_and_session() {
        let mut enclave = Enclave::boot();
        let session = Session::open(&enclave.config, &enclave.channel_key()).unwrap();
        let id = enclave.open_session(session.opening());
        let sent = session.turn().seal(&ACCOUNT, &signed(b"request")).unwrap();
        let other = Account { generation: 2, ..ACCOUNT };
        assert!(enclave.open_request(&id, &other, 0, sent.frame()).is_none());
        assert!(enclave.open_request(&id, &ACCOUNT, 1, sent.frame()).is_none());
        let second = Session::open(&enclave.config, &enclave.channel_key()).unwrap();
        let second = enclave.open_session(second.opening());
        assert!(enclave.open_request(&second, &ACCOUNT, 0, sent.frame()).is_none());
    }

    #[test]
    fn a_session_under_another_configuration_shares_no_key() {
        let mut enclave = Enclave::boot();
        let session = Session::open(&Digest([0xee; 32]), &enclave.channel_key()).unwrap();
        let id = enclave.open_session(session.opening());
        let sent = session.turn().seal(&ACCOUNT, &signed(b"request")).unwrap();
        assert!(enclave.open_request(&id, &ACCOUNT, 0, sent.frame()).is_none());
    }

    #[test]
    fn a_reply_opens_for_its_own_frame_only() {
        let mut enclave = Enclave::boot();
        let session = Session::open(&enclave.config, &enclave.channel_key()).unwrap();
        let id = enclave.open_session(session.opening());
        let first = session.turn().seal(&ACCOUNT, &signed(b"one")).unwrap();
        let second = session.turn().seal(&ACCOUNT, &signed(b"two")).unwrap();
        let reply = enclave.seal_reply(&id, first.frame(), &Err(Refusal::GuardMoved), 256);
        assert_eq!(second.open(&reply).err(), Some(ChannelError::ForeignReply));
        assert_eq!(first.open(&reply[..40]).err(), Some(ChannelError::ForeignReply));
        for byte in 0..reply.len() {
            let mut bent = reply.clone();
            bent[byte] ^= 0x80;
            assert_eq!(first.open(&bent).err(), Some(ChannelError::ForeignReply), "byte {byte}");
        }
    }

    #[test]
    fn padding_that_is_not_zero_is_no_reply() {
        let mut plaintext = Zeroizing::new(vec![0; 256]);
        let outcome: Outcome = Err(Refusal::NotFresh);
        wire::encode_padded(&outcome, &mut plaintext).unwrap();
        assert!(Reply(plaintext.clone()).outcome().is_ok());
        plaintext[255] = 1;
        assert_eq!(Reply(plaintext).outcome(), Err(ChannelError::MalformedReply));
        let empty = Reply(Zeroizing::new(vec![]));
        assert!(matches!(empty.outcome(), Err(ChannelError::MalformedReply)));
    }

    #[test]
    fn requests_are_padded_in_steps_and_never_exceed_a_frame() {
        for (length, frame) in [(1, 528), (400, 528), (500, 1040), (3400, 3600)] {
            let request = vec![0; length];
            let enclave = Enclave::boot();
            let session = Session::open(&enclave.config, &enclave.channel_key()).unwrap();
            let sent = session.turn().seal(&ACCOUNT, &signed(&request)).unwrap();
            assert_eq!(sent.frame().len(), frame, "request of {length}");
        }
        let enclave = Enclave::boot();
        let session = Session::open(&enclave.config, &enclave.channel_key()).unwrap();
        let sealed = session.turn().seal(&ACCOUNT, &signed(&[0; 3584]));
        assert_eq!(sealed.err(), Some(ChannelError::TooLong));
    }

    #[test]
    fn a_key_of_the_wrong_length_is_refused() {
        let config = Digest([1; 32]);
        assert_eq!(Session::open(&config, &[0; 1215]).err(), Some(ChannelError::InvalidKey));
        assert_eq!(Session::open(&config, &[]).err(), Some(ChannelError::InvalidKey));
    }
}
