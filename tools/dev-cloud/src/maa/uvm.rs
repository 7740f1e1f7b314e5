//! UVM endorsements: what Microsoft says about the utility VM that a confidential container runs in.
//!
//! A COSE_Sign1 (RFC 9052) whose issuer is a did:x509: the fingerprint of a certificate authority, and the key usage
//! that the signing certificate below it must have.

use crate::digest::sha256;
use crate::strict_json;
use crate::x509::{Parsed, SignedWith};
use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ciborium::Value as Cbor;
use der::Decode;
use der::asn1::ObjectIdentifier;
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage};

/// Fingerprint of the one root that is trusted, Microsoft's supply chain root; and its usage for container platforms.
pub(super) const ROOT: &str = "I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s";
const USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.76.59.1.2");
/// Confidential containers.
const FEED: &str = "ContainerPlat-AMD-UVM";
/// What a token says of a machine so endorsed.
const COMPLIANCE: &str = "azure-compliant-uvm";
const MEASUREMENT: &str = "x-ms-sevsnpvm-launchmeasurement";
const GUEST_SVN: &str = "x-ms-sevsnpvm-guestsvn";

const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const COSE_SIGN1: u64 = 18;
const EPOCH_TIME: u64 = 1;
/// Header labels of RFC 9052 and RFC 9360, and their values.
const ALGORITHM: i64 = 1;
const X5_CHAIN: i64 = 33;
const X5_THUMBPRINT: i64 = 34;
const PS384: i64 = -38;
const SHA_256: i64 = -16;

/// The claims about a machine that an issuer below `root` endorses, whose measurement must be the endorsement's.
pub(super) fn claims(
    cose: &[u8], measurement: &[u8; 48], root: &str,
) -> Result<Map<String, Value>> {
    let message = Message::read(cose)?;
    let issuer = message.check_issuer(root)?;
    message.check_signature()?;
    let feed = message.text("feed")?;
    ensure!(feed == FEED, "feed {feed:?} is not {FEED}");

    let payload = strict_json::parse(&message.payload).context("the payload")?;
    let endorsed = payload[MEASUREMENT].as_str().context("the payload endorses no measurement")?;
    let measurement = hex::encode(measurement);
    ensure!(endorsed == measurement, "measurement {endorsed} is endorsed, not {measurement}");
    ensure!(payload[GUEST_SVN].is_string(), "the payload names no {GUEST_SVN}");
    let mut claims = Map::new();
    claims.insert("x-ms-compliance-status".into(), json!(COMPLIANCE));
    claims.insert("x-ms-sevsnpvm-uvm-endorsement".into(), payload);
    let headers = json!({"feed": feed, "iss": issuer});
    claims.insert("x-ms-sevsnpvm-uvm-endorsement-headers".into(), headers);
    Ok(claims)
}

/// A COSE_Sign1, read and not judged.
struct Message {
    protected: Vec<u8>,
    headers: Vec<(Cbor, Cbor)>,
    payload: Vec<u8>,
    signature: Vec<u8>,
    /// Leaf first.
    chain: Vec<Parsed>,
}

impl Message {
    fn read(cose: &[u8]) -> Result<Self> {
        let Cbor::Tag(COSE_SIGN1, message) = cbor(cose)? else { bail!("not a COSE_Sign1") };
        let parts = message.into_array().ok().context("not an array")?;
        let [protected, _, payload, signature] = parts.try_into().ok().context("not four parts")?;
        let bytes = |part: Cbor| part.into_bytes().ok().context("a part is not a byte string");
        let (protected, payload) = (bytes(protected)?, bytes(payload)?);
        let headers = cbor(&protected)?.into_map().ok().context("the header is not a map")?;
        let mut message =
            Self { protected, headers, payload, signature: bytes(signature)?, chain: Vec::new() };
        let chain = message.header(&X5_CHAIN.into())?.as_array().context("x5chain is no list")?;
        message.chain = chain
            .iter()
            .map(|der| Parsed::from_der(der.as_bytes().context("x5chain holds no bytes")?))
            .collect::<Result<_>>()?;
        Ok(message)
    }

