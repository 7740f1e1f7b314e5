//! Workload profiles: what a statement must say about code for it to be accepted.
//!
//! Whatever the profile, every report must come from VMPL 0 of a guest with debugging and
//! migration off; a profile can only ask for more.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::report::{PlatformBit, PolicyBit};
use crate::tcb::{Product, Tcb};
#[cfg(feature = "development")]
use crate::values::Sha256;
use crate::values::{KeyDigest, Measurement};

/// An accepted workload, by its profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
#[serde(tag = "profile", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Workload {
    /// This image, booted directly as an SNP guest.
    SnpDirect(SnpDirect),
    /// A software chip. It protects nothing.
    #[cfg(feature = "development")]
    Simulated(Simulated),
}

impl Workload {
    /// The launch measurement that identifies the workload.
    pub fn measurement(&self) -> Measurement {
        match self {
            Self::SnpDirect(workload) => workload.measurement,
            #[cfg(feature = "development")]
            Self::Simulated(workload) => workload.measurement,
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
}

/// A workload as written. Builds without `development` know the profile `simulated` by name only,
/// to say why they refuse it.
#[derive(Deserialize)]
#[serde(tag = "profile", rename_all = "kebab-case")]
enum Unchecked {
    SnpDirect(Box<SnpDirect>),
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
            #[cfg(feature = "development")]
            Unchecked::Simulated(workload) => Ok(Self::Simulated(workload)),
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
    /// The lowest firmware accepted on `product`, if it may run there at all.
    pub fn floor(&self, product: Product) -> Option<Tcb> {
        let mut floors = self.minimum_tcb.iter();
        floors.find(|floor| floor.product == product).map(|floor| floor.tcb)
    }

    fn check(&self) -> Result<(), String> {
        if self.minimum_tcb.is_empty() {
            return Err("minimum_tcb: expected at least one product, found none".into());
        }
        for ProductFloor { product, tcb } in &self.minimum_tcb {
            if !tcb.fits(*product) {
                return Err(format!(
                    "minimum_tcb: expected fmc on Turin and nowhere else, found {tcb} on {product}"
                ));
            }
        }
        all_different("minimum_tcb", self.minimum_tcb.iter().map(|floor| floor.product))?;
        let policy = self.policy_required.iter().chain(&self.policy_forbidden);
        all_different("policy_required and policy_forbidden", policy)?;
        let platform = self.platform_required.iter().chain(&self.platform_forbidden);
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
