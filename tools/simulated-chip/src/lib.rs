//! A software SEV-SNP chip: real reports, in AMD's format, signed by a key anyone can read.
//!
//! It protects nothing. Only builds of the enclave with the `simulated` feature link it; they say so
//! on every start, and clients accept them only when they were built for development themselves.

use std::fs;
use std::io;
use std::path::Path;

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyfold_protocol::limits::REPORT;

/// The software chip, with the running program as the measured guest.
pub struct Chip {
    key: EcdsaKeyPair,
    measurement: Vec<u8>,
    chip_id: [u8; 64],
    /// Boot loader, TEE, SNP firmware, microcode.
    tcb: [u8; 4],
}

impl Chip {
    /// The chip in a directory that the dev cloud made: `vcek.pem` and `vcek.key.pk8`.
    ///
    /// # Errors
    /// When one of the two is missing or is not what it should be.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            let bad = |error| io::Error::other(format!("{}: {error}", path.display()));
            fs::read(&path).map_err(bad)
        };
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &read("vcek.key.pk8")?)
                .map_err(|_| io::Error::other("vcek.key.pk8 is not a P-384 key"))?;
        let vcek = certificate(&read("vcek.pem")?)
            .ok_or_else(|| io::Error::other("vcek.pem holds no certificate"))?;
        let missing = |what: &str| io::Error::other(format!("vcek.pem carries no {what}"));
        let level = |part: u8| {
            let value = extension(&vcek, &[3, part]).and_then(<[u8]>::last);
            value.copied().ok_or_else(|| missing("TCB"))
        };
        let chip_id = extension(&vcek, &[4]).and_then(<[u8]>::last_chunk);
        Ok(Self {
            measurement: measurement(Path::new("/proc/self/exe"))?,
            chip_id: *chip_id.ok_or_else(|| missing("chip id"))?,
            tcb: [level(1)?, level(2)?, level(3)?, level(8)?],
            key,
        })
    }

    /// A report over these data: version 3 of the ABI's ATTESTATION_REPORT, Milan family, VMPL 0.
    ///
    /// # Errors
    /// When the chip's key cannot sign.
    pub fn report(&self, report_data: &[u8; 64]) -> Result<[u8; REPORT], String> {
        let [boot_loader, tee, snp, microcode] = self.tcb;
        let tcb = [boot_loader, tee, 0, 0, 0, 0, snp, microcode];
        let mut report = [0; REPORT];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x000, &3u32.to_le_bytes());
        put(0x008, &0x3_0000u64.to_le_bytes());
        put(0x034, &1u32.to_le_bytes());
        [0x038, 0x180, 0x1e0, 0x1f0].into_iter().for_each(|at| put(at, &tcb));
        put(0x050, report_data);
        put(0x090, &self.measurement);
        put(0x188, &[0x19, 0x01, 0x01]);
        put(0x1a0, &self.chip_id);
        let signature = self.key.sign(&SystemRandom::new(), &report[..0x2a0]);
        let signature = signature.map_err(|_| "the software chip cannot sign".to_owned())?;
        // r and s, little-endian, in fields of 72 bytes.
        let (r, s) = signature.as_ref().split_at(48);
        let mut put_reversed = |at: usize, bytes: &[u8]| {
            report[at..at + 48].copy_from_slice(bytes);
            report[at..at + 48].reverse();
        };
        put_reversed(0x2a0, r);
        put_reversed(0x2e8, s);
        Ok(report)
    }
}

/// What the software chip measures a program as: SHA-384 of its file.
///
/// # Errors
/// When the file cannot be read.
pub fn measurement(program: &Path) -> io::Result<Vec<u8>> {
    Ok(digest(&SHA384, &fs::read(program)?).as_ref().to_vec())
}

fn certificate(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let body = text.split("-----BEGIN CERTIFICATE-----").nth(1)?.split("-----END").next()?;
    STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

/// The value of a certificate extension under AMD's 1.3.6.1.4.1.3704.1, found by its OID's bytes.
fn extension<'a>(certificate: &'a [u8], under: &[u8]) -> Option<&'a [u8]> {
    let mut oid = vec![0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];
    oid.extend_from_slice(under);
    oid.insert(0, u8::try_from(oid.len()).ok()?);
    oid.insert(0, 0x06);
    let at = certificate.windows(oid.len()).position(|window| window == oid)?;
    // OCTET STRING, short form.
    let (header, value) = certificate.get(at + oid.len()..)?.split_first_chunk::<2>()?;
    (header[0] == 0x04).then(|| value.get(..usize::from(header[1]))).flatten()
}
