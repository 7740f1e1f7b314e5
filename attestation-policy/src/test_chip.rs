//! Test chips: a root, a product key and a chip key of our own, with AMD's extensions, and reports
//! signed by them. Everything about them can be made wrong, and signed again.
//!
//! The DER is written here by hand, not by the library that reads it.

use std::sync::OnceLock;

use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA384, RSA_PSS_SHA384, RsaEncoding};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::chain::{ChainBytes, PinnedRoot, RootKind};
use crate::report::REPORT_LENGTH;
use crate::tcb::Product;
use crate::values::Sha256;

pub(crate) const CHIP_ID: [u8; 64] = {
    let mut id = [0; 64];
    let mut index = 0;
    while index < 64 {
        id[index] = index as u8 + 1;
        index += 1;
    }
    id
};

/// Who signs a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signer {
    Ark,
    Ask,
    /// The signer of endorsements.
    Uvm,
    Stranger,
}

/// An X.509 extension.
#[derive(Clone)]
pub(crate) struct ExtensionSpec {
    pub(crate) oid: &'static str,
    pub(crate) critical: bool,
    pub(crate) value: Vec<u8>,
}

/// A certificate before it is signed.
#[derive(Clone)]
pub(crate) struct CertificateSpec {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) not_before: &'static str,
    pub(crate) not_after: &'static str,
    /// subjectPublicKeyInfo.
    pub(crate) key: Vec<u8>,
    pub(crate) extensions: Vec<ExtensionSpec>,
    pub(crate) algorithm: Vec<u8>,
    pub(crate) outer_algorithm: Vec<u8>,
    pub(crate) signer: Signer,
    pub(crate) encoding: &'static dyn RsaEncoding,
    /// Bytes put behind the finished certificate.
    pub(crate) trailing: Vec<u8>,
}

impl CertificateSpec {
    pub(crate) fn extension(&mut self, oid: &str) -> &mut ExtensionSpec {
        self.extensions.iter_mut().find(|extension| extension.oid == oid).unwrap()
    }

    pub(crate) fn remove(&mut self, oid: &str) {
        self.extensions.retain(|extension| extension.oid != oid);
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let extensions: Vec<Vec<u8>> = self.extensions.iter().map(encode_extension).collect();
        let signed = sequence(&[
            tlv(0xA0, &[integer(2)]),
            integer(0),
            self.algorithm.clone(),
            name(&self.issuer),
            sequence(&[time(self.not_before), time(self.not_after)]),
            name(&self.subject),
            self.key.clone(),
            tlv(0xA3, &[sequence(&extensions)]),
        ]);
        let signature = rsa_sign(self.signer, self.encoding, &signed);
        let mut certificate =
            sequence(&[signed, self.outer_algorithm.clone(), bit_string(&signature)]);
        certificate.extend(&self.trailing);
        certificate
    }
}

/// A chain before it is signed.
#[derive(Clone)]
pub(crate) struct ChipSpec {
    pub(crate) vcek: CertificateSpec,
    pub(crate) ask: CertificateSpec,
    pub(crate) ark: CertificateSpec,
}

impl ChipSpec {
    /// A right chain, named as AMD names its own: `suffix` follows "ARK-" and "SEV-".
    pub(crate) fn new(product: Product, suffix: &str) -> Self {
        let (ark, ask) = (format!("ARK-{suffix}"), format!("SEV-{suffix}"));
        Self {
            vcek: CertificateSpec {
                not_before: "20260101000000Z",
                not_after: "20330101000000Z",
                extensions: vcek_extensions(product),
                ..certificate("SEV-VCEK", &ask, p384_key(), Signer::Ask)
            },
            ask: certificate(&ask, &ark, rsa_key(Signer::Ask), Signer::Ark),
            ark: certificate(&ark, &ark, rsa_key(Signer::Ark), Signer::Ark),
        }
    }

    pub(crate) fn build(&self) -> Chain {
        Chain { vcek: self.vcek.build(), ask: self.ask.build(), ark: self.ark.build() }
    }
}

/// A finished chain.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) vcek: Vec<u8>,
    pub(crate) ask: Vec<u8>,
    pub(crate) ark: Vec<u8>,
}

impl Chain {
    pub(crate) fn bytes(&self) -> ChainBytes<'_> {
        ChainBytes::Der { vcek: &self.vcek, ask: &self.ask, ark: &self.ark }
    }

    /// This chain's root, as if it were AMD's.
    pub(crate) fn pin(&self, product: Product) -> PinnedRoot {
        PinnedRoot {
            sha256: Sha256::of(&self.ark),
            kind: RootKind::Amd,
            product,
            common_name_suffix: product.name(),
        }
    }
}

