//! Workload profiles: what a statement must say about code for it to be accepted.
//!
//! Whatever the profile, every report must come from VMPL 0 of a guest with debugging and
//! migration off; a profile can only ask for more.

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display};

use serde::{Deserialize, Serialize};

use crate::report::{PlatformBit, PolicyBit};
use crate::tcb::{Product, Tcb};
use crate::uvm::UvmIssuer;
use crate::values::{KeyDigest, Measurement, Sha256};

use super::Text;

/// The parts of a profile that are about the machine; their names are the same in each.
macro_rules! machine {
    ($workload:expr) => {
        Machine {
            minimum_tcb: &$workload.minimum_tcb,
            policy_required: &$workload.policy_required,
            policy_forbidden: &$workload.policy_forbidden,
            platform_required: &$workload.platform_required,
            platform_forbidden: &$workload.platform_forbidden,
        }
    };
}

/// An accepted workload, by its profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
#[serde(tag = "profile", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Workload {
    /// This image, booted directly as an SNP guest.
    SnpDirect(SnpDirect),
    /// A confidential container on Azure.
    Aci(Aci),
    /// A software chip. It protects nothing.
    #[cfg(feature = "development")]
    Simulated(Simulated),
}

/// What tells a workload from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadId {
    /// The launch measurement: of our image, or of the program on a simulated chip.
    Measurement(Measurement),
    /// HOST_DATA. The launch measurement is Microsoft's and the same for everybody's containers.
    HostData(Sha256),
}

impl Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measurement(measurement) => write!(f, "measurement {measurement}"),
            Self::HostData(host_data) => write!(f, "host_data {host_data}"),
        }
    }
}

impl Workload {
    /// What identifies the workload.
    pub fn id(&self) -> WorkloadId {
        match self {
            Self::SnpDirect(workload) => WorkloadId::Measurement(workload.measurement),
            Self::Aci(workload) => WorkloadId::HostData(workload.host_data),
            #[cfg(feature = "development")]
            Self::Simulated(workload) => WorkloadId::Measurement(workload.measurement),
        }
    }

    /// The profile's name in statements.
    pub fn profile(&self) -> &'static str {
        match self {
            Self::SnpDirect(_) => "snp-direct",
            Self::Aci(_) => "aci",
            #[cfg(feature = "development")]
            Self::Simulated(_) => "simulated",
        }
    }

    /// What it demands of the machine, where it demands anything.
    pub fn machine(&self) -> Option<Machine<'_>> {
        match self {
            Self::SnpDirect(workload) => Some(machine!(workload)),
            Self::Aci(workload) => Some(machine!(workload)),
            #[cfg(feature = "development")]
            Self::Simulated(workload) if workload.minimum_tcb.is_empty() => None,
            #[cfg(feature = "development")]
            Self::Simulated(workload) => Some(Machine {
                minimum_tcb: &workload.minimum_tcb,
                policy_required: &[],
                policy_forbidden: &[],
                platform_required: &[],
                platform_forbidden: &[],
            }),
        }
    }
}

/// Profile `snp-direct`. The measurement covers firmware, kernel, initial RAM disk, command line
/// and initial register state; the rest says what the machine under it must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpDirect {
    /// SHA-384 launch measurement.
    pub measurement: Measurement,
    /// The products it may run on, each with the lowest firmware that is accepted.
    pub minimum_tcb: Vec<ProductFloor>,
    /// POLICY bits that must be set.
    pub policy_required: Vec<PolicyBit>,
    /// POLICY bits that must not be set.
    pub policy_forbidden: Vec<PolicyBit>,
    /// PLATFORM_INFO bits that must be set.
    pub platform_required: Vec<PlatformBit>,
    /// PLATFORM_INFO bits that must not be set.
    pub platform_forbidden: Vec<PlatformBit>,
    /// The ID key that must have signed the ID block, where one must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_key_digest: Option<KeyDigest>,
    /// The author key that must have certified the ID key, where one must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author_key_digest: Option<KeyDigest>,
}

/// Profile `aci`: a confidential container. The launch measurement is that of Microsoft's utility VM,
/// which enforces the container policy named here; an endorsement must show that it is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aci {
    /// SHA-256 of the exact container policy: the identity of the workload.
    pub host_data: Sha256,
    /// Which utility VMs may enforce it.
    pub uvm: UvmFloor,
    /// The products it may run on, each with the lowest firmware that is accepted.
    pub minimum_tcb: Vec<ProductFloor>,
    /// POLICY bits that must be set.
    pub policy_required: Vec<PolicyBit>,
    /// POLICY bits that must not be set.
    pub policy_forbidden: Vec<PolicyBit>,
    /// PLATFORM_INFO bits that must be set.
    pub platform_required: Vec<PlatformBit>,
    /// PLATFORM_INFO bits that must not be set.
    pub platform_forbidden: Vec<PlatformBit>,
}

