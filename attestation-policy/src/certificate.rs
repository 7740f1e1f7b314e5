//! One X.509 certificate: strict DER, the bytes that were signed kept as they came.
//!
//! `x509-cert` reads the structure (strict DER, no crypto of its own); ring verifies signatures.

use der::asn1::{BitString, ObjectIdentifier};
use der::{Decode, Encode, Reader, Sequence, SliceReader};
use ring::signature::{
    ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA384,
    UnparsedPublicKey, VerificationAlgorithm,
};
use x509_cert::TbsCertificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages};
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::field::{CertificatePart, EvidenceError, Field, Role};
use crate::values::{Sha256, Timestamp, shorten};

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_PKCS1_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");

/// An uncompressed P-384 point.
const P384_POINT_LENGTH: usize = 97;

/// A chain has three blocks; more are not worth decoding.
const MAX_BLOCKS: usize = 8;

/// How the certificates of a chain are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// As AMD does: RSASSA-PSS with SHA-384 throughout and a salt as long as the hash.
    Pss,
    /// As Microsoft does: RSASSA-PKCS1-v1_5 or ECDSA on P-384, with SHA-384.
    Sha384,
}

/// A certificate in its place in the chain.
pub(crate) struct Certificate {
    role: Role,
    encoded: Vec<u8>,
    /// The TBSCertificate's bytes, the ones that were signed.
    signed: Vec<u8>,
    fields: TbsCertificate,
    signature_algorithm: AlgorithmIdentifierOwned,
    signature: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

impl Certificate {
    pub(crate) fn parse(role: Role, encoded: Vec<u8>) -> Result<Self, EvidenceError> {
        Self::decode(role, &encoded).map_err(|error| {
            EvidenceError::new(
                Field::Certificate(role, CertificatePart::Encoding),
                "an X.509 certificate in DER",
                shorten(&error.to_string()),
            )
        })
    }

