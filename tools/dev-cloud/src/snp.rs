//! SEV-SNP evidence as the attestation service judges it: a report, and the certificates of the key that signed it.
//!
//! Written apart from Keyfold's own verifier on purpose: a second opinion on the same bytes.

use crate::digest::sha256;
use crate::x509::{Parsed, SignedWith};
use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use der::asn1::ObjectIdentifier;
use std::time::SystemTime;

/// AMD's certificate extensions.
const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}
pub(crate) const STRUCT_VERSION: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.1");
pub(crate) const PRODUCT: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.2");
pub(crate) const BOOT_LOADER: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.1");
pub(crate) const TEE: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.2");
pub(crate) const SNP: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.3");
pub(crate) const SPL_4: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.4");
pub(crate) const SPL_5: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.5");
pub(crate) const SPL_6: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.6");
pub(crate) const SPL_7: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.7");
pub(crate) const MICROCODE: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.8");
pub(crate) const FMC: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.9");
pub(crate) const HARDWARE_ID: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.4");

/// AMD's ARKs, SHA-256 of the DER: Milan's, Genoa's, Turin's.
pub(crate) const AMD_ROOTS: [&str; 3] = [
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
];

const REPORT_BYTES: usize = 1184;
/// The signature covers everything before it.
const SIGNED_BYTES: usize = 0x2a0;
const POLICY_DEBUG: u32 = 19;
const POLICY_MIGRATE: u32 = 18;
const POLICY_ONE: u32 = 17;
const POLICY_SMT: u32 = 16;

/// Security versions of the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tcb {
    /// Turin's alone.
    pub(crate) fmc: Option<u8>,
    pub(crate) boot_loader: u8,
    pub(crate) tee: u8,
    pub(crate) snp: u8,
    pub(crate) microcode: u8,
}

/// How a generation of chips lays its TCB out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Milan and Genoa.
    Zen3,
    /// Turin.
    Zen5,
}

impl Layout {
    /// Only Turin's certificates name the FMC.
    fn of(vcek: &Parsed) -> Self {
        if vcek.extension(FMC).is_some() { Self::Zen5 } else { Self::Zen3 }
    }
}

impl Tcb {
    fn from_report(bytes: &[u8; 8], layout: Layout) -> Self {
        match (layout, *bytes) {
            (Layout::Zen3, [boot_loader, tee, _, _, _, _, snp, microcode]) => {
                Self { fmc: None, boot_loader, tee, snp, microcode }
            }
            (Layout::Zen5, [fmc, boot_loader, tee, snp, _, _, _, microcode]) => {
                Self { fmc: Some(fmc), boot_loader, tee, snp, microcode }
            }
        }
    }

    /// What a VCEK was issued for.
    pub(crate) fn from_vcek(vcek: &Parsed) -> Result<Self> {
        let version = |oid, name| -> Result<u8> {
            match vcek.extension(oid) {
                Some(&[0x02, 0x01, value @ 0..0x80]) => Ok(value),
                Some(&[0x02, 0x02, 0x00, value @ 0x80..=0xff]) => Ok(value),
                _ => bail!("the VCEK's {name} extension is missing or malformed"),
            }
        };
        let fmc = match Layout::of(vcek) {
            Layout::Zen3 => None,
            Layout::Zen5 => Some(version(FMC, "FMC")?),
        };
        Ok(Self {
            fmc,
            boot_loader: version(BOOT_LOADER, "boot loader")?,
            tee: version(TEE, "TEE")?,
            snp: version(SNP, "SNP firmware")?,
            microcode: version(MICROCODE, "microcode")?,
        })
    }

    /// As THIM writes it: hex of the u64, most significant byte first.
    pub(crate) fn tcbm(&self) -> String {
        let Self { fmc, boot_loader, tee, snp, microcode } = self;
        match fmc {
            None => format!("{microcode:02x}{snp:02x}00000000{tee:02x}{boot_loader:02x}"),
            Some(fmc) => {
                format!("{microcode:02x}000000{snp:02x}{tee:02x}{boot_loader:02x}{fmc:02x}")
            }
        }
    }
}

/// A genuine report.
pub(crate) struct Report<'a> {
    raw: &'a [u8; REPORT_BYTES],
    layout: Layout,
}

impl<'a> Report<'a> {
    /// Judges `report` under `chain_pem` (VCEK, ASK, ARK) with the ARK among `roots` (SHA-256 of DER, in hex).
    pub(crate) fn verify(report: &'a [u8], chain_pem: &[u8], roots: &[String]) -> Result<Self> {
        let raw = report.try_into().ok().with_context(|| {
            format!("SnpReport has {} bytes, a report has {REPORT_BYTES}", report.len())
        })?;
        let vcek = verify_chain(chain_pem, roots)?;
        let report = Self { raw, layout: Layout::of(&vcek) };
        report.check_form()?;
        report.check_signature(&vcek)?;
        report.check_chip(&vcek)?;
        Ok(report)
    }

