//! One `deployment.toml`, four texts that must agree: the statement that clients check, the
//! release policy that guards the root key, the policy of the attestation service in between, and
//! the page that an auditor signs off. Making all of them from one file is what makes them agree.
//!
//! ```toml
//! [statement]
//! name = "keyfold-eu"
//! serial = 1
//! issued = "2026-11-22T00:00:00Z"
//! expires = "2027-02-20T00:00:00Z"            # at most 90 days later
//! url = "https://keyfold.example"
//! config = "<hex64>"                          # hash of the enclave's configuration
//! root = "<hex64>"                            # commitment to the root key
//!
//! [statement.identity]
//! issuer = "https://login.example/v2.0"
//! client_id = "00000000-0000-0000-0000-000000000000"
//! audience = "api://keyfold"
//!
//! [[statement.workloads]]
//! profile = "snp-direct"
//! measurement = "<hex96>"
//! policy_required = []
//! policy_forbidden = ["smt-allowed"]
//! platform_required = ["alias-check-complete"]
//! platform_forbidden = []
//! minimum_tcb = [
//!     { product = "Milan", tcb = { bootloader = 4, tee = 0, snp = 24, microcode = 219 } },
//! ]
//!
//! [key_release]
//! authority = "https://keyfold.weu.attest.azure.net"
//! pin_attestation_policy = true               # see [`Deployment::release_policy`]
//! ```
//!
//! A confidential container is described by what enforces its policy, not by a measurement:
//!
//! ```toml
//! [[statement.workloads]]
//! profile = "aci"
//! host_data = "<hex64>"                       # SHA-256 of the container policy
//! uvm = { issuer = "did:x509:0:sha256:...", feed = "ContainerPlat-AMD-UVM", minimum_svn = 104 }
//! # and the machine, as above
//! ```

mod attestation_policy;
mod difference;
mod release_check;
mod release_policy;
mod summary;
mod template;

use serde::Deserialize;

use crate::statement::{Statement, Url};

pub use difference::{Change, Effect, compare_statements};
pub use release_check::{Finding, PolicyVerdict, Reason, ReleasePolicyError};
pub use summary::statement_summary;
pub use template::{Profile, template};

/// A deployment as its operator describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    statement: Statement,
    key_release: KeyRelease,
}

/// Where the root key's release is decided.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRelease {
    /// The Azure Attestation instance whose tokens the Managed HSM believes.
    authority: Url,
    /// Whether the key is released only under the attestation policy made here.
    #[serde(default)]
    pin_attestation_policy: bool,
}

/// Why a `deployment.toml` is not accepted; the message points at the place, over several lines.
/// Which file it was, the caller says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeploymentError(String);

impl Deployment {
    /// Reads a `deployment.toml`.
    ///
    /// # Errors
    /// An unknown, missing or repeated entry, or a value that is not one.
    pub fn from_toml(text: &str) -> Result<Self, DeploymentError> {
        toml::from_str(text).map_err(|error| DeploymentError(error.to_string().trim_end().into()))
    }

    /// What the deployment promises.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The bytes that the offline keys sign.
    pub fn statement_payload(&self) -> Vec<u8> {
        self.statement.to_payload()
    }

    /// The Managed HSM release policy of the root key, as JSON: a token of the authority must show
    /// one of the accepted workloads, at VMPL 0, not debuggable and not migratable, launched as far
    /// as claims tell it as the workload demands, started with the deployment's configuration,
    /// asking in the role `release`.
    ///
    /// The key is to be created with this policy marked immutable.
    ///
    /// With `pin_attestation_policy`, the token must have been issued under exactly
    /// [`Self::attestation_policy`], which is where minimum firmware is demanded. Without it, whoever
    /// administers the attestation service can lower the firmware that gets the key; with it, a
    /// new minimum needs a new key, since the release policy is immutable.
    pub fn release_policy(&self) -> String {
        let authority = self.key_release.authority.as_str();
        release_policy::render(&self.statement, authority, self.pinned_policy_hash().as_deref())
    }

    /// What the claim `x-ms-policy-hash` must be, where that is asked for.
    fn pinned_policy_hash(&self) -> Option<String> {
        let pinned = self.key_release.pin_attestation_policy;
        pinned.then(|| attestation_policy::hash(&self.attestation_policy()))
    }

    /// Checks a release policy as it was written or as Managed HSM answers it: whether it releases
    /// the key to nothing but what this deployment accepts.
    ///
    /// `text` is the policy itself, Azure's `release_policy` object around it (`contentType`, `data`,
    /// `immutable`), or a key of Managed HSM with that object in it.
    ///
    /// # Errors
    /// Not a release policy. What is wrong with one is in the verdict.
    pub fn check_release_policy(&self, text: &[u8]) -> Result<PolicyVerdict, ReleasePolicyError> {
        release_check::check(self, text)
    }

    /// What is different in `newer`, in words an auditor can sign off.
    pub fn compare(&self, newer: &Self) -> Vec<Change> {
        difference::compare(self, newer)
    }

    /// Where the release is decided, and whether on which policy is pinned.
    pub fn key_release(&self) -> (&str, bool) {
        (self.key_release.authority.as_str(), self.key_release.pin_attestation_policy)
    }

    /// Each text that must be the same everywhere: what it is, and the file name it is stored under.
    pub fn texts(&self) -> [(&'static str, &'static str, Vec<u8>); 3] {
        [
            ("statement payload", "statement-payload.json", self.statement_payload()),
            ("release policy", "release-policy.json", self.release_policy().into_bytes()),
            (
                "attestation policy",
                "attestation-policy.txt",
                self.attestation_policy().into_bytes(),
            ),
        ]
    }

    /// The Azure Attestation policy for `SevSnpVm`: refuses a token to anything but the accepted
    /// workloads at their lowest firmware.
    ///
    /// The service's claims name no product and have no part for `fmc`: where a workload may run
    /// on several products, firmware that meets any product's floor gets a token. Clients check
    /// each product's floor exactly.
    pub fn attestation_policy(&self) -> String {
        attestation_policy::render(&self.statement)
    }

    /// The page that an auditor signs off, in Markdown: every value of the statement, and the
    /// SHA-256 of each of the other texts.
    pub fn summary(&self) -> String {
        summary::render(self)
    }
}
