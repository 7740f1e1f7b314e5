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
//! ```

mod attestation_policy;
mod release_policy;
mod summary;

use serde::Deserialize;

use crate::statement::{Statement, Url};

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
}

/// Why a `deployment.toml` is not accepted; the message points at the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("deployment.toml: {0}")]
pub struct DeploymentError(String);

impl Deployment {
    /// Reads a `deployment.toml`.
    ///
    /// # Errors
    /// An unknown, missing or repeated entry, or a value that is not one.
    pub fn from_toml(text: &str) -> Result<Self, DeploymentError> {
        toml::from_str(text).map_err(|error| DeploymentError(error.to_string()))
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
    /// one of the accepted workloads, not debuggable and not migratable, started with the
    /// deployment's configuration, asking in the role `release`.
    ///
    /// The key is to be created with this policy marked immutable.
    pub fn release_policy(&self) -> String {
        release_policy::render(&self.statement, self.key_release.authority.as_str())
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