    fn check_form(&self) -> Result<()> {
        let version = self.u32(0);
        ensure!((2..=5).contains(&version), "report version {version} is not known");
        let algorithm = self.u32(0x34);
        ensure!(algorithm == 1, "signature_algo {algorithm} is not ECDSA P-384 with SHA-384");
        let signer = self.u32(0x48) >> 2 & 0b111;
        ensure!(signer == 0, "the report was not signed by a VCEK (signing_key {signer})");
        ensure!(self.policy(POLICY_ONE), "policy bit 17 must be one");
        Ok(())
    }

    /// Over the raw bytes; R and S are 72 bytes little endian, of which P-384 fills 48.
    fn check_signature(&self, vcek: &Parsed) -> Result<()> {
        let component = |at: usize| -> Result<Vec<u8>> {
            let bytes = self.bytes::<72>(at);
            ensure!(
                bytes[48..].iter().all(|byte| *byte == 0),
                "the signature is longer than P-384's"
            );
            Ok(bytes[..48].iter().rev().copied().collect())
        };
        let signature = [component(SIGNED_BYTES)?, component(SIGNED_BYTES + 72)?].concat();
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, vcek.public_key())
            .verify(&self.raw[..SIGNED_BYTES], &signature)
            .ok()
            .context("the report's signature is not the VCEK's")
    }

    fn check_chip(&self, vcek: &Parsed) -> Result<()> {
        let reported = self.tcb();
        let certified = Tcb::from_vcek(vcek)?;
        ensure!(
            reported == certified,
            "reported_tcb is {reported:?}, the VCEK is for {certified:?}: fetch the VCEK again"
        );
        let hardware_id = vcek.extension(HARDWARE_ID).context("the VCEK names no chip")?;
        // Turin's ids have 8 bytes, the report's field goes on with zeros.
        ensure!(matches!(hardware_id.len(), 8 | 64), "the VCEK's chip id is malformed");
        let mut chip = [0; 64];
        chip[..hardware_id.len()].copy_from_slice(hardware_id);
        ensure!(chip == self.bytes::<64>(0x1a0), "chip_id is not the VCEK's chip");
        Ok(())
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.raw[at..at + N]);
        out
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn policy(&self, bit: u32) -> bool {
        u64::from_le_bytes(self.bytes(8)) >> bit & 1 == 1
    }

    pub(crate) fn guest_svn(&self) -> u32 {
        self.u32(4)
    }
    pub(crate) fn vmpl(&self) -> u32 {
        self.u32(0x30)
    }
    pub(crate) fn family_id(&self) -> [u8; 16] {
        self.bytes(0x10)
    }
    pub(crate) fn image_id(&self) -> [u8; 16] {
        self.bytes(0x20)
    }
    pub(crate) fn report_data(&self) -> [u8; 64] {
        self.bytes(0x50)
    }
    pub(crate) fn measurement(&self) -> [u8; 48] {
        self.bytes(0x90)
    }
    pub(crate) fn host_data(&self) -> [u8; 32] {
        self.bytes(0xc0)
    }
    pub(crate) fn id_key_digest(&self) -> [u8; 48] {
        self.bytes(0xe0)
    }
    pub(crate) fn author_key_digest(&self) -> [u8; 48] {
        self.bytes(0x110)
    }
    pub(crate) fn report_id(&self) -> [u8; 32] {
        self.bytes(0x140)
    }
    pub(crate) fn tcb(&self) -> Tcb {
        Tcb::from_report(&self.bytes(0x180), self.layout)
    }
    pub(crate) fn debuggable(&self) -> bool {
        self.policy(POLICY_DEBUG)
    }
    pub(crate) fn migration_allowed(&self) -> bool {
        self.policy(POLICY_MIGRATE)
    }
    pub(crate) fn smt_allowed(&self) -> bool {
        self.policy(POLICY_SMT)
    }
}

/// VCEK, ASK, ARK in this order, each signed by the next, the ARK by itself and pinned. Gives the VCEK.
fn verify_chain(pem: &[u8], roots: &[String]) -> Result<Parsed> {
    let chain = Parsed::chain_from_pem(pem)?;
    let [vcek, ask, ark] = chain.as_slice() else {
        bail!("VcekCertChain holds {} certificates; it is VCEK, ASK, ARK", chain.len());
    };
    ensure!(
        vcek.common_name() == "SEV-VCEK",
        "the chain begins with {:?}, not with a VCEK",
        vcek.common_name()
    );
    ensure!(
        roots.contains(&hex::encode(sha256(&ark.der()?))),
        "{} is not a root trusted here",
        ark.common_name()
    );
    let now = SystemTime::now();
    for (certificate, issuer) in [(ark, ark), (ask, ark), (vcek, ask)] {
        certificate.check_issuer(issuer, SignedWith::RsaPss384, now)?;
    }
    Ok(vcek.clone())
}