/// Which utility VMs are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UvmFloor {
    /// Who must have signed the endorsement.
    pub issuer: UvmIssuer,
    feed: Text,
    /// The lowest security version number, at least 1. Released ones begin at 100.
    pub minimum_svn: u64,
}

impl UvmFloor {
    /// The product line, as Microsoft names it: `ContainerPlat-AMD-UVM`.
    pub fn feed(&self) -> &str {
        self.feed.as_str()
    }
}

/// What a profile demands of the machine and of how the guest was launched there.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// The products, each with the lowest firmware that is accepted.
    pub minimum_tcb: &'a [ProductFloor],
    /// POLICY bits that must be set.
    pub policy_required: &'a [PolicyBit],
    /// POLICY bits that must not be set.
    pub policy_forbidden: &'a [PolicyBit],
    /// PLATFORM_INFO bits that must be set.
    pub platform_required: &'a [PlatformBit],
    /// PLATFORM_INFO bits that must not be set.
    pub platform_forbidden: &'a [PlatformBit],
}

/// The lowest firmware accepted on a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductFloor {
    /// The product.
    pub product: Product,
    /// The floor of each of its firmware parts.
    pub tcb: Tcb,
}

/// Profile `simulated`: a software chip with its own root.
#[cfg(feature = "development")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulated {
    /// SHA-256 of the DER of the chip's root certificate.
    pub ark_sha256: Sha256,
    /// What the chip reports for the enclave.
    pub measurement: Measurement,
    /// As of real products, for whoever wants to see a downgrade refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub minimum_tcb: Vec<ProductFloor>,
}

/// A workload as written. Builds without `development` know the profile `simulated` by name only,
/// to say why they refuse it.
#[derive(Deserialize)]
#[serde(tag = "profile", rename_all = "kebab-case")]
enum Unchecked {
    SnpDirect(Box<SnpDirect>),
    Aci(Box<Aci>),
    #[cfg(feature = "development")]
    Simulated(Simulated),
    #[cfg(not(feature = "development"))]
    Simulated(serde::de::IgnoredAny),
}

impl TryFrom<Unchecked> for Workload {
    type Error = String;

    fn try_from(workload: Unchecked) -> Result<Self, String> {
        match workload {
            Unchecked::SnpDirect(workload) => {
                workload.check()?;
                Ok(Self::SnpDirect(*workload))
            }
            Unchecked::Aci(workload) => {
                workload.check()?;
                Ok(Self::Aci(*workload))
            }
            #[cfg(feature = "development")]
            Unchecked::Simulated(workload) => {
                let workload = Self::Simulated(workload);
                workload.machine().map_or(Ok(()), |machine| machine.check())?;
                Ok(workload)
            }
            #[cfg(not(feature = "development"))]
            Unchecked::Simulated(_) => {
                Err("a workload of profile \"simulated\" protects nothing; \
                only a build with the feature `development` accepts it"
                    .into())
            }
        }
    }
}

impl SnpDirect {
    fn check(&self) -> Result<(), String> {
        for (name, digest) in
            [("id_key_digest", self.id_key_digest), ("author_key_digest", self.author_key_digest)]
        {
            // What a report says where there is no such key: it would bind nothing.
            if digest == Some(KeyDigest::new([0; KeyDigest::LENGTH])) {
                return Err(format!("{name}: expected the digest of a key, found zeros"));
            }
        }
        machine!(self).check()
    }
}

impl Aci {
    fn check(&self) -> Result<(), String> {
        if self.uvm.minimum_svn == 0 {
            return Err("uvm.minimum_svn: expected 1 or more, found 0".into());
        }
        machine!(self).check()
    }
}

impl Machine<'_> {
    /// The lowest firmware accepted on `product`, if it may run there at all.
    pub fn floor(&self, product: Product) -> Option<Tcb> {
        let mut floors = self.minimum_tcb.iter();
        floors.find(|floor| floor.product == product).map(|floor| floor.tcb)
    }

    fn check(&self) -> Result<(), String> {
        if self.minimum_tcb.is_empty() {
            return Err("minimum_tcb: expected at least one product, found none".into());
        }
        for ProductFloor { product, tcb } in self.minimum_tcb {
            if !tcb.fits(*product) {
                return Err(format!(
                    "minimum_tcb: expected fmc on Turin and nowhere else, found {tcb} on {product}"
                ));
            }
        }
        all_different("minimum_tcb", self.minimum_tcb.iter().map(|floor| floor.product))?;
        let policy = self.policy_required.iter().chain(self.policy_forbidden);
        all_different("policy_required and policy_forbidden", policy)?;
        let platform = self.platform_required.iter().chain(self.platform_forbidden);
        all_different("platform_required and platform_forbidden", platform)
    }
}

/// Refuses a list that says something twice, or both ways.
pub(super) fn all_different<T: Ord + Debug + Copy>(
    what: &str, values: impl Iterator<Item = T>,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for value in values {
        if !seen.insert(value) {
            return Err(format!("{what}: expected each entry once, found {value:?} twice"));
        }
    }
    Ok(())
}
