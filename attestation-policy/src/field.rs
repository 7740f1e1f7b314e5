//! The names of everything that is checked, and the refusal that carries one of them.
//!
//! A refusal always says three things: which field, what was expected, what came. The list is
//! closed, so that the tests can demand a negative for every entry of it.

use std::fmt;

/// Evidence was refused. `Display` reads "field: expected ..., found ...".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceError {
    field: Field,
    expected: String,
    found: String,
}

impl EvidenceError {
    pub(crate) fn new(field: Field, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self { field, expected: expected.to_string(), found: found.to_string() }
    }

    /// What was checked.
    pub fn field(&self) -> Field {
        self.field
    }

    /// What would have been accepted.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What came instead.
    pub fn found(&self) -> &str {
        &self.found
    }
}

impl fmt::Display for EvidenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.field, self.expected, self.found)
    }
}

impl std::error::Error for EvidenceError {}

/// Refuses with `field` unless the two are equal.
pub(crate) fn require_equal<T: PartialEq + fmt::Display>(
    field: Field, expected: T, found: T,
) -> Result<(), EvidenceError> {
    if expected == found { Ok(()) } else { Err(EvidenceError::new(field, expected, found)) }
}

/// A certificate of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Versioned Chip Endorsement Key: signs reports, one per chip and TCB.
    Vcek,
    /// AMD SEV key: signs VCEKs, one per product.
    Ask,
    /// AMD root key: signs ASKs, one per product, pinned.
    Ark,
    /// Signs endorsements of utility VMs.
    UvmSigner,
    /// Stands between an endorsement's signer and its root.
    UvmAuthority,
    /// The root that an endorsement's issuer names by digest.
    UvmRoot,
}

impl Role {
    /// Every role, leaf first.
    pub const ALL: [Self; 6] =
        [Self::Vcek, Self::Ask, Self::Ark, Self::UvmSigner, Self::UvmAuthority, Self::UvmRoot];

    /// Where the chain stands.
    const fn chain(self) -> &'static str {
        match self {
            Self::Vcek | Self::Ask | Self::Ark => "chain",
            Self::UvmSigner | Self::UvmAuthority | Self::UvmRoot => "uvm_endorsement.x5chain",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcek => "VCEK",
            Self::Ask => "ASK",
            Self::Ark => "ARK",
            Self::UvmSigner => "signer",
            Self::UvmAuthority => "authority",
            Self::UvmRoot => "root",
        })
    }
}

/// What is checked of every certificate in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificatePart {
    /// Its DER.
    Encoding,
    /// The common name it is issued to.
    Subject,
    /// The name of who issued it: the next certificate's subject.
    Issuer,
    /// notBefore and notAfter.
    Validity,
    /// The algorithm it is signed with.
    SignatureAlgorithm,
    /// The signature of the next certificate's key.
    Signature,
    /// Its own key.
    PublicKey,
    /// Its extensions: basicConstraints, keyUsage, nothing critical and unknown.
    Extensions,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Everything that can be a reason for refusing evidence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Field {
            $($(#[$doc])* $variant,)*
            /// A part of one of the chain's certificates.
            Certificate(Role, CertificatePart),
        }

        impl Field {
            /// Every field once.
            pub fn all() -> Vec<Self> {
                let mut all = vec![$(Self::$variant,)*];
                for role in Role::ALL {
                    for part in [
                        CertificatePart::Encoding,
                        CertificatePart::Subject,
                        CertificatePart::Issuer,
                        CertificatePart::Validity,
                        CertificatePart::SignatureAlgorithm,
                        CertificatePart::Signature,
                        CertificatePart::PublicKey,
                        CertificatePart::Extensions,
                    ] {
                        // Whoever the issuer's root certifies, by whatever name.
                        if part != CertificatePart::Subject || role.chain() == "chain" {
                            all.push(Self::Certificate(role, part));
                        }
                    }
                }
                all
            }
        }

        impl fmt::Display for Field {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($name),)*
                    Self::Certificate(role, part) => {
                        let part = match part {
                            CertificatePart::Encoding => "encoding",
                            CertificatePart::Subject => "subject",
                            CertificatePart::Issuer => "issuer",
                            CertificatePart::Validity => "validity",
                            CertificatePart::SignatureAlgorithm => "signature algorithm",
                            CertificatePart::Signature => "signature",
                            CertificatePart::PublicKey => "public key",
                            CertificatePart::Extensions => "extensions",
                        };
                        write!(f, "{}.{role} {part}", role.chain())
                    }
                }
            }
        }
    };
}