/// A report before it is signed.
#[derive(Clone)]
pub(crate) struct ReportSpec(Vec<u8>);

impl ReportSpec {
    pub(crate) fn new(product: Product) -> Self {
        let mut report = Self(vec![0; REPORT_LENGTH]);
        let (version, cpuid, chip_id) = match product {
            Product::Milan => (3, [0x19, 0x01, 0x01], CHIP_ID),
            Product::Genoa => (3, [0x19, 0x11, 0x01], CHIP_ID),
            Product::Turin => (5, [0x1A, 0x02, 0x01], {
                let mut id = [0; 64];
                id[..8].copy_from_slice(&CHIP_ID[..8]);
                id
            }),
        };
        report.set(0x00, &[version]);
        report.set(0x08, &0x30000_u64.to_le_bytes());
        report.set(0x34, &[1]);
        report.set(0x40, &[0x25]);
        report.set(0x90, &[0xAB; 48]);
        for offset in [0x38, 0x180, 0x1E0, 0x1F0] {
            report.set(offset, &tcb_bytes(product));
        }
        report.set(0x188, &cpuid);
        report.set(0x1A0, &chip_id);
        report
    }

    pub(crate) fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn sign(&self) -> Vec<u8> {
        let key = chip_key();
        let signature = key.sign(&SystemRandom::new(), &self.0[..0x2A0]).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        let little_endian = |scalar: &[u8]| scalar.iter().rev().copied().collect::<Vec<_>>();
        let mut signed = self.clone();
        signed.set(0x2A0, &little_endian(r));
        signed.set(0x2A0 + 72, &little_endian(s));
        signed.0
    }
}

/// The parts 4, 0, 24, 219 (and 1 for the FMC): what `ChipSpec` and `ReportSpec` agree on.
pub(crate) fn tcb_bytes(product: Product) -> [u8; 8] {
    match product {
        Product::Turin => [1, 4, 0, 24, 0, 0, 0, 219],
        Product::Milan | Product::Genoa => [4, 0, 0, 0, 0, 0, 24, 219],
    }
}

fn vcek_extensions(product: Product) -> Vec<ExtensionSpec> {
    let extension = |oid, value| ExtensionSpec { oid, critical: false, value };
    let product_name = match product {
        Product::Milan => "Milan-B0",
        other => other.name(),
    };
    let id_length = if product == Product::Turin { 8 } else { 64 };
    let mut extensions = vec![
        extension("1.3.6.1.4.1.3704.1.1", integer(0)),
        extension("1.3.6.1.4.1.3704.1.2", tlv(0x16, &[product_name.into()])),
        extension("1.3.6.1.4.1.3704.1.3.1", integer(4)),
        extension("1.3.6.1.4.1.3704.1.3.2", integer(0)),
        extension("1.3.6.1.4.1.3704.1.3.3", integer(24)),
        extension("1.3.6.1.4.1.3704.1.3.5", integer(0)),
        extension("1.3.6.1.4.1.3704.1.3.8", integer(219)),
        extension("1.3.6.1.4.1.3704.1.4", CHIP_ID[..id_length].to_vec()),
    ];
    if product == Product::Turin {
        extensions.push(extension("1.3.6.1.4.1.3704.1.3.9", integer(1)));
    }
    extensions
}

/// An authority's certificate; the VCEK overrides the extensions.
pub(crate) fn certificate(
    subject: &str, issuer: &str, key: Vec<u8>, signer: Signer,
) -> CertificateSpec {
    CertificateSpec {
        subject: subject.into(),
        issuer: issuer.into(),
        not_before: "20200101000000Z",
        not_after: "20450101000000Z",
        key,
        extensions: vec![
            basic_constraints(true),
            // keyCertSign and cRLSign.
            ExtensionSpec { oid: "2.5.29.15", critical: true, value: tlv(0x03, &[vec![1, 6]]) },
        ],
        algorithm: pss_algorithm(SHA384, 48),
        outer_algorithm: pss_algorithm(SHA384, 48),
        signer,
        encoding: &RSA_PSS_SHA384,
        trailing: vec![],
    }
}

pub(crate) fn basic_constraints(is_authority: bool) -> ExtensionSpec {
    let value = if is_authority { sequence(&[tlv(0x01, &[vec![0xFF]])]) } else { sequence(&[]) };
    ExtensionSpec { oid: "2.5.29.19", critical: true, value }
}

pub(crate) const SHA256: &str = "2.16.840.1.101.3.4.2.1";
pub(crate) const SHA384: &str = "2.16.840.1.101.3.4.2.2";

/// RSASSA-PKCS1-v1_5 with SHA-384.
pub(crate) fn pkcs1_algorithm() -> Vec<u8> {
    sequence(&[oid("1.2.840.113549.1.1.12"), vec![0x05, 0x00]])
}