    /// A protected header that is there once.
    fn header(&self, label: &Cbor) -> Result<&Cbor> {
        let mut found = self.headers.iter().filter(|(name, _)| name == label);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(value),
            _ => bail!("the header has no single {label:?}"),
        }
    }

    fn text(&self, label: &str) -> Result<&str> {
        self.header(&label.into())?.as_text().with_context(|| format!("{label} is not text"))
    }

    /// The issuer, if the chain is its.
    fn check_issuer(&self, trusted: &str) -> Result<&str> {
        let issuer = self.text("iss")?;
        let known = format!("did:x509:0:sha256:{trusted}::eku:{USAGE}");
        ensure!(issuer == known, "issuer {issuer} is not trusted");
        let [leaf, .., root] = self.chain.as_slice() else { bail!("x5chain is no chain") };
        let fingerprint = URL_SAFE_NO_PAD.encode(sha256(&root.der()?));
        ensure!(
            fingerprint == trusted,
            "the chain ends in {fingerprint}, not in the issuer's root"
        );

        let signing_time = self.signing_time()?;
        for (index, certificate) in self.chain.iter().enumerate() {
            let by = self.chain.get(index + 1).unwrap_or(root);
            certificate.check_issuer(by, SignedWith::Rsa384, signing_time)?;
            if index > 0 {
                let constraints = certificate.extension(BASIC_CONSTRAINTS);
                let authority = constraints.and_then(|der| BasicConstraints::from_der(der).ok());
                let authority = authority.is_some_and(|constraints| constraints.ca);
                ensure!(authority, "{} is no authority", certificate.common_name());
            }
        }
        let usages = leaf.extension(EXTENDED_KEY_USAGE);
        let usages = usages.and_then(|der| ExtendedKeyUsage::from_der(der).ok());
        let usages = usages.context("the signing certificate names no usage")?;
        ensure!(usages.0.contains(&USAGE), "the signing certificate is not for {USAGE}");
        Ok(issuer)
    }

    /// The leaf lives a year; what it signed lives on.
    fn signing_time(&self) -> Result<SystemTime> {
        let Cbor::Tag(EPOCH_TIME, seconds) = self.header(&"signingtime".into())? else {
            bail!("signingtime is no time");
        };
        let seconds = seconds.as_integer().and_then(|seconds| u64::try_from(seconds).ok());
        let seconds = seconds.context("signingtime is no time")?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).context("signingtime is no time")
    }

    fn check_signature(&self) -> Result<()> {
        let algorithm = self.header(&ALGORITHM.into())?;
        ensure!(*algorithm == PS384.into(), "algorithm {algorithm:?} is not PS384");
        let leaf = self.chain.first().context("x5chain is empty")?;
        let thumbprint = [SHA_256.into(), Cbor::Bytes(sha256(&leaf.der()?).to_vec())];
        let named = self.header(&X5_THUMBPRINT.into())?;
        ensure!(
            *named == Cbor::Array(thumbprint.to_vec()),
            "x5t is not the signing certificate's thumbprint"
        );
        let signed = Cbor::Array(vec![
            "Signature1".into(),
            Cbor::Bytes(self.protected.clone()),
            Cbor::Bytes(Vec::new()),
            Cbor::Bytes(self.payload.clone()),
        ]);
        let mut bytes = Vec::new();
        ciborium::into_writer(&signed, &mut bytes)?;
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, leaf.public_key())
            .verify(&bytes, &self.signature)
            .ok()
            .context("the endorsement's signature is wrong")
    }
}