fields! {
    /// The statement's expiry, checked again whenever evidence is.
    StatementExpiry => "statement.expires",
    /// The chain as a whole: three PEM blocks.
    Chain => "chain",
    /// SHA-256 of the root certificate against the pins.
    RootDigest => "chain.ARK sha256",
    /// VCEK extensions 1.3.6.1.4.1.3704.1.3.*: the TCB that the VCEK is derived for.
    VcekTcb => "chain.VCEK tcb",
    /// VCEK extension 1.3.6.1.4.1.3704.1.4: the chip that the VCEK is derived for.
    VcekChipId => "chain.VCEK hwid",
    /// VCEK extension 1.3.6.1.4.1.3704.1.2: the product name.
    VcekProduct => "chain.VCEK product",
    /// Length of the report in bytes.
    ReportLength => "report.length",
    /// VERSION (0x00).
    ReportVersion => "report.version",
    /// SIGNATURE_ALGO (0x34).
    ReportSignatureAlgorithm => "report.signature_algo",
    /// SIGNING_KEY in 0x48.
    ReportSigningKey => "report.signing_key",
    /// SIGNATURE (0x2A0).
    ReportSignature => "report.signature",
    /// CPUID family and model (0x188, from version 3).
    ReportCpuid => "report.cpuid",
    /// REPORTED_TCB (0x180) against the VCEK.
    ReportedTcb => "report.reported_tcb",
    /// CHIP_ID (0x1A0) against the VCEK.
    ReportChipId => "report.chip_id",
    /// VMPL (0x30).
    ReportVmpl => "report.vmpl",
    /// Bit 19 of POLICY (0x08).
    PolicyDebug => "report.policy.debug",
    /// Bit 18 of POLICY.
    PolicyMigration => "report.policy.migrate_ma",
    /// Bits of POLICY that are reserved.
    PolicyReserved => "report.policy.reserved",
    /// Bits of POLICY that the statement requires.
    PolicyRequired => "report.policy.required",
    /// Bits of POLICY that the statement forbids.
    PolicyForbidden => "report.policy.forbidden",
    /// Bits of PLATFORM_INFO (0x40) that the statement requires.
    PlatformRequired => "report.platform_info.required",
    /// Bits of PLATFORM_INFO that the statement forbids.
    PlatformForbidden => "report.platform_info.forbidden",
    /// MEASUREMENT (0x90): one of the statement's workloads.
    Measurement => "report.measurement",
    /// The root that the measured workload must be attested under: AMD's or a simulated chip's.
    WorkloadRoot => "workload.root",
    /// A product the statement gives a minimum TCB for.
    WorkloadProduct => "workload.product",
    /// REPORTED_TCB against the statement's minimum.
    MinimumReportedTcb => "report.reported_tcb minimum",
    /// COMMITTED_TCB (0x1E0) against the statement's minimum: firmware cannot be rolled back below.
    MinimumCommittedTcb => "report.committed_tcb minimum",
    /// LAUNCH_TCB (0x1F0) against the statement's minimum: the firmware that measured the guest.
    MinimumLaunchTcb => "report.launch_tcb minimum",
    /// HOST_DATA (0xC0): SHA-256 of a confidential container's policy.
    HostData => "report.host_data",
    /// The endorsement of the utility VM as a whole: a COSE_Sign1 message.
    UvmEndorsement => "uvm_endorsement",
    /// Its protected headers.
    UvmHeaders => "uvm_endorsement.headers",
    /// Header alg (1).
    UvmAlgorithm => "uvm_endorsement.alg",
    /// Header x5chain (33): how many certificates.
    UvmChain => "uvm_endorsement.x5chain",
    /// SHA-256 of the last certificate of x5chain against the issuer's fingerprint.
    UvmRootDigest => "uvm_endorsement.x5chain.root sha256",
    /// Header x5t (34): the digest of the signer's certificate.
    UvmSignerDigest => "uvm_endorsement.x5t",
    /// Header signingtime: not later than now.
    UvmSigningTime => "uvm_endorsement.signingtime",
    /// The signature over headers and payload.
    UvmSignature => "uvm_endorsement.signature",
    /// Header iss: the did:x509 that the statement names.
    UvmIssuer => "uvm_endorsement.iss",
    /// Header feed: the product line that the statement names.
    UvmFeed => "uvm_endorsement.feed",
    /// The payload's JSON.
    UvmPayload => "uvm_endorsement.payload",
    /// The endorsed security version number against the statement's minimum.
    UvmSvn => "uvm_endorsement.svn minimum",
    /// The endorsed measurement against the report's.
    UvmMeasurement => "uvm_endorsement.launchmeasurement",
    /// ID_KEY_DIGEST (0xE0).
    IdKeyDigest => "report.id_key_digest",
    /// AUTHOR_KEY_DIGEST (0x110).
    AuthorKeyDigest => "report.author_key_digest",
    /// REPORT_DATA (0x50): SHA-256 of the claims, then zeros.
    ReportData => "report.report_data",
    /// The runtime claims' JSON.
    Claims => "claims",
    /// keyfold.version of the claims.
    ClaimsVersion => "claims.keyfold.version",
    /// keyfold.role of the claims.
    ClaimsRole => "claims.keyfold.role",
    /// keyfold.config of the claims.
    ClaimsConfig => "claims.keyfold.config",
    /// keyfold.root of the claims.
    ClaimsRoot => "claims.keyfold.root",
    /// keyfold.channel_key of the claims.
    ClaimsChannelKey => "claims.keyfold.channel_key",
    /// Length of the channel's public key.
    ChannelKeyLength => "channel_key.length",
}
