//! Where everything is: what `<dir>/endpoints.json` says.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file's name in the dev directory.
pub const FILE: &str = "endpoints.json";

/// Addresses and public keys of a running dev cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Says that nothing here protects anything.
    pub warning: String,
    /// The process that serves.
    pub pid: u32,
    /// The OpenID issuer.
    pub oidc: OidcEndpoint,
    /// The instance metadata service.
    pub imds: ImdsEndpoint,
    /// AMD's key distribution service.
    pub kds: Endpoint,
    /// The directory that workload identities ask.
    pub aad: AadEndpoint,
    /// The attestation service.
    pub maa: Endpoint,
    /// The Managed HSM.
    pub hsm: HsmEndpoint,
    /// The ledger.
    pub ledger: LedgerEndpoint,
    /// The simulated chip.
    pub chip: ChipFiles,
    /// The failure switches.
    pub control: Endpoint,
}

/// A service that is one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Base URL, no trailing slash.
    pub url: String,
}

/// The OpenID issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcEndpoint {
    /// `iss`; discovery is at `{issuer}/.well-known/openid-configuration`.
    pub issuer: String,
    /// Registered clients, each an acceptable `aud`.
    pub clients: Vec<String>,
}

/// The instance metadata service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImdsEndpoint {
    /// What stands for http://169.254.169.254.
    pub url: String,
    /// Client id of the managed identity, which may be named in token requests.
    pub client_id: String,
}

/// The directory's token endpoint, and the identity that the workload has there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AadEndpoint {
    /// What stands for `https://login.microsoftonline.com`: `AZURE_AUTHORITY_HOST`.
    pub url: String,
    /// AZURE_TENANT_ID.
    pub tenant: String,
    /// AZURE_CLIENT_ID.
    pub client_id: String,
    /// AZURE_FEDERATED_TOKEN_FILE; written again before its token expires.
    pub token_file: PathBuf,
}

/// The Managed HSM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HsmEndpoint {
    /// Base URL, no trailing slash.
    pub url: String,
    /// The name its certificate is for, with `*.` before it.
    pub host_name: String,
    /// PEM file of the root its releases chain to.
    pub root_certificate: PathBuf,
    /// `resource` of access tokens for it.
    pub resource: String,
    /// Client id that gets an administrator's token by the client_credentials grant.
    pub admin_client_id: String,
}

/// The simulated chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipFiles {
    /// Where ark.pem, ask.pem, vcek.pem and vcek.key.pk8 are: the enclave's KEYFOLD_SIMULATED_CHIP.
    pub dir: PathBuf,
    /// SHA-256 of the ARK's DER, in hex: what development verifiers pin.
    pub ark_sha256: String,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEndpoint {
    /// Base URL, no trailing slash; the application is under /app.
    pub url: String,
    /// `iss` of receipts.
    pub issuer: String,
    /// `sub` of receipts.
    pub subject: String,
    /// The service key, SPKI PEM.
    pub service_key_pem: String,
    /// The service key, uncompressed point, 97 bytes in hex.
    pub service_key_hex: String,
}

impl Endpoints {
    /// Reads `<dir>/endpoints.json`.
    ///
    /// # Errors
    /// The file is not there: the dev cloud never ran in this directory.
    pub fn load(dir: &Path) -> Result<Self> {
        let path: PathBuf = dir.join(FILE);
        let text = std::fs::read(&path).with_context(|| {
            format!("read {}: start the dev cloud with --dir {}", path.display(), dir.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} does not fit", path.display()))
    }
}
