//! An enclave as clients see it: HPKE by the `hpke` crate, evidence of a simulated chip.

use std::collections::BTreeMap;

use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, Serializable};
use keyfold_attestation_policy::claims::ChannelClaims;
use keyfold_attestation_policy::statement::{Simulated, Workload};
use keyfold_attestation_policy::values::{ConfigHash, Measurement, RootCommitment, Sha256};
use keyfold_protocol::client::Outcome;
use keyfold_protocol::ids::{Account, ChannelKeyId, Digest, SessionId};
use keyfold_protocol::{limits, transcript, wire};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

use crate::crypto::{self, sha256};

/// VCEK, ASK and ARK of a chip that exists in this directory only; it protects nothing.
pub(crate) const CHAIN: &str = include_str!("chip-chain.pem");
const ARK: &str = "ec38290157f149c4a5041349821e755f7691d07e822e0fb8ac86887354c8b7d4";
const MEASUREMENT: [u8; 48] = [0xab; 48];
pub(crate) const ROOT: [u8; 32] = [0x22; 32];

/// One boot of an enclave.
pub(crate) struct Enclave {
    pub(crate) config: Digest,
    pub(crate) root: [u8; 32],
    secret: <XWing as Kem>::PrivateKey,
    public: Vec<u8>,
    sessions: BTreeMap<SessionId, Keys>,
}

struct Keys {
    request: [u8; 32],
    response: [u8; 32],
    binding: [u8; 32],
}

impl Enclave {
    pub(crate) fn boot() -> Self {
        let (secret, public) = XWing::gen_keypair();
        let public = public.to_bytes().to_vec();
        let (config, root) = (Digest([0x11; 32]), ROOT);
        Self { config, root, secret, public, sessions: BTreeMap::new() }
    }

    pub(crate) fn workload() -> Workload {
        Workload::Simulated(Simulated {
            ark_sha256: Sha256::from_hex(ARK).unwrap(),
            measurement: Measurement::new(MEASUREMENT),
            minimum_tcb: Vec::new(),
        })
    }

    pub(crate) fn channel_key(&self) -> Vec<u8> {
        self.public.clone()
    }

    pub(crate) fn claims(&self) -> Vec<u8> {
        let claims = ChannelClaims {
            config: ConfigHash::new(self.config.0),
            root: RootCommitment::new(self.root),
            channel_key: Sha256::of(&self.public),
        };
        claims.to_text().into_bytes()
    }

    /// A report whose REPORT_DATA is the hash of `claims`.
    pub(crate) fn report(claims: &[u8]) -> Vec<u8> {
        Self::report_with(claims, |_| ())
    }

    /// The same, changed before the chip signs it.
    pub(crate) fn report_with(claims: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut report = vec![0; limits::REPORT];
        let mut set = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        set(0x00, &[3]);
        set(0x08, &0x30000_u64.to_le_bytes());
        set(0x34, &[1]);
        set(0x50, &sha256(&[claims]));
        set(0x90, &MEASUREMENT);
        for tcb in [0x38, 0x180, 0x1e0, 0x1f0] {
            set(tcb, &[4, 0, 0, 0, 0, 0, 24, 219]);
        }
        set(0x188, &[0x19, 0x01, 0x01]);
        let chip: Vec<u8> = (1..=64).collect();
        set(0x1a0, &chip);
        change(&mut report);
        let random = SystemRandom::new();
        let key = include_bytes!("chip-key.pk8");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key, &random).unwrap();
        let signature = key.sign(&random, &report[..0x2a0]).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        let reversed = |scalar: &[u8]| scalar.iter().rev().copied().collect::<Vec<u8>>();
        report[0x2a0..0x2a0 + 48].copy_from_slice(&reversed(r));
        report[0x2a0 + 72..0x2a0 + 120].copy_from_slice(&reversed(s));
        report
    }

    /// Takes the body of `POST /v1/sessions`.
    ///
    /// # Panics
    /// When it names another channel key: see [`Enclave::is_for`].
    pub(crate) fn open_session(&mut self, opening: &[u8]) -> SessionId {
        assert!(self.is_for(opening));
        let enc = &opening[32..];
        let info = transcript::channel_info(&self.config, &ChannelKeyId(sha256(&[&self.public])));
        let encapped = <XWing as Kem>::EncappedKey::from_bytes(enc).unwrap();
        let context = hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, XWing>(
            &OpModeR::Base,
            &self.secret,
            &encapped,
            &info,
        )
        .unwrap();
        let export = |label: &[u8]| {
            let mut key = [0; 32];
            context.export(label, &mut key).unwrap();
            key
        };
        let keys = Keys {
            request: export(b"keyfold/request-key/1"),
            response: export(b"keyfold/response-key/1"),
            binding: export(b"keyfold/binding/1"),
        };
        let mut id = [0; 16];
        id.copy_from_slice(&sha256(&[enc])[..16]);
        self.sessions.insert(SessionId(id), keys);
        SessionId(id)
    }

    /// Whether the opening names this boot's key.
    pub(crate) fn is_for(&self, opening: &[u8]) -> bool {
        opening.len() == 32 + limits::ENCAPSULATED_KEY && opening[..32] == sha256(&[&self.public])
    }

    pub(crate) fn knows(&self, session: &SessionId) -> bool {
        self.sessions.contains_key(session)
    }

    pub(crate) fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    pub(crate) fn binding(&self, session: &SessionId) -> [u8; 32] {
        self.sessions[session].binding
    }

    /// The padded plaintext of a request frame.
    pub(crate) fn open_request(
        &self, session: &SessionId, account: &Account, counter: u64, frame: &[u8],
    ) -> Option<Vec<u8>> {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        let aad = [&session.0[..], &account.id.0, &account.generation.to_be_bytes()].concat();
        let key = &self.sessions[session].request;
        crypto::aead_open(key, nonce, &aad, frame).map(|plaintext| plaintext.to_vec())
    }

    /// Seals the answer to `frame`, padded to `size`.
    pub(crate) fn seal_reply(
        &self, session: &SessionId, frame: &[u8], outcome: &Outcome, size: usize,
    ) -> Vec<u8> {
        let mut plaintext = vec![0; size];
        wire::encode_padded(outcome, &mut plaintext).unwrap();
        let response = &self.sessions[session].response;
        let key = crypto::hkdf_expand(response, &[b"keyfold/reply-key/1", &sha256(&[frame])]);
        crypto::seal(&key, b"keyfold/reply-seal/1", &[], &plaintext)
    }
}
