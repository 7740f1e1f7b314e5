//! The certificate chain of a report: VCEK <- ASK <- ARK, with AMD's roots pinned by digest.
//!
//! Checked, in this order: exactly three certificates in that order; the root's SHA-256 is pinned;
//! for each, root first: names, validity at the given time, RSASSA-PSS with SHA-384 by the next
//! one's key over the bytes as received, key type, extensions; then the VCEK's own statement of
//! which chip and which TCB it is for. Comparing that statement with a report is
//! [`VerifiedChain::check_report`].
//!
//! VLEKs are refused: they are shared by all chips of a provider, so a leaked one forges every
//! machine of it.
//!
//! Sources: AMD 57230 (VCEK certificate and KDS interface), RFC 5280, RFC 4055.

mod vcek;

use std::fmt;

use crate::certificate::{self, Certificate, Scheme};
use crate::field::{EvidenceError, Field, Role, require_equal};
use crate::report::{Report, SigningKeyKind};
use crate::tcb::{Product, Tcb};
use crate::values::{ChipId, Sha256, Timestamp};

use vcek::VcekExtensions;

/// AMD's root keys: SHA-256 over the DER of each self-signed ARK, as published by AMD's key
/// distribution service at `/vcek/v1/{product}/cert_chain`.
const AMD_ROOTS: [(Product, [u8; 32]); 3] = [
    (Product::Milan, digest("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd")),
    (Product::Genoa, digest("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1")),
    (Product::Turin, digest("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a")),
];

/// A chain as it came, not yet believed.
#[derive(Debug, Clone, Copy)]
pub enum ChainBytes<'a> {
    /// Three `CERTIFICATE` blocks: VCEK, ASK, ARK. What Azure's and AMD's endpoints serve, joined.
    Pem(&'a [u8]),
    /// The three certificates' DER.
    Der {
        /// The chip's certificate.
        vcek: &'a [u8],
        /// The product's certificate.
        ask: &'a [u8],
        /// The root certificate.
        ark: &'a [u8],
    },
}

/// Whose word the chain rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    /// AMD's: the report comes from a processor.
    Amd,
    /// A simulated chip's: the report comes from software and protects nothing.
    Simulated,
}

impl fmt::Display for RootKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd => "an AMD root",
            Self::Simulated => "a simulated chip's root",
        })
    }
}

/// A root that chains may end in.
#[derive(Debug, Clone)]
pub(crate) struct PinnedRoot {
    pub(crate) sha256: Sha256,
    pub(crate) kind: RootKind,
    pub(crate) product: Product,
    /// What follows "ARK-" and "SEV-" in the common names.
    pub(crate) common_name_suffix: &'static str,
}

/// AMD's roots.
pub(crate) fn amd_roots() -> Vec<PinnedRoot> {
    AMD_ROOTS
        .iter()
        .map(|(product, sha256)| PinnedRoot {
            sha256: Sha256::new(*sha256),
            kind: RootKind::Amd,
            product: *product,
            common_name_suffix: product.name(),
        })
        .collect()
}

/// A simulated chip's root, as a development statement names it. The chip is of the Milan family.
#[cfg(feature = "development")]
pub(crate) fn simulated_root(sha256: Sha256) -> PinnedRoot {
    PinnedRoot {
        sha256,
        kind: RootKind::Simulated,
        product: Product::Milan,
        common_name_suffix: "Keyfold-Simulated",
    }
}

/// A chain that holds: the key that signs reports, and the chip and TCB it is for.
#[derive(Debug, Clone)]
pub struct VerifiedChain {
    root: RootKind,
    product: Product,
    report_key: Vec<u8>,
    vcek: VcekExtensions,
}

impl VerifiedChain {
    /// Whose word the chain rests on.
    pub fn root(&self) -> RootKind {
        self.root
    }

    /// The processor family, from the root.
    pub fn product(&self) -> Product {
        self.product
    }

    /// The TCB that the VCEK is derived for.
    pub fn tcb(&self) -> Tcb {
        self.vcek.tcb
    }

    /// The chip that the VCEK is derived for.
    pub fn chip_id(&self) -> ChipId {
        self.vcek.chip_id
    }

