//! The simulated SEV-SNP chip: a key and AMD-shaped certificates for it, made once per directory.
//!
//! `<dir>/chip` holds ark.pem, ask.pem, vcek.pem and vcek.key.pk8, with which the enclave's simulated platform
//! signs its reports. The keys of ARK and ASK are thrown away: nothing else will ever chain to this root.

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
const TCB: Tcb = Tcb { boot_loader: 4, tee: 0, snp: 24, microcode: 219 };

/// The chip's certificates.
pub(crate) struct Chip {
    /// SHA-256 of the ARK's DER: what verifiers of development builds pin.
    pub(crate) root: [u8; 32],
    /// VCEK alone.
    pub(crate) vcek_pem: String,
    /// ASK then ARK.
    pub(crate) chain_pem: String,
    /// As THIM writes it.
    pub(crate) tcbm: String,
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
        let (vcek_pem, ask, ark) = (text("vcek.pem")?, text("ask.pem")?, text("ark.pem")?);
        let chain = Parsed::chain_from_pem(ark.as_bytes())?;
        ensure!(chain.len() == 1, "ark.pem holds {} certificates", chain.len());
        Ok(Self {
            root: sha256(&chain[0].der()?),
            vcek_pem,
            chain_pem: ask + &ark,
            tcbm: TCB.tcbm(),
        })
    }
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

    let by_ark = Issuer::RsaPss384(&ark);
    let certificates = [
        ("ark.pem", ARK, ARK, x509::rsa_spki(&ark)?, vec![x509::certificate_authority()?], &by_ark),
        ("ask.pem", ASK, ARK, x509::rsa_spki(&ask)?, vec![x509::certificate_authority()?], &by_ark),
        (
            "vcek.pem",
            VCEK,
            ASK,
            x509::p384_spki(&vcek),
            vcek_extensions(&hardware_id)?,
            &Issuer::RsaPss384(&ask),
        ),
    ];
    for (file, subject, issuer, spki, extensions, signer) in certificates {
        let certificate = Certificate { subject, issuer, spki, lifetime: 25 * YEAR, extensions };
        store::write(&dir.join(file), certificate.issue_pem(signer)?.as_bytes())?;
    }
    store::write(&dir.join("vcek.key.pk8"), vcek_pkcs8.as_ref())
}

/// In the order of AMD's own certificates.
fn vcek_extensions(hardware_id: &[u8; 64]) -> Result<Vec<Extension>> {
    let integer = |value: u8| match value {
        0x80.. => vec![0x02, 0x02, 0x00, value],
        _ => vec![0x02, 0x01, value],
    };
    let product = b"Milan-B0";
    let product = [&[0x16, product.len() as u8], &product[..]].concat();
    [
        (snp::STRUCT_VERSION, integer(1)),
        (snp::PRODUCT, product),
        (snp::BOOT_LOADER, integer(TCB.boot_loader)),
        (snp::TEE, integer(TCB.tee)),
        (snp::SPL_4, integer(0)),
        (snp::SPL_5, integer(0)),
        (snp::SPL_6, integer(0)),
        (snp::SPL_7, integer(0)),
        (snp::SNP, integer(TCB.snp)),
        (snp::MICROCODE, integer(TCB.microcode)),
        (snp::HARDWARE_ID, hardware_id.to_vec()),
    ]
    .into_iter()
    .map(|(oid, value)| x509::extension(oid, false, &value))
    .collect()
}
