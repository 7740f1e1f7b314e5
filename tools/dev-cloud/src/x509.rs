//! Certificates: issuing the dev cloud's own, and checking who signed one.

use anyhow::{Context, Result, anyhow, ensure};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_SHA384, RsaParameters, UnparsedPublicKey,
};
use der::asn1::{Any, BitString, ObjectIdentifier, OctetString};
use der::{Decode, Encode, EncodePem, Sequence, pem::LineEnding};
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

/// 365 days.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks differ; certificates begin a little earlier.
const BACKDATED: Duration = Duration::from_secs(3600);

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// RSASSA-PSS-params: SHA-384, MGF1 with SHA-384, salt of 48 bytes.
const PSS_SHA384: &str = "3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130";

/// Who signs, and how.
pub(crate) enum Issuer<'a> {
    /// RSASSA-PSS with SHA-384, as AMD signs.
    RsaPss384(&'a rsa::KeyPair),
    /// PKCS#1 v1.5 with SHA-256.
    Rsa256(&'a rsa::KeyPair),
    /// PKCS#1 v1.5 with SHA-384, as Microsoft's supply chain signs.
    #[cfg(test)]
    Rsa384(&'a rsa::KeyPair),
    /// ECDSA with SHA-384.
    P384(&'a EcdsaKeyPair),
}

/// A certificate to issue.
pub(crate) struct Certificate<'a> {
    /// RFC 4514 name.
    pub(crate) subject: &'a str,
    /// RFC 4514 name.
    pub(crate) issuer: &'a str,
    /// DER SubjectPublicKeyInfo.
    pub(crate) spki: Vec<u8>,
    pub(crate) lifetime: Duration,
    pub(crate) extensions: Vec<Extension>,
}

#[derive(Sequence)]
struct Tbs {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial_number: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    subject_public_key_info: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension>>,
}

#[derive(Sequence)]
struct Signed {
    tbs_certificate: Any,
    signature_algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

impl Certificate<'_> {
    /// The certificate's DER.
    pub(crate) fn issue(self, issuer: &Issuer) -> Result<Vec<u8>> {
        let begin = SystemTime::now() - BACKDATED;
        let algorithm = issuer.algorithm()?;
        let mut serial = [0; 16];
        rand::fill(&mut serial)?;
        serial[0] = serial[0] & 0x7f | 0x40;
        let tbs = Tbs {
            version: 2,
            serial_number: SerialNumber::new(&serial)?,
            signature: algorithm.clone(),
            issuer: Name::from_str(self.issuer)?,
            validity: Validity::new(Time::try_from(begin)?, Time::try_from(begin + self.lifetime)?),
            subject: Name::from_str(self.subject)?,
            subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(&self.spki)?,
            extensions: (!self.extensions.is_empty()).then_some(self.extensions),
        };
        let tbs = tbs.to_der()?;
        let signature = BitString::from_bytes(&issuer.sign(&tbs)?)?;
        let tbs_certificate = Any::from_der(&tbs)?;
        Ok(Signed { tbs_certificate, signature_algorithm: algorithm, signature }.to_der()?)
    }

    /// The certificate's PEM.
    pub(crate) fn issue_pem(self, issuer: &Issuer) -> Result<String> {
        let der = self.issue(issuer)?;
        Ok(x509_cert::Certificate::from_der(&der)?.to_pem(LineEnding::LF)?)
    }
}

impl Issuer<'_> {
    fn algorithm(&self) -> Result<AlgorithmIdentifierOwned> {
        let (oid, parameters) = match self {
            Self::RsaPss384(_) => (RSASSA_PSS, Some(Any::from_der(&hex::decode(PSS_SHA384)?)?)),
            Self::Rsa256(_) => (SHA256_WITH_RSA, Some(Any::null())),
            #[cfg(test)]
            Self::Rsa384(_) => (SHA384_WITH_RSA, Some(Any::null())),
            Self::P384(_) => (ECDSA_WITH_SHA384, None),
        };
        Ok(AlgorithmIdentifierOwned { oid, parameters })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::RsaPss384(key) => rsa_sign(key, &RSA_PSS_SHA384, message),
            Self::Rsa256(key) => rsa_sign(key, &RSA_PKCS1_SHA256, message),
            #[cfg(test)]
            Self::Rsa384(key) => rsa_sign(key, &aws_lc_rs::signature::RSA_PKCS1_SHA384, message),
            Self::P384(key) => {
                let fixed = key.sign(&SystemRandom::new(), message)?;
                ecdsa_der(fixed.as_ref())
            }
        }
    }
}

/// An RSA signature.
pub(crate) fn rsa_sign(
    key: &rsa::KeyPair, encoding: &'static dyn aws_lc_rs::signature::RsaEncoding, message: &[u8],
) -> Result<Vec<u8>> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), message, &mut signature)?;
    Ok(signature)
}

/// r || s as Ecdsa-Sig-Value.
fn ecdsa_der(fixed: &[u8]) -> Result<Vec<u8>> {
    #[derive(Sequence)]
    struct Value {
        r: der::asn1::Uint,
        s: der::asn1::Uint,
    }
    let (r, s) = fixed.split_at(fixed.len() / 2);
    Ok(Value { r: der::asn1::Uint::new(r)?, s: der::asn1::Uint::new(s)? }.to_der()?)
}

