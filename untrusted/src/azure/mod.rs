//! How an enclave earns its root key: endorsements from THIM, a token from MAA, release by Managed HSM.
//!
//! One code path for the real services and for the dev cloud: only URLs and roots differ. Nothing here
//! is trusted by the core or by clients; the checks exist to say early and clearly what is wrong.

use crate::config::{Azure, BaseUrl};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfold_protocol::host::KeyWrap;
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

mod release;
mod token;

pub use release::Roots;

/// Managed HSM's names of the wrapping algorithms.
pub(crate) const KEY_WRAPS: [(KeyWrap, &str); 3] = [
    (KeyWrap::Sha1, "CKM_RSA_AES_KEY_WRAP"),
    (KeyWrap::Sha256, "RSA_AES_KEY_WRAP_256"),
    (KeyWrap::Sha384, "RSA_AES_KEY_WRAP_384"),
];

/// One request to one of the services.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What an enclave's release claims brought.
#[derive(Clone, Debug)]
pub struct Released {
    /// The root key, wrapped to the key in the claims.
    pub wrapped: Vec<u8>,
    /// How.
    pub algorithm: KeyWrap,
    /// VCEK, ASK and ARK, PEM.
    pub vcek_chain: String,
}

/// Turns release evidence into a wrapped key. The seam between booting and the cloud.
pub trait KeyRelease: Send + Sync + 'static {
    /// `claims` is the runtime claims' exact text, `report` the SNP report that binds it.
    fn release<'a>(
        &'a self, claims: &'a [u8], report: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = Result<Released, AzureError>> + Send + 'a>>;
}

/// Which step failed, where, and what was said.
#[derive(Debug, thiserror::Error)]
#[error("{step} at {endpoint}: {what}")]
pub struct AzureError {
    /// The step.
    pub step: &'static str,
    /// Whom it asked.
    pub endpoint: String,
    /// What came of it, with what to do where that is known. Never a token.
    pub what: String,
}

/// The real path.
pub struct Cloud {
    config: Azure,
    roots: Roots,
    metadata: reqwest::Client,
    http: reqwest::Client,
}

impl Cloud {
    /// Reads the roots; asks nobody yet.
    pub fn new(config: Azure) -> Result<Self, String> {
        let roots = Roots::read(&config.hsm_roots)?;
        // The metadata service answers only who comes directly.
        let metadata = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build();
        let http = reqwest::Client::builder().timeout(TIMEOUT).build();
        let text = |error: reqwest::Error| error.to_string();
        Ok(Self { config, roots, metadata: metadata.map_err(text)?, http: http.map_err(text)? })
    }

    /// The chip's certificates.
    async fn endorsements(&self) -> Result<String, AzureError> {
        let step =
            Step { name: "THIM", url: self.metadata_url("/metadata/THIM/amd/certification") };
        let found: Value =
            step.json(self.metadata.get(&step.url).header("Metadata", "true")).await?;
        let part = |name: &str| {
            found[name].as_str().ok_or_else(|| step.error(format!("the answer has no {name}")))
        };
        Ok(format!("{}\n{}\n", part("vcekCert")?.trim_end(), part("certificateChain")?.trim_end()))
    }

    /// An attestation token for the evidence.
    async fn attest(
        &self, claims: &[u8], report: &[u8], chain: &str,
    ) -> Result<String, AzureError> {
        let url =
            format!("{}/attest/SevSnpVm?api-version=2022-08-01", self.config.maa_url.as_str());
        let step = Step { name: "MAA", url };
        let evidence = json!({
            "SnpReport": URL_SAFE_NO_PAD.encode(report),
            "VcekCertChain": URL_SAFE_NO_PAD.encode(chain),
        });
        let body = json!({
            "report": URL_SAFE_NO_PAD.encode(evidence.to_string()),
            "runtimeData": {"data": URL_SAFE_NO_PAD.encode(claims), "dataType": "JSON"},
            "initTimeData": {"data": "", "dataType": ""},
            "nonce": fastrand::u64(..),
        });
        let answer: Value = step.json(self.http.post(&step.url).json(&body)).await?;
        let token =
            answer["token"].as_str().ok_or_else(|| step.error("the answer has no token"))?;
        token::check(token, &self.config.maa_url, claims).map_err(|what| step.error(what))?;
        Ok(token.to_owned())
    }