    /// Checks that `report` is this chip's, signed by this key, at this TCB.
    ///
    /// # Errors
    /// [`Field::ReportSigningKey`], [`Field::ReportSignature`], [`Field::ReportCpuid`],
    /// [`Field::ReportedTcb`], [`Field::ReportChipId`].
    pub fn check_report(&self, report: &Report) -> Result<(), EvidenceError> {
        let signing_key = report.signing_key();
        require_equal(Field::ReportSigningKey, SigningKeyKind::Vcek, signing_key)?;
        report.verify_signature(&self.report_key)?;
        if let Some((family, model)) = report.cpuid()
            && report.product() != Some(self.product)
        {
            return Err(EvidenceError::new(
                Field::ReportCpuid,
                format!("a {} processor, as the chain says", self.product),
                format!("family {family:#04x}, model {model:#04x}"),
            ));
        }
        let reported = report.reported_tcb();
        if reported.decode(self.product) != Some(self.vcek.tcb) {
            return Err(EvidenceError::new(
                Field::ReportedTcb,
                format!("{}, as the VCEK says", self.vcek.tcb),
                describe_tcb(reported, self.product),
            ));
        }
        require_equal(Field::ReportChipId, self.vcek.chip_id, report.chip_id())
    }
}

/// Verifies a chain against AMD's roots at the time `now`.
///
/// # Errors
/// The first field that does not hold.
pub fn verify_amd_chain(
    chain: ChainBytes<'_>, now: Timestamp,
) -> Result<VerifiedChain, EvidenceError> {
    verify_chain(chain, &amd_roots(), now)
}

pub(crate) fn verify_chain(
    chain: ChainBytes<'_>, roots: &[PinnedRoot], now: Timestamp,
) -> Result<VerifiedChain, EvidenceError> {
    let [vcek, ask, ark] = certificates(chain)?;
    let root = pinned(&ark, roots)?;

    let suffix = root.common_name_suffix;
    ark.check_common_name(&format!("ARK-{suffix}"))?;
    ark.check_issued_by(&ark, Scheme::Pss, now)?;
    ark.check_is_authority(1)?;
    ask.check_common_name(&format!("SEV-{suffix}"))?;
    ask.check_issued_by(&ark, Scheme::Pss, now)?;
    ask.check_is_authority(0)?;
    vcek.check_common_name("SEV-VCEK")?;
    vcek.check_issued_by(&ask, Scheme::Pss, now)?;
    vcek.check_is_leaf()?;

    Ok(VerifiedChain {
        root: root.kind,
        product: root.product,
        report_key: vcek.p384_key()?.to_vec(),
        vcek: VcekExtensions::read(vcek.extensions(), root.product)?,
    })
}

/// Describes raw TCB bytes by their parts where the layout is known.
pub(crate) fn describe_tcb(raw: crate::tcb::RawTcb, product: Product) -> String {
    raw.decode(product).map_or_else(|| raw.to_string(), |tcb| tcb.to_string())
}

fn certificates(chain: ChainBytes<'_>) -> Result<[Certificate; 3], EvidenceError> {
    const ROLES: [Role; 3] = [Role::Vcek, Role::Ask, Role::Ark];
    let encoded = match chain {
        ChainBytes::Pem(text) => certificate::split_pem(text)?,
        ChainBytes::Der { vcek, ask, ark } => vec![vcek.to_vec(), ask.to_vec(), ark.to_vec()],
    };
    let encoded = <[Vec<u8>; 3]>::try_from(encoded).map_err(|encoded| {
        EvidenceError::new(
            Field::Chain,
            "three certificates: VCEK, ASK, ARK",
            format!("{} certificates", encoded.len()),
        )
    })?;
    let [vcek, ask, ark] = encoded;
    Ok([
        Certificate::parse(ROLES[0], vcek)?,
        Certificate::parse(ROLES[1], ask)?,
        Certificate::parse(ROLES[2], ark)?,
    ])
}

fn pinned<'a>(ark: &Certificate, roots: &'a [PinnedRoot]) -> Result<&'a PinnedRoot, EvidenceError> {
    let found = ark.sha256();
    roots.iter().find(|root| root.sha256 == found).ok_or_else(|| {
        let expected: Vec<String> = roots
            .iter()
            .map(|root| format!("{} (ARK-{})", root.sha256, root.common_name_suffix))
            .collect();
        EvidenceError::new(Field::RootDigest, format!("one of {}", expected.join(", ")), found)
    })
}

/// Reads a digest constant; a wrong one does not compile.
const fn digest(text: &str) -> [u8; 32] {
    const fn nibble(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => panic!("a digest is written in lower-case hex"),
        }
    }
    let text = text.as_bytes();
    assert!(text.len() == 64, "a SHA-256 digest has 64 hex digits");
    let mut bytes = [0; 32];
    let mut index = 0;
    while index < 32 {
        bytes[index] = (nibble(text[2 * index]) << 4) | nibble(text[2 * index + 1]);
        index += 1;
    }
    bytes
}
