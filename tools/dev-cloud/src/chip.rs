//! The simulated SEV-SNP chip: a key and AMD-shaped certificates for it, made once per directory.
//!
//! `<dir>/chip` holds ark.pem, ask.pem, vcek.pem and vcek.key.pk8, with which the enclave's simulated platform
//! signs its reports; and VCEKs for the firmware before and after, whose keys nobody has. The keys of ARK and ASK
//! are thrown away: nothing else will ever chain to this root.

use crate::digest::sha256;
use crate::rsa_keys::RsaKeys;
use crate::snp::{self, Tcb};
use crate::store;
use crate::x509::{self, Certificate, Issuer, Parsed, YEAR};
use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use std::path::Path;
use x509_cert::ext::Extension;

const ARK: &str = "CN=ARK-Keyfold-Simulated,O=Keyfold development\\, protects nothing";
const ASK: &str = "CN=SEV-Keyfold-Simulated,O=Keyfold development\\, protects nothing";
const VCEK: &str = "CN=SEV-VCEK,O=Keyfold development\\, protects nothing";
/// Firmware of the chip. Microcode above 127 takes two bytes as a DER INTEGER, where parsers go wrong.
const TCB: Tcb = Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 };
const OLDER_TCB: Tcb = Tcb { snp: 23, microcode: 218, ..TCB };
const NEWER_TCB: Tcb = Tcb { snp: 25, microcode: 220, ..TCB };
/// What AMD calls such a chip.
pub(crate) const PRODUCT: &str = "Milan";

/// The chip's certificates.
pub(crate) struct Chip {
    /// SHA-256 of the ARK's DER, in hex: what verifiers of development builds pin.
    pub(crate) root: String,
    /// ASK then ARK.
    pub(crate) chain_pem: String,
    /// For the firmware it reports.
    pub(crate) current: Vcek,
    /// For the firmware before.
    pub(crate) older: Vcek,
    /// For a firmware to come.
    pub(crate) newer: Vcek,
    pub(crate) hardware_id: Vec<u8>,
}

/// A certificate of the chip for one firmware.
pub(crate) struct Vcek {
    pub(crate) pem: String,
    pub(crate) der: Vec<u8>,
    pub(crate) tcb: Tcb,
}

impl Chip {
    /// Reads the chip in `dir`, or makes it.
    pub(crate) fn open(dir: &Path, rsa: &RsaKeys) -> Result<Self> {
        store::directory(dir)?;
        // Written last: where it is, everything is.
        if store::read(&dir.join("vcek.key.pk8"))?.is_none() {
            make(dir, rsa)?;
        }
        let text = |name: &str| -> Result<String> {
            let bytes = store::read(&dir.join(name))?.with_context(|| {
                format!("{} is missing: remove its directory", dir.join(name).display())
            })?;
            Ok(String::from_utf8(bytes)?)
        };
        let vcek = |name: &str| Vcek::read(text(name)?);
        let (ask, ark) = (text("ask.pem")?, text("ark.pem")?);
        let root = hex::encode(sha256(&single(&ark)?.der()?));
        let current = vcek("vcek.pem")?;
        let hardware_id = single(&current.pem)?.extension(snp::HARDWARE_ID).map(<[u8]>::to_vec);
        Ok(Self {
            root,
            chain_pem: ask + &ark,
            older: vcek("vcek-older.pem")?,
            newer: vcek("vcek-newer.pem")?,
            hardware_id: hardware_id.context("vcek.pem names no chip")?,
            current,
        })
    }

    /// Every certificate there is.
    pub(crate) fn vceks(&self) -> [&Vcek; 3] {
        [&self.older, &self.current, &self.newer]
    }
}

impl Vcek {
    fn read(pem: String) -> Result<Self> {
        let certificate = single(&pem)?;
        let tcb = Tcb::from_vcek(&certificate)?;
        Ok(Self { der: certificate.der()?, pem, tcb })
    }
}

fn single(pem: &str) -> Result<Parsed> {
    let mut chain = Parsed::chain_from_pem(pem.as_bytes())?;
    ensure!(chain.len() == 1, "{} certificates where one is expected", chain.len());
    chain.pop().context("one certificate")
}

fn make(dir: &Path, rsa: &RsaKeys) -> Result<()> {
    let (ark, ask) = std::thread::scope(|scope| {
        let ark = scope.spawn(|| rsa.make("ark", KeySize::Rsa4096));
        let ask = rsa.make("ask", KeySize::Rsa4096);
        (ark.join(), ask)
    });
    let ark = ark.ok().context("the key generator panicked")??;
    let ask = ask?;
    let vcek_pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new())?;
    let vcek = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, vcek_pkcs8.as_ref())
        .map_err(|error| anyhow::anyhow!("the chip's key: {error}"))?;
    let mut hardware_id = [0; 64];
    rand::fill(&mut hardware_id)?;

    let authority = || anyhow::Ok(vec![x509::certificate_authority()?]);
    let (by_ark, by_ask) = (Issuer::RsaPss384(&ark), Issuer::RsaPss384(&ask));
    let mut certificates = vec![
        ("ark.pem", ARK, ARK, x509::rsa_spki(&ark)?, authority()?, &by_ark),
        ("ask.pem", ASK, ARK, x509::rsa_spki(&ask)?, authority()?, &by_ark),
    ];
    for (file, key, tcb) in [
        ("vcek.pem", &vcek, TCB),
        // Another firmware, another key: a real chip derives it from both.
        ("vcek-older.pem", &EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?, OLDER_TCB),
        ("vcek-newer.pem", &EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?, NEWER_TCB),
    ] {
        let extensions = vcek_extensions(&hardware_id, tcb)?;
        certificates.push((file, VCEK, ASK, x509::p384_spki(key), extensions, &by_ask));
    }
    for (file, subject, issuer, spki, extensions, signer) in certificates {
        let certificate = Certificate { subject, issuer, spki, lifetime: 25 * YEAR, extensions };
        store::write(&dir.join(file), certificate.issue_pem(signer)?.as_bytes())?;
    }
    store::write(&dir.join("vcek.key.pk8"), vcek_pkcs8.as_ref())
}

/// In the order of AMD's own certificates.
fn vcek_extensions(hardware_id: &[u8; 64], tcb: Tcb) -> Result<Vec<Extension>> {
    let integer = |value: u8| match value {
        0x80.. => vec![0x02, 0x02, 0x00, value],
        _ => vec![0x02, 0x01, value],
    };
    let product = b"Milan-B0";
    let product = [&[0x16, product.len() as u8], &product[..]].concat();
    [
        (snp::STRUCT_VERSION, integer(1)),
        (snp::PRODUCT, product),
        (snp::BOOT_LOADER, integer(tcb.boot_loader)),
        (snp::TEE, integer(tcb.tee)),
        (snp::SPL_4, integer(0)),
        (snp::SPL_5, integer(0)),
        (snp::SPL_6, integer(0)),
        (snp::SPL_7, integer(0)),
        (snp::SNP, integer(tcb.snp)),
        (snp::MICROCODE, integer(tcb.microcode)),
        (snp::HARDWARE_ID, hardware_id.to_vec()),
    ]
    .into_iter()
    .map(|(oid, value)| x509::extension(oid, false, &value))
    .collect()
}
