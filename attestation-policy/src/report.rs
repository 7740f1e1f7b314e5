//! SEV-SNP attestation reports, versions 2 to 5, read from the 1184 bytes that were signed.
//!
//! Source: "SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860), ATTESTATION_REPORT.
//! All integers are little-endian. The bytes are kept as they came and every accessor reads from
//! them: what is signed and what is read cannot differ.
//!
//! Parsing proves the length, the version and the signature algorithm, nothing else. A parsed
//! report is a claim until [`Report::verify_signature`] and [`crate::evidence`] have had it.

use std::fmt;

use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::field::{EvidenceError, Field};
use crate::tcb::{Product, RawTcb};
use crate::values::{ChipId, KeyDigest, Measurement, Sha256};

/// Length of a report in bytes.
pub const REPORT_LENGTH: usize = 1184;

/// The signature covers the bytes before this offset.
const SIGNED_LENGTH: usize = 0x2A0;
/// R and S are little-endian, each padded with zeros to 72 bytes.
const SCALAR_FIELD: usize = 72;
const SCALAR: usize = 48;

/// The only SIGNATURE_ALGO that the ABI defines: ECDSA on P-384 with SHA-384.
const ECDSA_P384_SHA384: u32 = 1;

/// A report whose length, version and signature algorithm are known.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    bytes: Box<[u8; REPORT_LENGTH]>,
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// [`Field::ReportLength`], [`Field::ReportVersion`], [`Field::ReportSignatureAlgorithm`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let array = <&[u8; REPORT_LENGTH]>::try_from(bytes).map_err(|_| {
            EvidenceError::new(
                Field::ReportLength,
                format!("{REPORT_LENGTH} bytes"),
                format!("{} bytes", bytes.len()),
            )
        })?;
        let report = Self { bytes: Box::new(*array) };
        if !(2..=5).contains(&report.version()) {
            return Err(EvidenceError::new(Field::ReportVersion, "2 to 5", report.version()));
        }
        let algorithm = u32::from_le_bytes(report.read(0x34));
        if algorithm != ECDSA_P384_SHA384 {
            return Err(EvidenceError::new(
                Field::ReportSignatureAlgorithm,
                "1 (ECDSA P-384 with SHA-384)",
                algorithm,
            ));
        }
        Ok(report)
    }

    /// Verifies the signature over the raw bytes.
    ///
    /// `public_key` is the VCEK's uncompressed P-384 point (97 bytes, 04 || x || y).
    ///
    /// # Errors
    /// [`Field::ReportSignature`], also when bytes after the signature or the padding of its
    /// scalars are not zero, so that one signed report has one encoding.
    pub fn verify_signature(&self, public_key: &[u8]) -> Result<(), EvidenceError> {
        let refuse =
            |found: &str| EvidenceError::new(Field::ReportSignature, "the VCEK's signature", found);
        let (signed, rest) = self.bytes.split_at(SIGNED_LENGTH);
        let (r_field, rest) = rest.split_at(SCALAR_FIELD);
        let (s_field, reserved) = rest.split_at(SCALAR_FIELD);
        let (r, r_padding) = r_field.split_at(SCALAR);
        let (s, s_padding) = s_field.split_at(SCALAR);
        if [r_padding, s_padding, reserved].concat().iter().any(|byte| *byte != 0) {
            return Err(refuse("bytes that are not zero after the signature"));
        }
        let signature: Vec<u8> = r.iter().rev().chain(s.iter().rev()).copied().collect();
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public_key)
            .verify(signed, &signature)
            .map_err(|_| refuse("a signature by another key or over other bytes"))
    }

    /// VERSION: 2 to 5.
    pub fn version(&self) -> u32 {
        u32::from_le_bytes(self.read(0x00))
    }

    /// GUEST_SVN, as the ID block set it.
    pub fn guest_svn(&self) -> u32 {
        u32::from_le_bytes(self.read(0x04))
    }

    /// POLICY that the guest was launched with.
    pub fn policy(&self) -> GuestPolicy {
        GuestPolicy(u64::from_le_bytes(self.read(0x08)))
    }

    /// VMPL that asked for the report; 0 is the most privileged, 0xFFFFFFFF means the host asked.
    pub fn vmpl(&self) -> u32 {
        u32::from_le_bytes(self.read(0x30))
    }

    /// CURRENT_TCB: the firmware that runs.
    pub fn current_tcb(&self) -> RawTcb {
        RawTcb(self.read(0x38))
    }

    /// PLATFORM_INFO.
    pub fn platform_info(&self) -> PlatformInfo {
        PlatformInfo(u64::from_le_bytes(self.read(0x40)))
    }

    /// SIGNING_KEY: which key signed the report.
    pub fn signing_key(&self) -> SigningKeyKind {
        match (u32::from_le_bytes(self.read(0x48)) >> 2) & 0b111 {
            0 => SigningKeyKind::Vcek,
            1 => SigningKeyKind::Vlek,
            7 => SigningKeyKind::None,
            other => SigningKeyKind::Reserved(other),
        }
    }

    /// REPORT_DATA, chosen by the guest.
    pub fn report_data(&self) -> [u8; 64] {
        self.read(0x50)
    }

    /// MEASUREMENT of the guest at launch.
    pub fn measurement(&self) -> Measurement {
        Measurement::new(self.read(0x90))
    }

    /// HOST_DATA, chosen by the host at launch.
    pub fn host_data(&self) -> Sha256 {
        Sha256::new(self.read(0xC0))
    }

    /// ID_KEY_DIGEST: the key that signed the ID block, zeros without one.
    pub fn id_key_digest(&self) -> KeyDigest {
        KeyDigest::new(self.read(0xE0))
    }

    /// AUTHOR_KEY_DIGEST: the key that certified the ID key, zeros without one.
    pub fn author_key_digest(&self) -> KeyDigest {
        KeyDigest::new(self.read(0x110))
    }

    /// REPORTED_TCB: the firmware that the VCEK is derived for.
    pub fn reported_tcb(&self) -> RawTcb {
        RawTcb(self.read(0x180))
    }

    /// CPUID family and model (combined, as CPUID computes them), from version 3 on.
    pub fn cpuid(&self) -> Option<(u8, u8)> {
        let [family, model] = self.read(0x188);
        (self.version() >= 3).then_some((family, model))
    }

    /// The product that CPUID names, from version 3 on.
    pub fn product(&self) -> Option<Product> {
        self.cpuid().and_then(|(family, model)| Product::from_cpuid(family, model))
    }

    /// CHIP_ID; zeros when the platform hides it.
    pub fn chip_id(&self) -> ChipId {
        ChipId::new(self.read(0x1A0))
    }

    /// COMMITTED_TCB: the platform cannot go back below it.
    pub fn committed_tcb(&self) -> RawTcb {
        RawTcb(self.read(0x1E0))
    }

    /// LAUNCH_TCB: the firmware when the guest was launched.
    pub fn launch_tcb(&self) -> RawTcb {
        RawTcb(self.read(0x1F0))
    }

    /// Offsets are the constants above; every one leaves room for its field.
    fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[offset..offset + N]);
        field
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("version", &self.version())
            .field("policy", &self.policy())
            .field("vmpl", &self.vmpl())
            .field("signing_key", &self.signing_key())
            .field("measurement", &self.measurement())
            .field("reported_tcb", &self.reported_tcb())
            .field("chip_id", &self.chip_id())
            .finish_non_exhaustive()
    }
}

