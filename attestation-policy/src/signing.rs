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
use crate::values::{Sha256, SignerKey};

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

/// A statement on its way from holder to holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    /// The file with all signatures so far; hosts can serve it once there are enough.
    pub file: Vec<u8>,
    /// How many of the root's keys have signed.
    pub signatures: usize,
    /// How many must.
    pub threshold: usize,
}

impl Gathered {
    /// Whether clients will accept it.
    pub fn is_complete(&self) -> bool {
        self.signatures >= self.threshold
    }
}

/// Why signatures cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatherError {
    /// The statement, or a signature under it.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// What the others signed is not what this holder looked at.
    #[error(
        "the signed file holds another statement than the description: expected SHA-256 {expected}, \
         found {found}; compare the two before you sign"
    )]
    OtherStatement {
        /// Of the payload made from the description.
        expected: Sha256,
        /// Of the payload in the file.
        found: Sha256,
    },
}

/// Adds signatures to those of other holders, whose file is `earlier`. Every signature is verified.
/// Those of keys that the root does not list are kept and do not count.
///
/// # Errors
/// The file holds another payload, or a signature does not hold. Too few are no error.
pub fn gather_statement(
    payload: &[u8], earlier: Option<&[u8]>, signatures: Vec<PayloadSignature>, root: &TrustRoot,
) -> Result<Gathered, GatherError> {
    Statement::from_payload(payload)?;
    let mut all = Vec::new();
    if let Some(earlier) = earlier {
        let envelope =
            Envelope::parse(PayloadKind::Statement, earlier).map_err(StatementError::from)?;
        if envelope.payload() != payload {
            let [expected, found] = [payload, envelope.payload()].map(Sha256::of);
            return Err(GatherError::OtherStatement { expected, found });
        }
        all.extend_from_slice(envelope.signatures());
    }
    all.extend(signatures);
    let envelope = Envelope::new(PayloadKind::Statement, payload.to_vec(), all);
    let threshold = root.threshold();
    let signatures = match envelope.verify(root) {
        Ok(_) => envelope.signatures().iter().filter(|it| root.keys().contains(&it.key)).count(),
        Err(SignatureError::BelowThreshold { trusted, .. }) => trusted,
        Err(error) => return Err(StatementError::from(error).into()),
    };
    Ok(Gathered { file: envelope.to_json(), signatures, threshold })
}

/// What a signed file says and which keys it names, **without checking a signature**: to look at, not
/// to rely on.
///
/// # Errors
/// Not a signed statement.
pub fn read_without_checking_signatures(
    file: &[u8],
) -> Result<(Statement, Vec<SignerKey>), StatementError> {
    let envelope = Envelope::parse(PayloadKind::Statement, file)?;
    let statement = Statement::from_payload(envelope.payload())?;
    Ok((statement, envelope.signatures().iter().map(|signature| signature.key).collect()))
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
