//! Endorsements of utility VMs by a signer of our own, as Microsoft's look. Everything about them can
//! be made wrong, and signed again.
//!
//! The CBOR is written here by hand, not by the code that reads it.

use aws_lc_rs::signature::RSA_PSS_SHA384;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;

use crate::test_chip::{
    self, CertificateSpec, ExtensionSpec, Signer, basic_constraints, certificate, chip_key, oid,
    p384_key, rsa_key, sequence, tlv,
};
use crate::values::Sha256;

pub(crate) const PURPOSE: &str = "1.3.6.1.4.1.311.76.59.1.2";
pub(crate) const FEED: &str = "ContainerPlat-AMD-UVM";

/// An endorsement before it is signed.
#[derive(Clone)]
pub(crate) struct EndorsementSpec {
    pub(crate) signer: CertificateSpec,
    pub(crate) authority: CertificateSpec,
    pub(crate) root: CertificateSpec,
    /// Changes the finished chain, which is then signed with the rest.
    pub(crate) after_chain: fn(&mut Vec<Vec<u8>>),
    pub(crate) algorithm: i64,
    pub(crate) content_type: &'static str,
    pub(crate) signer_digest: Option<(i64, Vec<u8>)>,
    /// The issuer of the finished chain, if none is given.
    pub(crate) issuer: Option<String>,
    pub(crate) feed: &'static str,
    /// Seconds since 1970.
    pub(crate) signed: u64,
    /// Changes the headers' pairs of label and value.
    pub(crate) after_headers: fn(&mut Vec<[Vec<u8>; 2]>),
    pub(crate) payload: String,
    /// Changes the finished message.
    pub(crate) after: fn(&mut Vec<u8>),
}

impl EndorsementSpec {
    /// A right one, of security version 104.
    pub(crate) fn new() -> Self {
        let leaf = |spec: CertificateSpec| CertificateSpec {
            not_before: "20260101000000Z",
            not_after: "20270101000000Z",
            extensions: vec![
                basic_constraints(false),
                // digitalSignature.
                ExtensionSpec { oid: "2.5.29.15", critical: true, value: tlv(3, &[vec![7, 0x80]]) },
                purposes(&["1.3.6.1.4.1.311.76.59.1.1", PURPOSE]),
            ],
            ..spec
        };
        Self {
            signer: leaf(certificate("Signer", "CA", rsa_key(Signer::Uvm), Signer::Ask)).pkcs1(),
            authority: certificate("CA", "Root", rsa_key(Signer::Ask), Signer::Ark).pkcs1(),
            root: certificate("Root", "Root", rsa_key(Signer::Ark), Signer::Ark).pkcs1(),
            after_chain: |_| (),
            algorithm: -38,
            content_type: "application/json",
            signer_digest: None,
            issuer: None,
            feed: FEED,
            // 2026-06-01T00:00:00Z
            signed: 1_780_272_000,
            after_headers: |_| (),
            payload: payload(&"ab".repeat(48), "\"104\""),
            after: |_| (),
        }
    }

    /// The message, and the issuer that its chain stands for.
    pub(crate) fn build(&self) -> (Vec<u8>, String) {
        let mut chain = vec![self.signer.build(), self.authority.build(), self.root.build()];
        let issuer = issuer(&chain[2]);
        let digest = Sha256::of(&chain[0]).as_bytes().to_vec();
        (self.after_chain)(&mut chain);

        let (algorithm, digest) = self.signer_digest.clone().unwrap_or((-16, digest));
        let chain: Vec<Vec<u8>> = chain.iter().map(|it| bytes(it)).collect();
        let mut headers = vec![
            [integer(1), integer(self.algorithm)],
            [integer(3), text(self.content_type)],
            [integer(33), array(&chain)],
            [integer(34), array(&[integer(algorithm), bytes(&digest)])],
            [text("iss"), text(self.issuer.as_ref().unwrap_or(&issuer))],
            [text("feed"), text(self.feed)],
            [text("signingtime"), [vec![0xC1], head(0, self.signed)].concat()],
        ];
        (self.after_headers)(&mut headers);
        let pairs: Vec<Vec<u8>> = headers.iter().map(|pair| pair.concat()).collect();
        let protected = [head(5, pairs.len() as u64), pairs.concat()].concat();

        let payload = self.payload.as_bytes();
        let parts = [text("Signature1"), bytes(&protected), bytes(&[]), bytes(payload)];
        let signature = self.sign(&array(&parts));
        let unprotected = [head(5, 1), text("timestamp"), bytes(&[1, 2, 3])].concat();
        let parts = [bytes(&protected), unprotected, bytes(payload), bytes(&signature)];
        let mut message = [vec![0xD2], array(&parts)].concat();
        (self.after)(&mut message);
        (message, issuer)
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self.algorithm {
            -35 => chip_key().sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            _ => test_chip::rsa_sign(Signer::Uvm, &RSA_PSS_SHA384, message),
        }
    }

    /// Signed with ES384 by a P-384 key.
    pub(crate) fn with_es384(mut self) -> Self {
        self.algorithm = -35;
        self.signer.key = p384_key();
        self
    }
}

pub(crate) fn payload(measurement: &str, svn: &str) -> String {
    format!(
        r#"{{"x-ms-sevsnpvm-guestsvn":{svn},"x-ms-sevsnpvm-launchmeasurement":"{measurement}"}}"#
    )
}

pub(crate) fn issuer(root: &[u8]) -> String {
    let fingerprint = URL_SAFE_NO_PAD.encode(Sha256::of(root).as_bytes());
    format!("did:x509:0:sha256:{fingerprint}::eku:{PURPOSE}")
}

pub(crate) fn purposes(oids: &[&str]) -> ExtensionSpec {
    let oids: Vec<Vec<u8>> = oids.iter().map(|text| oid(text)).collect();
    ExtensionSpec { oid: "2.5.29.37", critical: false, value: sequence(&oids) }
}

fn head(kind: u8, value: u64) -> Vec<u8> {
    let kind = kind << 5;
    match value {
        0..=23 => vec![kind | value as u8],
        24..=0xFF => vec![kind | 24, value as u8],
        0x100..=0xFFFF => [vec![kind | 25], (value as u16).to_be_bytes().to_vec()].concat(),
        _ => [vec![kind | 26], (value as u32).to_be_bytes().to_vec()].concat(),
    }
}

pub(crate) fn integer(value: i64) -> Vec<u8> {
    if value < 0 { head(1, (-1 - value) as u64) } else { head(0, value as u64) }
}

pub(crate) fn bytes(value: &[u8]) -> Vec<u8> {
    [head(2, value.len() as u64), value.to_vec()].concat()
}

pub(crate) fn text(value: &str) -> Vec<u8> {
    [head(3, value.len() as u64), value.as_bytes().to_vec()].concat()
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, items.len() as u64), items.concat()].concat()
}
