//! Endorsements of the utility VM: what Microsoft signs about the code that runs confidential
//! containers on Azure.
//!
//! In profile `aci` the launch measurement is Microsoft's, not the deployment's: it covers the
//! utility VM, which in turn enforces the container policy whose hash is HOST_DATA. An endorsement
//! says which measurement is a released utility VM, and of which security version.
//!
//! It is a COSE_Sign1 message (RFC 9052, tag 18). Checked, in this order: its one encoding; the
//! chain in header x5chain, from the root that the statement's issuer (did:x509) names by digest,
//! every certificate valid at the time of signing; the signer's purpose; the signature over the
//! bytes as they came; issuer, feed and security version against the statement. That the
//! endorsed measurement is the report's is [`crate::evidence`]'s to check.
//!
//! What it cannot show: that the time of signing is true. Whoever steals a signer's key can date an
//! endorsement back to when its certificate was valid; the counter-signature of Microsoft's time
//! stamping service in the unprotected header is not checked.
//!
//! Sources: microsoft/confidential-aci-examples `docs/Confidential_ACI_SCHEME.md`, RFC 9360 (x5chain
//! and x5t), the did:x509 method specification.

mod headers;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::asn1::ObjectIdentifier;
use ring::signature::{
    ECDSA_P384_SHA384_FIXED, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::{Deserialize, Serialize};

use crate::cbor::{CborError, Reader, byte_string};
use crate::certificate::{Certificate, Scheme};
use crate::field::{EvidenceError, Field, Role, require_equal};
use crate::statement::{CLOCK_TOLERANCE, UvmFloor};
use crate::values::{Measurement, Sha256, Timestamp, shorten};

use headers::{Algorithm, Headers};

/// CBOR tag of COSE_Sign1.
const COSE_SIGN1: u64 = 18;

/// Real ones take 11 KiB.
const MAX_LENGTH: usize = 64 * 1024;

/// An issuer as COSE headers name it: `did:x509:0:sha256:<fingerprint>::eku:<oid>`. The fingerprint is
/// the root certificate's; the signer must have the extended key usage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UvmIssuer {
    root: Sha256,
    purpose: ObjectIdentifier,
}

/// What an endorsement that holds says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    measurement: Measurement,
    svn: u64,
    signed: Timestamp,
}

impl Endorsement {
    /// The launch measurement of the utility VM.
    pub fn measurement(&self) -> Measurement {
        self.measurement
    }

    /// Its security version number, which rises when a weakness is mended.
    pub fn svn(&self) -> u64 {
        self.svn
    }

    /// When it was signed, by the signer's clock.
    pub fn signed(&self) -> Timestamp {
        self.signed
    }
}

/// Verifies an endorsement against what a statement demands of utility VMs.
///
/// # Errors
/// The first field that does not hold, with what was expected and what came.
pub fn verify_endorsement(
    message: &[u8], floor: &UvmFloor, now: Timestamp,
) -> Result<Endorsement, EvidenceError> {
    let message = Message::parse(message)?;
    let headers = Headers::parse(message.protected)?;
    let signer = signer(&headers, &floor.issuer)?;
    check_signature(&message, headers.algorithm, &signer)?;

    if headers.signed.since(now) > CLOCK_TOLERANCE {
        let expected = format!("a time not after {now}");
        return Err(EvidenceError::new(Field::UvmSigningTime, expected, headers.signed));
    }
    require_text(Field::UvmIssuer, &floor.issuer.to_string(), headers.issuer)?;
    require_text(Field::UvmFeed, floor.feed(), headers.feed)?;
    let (measurement, svn) = read_payload(message.payload)?;
    if svn < floor.minimum_svn {
        let expected = format!("at least {}", floor.minimum_svn);
        return Err(EvidenceError::new(Field::UvmSvn, expected, svn));
    }
    Ok(Endorsement { measurement, svn, signed: headers.signed })
}

/// The parts of a COSE_Sign1 message. The unprotected header is not signed, and not read.
struct Message<'a> {
    protected: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, EvidenceError> {
        let refuse = |found: &dyn fmt::Display| {
            EvidenceError::new(Field::UvmEndorsement, "a COSE_Sign1 message (tag 18)", found)
        };
        if bytes.len() > MAX_LENGTH {
            return Err(refuse(&format!("{} bytes", bytes.len())));
        }
        Self::read(bytes).map_err(|error| refuse(&error))
    }

    fn read(bytes: &'a [u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(bytes);
        if reader.tag()? != COSE_SIGN1 || reader.array()? != 4 {
            return Err(CborError::Type("tag 18 and four items"));
        }
        let protected = reader.bytes()?;
        reader.item()?.map()?;
        let message = Self { protected, payload: reader.bytes()?, signature: reader.bytes()? };
        reader.finish()?;
        Ok(message)
    }

    /// Sig_structure (RFC 9052 section 4.4), with no external data.
    fn signed_bytes(&self) -> Vec<u8> {
        let (protected, payload) = (byte_string(self.protected), byte_string(self.payload));
        [b"\x84\x6aSignature1", protected.as_slice(), &byte_string(&[]), &payload].concat()
    }
}

