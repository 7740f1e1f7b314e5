//! What a chip's certificate says, next to what a report says: whether they are of one chip and one
//! firmware, and how the certificates of a chain belong together.
//!
//! This is to choose and to explain. Clients and the attestation service judge; nothing here is
//! proof. Sources: AMD 57230 (the extensions), AMD 56860 (the report).

use crate::journal::Machine;
use keyfold_attestation_policy::report::Report;
use keyfold_attestation_policy::tcb::{Product, Tcb};
use x509_parser::der_parser::Oid;
use x509_parser::der_parser::asn1_rs::oid;
use x509_parser::prelude::{FromDer, Pem, X509Certificate};

const PRODUCT: Oid = oid!(1.3.6.1.4.1.3704.1.2);
const BOOTLOADER: Oid = oid!(1.3.6.1.4.1.3704.1.3.1);
const TEE: Oid = oid!(1.3.6.1.4.1.3704.1.3.2);
const SNP: Oid = oid!(1.3.6.1.4.1.3704.1.3.3);
const MICROCODE: Oid = oid!(1.3.6.1.4.1.3704.1.3.8);
const FMC: Oid = oid!(1.3.6.1.4.1.3704.1.3.9);
const HARDWARE_ID: Oid = oid!(1.3.6.1.4.1.3704.1.4);

const PRODUCTS: [Product; 3] = [Product::Milan, Product::Genoa, Product::Turin];

/// How much of a report's chip id AMD's certificates and URLs carry; the rest is zero.
pub(super) fn chip_id_length(product: Product) -> usize {
    match product {
        Product::Turin => 8,
        Product::Milan | Product::Genoa => 64,
    }
}

/// A chip's certificate, read.
pub(super) struct Vcek {
    pub(super) product: Product,
    tcb: Tcb,
    chip_id: Vec<u8>,
}

impl Vcek {
    fn read(der: &[u8]) -> Result<Self, String> {
        let certificate = parse(der)?;
        let value = |oid: &Oid| {
            let extension = certificate.get_extension_unique(oid).ok().flatten();
            extension.map(|extension| extension.value)
        };
        let named = value(&PRODUCT).and_then(|value| value.get(2..)).unwrap_or_default();
        let product = PRODUCTS.into_iter().find(|known| named.starts_with(known.name().as_bytes()));
        let product = product.ok_or("the VCEK names no product that is known here")?;
        let part = |oid: &Oid, name: &str| match value(oid) {
            // A DER INTEGER of 0x80 and above has a zero in front.
            Some([0x02, 0x01, value @ 0..0x80] | [0x02, 0x02, 0x00, value @ 0x80..=0xff]) => {
                Ok(*value)
            }
            _ => Err(format!("the VCEK's {name} version is missing or malformed")),
        };
        let fmc = match product {
            Product::Turin => Some(part(&FMC, "fmc")?),
            Product::Milan | Product::Genoa => None,
        };
        let tcb = Tcb {
            fmc,
            bootloader: part(&BOOTLOADER, "bootloader")?,
            tee: part(&TEE, "TEE")?,
            snp: part(&SNP, "SNP")?,
            microcode: part(&MICROCODE, "microcode")?,
        };
        // Bare, or as a DER OCTET STRING of 64 bytes: AMD has issued both.
        let chip_id = value(&HARDWARE_ID).ok_or("the VCEK names no chip")?;
        let chip_id = match chip_id {
            [0x04, 0x40, bare @ ..] if bare.len() == 64 => bare,
            bare => bare,
        };
        Ok(Self { product, tcb, chip_id: chip_id.to_vec() })
    }

    /// Report and certificate side by side.
    pub(super) fn beside(&self, report: &Report, source: &'static str) -> Machine {
        let reported = report.reported_tcb();
        let chip = report.chip_id();
        let (chip, rest) = chip.as_bytes().split_at(chip_id_length(self.product));
        Machine {
            product: self.product.to_string(),
            report_tcb: reported
                .decode(self.product)
                .map_or_else(|| reported.to_string(), |tcb| tcb.to_string()),
            vcek_tcb: self.tcb.to_string(),
            same_chip: chip == self.chip_id && rest.iter().all(|byte| *byte == 0),
            source,
        }
    }
}

impl Machine {
    /// Why the certificate is not the report's, if it is not.
    pub fn mismatch(&self) -> Option<String> {
        let Self { product, report_tcb, vcek_tcb, same_chip, source } = self;
        if report_tcb != vcek_tcb {
            return Some(format!(
                "on this {product} the report says {report_tcb}; the VCEK of {source} is for {vcek_tcb}"
            ));
        }
        (!same_chip).then(|| format!("the VCEK of {source} is another chip's than the report"))
    }
}

/// VCEK, ASK and ARK in this order, PEM, and the VCEK read. Whatever order they came in, each is found
/// by the name that issued the one before.
pub(super) fn in_order(pem: &str) -> Result<(String, Vcek), String> {
    let blocks: Result<Vec<Pem>, _> = Pem::iter_from_buffer(pem.as_bytes()).collect();
    let blocks = blocks.map_err(|error| format!("the certificates are not PEM: {error}"))?;
    let ders: Vec<Vec<u8>> = blocks.into_iter().map(|block| block.contents).collect();
    let certificates = ders.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    let is_vcek = |certificate: &&X509Certificate| {
        let mut names = certificate.subject().iter_common_name();
        names.any(|name| name.as_str().is_ok_and(|name| name == "SEV-VCEK"))
    };
    let issuer = |of: &X509Certificate| {
        let found = certificates.iter().find(|one| one.subject() == of.issuer());
        found.ok_or_else(|| format!("{} has issued a certificate and is missing", of.issuer()))
    };
    let vcek = certificates.iter().find(is_vcek).ok_or("no SEV-VCEK among the certificates")?;
    let ask = issuer(vcek)?;
    let ark = issuer(ask)?;
    if certificates.len() != 3 || ark.subject() != ark.issuer() || ask.subject() == ark.subject() {
        let found = certificates.len();
        return Err(format!("the certificates are not VCEK, ASK and ARK ({found} came)"));
    }
    if let Some(old) = [vcek, ask, ark].into_iter().find(|one| !one.validity().is_valid()) {
        return Err(format!("the certificate of {} is not valid now", old.subject()));
    }
    let pem: String = [vcek, ask, ark].into_iter().map(|one| to_pem(one.as_raw())).collect();
    Ok((pem, Vcek::read(vcek.as_raw())?))
}

/// One certificate as PEM.
pub(super) fn to_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err("something among the certificates is none".into()),
    }
}
