//! The offline keys' side: make a key, sign, put k of n signatures together.
//!
//! Each holder keeps one Ed25519 key in a PKCS#8 file of mode 0600 and hands over only
//! [`PayloadSignature`]s. Assembling needs no secret; it verifies what it assembles.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::envelope::{Envelope, PayloadKind};
use crate::statement::{Statement, StatementError};
use crate::trust_root::{TrustRoot, TrustRootError};
use crate::values::SignerKey;

pub use crate::envelope::{PayloadSignature, SignatureError};

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The file.
    #[error("signing key file {path}: {source}")]
    File {
        /// Which one.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Its content.
    #[error("expected an Ed25519 private key in PKCS#8 DER, found something else")]
    NotAKey,
    /// The system gives no randomness.
    #[error("the system's random number generator failed")]
    Randomness,
}

/// An offline signing key. It has no Debug, no Clone and no way to read the private half.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a key and stores it in a new file that only its owner can read.
    ///
    /// # Errors
    /// The file exists already or cannot be written; no randomness.
    pub fn create(path: &Path) -> Result<Self, SigningError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| SigningError::Randomness)?;
        let document = Zeroizing::new(document.as_ref().to_vec());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(path)
            .and_then(|mut file| file.write_all(&document).and_then(|()| file.sync_all()))
            .map_err(|source| in_file(path, source))?;
        Self::from_pkcs8(&document)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// The file cannot be read or holds no Ed25519 key.
    pub fn read(path: &Path) -> Result<Self, SigningError> {
        let document = std::fs::read(path).map_err(|source| in_file(path, source))?;
        Self::from_pkcs8(&Zeroizing::new(document))
    }

    /// Reads PKCS#8 DER, with the public key in it or, as other tools write it, without.
    ///
    /// # Errors
    /// Not an Ed25519 key.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, SigningError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(document)
            .map(Self)
            .map_err(|_| SigningError::NotAKey)
    }

    /// The public half, as trust roots list it.
    pub fn public_key(&self) -> SignerKey {
        let mut bytes = [0; SignerKey::LENGTH];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        SignerKey::new(bytes)
    }

    /// Signs a statement's payload. Bytes that are no statement are not signed.
    ///
    /// # Errors
    /// What [`Statement::from_payload`] refuses.
    pub fn sign_statement(&self, payload: &[u8]) -> Result<PayloadSignature, StatementError> {
        Statement::from_payload(payload)?;
        Ok(self.sign(PayloadKind::Statement, payload))
    }

    /// Signs the root that is to replace another.
    pub fn sign_trust_root(&self, next: &TrustRoot) -> PayloadSignature {
        self.sign(PayloadKind::TrustRoot, &next.to_json())
    }

    pub(crate) fn sign(&self, kind: PayloadKind, payload: &[u8]) -> PayloadSignature {
        let signature = self.0.sign(&kind.signed_bytes(payload));
        PayloadSignature { key: self.public_key(), signature: STANDARD.encode(signature.as_ref()) }
    }
}

/// Puts a statement and its signatures together into the file that hosts serve.
///
/// # Errors
/// The root would not accept the result.
pub fn assemble_statement(
    payload: &[u8], signatures: Vec<PayloadSignature>, root: &TrustRoot,
) -> Result<Vec<u8>, StatementError> {
    let envelope = Envelope::new(PayloadKind::Statement, payload.to_vec(), signatures);
    Statement::from_payload(envelope.verify(root)?)?;
    Ok(envelope.to_json())
}

/// Puts a new root and the signatures of the old one's and its own keys together.
///
/// # Errors
/// The old root would not accept the result.
pub fn assemble_trust_root(
    next: &TrustRoot, signatures: Vec<PayloadSignature>, old: &TrustRoot,
) -> Result<Vec<u8>, TrustRootError> {
    let signed = Envelope::new(PayloadKind::TrustRoot, next.to_json(), signatures).to_json();
    old.successor(&signed)?;
    Ok(signed)
}

fn in_file(path: &Path, source: io::Error) -> SigningError {
    SigningError::File { path: path.display().to_string(), source }
}