impl CertificateSpec {
    /// The same, signed as Microsoft signs.
    pub(crate) fn pkcs1(mut self) -> Self {
        (self.algorithm, self.outer_algorithm) = (pkcs1_algorithm(), pkcs1_algorithm());
        self.encoding = &RSA_PKCS1_SHA384;
        self
    }
}

/// RSASSA-PSS with the hash throughout.
pub(crate) fn pss_algorithm(hash: &str, salt_length: u8) -> Vec<u8> {
    pss_algorithm_with_mask(hash, hash, salt_length)
}

/// RSASSA-PSS with another hash in its mask generation function.
pub(crate) fn pss_algorithm_with_mask(hash: &str, mask_hash: &str, salt_length: u8) -> Vec<u8> {
    let [hash, mask_hash] = [hash, mask_hash].map(|hash| sequence(&[oid(hash), vec![0x05, 0x00]]));
    let mask = sequence(&[oid("1.2.840.113549.1.1.8"), mask_hash]);
    let parameters =
        sequence(&[tlv(0xA0, &[hash]), tlv(0xA1, &[mask]), tlv(0xA2, &[integer(salt_length)])]);
    sequence(&[oid("1.2.840.113549.1.1.10"), parameters])
}

pub(crate) fn p384_key() -> Vec<u8> {
    let algorithm = sequence(&[oid("1.2.840.10045.2.1"), oid("1.3.132.0.34")]);
    sequence(&[algorithm, bit_string(chip_key().public_key().as_ref())])
}

pub(crate) fn rsa_key(holder: Signer) -> Vec<u8> {
    let algorithm = sequence(&[oid("1.2.840.113549.1.1.1"), vec![0x05, 0x00]]);
    sequence(&[algorithm, bit_string(rsa_pair(holder).public_key().as_ref())])
}

pub(crate) fn rsa_sign(
    signer: Signer, encoding: &'static dyn RsaEncoding, message: &[u8],
) -> Vec<u8> {
    let key = rsa_pair(signer);
    let mut signature = vec![0; key.public_modulus_len()];
    let random = aws_lc_rs::rand::SystemRandom::new();
    key.sign(encoding, &random, message, &mut signature).unwrap();
    signature
}

/// 2048 bits where AMD has 4096: quicker to make, checked by the same code.
fn rsa_pair(holder: Signer) -> &'static RsaKeyPair {
    static PAIRS: [OnceLock<RsaKeyPair>; 4] = [const { OnceLock::new() }; 4];
    let index = match holder {
        Signer::Ark => 0,
        Signer::Ask => 1,
        Signer::Stranger => 2,
        Signer::Uvm => 3,
    };
    PAIRS[index].get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
}

pub(crate) fn chip_key() -> &'static EcdsaKeyPair {
    static PAIR: OnceLock<EcdsaKeyPair> = OnceLock::new();
    PAIR.get_or_init(|| {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()
    })
}

fn encode_extension(extension: &ExtensionSpec) -> Vec<u8> {
    let critical = if extension.critical { tlv(0x01, &[vec![0xFF]]) } else { vec![] };
    let value = tlv(0x04, std::slice::from_ref(&extension.value));
    sequence(&[oid(extension.oid), critical, value])
}

/// The attributes of AMD's names, in AMD's order.
fn name(common_name: &str) -> Vec<u8> {
    let attribute = |kind, tag, text: &str| {
        tlv(0x31, &[sequence(&[oid(kind), tlv(tag, &[text.as_bytes().to_vec()])])])
    };
    sequence(&[
        attribute("2.5.4.11", 0x0C, "Engineering"),
        attribute("2.5.4.6", 0x13, "US"),
        attribute("2.5.4.3", 0x0C, common_name),
    ])
}

fn time(text: &str) -> Vec<u8> {
    // UTCTime before 2050 (RFC 5280 section 4.1.2.5).
    tlv(0x17, &[text.as_bytes()[2..].to_vec()])
}

pub(crate) fn integer(value: u8) -> Vec<u8> {
    let bytes = if value < 0x80 { vec![value] } else { vec![0, value] };
    tlv(0x02, &[bytes])
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[vec![0], bytes.to_vec()])
}

pub(crate) fn oid(text: &str) -> Vec<u8> {
    tlv(0x06, &[der::asn1::ObjectIdentifier::new(text).unwrap().as_bytes().to_vec()])
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, parts)
}

pub(crate) fn tlv(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let value = parts.concat();
    let mut encoded = vec![tag];
    match value.len() {
        length @ 0..=0x7F => encoded.push(length as u8),
        length @ 0x80..=0xFF => encoded.extend([0x81, length as u8]),
        length => encoded.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    encoded.extend(value);
    encoded
}
