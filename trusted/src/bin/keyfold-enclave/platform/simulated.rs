//! A software SEV-SNP chip: real reports, in AMD's format, signed by a key anyone can read.
//!
//! It protects nothing. Builds with it say so on every start and in `--version`; clients accept it
//! only when they were built for development themselves.

use std::io;
use std::path::PathBuf;
use std::{env, fs};

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use keyfold_protocol::limits::REPORT;

use super::{Attester, System};

/// What `--version` says this build attests with.
pub(crate) const NAME: &str = "SIMULATED: protects nothing";

/// Directory with `vcek.der` and `vcek.key.pk8`, as the dev cloud makes it.
const CHIP: &str = "KEYFOLD_SIMULATED_CHIP";

/// The software chip, with this program as the measured guest.
pub(crate) struct Simulated {
    key: EcdsaKeyPair,
    measurement: Vec<u8>,
    chip_id: [u8; 64],
    /// Boot loader, TEE, SNP firmware, microcode.
    tcb: [u8; 4],
}

/// Opens the chip that the environment names.
pub(crate) fn open() -> io::Result<System<Simulated>> {
    let chip = env::var_os(CHIP).map(PathBuf::from).ok_or_else(|| {
        io::Error::other(format!("{CHIP} is not set: name the dev cloud's chip directory"))
    })?;
    let read = |name: &str| {
        let path = chip.join(name);
        fs::read(&path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    };
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &read("vcek.key.pk8")?);
    let vcek = read("vcek.der")?;
    let missing = |what: &str| io::Error::other(format!("vcek.der carries no {what}"));
    let level = |part: u8| {
        extension(&vcek, &[3, part])
            .and_then(|value| value.last().copied())
            .ok_or_else(|| missing("TCB"))
    };
    Ok(System::new(Simulated {
        key: key.map_err(|_| io::Error::other("vcek.key.pk8 is not a P-384 key"))?,
        measurement: digest(&SHA384, &fs::read("/proc/self/exe")?).as_ref().to_vec(),
        chip_id: *extension(&vcek, &[4])
            .and_then(|value| value.last_chunk())
            .ok_or_else(|| missing("chip id"))?,
        tcb: [level(1)?, level(2)?, level(3)?, level(8)?],
    }))
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

impl Attester for Simulated {
    /// Version 3 of the ABI's ATTESTATION_REPORT, Milan family.
    fn report(&mut self, report_data: &[u8; 64]) -> Result<[u8; REPORT], String> {
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