/// SIGNING_KEY of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKeyKind {
    /// The chip's own key.
    Vcek,
    /// A key that AMD gives to a cloud provider for all of its chips.
    Vlek,
    /// Not signed.
    None,
    /// A value without a meaning.
    Reserved(u32),
}

impl fmt::Display for SigningKeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcek => f.write_str("VCEK (0)"),
            Self::Vlek => f.write_str("VLEK (1)"),
            Self::None => f.write_str("none (7)"),
            Self::Reserved(value) => write!(f, "a reserved value ({value})"),
        }
    }
}

macro_rules! flags {
    (
        $(#[$doc:meta])* $flag:ident of $(#[$set_doc:meta])* $set:ident:
        $($(#[$bit_doc:meta])* $variant:ident = $bit:literal as $text:literal,)*
    ) => {
        $(#[$set_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $set(pub u64);

        impl $set {
            /// Whether the bit is set.
            pub const fn has(self, flag: $flag) -> bool {
                self.0 & flag.mask() != 0
            }
        }

        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $flag {
            $($(#[$bit_doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $flag {
            /// Every named bit, lowest first.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The bit's name in statements.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The bit in its 64-bit field.
            pub const fn mask(self) -> u64 {
                match self { $(Self::$variant => 1 << $bit,)* }
            }
        }

        impl fmt::Display for $flag {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

flags! {
    /// A bit of POLICY about which deployments may differ.
    PolicyBit of
    /// POLICY: what the launcher of the guest asked the firmware to enforce.
    GuestPolicy:
    /// Other hardware threads of the guest's cores may be active.
    SmtAllowed = 16 as "smt-allowed",
    /// The guest runs on one socket only.
    SingleSocket = 20 as "single-socket",
    /// CXL devices and memory may be populated.
    CxlAllowed = 21 as "cxl-allowed",
    /// Memory is encrypted with AES-256-XTS.
    MemoryAes256Xts = 22 as "memory-aes-256-xts",
    /// Running average power limit readings are off.
    RaplDisabled = 23 as "rapl-disabled",
    /// The host cannot read DRAM ciphertext.
    CiphertextHiding = 24 as "ciphertext-hiding",
    /// The host cannot move or swap the guest's pages.
    PageSwapDisabled = 25 as "page-swap-disabled",
}

impl GuestPolicy {
    const RESERVED_ONE: u64 = 1 << 17;
    const MIGRATE_MA: u64 = 1 << 18;
    const DEBUG: u64 = 1 << 19;
    const FIRST_UNKNOWN: u32 = 26;

    /// Whether the host may read and write the guest's memory through the firmware.
    pub const fn debug_allowed(self) -> bool {
        self.0 & Self::DEBUG != 0
    }

    /// Whether a migration agent may take the guest's memory elsewhere.
    pub const fn migration_allowed(self) -> bool {
        self.0 & Self::MIGRATE_MA != 0
    }

    /// Whether bit 17 is one and no bit is set that this crate has no name for.
    pub const fn reserved_bits_are_right(self) -> bool {
        self.0 & Self::RESERVED_ONE != 0 && self.0 >> Self::FIRST_UNKNOWN == 0
    }
}

flags! {
    /// A bit of PLATFORM_INFO.
    PlatformBit of
    /// PLATFORM_INFO: how the machine is set up.
    PlatformInfo:
    /// Simultaneous multithreading is on.
    SmtEnabled = 0 as "smt-enabled",
    /// Transparent encryption of all memory is on.
    TsmeEnabled = 1 as "tsme-enabled",
    /// Memory has error correction.
    EccEnabled = 2 as "ecc-enabled",
    /// Running average power limit readings are off.
    RaplDisabled = 3 as "rapl-disabled",
    /// The host cannot read DRAM ciphertext.
    CiphertextHiding = 4 as "ciphertext-hiding",
    /// Memory was checked for aliases since the last reset (CVE-2024-21944).
    AliasCheckComplete = 5 as "alias-check-complete",
    /// Trusted I/O is on.
    TioEnabled = 7 as "tio-enabled",
}
