//! A device: its two keys, its session, and what it remembers.

use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeS, Serializable};
use keyfold_protocol::client::{Device, KeyKind, Request, SignedRequest};
use keyfold_protocol::ids::{Account, DeviceId, Digest, Name, P256PublicKey, SessionId};
use keyfold_protocol::limits::{FRAME, REQUEST, REQUEST_STEP, TAG};
use keyfold_protocol::{transcript, wire};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::crypto::{aead_open, aead_seal, hkdf, hkdf_expand, sha256};
use crate::enclave::bytes;

/// A device with software keys.
pub struct TestDevice {
    device_key: EcdsaKeyPair,
    uv_key: EcdsaKeyPair,
    name: Name,
    /// The highest guard version it knows.
    pub guard_seen: u64,
}

fn p256() -> EcdsaKeyPair {
    let rng = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng);
    let pkcs8 = pkcs8.expect("a P-256 key");
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &rng)
        .expect("a P-256 key")
}

impl TestDevice {
    /// A device with new keys.
    pub fn new(name: &str) -> Self {
        let name = Name::try_from(name).expect("a short name");
        Self { device_key: p256(), uv_key: p256(), name, guard_seen: 0 }
    }

    /// How its account lists it.
    pub fn public(&self) -> Device {
        let key = |key: &EcdsaKeyPair| -> P256PublicKey { bytes(key.public_key().as_ref()) };
        Device {
            name: self.name.clone(),
            device_key: key(&self.device_key),
            uv_key: key(&self.uv_key),
        }
    }

    /// Its id.
    pub fn id(&self) -> DeviceId {
        let public = self.public();
        transcript::device_id(sha256, &public.device_key, &public.uv_key)
    }

    /// Signs with one of its keys.
    pub fn sign(&self, key: KeyKind, message: &[u8]) -> [u8; 64] {
        let key = match key {
            KeyKind::Presence => &self.device_key,
            KeyKind::UserVerification => &self.uv_key,
        };
        let signature = key.sign(&SystemRandom::new(), message).expect("a signature");
        signature.as_ref().try_into().expect("64 bytes")
    }
}

/// The client's end of a session, by the `hpke` crate.
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The encapsulated key that opens it.
    pub enc: Vec<u8>,
    request_key: [u8; 32],
    response_key: [u8; 32],
    /// What its requests sign.
    pub binding: [u8; 32],
    /// The next counter.
    pub counter: u64,
}

/// A sealed request and what opens its reply.
pub struct Sent {
    /// Counter of the frame.
    pub counter: u64,
    /// The sealed frame.
    pub frame: Vec<u8>,
    reply_key: [u8; 32],
}

impl Session {
    /// Encapsulates to an enclave's channel key.
    pub fn open(config_hash: &Digest, channel_key: &[u8]) -> Self {
        let id = keyfold_protocol::ids::ChannelKeyId(sha256(&[channel_key]));
        let public = <XWing as Kem>::PublicKey::from_bytes(channel_key).expect("an X-Wing key");
        let info = transcript::channel_info(config_hash, &id);
        let (enc, context) =
            hpke::setup_sender::<ExportOnlyAead, HkdfSha256, XWing>(&OpModeS::Base, &public, &info)
                .expect("an encapsulation");
        let export = |label: &[u8]| {
            let mut key = [0; 32];
            context.export(label, &mut key).expect("32 bytes");
            key
        };
        let enc = enc.to_bytes().to_vec();
        Self {
            id: transcript::session_id(sha256, &enc),
            enc,
            request_key: export(transcript::EXPORT_REQUEST_KEY),
            response_key: export(transcript::EXPORT_RESPONSE_KEY),
            binding: export(transcript::EXPORT_BINDING),
            counter: 0,
        }
    }

    /// Signs and seals a request.
    pub fn seal(
        &mut self, device: &TestDevice, key: KeyKind, account: &Account, request: &Request,
    ) -> Sent {
        let mut encoded = vec![0; FRAME];
        let used = wire::encode(request, &mut encoded).expect("a request");
        self.seal_encoded(device, key, account, &encoded[..used])
    }

    /// As [`Self::seal`], for a request that may be no valid encoding.
    pub fn seal_encoded(
        &mut self, device: &TestDevice, key: KeyKind, account: &Account, request: &[u8],
    ) -> Sent {
        let guard_seen = device.guard_seen;
        let context = transcript::SignedContext {
            binding: &self.binding,
            counter: self.counter,
            account,
            key,
            guard_seen,
        };
        let message = transcript::signed_bytes(sha256, &context, request);
        let signature = bytes(&device.sign(key, &message));
        let device = device.id();
        self.seal_signed(account, &SignedRequest { device, key, guard_seen, signature, request })
    }

    /// Seals a request that is already signed, rightly or wrongly.
    pub fn seal_signed(&mut self, account: &Account, signed: &SignedRequest) -> Sent {
        let sizes = (REQUEST_STEP..=REQUEST - TAG).step_by(REQUEST_STEP);
        let plaintext = sizes.map(|size| vec![0; size]).find_map(|mut plaintext| {
            wire::encode_padded(signed, &mut plaintext).ok().map(|()| plaintext)
        });
        self.seal_plaintext(account, &plaintext.expect("a request that fits a frame"))
    }

    /// Seals any plaintext.
    pub fn seal_plaintext(&mut self, account: &Account, plaintext: &[u8]) -> Sent {
        let counter = self.counter;
        self.counter += 1;
        let nonce = transcript::request_nonce(counter);
        let aad = transcript::request_aad(&self.id, account);
        let frame = aead_seal(&self.request_key, nonce, &aad, plaintext);
        self.expect_reply(counter, frame)
    }

    /// A frame, whoever sealed it, with the key that its reply has in this session.
    pub fn expect_reply(&self, counter: u64, frame: Vec<u8>) -> Sent {
        let info: [&[u8]; 2] = [transcript::REPLY_KEY, &sha256(&[&frame])];
        let reply_key = hkdf_expand(&self.response_key, &info);
        Sent { counter, frame, reply_key }
    }
}

impl Sent {
    /// The plaintext of the reply; `None` when it does not open.
    pub fn open(&self, reply: &[u8]) -> Option<Vec<u8>> {
        let (salt, sealed) = reply.split_at_checked(32)?;
        let key = hkdf(salt, &self.reply_key, &[transcript::REPLY_SEAL]);
        aead_open(&key, [0; 12], &[], sealed)
    }
}