/// One item, and nothing after it.
fn cbor(mut bytes: &[u8]) -> Result<Cbor> {
    let item = ciborium::from_reader(&mut bytes).context("not CBOR")?;
    ensure!(bytes.is_empty(), "{} bytes after the CBOR", bytes.len());
    Ok(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::{Certificate, Issuer, YEAR, certificate_authority, extension, rsa_spki};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::RSA_PSS_SHA384;
    use der::Encode;
    use std::sync::OnceLock;
    use x509_cert::ext::Extension;

    /// An endorsement as Microsoft makes them, of a root of the test's own; each member can be made wrong.
    struct Endorsement {
        usage: Option<ObjectIdentifier>,
        authority: bool,
        feed: &'static str,
        payload: String,
        doubled: bool,
    }

    const MEASURED: [u8; 48] = [0xab; 48];

    fn genuine() -> Endorsement {
        let payload =
            format!(r#"{{"{GUEST_SVN}":"103","{MEASUREMENT}":"{}"}}"#, hex::encode(MEASURED));
        Endorsement { usage: Some(USAGE), authority: true, feed: FEED, payload, doubled: false }
    }

    fn keys() -> &'static [KeyPair; 3] {
        static KEYS: OnceLock<[KeyPair; 3]> = OnceLock::new();
        KEYS.get_or_init(|| [(); 3].map(|()| KeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    impl Endorsement {
        /// Leaf, intermediate, root.
        fn chain(&self) -> Vec<Vec<u8>> {
            let [root, middle, leaf] = keys();
            let usage = self.usage.map(|usage| {
                let value = ExtendedKeyUsage(vec![usage]).to_der().unwrap();
                extension(EXTENDED_KEY_USAGE, false, &value).unwrap()
            });
            let authority = || Some(certificate_authority().unwrap());
            let issue = |subject, issuer, key, extension: Option<Extension>, by| {
                let (spki, extensions) = (rsa_spki(key).unwrap(), Vec::from_iter(extension));
                let certificate = Certificate { subject, issuer, spki, lifetime: YEAR, extensions };
                certificate.issue(&Issuer::Rsa384(by)).unwrap()
            };
            vec![
                issue("CN=leaf", "CN=middle", leaf, usage, middle),
                issue("CN=middle", "CN=root", middle, authority().filter(|_| self.authority), root),
                issue("CN=root", "CN=root", root, authority(), root),
            ]
        }

        fn claims(&self) -> Result<Map<String, Value>> {
            let chain = self.chain();
            let root = URL_SAFE_NO_PAD.encode(sha256(&chain[2]));
            let issuer = format!("did:x509:0:sha256:{root}::eku:{USAGE}");
            let thumbprint = Cbor::Bytes(sha256(&chain[0]).to_vec());
            let chain = chain.into_iter().map(Cbor::Bytes).collect();
            let time = Cbor::Tag(EPOCH_TIME, Box::new(crate::clock::now().into()));
            let mut headers = vec![
                (ALGORITHM.into(), PS384.into()),
                (X5_CHAIN.into(), Cbor::Array(chain)),
                (X5_THUMBPRINT.into(), Cbor::Array(vec![SHA_256.into(), thumbprint])),
                ("iss".into(), issuer.into()),
                ("feed".into(), self.feed.into()),
                ("signingtime".into(), time),
            ];
            if self.doubled {
                headers.push(("feed".into(), "another".into()));
            }
            let bytes = |value: &Cbor| {
                let mut bytes = Vec::new();
                ciborium::into_writer(value, &mut bytes).unwrap();
                bytes
            };
            let protected = Cbor::Bytes(bytes(&Cbor::Map(headers)));
            let payload = Cbor::Bytes(self.payload.clone().into_bytes());
            let empty = Cbor::Bytes(Vec::new());
            let signed = ["Signature1".into(), protected.clone(), empty, payload.clone()];
            let signed = bytes(&Cbor::Array(signed.to_vec()));
            let signature = crate::x509::rsa_sign(&keys()[2], &RSA_PSS_SHA384, &signed).unwrap();
            let parts = [protected, Cbor::Map(Vec::new()), payload, Cbor::Bytes(signature)];
            let message = Cbor::Tag(COSE_SIGN1, Box::new(Cbor::Array(parts.to_vec())));
            claims(&bytes(&message), &MEASURED, &root)
        }
    }

    #[test]
    fn what_microsoft_would_never_sign_is_refused() {
        let claims = genuine().claims().unwrap();
        assert_eq!(claims["x-ms-sevsnpvm-uvm-endorsement"][GUEST_SVN], "103");
        let other = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
        let payload = genuine().payload;
        for (endorsement, why) in [
            (Endorsement { usage: Some(other), ..genuine() }, "is not for 1.3.6.1.4.1.311"),
            (Endorsement { usage: None, ..genuine() }, "names no usage"),
            (Endorsement { authority: false, ..genuine() }, "middle is no authority"),
            (Endorsement { feed: "another", ..genuine() }, "feed \"another\""),
            (Endorsement { doubled: true, ..genuine() }, "no single"),
            (Endorsement { payload: "{}".into(), ..genuine() }, "no measurement"),
            (Endorsement { payload: "x".into(), ..genuine() }, "the payload"),
            (Endorsement { payload: payload.replace("\"103\"", "103"), ..genuine() }, "no x-ms"),
            (Endorsement { payload: payload.replace("ab", "cd"), ..genuine() }, "is endorsed, not"),
            (
                Endorsement { payload: payload.replacen('{', "{\"a\":1,\"a\":2,", 1), ..genuine() },
                "the payload",
            ),
        ] {
            let error = format!("{:#}", endorsement.claims().unwrap_err());
            assert!(error.contains(why), "wanted {why:?}: {error}");
        }
    }
}