/// The certificate whose key signed, once the chain up to the issuer's root holds.
fn signer(headers: &Headers<'_>, issuer: &UvmIssuer) -> Result<Certificate, EvidenceError> {
    let last = headers.chain.len() - 1;
    let certificates = headers.chain.iter().enumerate().map(|(place, encoded)| {
        let role = match place {
            0 => Role::UvmSigner,
            place if place == last => Role::UvmRoot,
            _ => Role::UvmAuthority,
        };
        Certificate::parse(role, encoded.to_vec())
    });
    let mut certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    let root = &certificates[last];
    require_equal(Field::UvmRootDigest, issuer.root, root.sha256())?;

    // Root first, so that what is refused is the topmost certificate that does not hold.
    root.check_issued_by(root, Scheme::Sha384, headers.signed)?;
    for place in (0..=last).rev() {
        let certificate = &certificates[place];
        if place < last {
            certificate.check_issued_by(
                &certificates[place + 1],
                Scheme::Sha384,
                headers.signed,
            )?;
        }
        match u8::try_from(place) {
            Ok(0) => certificate.check_is_leaf()?,
            below => certificate.check_is_authority(below.map_or(u8::MAX, |place| place - 1))?,
        }
    }
    let signer = certificates.swap_remove(0);
    signer.check_may_sign_for(issuer.purpose)?;
    if let Some(digest) = headers.signer_digest {
        require_equal(Field::UvmSignerDigest, signer.sha256(), digest)?;
    }
    Ok(signer)
}

fn check_signature(
    message: &Message<'_>, algorithm: Algorithm, signer: &Certificate,
) -> Result<(), EvidenceError> {
    let (algorithm, key): (&dyn VerificationAlgorithm, _) = match algorithm {
        Algorithm::Ps384 => (&RSA_PSS_2048_8192_SHA384, signer.rsa_key()?),
        Algorithm::Es384 => (&ECDSA_P384_SHA384_FIXED, signer.p384_key()?),
    };
    UnparsedPublicKey::new(algorithm, key)
        .verify(&message.signed_bytes(), message.signature)
        .map_err(|_| {
            EvidenceError::new(
                Field::UvmSignature,
                "the signer's signature over headers and payload",
                "a signature by another key or over other bytes",
            )
        })
}

fn require_text(field: Field, expected: &str, found: &str) -> Result<(), EvidenceError> {
    if expected == found {
        return Ok(());
    }
    // Issuers differ in their last digits.
    let found: String = found.chars().take(256).collect();
    Err(EvidenceError::new(field, expected, found))
}

/// The payload, which is the signer's: members this crate does not know do no harm.
#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "x-ms-sevsnpvm-launchmeasurement")]
    measurement: Measurement,
    #[serde(rename = "x-ms-sevsnpvm-guestsvn")]
    svn: String,
    /// The same as a number, which newer endorsements add.
    #[serde(rename = "x-ms-sevsnpvm-guestsvn-int")]
    svn_number: Option<u64>,
}

fn read_payload(payload: &[u8]) -> Result<(Measurement, u64), EvidenceError> {
    let refuse = |found: &str| {
        EvidenceError::new(
            Field::UvmPayload,
            "JSON with x-ms-sevsnpvm-launchmeasurement and x-ms-sevsnpvm-guestsvn",
            shorten(found),
        )
    };
    let payload: Payload =
        serde_json::from_slice(payload).map_err(|error| refuse(&error.to_string()))?;
    // One spelling: no sign, no leading zero.
    let svn = payload.svn.parse().ok().filter(|svn: &u64| svn.to_string() == payload.svn);
    let svn = svn.ok_or_else(|| refuse(&format!("guestsvn {:?}", payload.svn)))?;
    match payload.svn_number {
        Some(number) if number != svn => Err(refuse(&format!("guestsvn {svn} and {number}"))),
        _ => Ok((payload.measurement, svn)),
    }
}

impl fmt::Display for UvmIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = URL_SAFE_NO_PAD.encode(self.root.as_bytes());
        write!(f, "did:x509:0:sha256:{fingerprint}::eku:{}", self.purpose)
    }
}

impl From<UvmIssuer> for String {
    fn from(issuer: UvmIssuer) -> Self {
        issuer.to_string()
    }
}

impl TryFrom<String> for UvmIssuer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parse = || {
            let (fingerprint, purpose) =
                text.strip_prefix("did:x509:0:sha256:")?.split_once("::eku:")?;
            let root = URL_SAFE_NO_PAD.decode(fingerprint).ok()?.try_into().ok()?;
            Some(Self { root: Sha256::new(root), purpose: purpose.parse().ok()? })
        };
        // One issuer has one spelling.
        parse().filter(|issuer| issuer.to_string() == text).ok_or_else(|| {
            let found = shorten(&text);
            format!("expected did:x509:0:sha256:<43 base64url>::eku:<oid>, found {found:?}")
        })
    }
}