    fn decode(role: Role, encoded: &[u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(encoded)?;
        let (signed, signature_algorithm, signature) = reader.sequence(|inner| {
            let signed = inner.tlv_bytes()?.to_vec();
            let algorithm = AlgorithmIdentifierOwned::decode(inner)?;
            Ok::<_, der::Error>((signed, algorithm, BitString::decode(inner)?))
        })?;
        reader.finish()?;
        let fields = TbsCertificate::from_der(&signed)?;
        Ok(Self {
            role,
            encoded: encoded.to_vec(),
            subject: fields.subject().to_der()?,
            issuer: fields.issuer().to_der()?,
            signature: signature.as_bytes().unwrap_or_default().to_vec(),
            signed,
            fields,
            signature_algorithm,
        })
    }

    pub(crate) fn sha256(&self) -> Sha256 {
        Sha256::of(&self.encoded)
    }

    pub(crate) fn extensions(&self) -> &[Extension] {
        self.fields.extensions().map_or(&[], Vec::as_slice)
    }

    /// The issuer's name, the validity, and the issuer's signature.
    pub(crate) fn check_issued_by(
        &self, issuer: &Self, scheme: Scheme, now: Timestamp,
    ) -> Result<(), EvidenceError> {
        if self.issuer != issuer.subject {
            return Err(self.refuse(
                CertificatePart::Issuer,
                format!("{} (the {}'s subject)", issuer.fields.subject(), issuer.role),
                self.fields.issuer(),
            ));
        }
        self.check_validity(now)?;
        let (algorithm, key): (&dyn VerificationAlgorithm, _) =
            match self.checked_signature_algorithm(scheme)? {
                RSASSA_PSS => (&RSA_PSS_2048_8192_SHA384, issuer.rsa_key()?),
                RSA_PKCS1_SHA384 => (&RSA_PKCS1_2048_8192_SHA384, issuer.rsa_key()?),
                _ => (&ECDSA_P384_SHA384_ASN1, issuer.p384_key()?),
            };
        UnparsedPublicKey::new(algorithm, key).verify(&self.signed, &self.signature).map_err(|_| {
            self.refuse(
                CertificatePart::Signature,
                format!("the {}'s signature", issuer.role),
                "a signature by another key or over other bytes",
            )
        })
    }

    /// basicConstraints CA with room for the authorities `below` it, and keyCertSign if there is a
    /// keyUsage (RFC 5280 section 6.1.4).
    pub(crate) fn check_is_authority(&self, below: u8) -> Result<(), EvidenceError> {
        self.check_critical_extensions()?;
        let is_authority = match self.fields.get_extension::<BasicConstraints>() {
            Ok(Some((_, constraints))) => {
                constraints.ca && constraints.path_len_constraint.is_none_or(|most| most >= below)
            }
            _ => false,
        };
        let may_sign = match self.fields.get_extension::<KeyUsage>() {
            Ok(None) => true,
            Ok(Some((_, KeyUsage(usage)))) => usage.contains(KeyUsages::KeyCertSign),
            Err(_) => false,
        };
        if is_authority && may_sign {
            return Ok(());
        }
        Err(self.refuse(
            CertificatePart::Extensions,
            "basicConstraints CA with room for the authorities below, and keyCertSign in keyUsage",
            format!("CA {is_authority}, keyCertSign {may_sign}"),
        ))
    }

    /// digitalSignature if there is a keyUsage, and `purpose` among the extended key usages.
    pub(crate) fn check_may_sign_for(
        &self, purpose: ObjectIdentifier,
    ) -> Result<(), EvidenceError> {
        let may_sign = match self.fields.get_extension::<KeyUsage>() {
            Ok(None) => true,
            Ok(Some((_, KeyUsage(usage)))) => usage.contains(KeyUsages::DigitalSignature),
            Err(_) => false,
        };
        let purposes = match self.fields.get_extension::<ExtendedKeyUsage>() {
            Ok(Some((_, ExtendedKeyUsage(purposes)))) => purposes,
            _ => vec![],
        };
        if may_sign && purposes.contains(&purpose) {
            return Ok(());
        }
        let purposes: Vec<String> = purposes.iter().map(ToString::to_string).collect();
        Err(self.refuse(
            CertificatePart::Extensions,
            format!("digitalSignature, and the extended key usage {purpose}"),
            format!("digitalSignature {may_sign}, purposes {}", purposes.join(" ")),
        ))
    }

    /// Not an authority.
    pub(crate) fn check_is_leaf(&self) -> Result<(), EvidenceError> {
        self.check_critical_extensions()?;
        match self.fields.get_extension::<BasicConstraints>() {
            Ok(None) => Ok(()),
            Ok(Some((_, constraints))) if !constraints.ca => Ok(()),
            _ => Err(self.refuse(
                CertificatePart::Extensions,
                "no authority to issue certificates",
                "basicConstraints CA",
            )),
        }
    }

    /// The uncompressed P-384 point.
    pub(crate) fn p384_key(&self) -> Result<&[u8], EvidenceError> {
        let key = self.fields.subject_public_key_info();
        let curve = key.algorithm.parameters.as_ref();
        let point = key.subject_public_key.as_bytes().unwrap_or_default();
        let is_p384 = key.algorithm.oid == EC_PUBLIC_KEY
            && curve.and_then(|curve| curve.decode_as().ok()) == Some(SECP384R1)
            && point.len() == P384_POINT_LENGTH
            && point.first() == Some(&0x04);
        if is_p384 { Ok(point) } else { Err(self.refuse_key("an uncompressed P-384 point")) }
    }

    /// The RSAPublicKey's DER.
    pub(crate) fn rsa_key(&self) -> Result<&[u8], EvidenceError> {
        let key = self.fields.subject_public_key_info();
        if key.algorithm.oid == RSA_ENCRYPTION {
            Ok(key.subject_public_key.as_bytes().unwrap_or_default())
        } else {
            Err(self.refuse_key("an RSA key"))
        }
    }

    pub(crate) fn check_common_name(&self, expected: &str) -> Result<(), EvidenceError> {
        let found = match self.fields.subject().common_name() {
            Ok(Some(name)) => name.value().into_owned(),
            _ => "no common name".to_owned(),
        };
        if found == expected {
            return Ok(());
        }
        let expected = format!("CN={expected}");
        let hint = match found.contains("VLEK") {
            true => " (a VLEK, which is shared between chips, is not accepted)",
            false => "",
        };
        Err(self.refuse(
            CertificatePart::Subject,
            expected,
            format!("CN={}{hint}", shorten(&found)),
        ))
    }

    fn check_validity(&self, now: Timestamp) -> Result<(), EvidenceError> {
        let validity = self.fields.validity();
        let not_before = validity.not_before.to_unix_duration().as_secs();
        let not_after = validity.not_after.to_unix_duration().as_secs();
        if (not_before..=not_after).contains(&now.unix_seconds()) {
            return Ok(());
        }
        let period = format!("a time from {} to {}", validity.not_before, validity.not_after);
        Err(self.refuse(CertificatePart::Validity, period, now))
    }

    /// One of the scheme's algorithms, the same inside and outside of what is signed (RFC 5280
    /// section 4.1.1.2).
    fn checked_signature_algorithm(
        &self, scheme: Scheme,
    ) -> Result<ObjectIdentifier, EvidenceError> {
        let AlgorithmIdentifierOwned { oid, parameters } = &self.signature_algorithm;
        let (expected, is_right) = match scheme {
            Scheme::Pss => {
                let pss = parameters.as_ref().and_then(|any| any.decode_as::<PssParameters>().ok());
                (
                    "RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes",
                    *oid == RSASSA_PSS && pss.is_some_and(|pss| pss.are_sha384()),
                )
            }
            Scheme::Sha384 => {
                let parameters = parameters.as_ref();
                let rsa = *oid == RSA_PKCS1_SHA384 && parameters.is_some_and(|any| any.is_null());
                let ecdsa = *oid == ECDSA_SHA384 && parameters.is_none();
                ("RSASSA-PKCS1-v1_5 or ECDSA, with SHA-384", rsa || ecdsa)
            }
        };
        if is_right && *self.fields.signature() == self.signature_algorithm {
            return Ok(*oid);
        }
        Err(self.refuse(
            CertificatePart::SignatureAlgorithm,
            expected,
            format!("{oid} with other parameters or not the same twice"),
        ))
    }

    /// RFC 5280 section 4.2: what is critical must be understood; nothing stands twice.
    fn check_critical_extensions(&self) -> Result<(), EvidenceError> {
        let extensions = self.extensions();
        for (index, extension) in extensions.iter().enumerate() {
            let oid = extension.extn_id;
            let is_purpose = oid == EXTENDED_KEY_USAGE && self.role == Role::UvmSigner;
            let is_known = oid == BASIC_CONSTRAINTS || oid == KEY_USAGE || is_purpose;
            let is_repeated = extensions[..index].iter().any(|earlier| earlier.extn_id == oid);
            if is_repeated || (extension.critical && !is_known) {
                return Err(self.refuse(
                    CertificatePart::Extensions,
                    "each extension once, and none critical that is not understood",
                    oid,
                ));
            }
        }
        Ok(())
    }

    fn refuse_key(&self, expected: &str) -> EvidenceError {
        let found = self.fields.subject_public_key_info().algorithm.oid;
        let found = format!("another key (algorithm {found})");
        self.refuse(CertificatePart::PublicKey, expected, found)
    }

    fn refuse(
        &self, part: CertificatePart, expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> EvidenceError {
        EvidenceError::new(Field::Certificate(self.role, part), expected, found)
    }
}

/// RSASSA-PSS-params (RFC 4055 section 3.1). The defaults are SHA-1's, so all three must be there.
#[derive(Sequence)]
struct PssParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt_length: Option<u32>,
    /// AMD's certificates of some years state the default, 1.
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u32>,
}

impl PssParameters {
    fn are_sha384(&self) -> bool {
        let mask_hash = self.mask.as_ref().filter(|mask| mask.oid == MGF1).and_then(|mask| {
            mask.parameters.as_ref()?.decode_as::<AlgorithmIdentifierOwned>().ok()
        });
        let is_sha384 = |hash: &Option<AlgorithmIdentifierOwned>| {
            hash.as_ref().is_some_and(|hash| {
                hash.oid == SHA384 && hash.parameters.as_ref().is_none_or(|any| any.is_null())
            })
        };
        is_sha384(&self.hash)
            && is_sha384(&mask_hash)
            && self.salt_length == Some(48)
            && self.trailer.is_none_or(|trailer| trailer == 1)
    }
}

/// Splits PEM text into the DER of its `CERTIFICATE` blocks; only white space may stand between.
pub(crate) fn split_pem(text: &[u8]) -> Result<Vec<Vec<u8>>, EvidenceError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let refuse = |found: &str| {
        EvidenceError::new(Field::Chain, "PEM blocks of type CERTIFICATE", shorten(found))
    };
    let text = std::str::from_utf8(text).map_err(|_| refuse("bytes that are not text"))?;
    let mut blocks = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(END).ok_or_else(|| refuse("a block without an end"))? + END.len();
        let (block, after) = rest.split_at(end);
        if !block.starts_with(BEGIN) {
            return Err(refuse(block));
        }
        let (_label, der) =
            der::pem::decode_vec(block.as_bytes()).map_err(|error| refuse(&error.to_string()))?;
        if blocks.len() == MAX_BLOCKS {
            return Err(refuse("more blocks than any chain has"));
        }
        blocks.push(der);
        rest = after.trim_start();
    }
    Ok(blocks)
}