    /// A bearer token for the Managed HSM.
    async fn access_token(&self) -> Result<String, AzureError> {
        let step = Step { name: "IMDS", url: self.metadata_url("/metadata/identity/oauth2/token") };
        let mut query =
            vec![("api-version", "2018-02-01"), ("resource", "https://managedhsm.azure.net")];
        if let Some(id) = &self.config.client_id {
            query.push(("client_id", id));
        }
        let request = self.metadata.get(&step.url).header("Metadata", "true").query(&query);
        let answer: Value = step.json(request).await?;
        let token = answer["access_token"].as_str();
        token.map(str::to_owned).ok_or_else(|| step.error("the answer has no access_token"))
    }

    /// The wrapped root key.
    async fn release_key(&self, attestation: &str, bearer: &str) -> Result<Vec<u8>, AzureError> {
        let Azure { hsm_url, key_name, key_version, .. } = &self.config;
        let url =
            format!("{}/keys/{key_name}/{key_version}/release?api-version=7.4", hsm_url.as_str());
        let step = Step { name: "Managed HSM", url };
        let body = json!({"target": attestation, "enc": wrap_name(self.config.key_wrap)});
        let request = self.http.post(&step.url).bearer_auth(bearer).json(&body);
        let answer: Value = step.json(request).await?;
        let jws = answer["value"].as_str().ok_or_else(|| step.error("the answer has no value"))?;
        let name = self.config.hsm_name.clone().unwrap_or_else(|| hsm_url.host());
        release::wrapped_key(jws, &self.roots, &name).map_err(|what| step.error(what))
    }

    fn metadata_url(&self, path: &str) -> String {
        format!("{}{path}", self.config.imds_url.as_str())
    }
}

impl KeyRelease for Cloud {
    fn release<'a>(
        &'a self, claims: &'a [u8], report: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = Result<Released, AzureError>> + Send + 'a>> {
        Box::pin(async move {
            let vcek_chain = self.endorsements().await?;
            let attestation = self.attest(claims, report, &vcek_chain).await?;
            let bearer = self.access_token().await?;
            let wrapped = self.release_key(&attestation, &bearer).await?;
            Ok(Released { wrapped, algorithm: self.config.key_wrap, vcek_chain })
        })
    }
}

fn wrap_name(wrap: KeyWrap) -> &'static str {
    KEY_WRAPS.iter().find(|(known, _)| *known == wrap).map_or("", |(_, name)| name)
}

/// A request and how to speak of it.
struct Step {
    name: &'static str,
    url: String,
}

impl Step {
    fn error(&self, what: impl Into<String>) -> AzureError {
        AzureError { step: self.name, endpoint: self.url.clone(), what: what.into() }
    }

    /// Sends; a refusal is told in the service's own words and code.
    async fn json<T: DeserializeOwned>(
        &self, request: reqwest::RequestBuilder,
    ) -> Result<T, AzureError> {
        let response = request.send().await.map_err(|error| self.error(error.to_string()))?;
        let status = response.status();
        let id = response.headers().get("x-ms-request-id").and_then(|id| id.to_str().ok());
        let id = id.map(|id| format!(", x-ms-request-id {id}")).unwrap_or_default();
        let body = response.bytes().await.map_err(|error| self.error(error.to_string()))?;
        if !status.is_success() {
            let refusal: Value = serde_json::from_slice(&body).unwrap_or_default();
            let (code, message) = (&refusal["error"]["code"], &refusal["error"]["message"]);
            let hint = hint(status);
            return Err(self.error(format!("status {status}, {code}: {message}{id}{hint}")));
        }
        serde_json::from_slice(&body).map_err(|error| self.error(error.to_string()))
    }
}

fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => " (is this machine's managed identity allowed to ask?)",
        403 => {
            " (does the release policy name this image and configuration, and has the identity the release role?)"
        }
        404 => " (are the key's name and version right?)",
        429 => " (throttled; the boot is tried again)",
        _ => "",
    }
}

/// Decodes base64url with or without padding.
fn base64url(text: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|error| format!("not base64url: {error}"))
}

/// Whether two URLs mean the same service: a trailing slash does not tell them apart.
fn same_service(left: &str, right: &BaseUrl) -> bool {
    left.trim_end_matches('/') == right.as_str()
}