/// DER SubjectPublicKeyInfo of an RSA key pair.
pub(crate) fn rsa_spki(key: &rsa::KeyPair) -> Result<Vec<u8>> {
    Ok(key.public_key().as_der()?.as_ref().to_vec())
}

/// DER prefix of a P-384 SubjectPublicKeyInfo; the 97-byte uncompressed point follows.
const SPKI_P384_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

/// DER SubjectPublicKeyInfo of a P-384 key pair.
pub(crate) fn p384_spki(key: &EcdsaKeyPair) -> Vec<u8> {
    [&SPKI_P384_PREFIX, key.public_key().as_ref()].concat()
}

/// An extension with `value` as its DER.
pub(crate) fn extension(oid: ObjectIdentifier, critical: bool, value: &[u8]) -> Result<Extension> {
    Ok(Extension { extn_id: oid, critical, extn_value: OctetString::new(value)? })
}

/// basicConstraints cA=TRUE, critical.
pub(crate) fn certificate_authority() -> Result<Extension> {
    extension(BASIC_CONSTRAINTS, true, &[0x30, 0x03, 0x01, 0x01, 0xff])
}

/// subjectAltName with DNS names.
pub(crate) fn dns_names(names: &[String]) -> Result<Extension> {
    use x509_cert::ext::pkix::name::GeneralName;
    let names: Vec<GeneralName> = names
        .iter()
        .map(|name| Ok(GeneralName::DnsName(der::asn1::Ia5String::new(name)?)))
        .collect::<Result<_>>()?;
    extension(SUBJECT_ALT_NAME, false, &names.to_der()?)
}

/// A parsed certificate.
#[derive(Clone)]
pub(crate) struct Parsed(pub(crate) x509_cert::Certificate);

impl Parsed {
    /// Reads one certificate's DER.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self> {
        Ok(Self(
            x509_cert::Certificate::from_der(der)
                .map_err(|error| anyhow!("not a certificate: {error}"))?,
        ))
    }

    /// Reads concatenated PEM certificates.
    pub(crate) fn chain_from_pem(pem: &[u8]) -> Result<Vec<Self>> {
        let chain = x509_cert::Certificate::load_pem_chain(pem)
            .map_err(|error| anyhow!("not PEM certificates: {error}"))?;
        Ok(chain.into_iter().map(Self).collect())
    }

    /// The certificate's DER.
    pub(crate) fn der(&self) -> Result<Vec<u8>> {
        Ok(self.0.to_der()?)
    }

    /// The common name, empty if there is none.
    pub(crate) fn common_name(&self) -> String {
        const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
        self.0
            .tbs_certificate()
            .subject()
            .iter()
            .find(|attribute| attribute.oid == COMMON_NAME)
            .map(|attribute| String::from_utf8_lossy(attribute.value.value()).into_owned())
            .unwrap_or_default()
    }

    /// The public key's bits: an RSAPublicKey, or an uncompressed point.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.0.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes()
    }

    /// The value of an extension, if it is there once.
    pub(crate) fn extension(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        let mut found = self
            .0
            .tbs_certificate()
            .extensions()?
            .iter()
            .filter(|extension| extension.extn_id == oid);
        let one = found.next()?;
        found.next().is_none().then(|| one.extn_value.as_bytes())
    }

    /// Valid at this time, and signed so by `issuer`, whose name it bears as issuer.
    pub(crate) fn check_issuer(
        &self, issuer: &Self, with: SignedWith, at: SystemTime,
    ) -> Result<()> {
        let name = self.common_name();
        let tbs = self.0.tbs_certificate();
        ensure!(
            tbs.issuer() == issuer.0.tbs_certificate().subject(),
            "{name} was not issued by {}",
            issuer.common_name()
        );
        let validity = tbs.validity();
        ensure!(
            validity.not_before.to_system_time() <= at && at <= validity.not_after.to_system_time(),
            "{name} is not valid then"
        );
        let (oid, algorithm) = with.algorithm();
        ensure!(
            self.0.signature_algorithm() == tbs.signature() && tbs.signature().oid == oid,
            "{name} is not signed with {with:?}"
        );
        UnparsedPublicKey::new(algorithm, issuer.public_key())
            .verify(&tbs.to_der()?, self.0.signature().raw_bytes())
            .ok()
            .with_context(|| {
                format!("the signature of {} on {name} is wrong", issuer.common_name())
            })
    }
}

/// How a certificate is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SignedWith {
    /// RSASSA-PSS with SHA-384, as AMD signs.
    RsaPss384,
    /// PKCS#1 v1.5 with SHA-384, as Microsoft's supply chain signs.
    Rsa384,
}

impl SignedWith {
    fn algorithm(self) -> (ObjectIdentifier, &'static RsaParameters) {
        match self {
            Self::RsaPss384 => (RSASSA_PSS, &RSA_PSS_2048_8192_SHA384),
            Self::Rsa384 => (SHA384_WITH_RSA, &RSA_PKCS1_2048_8192_SHA384),
        }
    }
}

/// A SubjectPublicKeyInfo as PEM.
pub(crate) fn spki_pem(spki: &[u8]) -> Result<String> {
    Ok(SubjectPublicKeyInfoOwned::from_der(spki)?.to_pem(LineEnding::LF)?)
}
