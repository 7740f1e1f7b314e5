//! Signed payloads: exact bytes, a type, and Ed25519 signatures of offline keys.
//!
//! The format is DSSE (Dead Simple Signing Envelope, version 1): signatures cover the payload's
//! type and its bytes with their lengths, so a signature over one kind of payload is none over
//! another, and nothing is ever re-serialised to be verified.
//!
//! ```json
//! {"payloadType":"...","payload":"<base64>","signatures":[{"keyid":"<public key, hex64>","sig":"<base64>"}]}
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::trust_root::TrustRoot;
use crate::values::{SignerKey, shorten};

/// No statement or root comes near it.
const MAX_ENVELOPE_LENGTH: usize = 256 * 1024;

/// More than both roots of a rotation can have together.
const MAX_SIGNATURES: usize = 64;

/// What a payload is. The names are signed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PayloadKind {
    Statement,
    TrustRoot,
}

impl PayloadKind {
    /// The signature's domain; the version of the payload's format is part of it.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Statement => "application/vnd.keyfold.deployment-statement.v1+json",
            Self::TrustRoot => "application/vnd.keyfold.trust-root.v1+json",
        }
    }

    /// The bytes that are signed: DSSE's pre-authentication encoding.
    pub(crate) fn signed_bytes(self, payload: &[u8]) -> Vec<u8> {
        let media_type = self.media_type();
        let head = format!("DSSEv1 {} {media_type} {} ", media_type.len(), payload.len());
        [head.as_bytes(), payload].concat()
    }
}

/// One offline key's signature over a payload, as its holder hands it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadSignature {
    /// The signer's public key.
    #[serde(rename = "keyid")]
    pub key: SignerKey,
    /// The Ed25519 signature in base64.
    #[serde(rename = "sig")]
    pub signature: String,
}

/// Why signed bytes are not what the trusted root's keys signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not an envelope.
    #[error("the signed file cannot be read: {0}")]
    Malformed(String),
    /// A payload of another kind.
    #[error("payloadType: expected {expected}, found {found:?}")]
    PayloadType {
        /// The kind that was asked for.
        expected: &'static str,
        /// What the envelope says.
        found: String,
    },
    /// One key stands twice among the signatures.
    #[error("signatures: expected each key once, found {0} twice")]
    DuplicateSigner(SignerKey),
    /// A trusted key's signature does not fit the payload.
    #[error("signatures: expected {0}'s signature over this payload, found one over other bytes")]
    BadSignature(SignerKey),
    /// Too few trusted keys signed.
    #[error(
        "signatures: expected {threshold} trusted keys, found {trusted} \
         (keys that the root does not list, not counted: {unknown})"
    )]
    BelowThreshold {
        /// How many must sign.
        threshold: usize,
        /// How many trusted keys did.
        trusted: usize,
        /// How many others did.
        unknown: usize,
    },
}

/// A payload with signatures that nobody has checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    kind: PayloadKind,
    payload: Vec<u8>,
    signatures: Vec<PayloadSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    payload_type: String,
    payload: String,
    signatures: Vec<PayloadSignature>,
}

impl Envelope {
    pub(crate) fn new(
        kind: PayloadKind, payload: Vec<u8>, signatures: Vec<PayloadSignature>,
    ) -> Self {
        Self { kind, payload, signatures }
    }

    pub(crate) fn parse(kind: PayloadKind, bytes: &[u8]) -> Result<Self, SignatureError> {
        let malformed = |reason: &str| SignatureError::Malformed(shorten(reason));
        if bytes.len() > MAX_ENVELOPE_LENGTH {
            return Err(malformed("longer than 256 KiB"));
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| malformed(&error.to_string()))?;
        if document.payload_type != kind.media_type() {
            let found = shorten(&document.payload_type);
            return Err(SignatureError::PayloadType { expected: kind.media_type(), found });
        }
        if document.signatures.len() > MAX_SIGNATURES {
            return Err(malformed("more than 64 signatures"));
        }
        let payload = STANDARD
            .decode(&document.payload)
            .map_err(|error| malformed(&format!("payload: {error}")))?;
        Ok(Self { kind, payload, signatures: document.signatures })
    }

    /// The payload, whoever signed it.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(crate) fn signatures(&self) -> &[PayloadSignature] {
        &self.signatures
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let document = Document {
            payload_type: self.kind.media_type().to_owned(),
            payload: STANDARD.encode(&self.payload),
            signatures: self.signatures.clone(),
        };
        serde_json::to_vec(&document).expect("strings always have a JSON form")
    }

    /// The payload, if at least the root's threshold of its keys signed it.
    ///
    /// Signatures of keys that the root does not list count for nothing and hurt nothing: while a
    /// root is being replaced, one statement carries both roots' signatures. A listed key's
    /// signature must hold, even where enough others do.
    pub(crate) fn verify(&self, root: &TrustRoot) -> Result<&[u8], SignatureError> {
        let signed = self.kind.signed_bytes(&self.payload);
        let mut trusted = Vec::new();
        let mut unknown = 0;
        for PayloadSignature { key, signature } in &self.signatures {
            if !root.keys().contains(key) {
                unknown += 1;
                continue;
            }
            if trusted.contains(key) {
                return Err(SignatureError::DuplicateSigner(*key));
            }
            let bytes = STANDARD.decode(signature).unwrap_or_default();
            UnparsedPublicKey::new(&ED25519, key.as_bytes())
                .verify(&signed, &bytes)
                .map_err(|_| SignatureError::BadSignature(*key))?;
            trusted.push(*key);
        }
        if trusted.len() < root.threshold() {
            let (threshold, trusted) = (root.threshold(), trusted.len());
            return Err(SignatureError::BelowThreshold { threshold, trusted, unknown });
        }
        Ok(&self.payload)
    }
}
