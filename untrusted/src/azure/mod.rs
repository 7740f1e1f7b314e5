//! How an enclave earns its root key: endorsements from THIM or AMD, a token from MAA, release by
//! Managed HSM.
//!
//! One code path for the real services and for the dev cloud: only URLs and roots differ. Nothing here
//! is trusted by the core or by clients; the checks exist to say early and clearly what is wrong, and
//! to send nothing on that is not what was asked for.

use crate::config::{Azure, BaseUrl};
use crate::journal::{Journal, Step};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use call::Call;
use credential::Credential;
use endorsements::Source;
use keyfold_protocol::host::KeyWrap;
use release::Asked;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use token::Expected;

mod call;
mod credential;
mod endorsements;
mod release;
#[cfg(test)]
mod testing;
mod token;
mod vcek;

pub use endorsements::Endorsements;
pub use release::Roots;
pub(crate) use token::LEEWAY;

/// Managed HSM's names of the wrapping algorithms.
pub(crate) const KEY_WRAPS: [(KeyWrap, &str); 3] = [
    (KeyWrap::Sha1, "CKM_RSA_AES_KEY_WRAP"),
    (KeyWrap::Sha256, "RSA_AES_KEY_WRAP_256"),
    (KeyWrap::Sha384, "RSA_AES_KEY_WRAP_384"),
];

/// One request to one of the services.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Variables that the platform sets: UVM_* in a confidential container, AZURE_* for a workload identity.
pub type Environment = BTreeMap<String, String>;

/// What an enclave's release claims brought.
#[derive(Clone, Debug)]
pub struct Released {
    /// The root key, wrapped to the key in the claims.
    pub wrapped: Vec<u8>,
    /// How.
    pub algorithm: KeyWrap,
}

/// What comes of asking.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, AzureError>> + Send + 'a>>;

/// Turns release evidence into a wrapped key. The seam between booting and the cloud.
pub trait KeyRelease: Send + Sync + 'static {
    /// What stands behind a report. `refresh`: what is on disk does not count, as after an update of
    /// the firmware.
    fn endorse<'a>(
        &'a self, report: &'a [u8], refresh: bool, journal: &'a Journal,
    ) -> Asking<'a, Endorsements>;

    /// `claims` is the runtime claims' exact text, `report` the SNP report that binds it.
    fn release<'a>(
        &'a self, claims: &'a [u8], report: &'a [u8], endorsements: &'a Endorsements,
        journal: &'a Journal,
    ) -> Asking<'a, Released>;
}

/// Which step failed, where, and what was said.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{step} at {endpoint}: {what}")]
pub struct AzureError {
    /// The step.
    pub step: Step,
    /// Whom it asked.
    pub endpoint: String,
    /// What came of it. Never a token.
    pub what: String,
}

/// The real path.
pub struct Cloud {
    config: Azure,
    roots: Roots,
    source: Source,
    credential: Credential,
    metadata: reqwest::Client,
    http: reqwest::Client,
}

impl Cloud {
    /// Reads the roots and the platform's variables; asks nobody yet.
    pub fn new(config: Azure, environment: &Environment) -> Result<Self, String> {
        let roots = Roots::read(&config.hsm_roots)?;
        let builder = || {
            let builder = reqwest::Client::builder().timeout(TIMEOUT);
            // What carries a token goes to whom it was meant for, or nowhere.
            builder.redirect(reqwest::redirect::Policy::none())
        };
        let text = |error: reqwest::Error| error.to_string();
        Ok(Self {
            source: Source::new(&config, environment),
            credential: Credential::new(&config, environment)?,
            roots,
            config,
            // The metadata service answers only who comes directly.
            metadata: builder().no_proxy().build().map_err(text)?,
            http: builder().build().map_err(text)?,
        })
    }

    /// An attestation token for the evidence, checked.
    async fn attest(
        &self, claims: &[u8], report: &[u8], endorsements: &Endorsements, journal: &Journal,
    ) -> Result<String, AzureError> {
        let issuer = &self.config.maa_url;
        let url = format!("{}/attest/SevSnpVm?api-version=2022-08-01", issuer.as_str());
        let call = Call::new(Step::Attest, &url, journal);
        let mut evidence = json!({
            "SnpReport": URL_SAFE_NO_PAD.encode(report),
            "VcekCertChain": URL_SAFE_NO_PAD.encode(&endorsements.vcek_chain),
        });
        if let Some(uvm) = &endorsements.uvm_endorsement {
            let uvm = json!({"Uvm": [URL_SAFE_NO_PAD.encode(uvm)]});
            evidence["Endorsements"] = URL_SAFE_NO_PAD.encode(uvm.to_string()).into();
        }
        let nonce = fastrand::u64(..);
        let body = json!({
            "report": URL_SAFE_NO_PAD.encode(evidence.to_string()),
            "runtimeData": {"data": URL_SAFE_NO_PAD.encode(claims), "dataType": "JSON"},
            "initTimeData": {"data": "", "dataType": ""},
            "nonce": nonce,
        });
        let answer: Value = call.json(self.http.post(&url).json(&body)).await?;
        let token =
            answer["token"].as_str().ok_or_else(|| call.refuse("the answer has no token"))?;
        let expected = Expected { issuer, claims, report, nonce };
        token::check(token, &expected, &self.http, journal).await?;
        Ok(token.to_owned())
    }

    /// A bearer token for the Managed HSM.
    pub(crate) async fn access_token(&self, journal: &Journal) -> Result<String, AzureError> {
        self.credential.token(&self.metadata, &self.http, journal).await
    }

    /// The wrapped root key, verified.
    async fn release_key(
        &self, claims: &[u8], attestation: &str, journal: &Journal,
    ) -> Result<Vec<u8>, AzureError> {
        let bearer = self.access_token(journal).await?;
        let url = format!("{}/release?api-version=7.4", self.key_url());
        let call = Call::new(Step::Release, &url, journal);
        let (wrapped_to, modulus) = one_boot_key(claims)
            .ok_or_else(|| call.refuse("the enclave's claims carry no RSA key"))?;
        let enc = wrap_name(self.config.key_wrap);
        let nonce = format!("{:032x}", fastrand::u128(..));
        let body = json!({"target": attestation, "enc": enc, "nonce": nonce});
        let request = self.http.post(&url).bearer_auth(&bearer).json(&body);
        let answer: Result<Value, _> = call.json(request).await;
        if answer.is_err() {
            // It may be the token that was not taken: the next attempt asks for another.
            self.credential.forget().await;
        }
        let answer = answer?;
        let call = Call::new(Step::ReleaseAnswer, self.config.hsm_url.as_str(), journal);
        let jws = answer["value"].as_str().ok_or_else(|| call.refuse("the answer has no value"))?;
        let asked = Asked {
            endpoint: &self.config.hsm_name.clone().unwrap_or_else(|| self.config.hsm_url.host()),
            key_name: &self.config.key_name,
            key_version: &self.config.key_version,
            enc,
            nonce: &nonce,
            wrapped_to: &wrapped_to,
            modulus,
        };
        let verified = release::verified(jws, &self.roots, &asked).map(|answer| {
            let found = format!("{}, {enc} to {wrapped_to}", answer.kid);
            (answer, found)
        });
        let step = Step::ReleaseAnswer;
        let answer = journal.check(step, self.config.hsm_url.as_str(), verified);
        let answer = answer.map_err(|what| call.error(what))?;
        journal.learn(|facts| {
            (facts.wrapped_to, facts.wrap) = (Some(wrapped_to), Some(enc));
            facts.released = Some(answer.kid);
            facts.policy = answer.policy.or(facts.policy.take());
        });
        Ok(answer.wrapped)
    }

    /// Asks what can be asked without an enclave.
    pub(crate) async fn reach(&self, journal: &Journal) -> Result<(), AzureError> {
        token::reach(&self.config.maa_url, &self.http, journal).await?;
        self.access_token(journal).await.map(drop)
    }

    /// The key's release policy, from whoever may read keys; the identity that may only release is
    /// told 403, which is as it should be.
    pub(crate) async fn read_policy(&self, journal: &Journal) -> Result<Vec<u8>, AzureError> {
        let bearer = self.access_token(journal).await?;
        let url = format!("{}?api-version=7.4", self.key_url());
        let aside = Journal::default();
        let call = Call::new(Step::Release, &url, &aside);
        let key: Value = call.json(self.http.get(&url).bearer_auth(bearer)).await?;
        let policy = key["release_policy"]["data"].as_str();
        let policy = policy.ok_or_else(|| call.error("the key has no release policy"))?;
        base64url(policy).map_err(|what| call.error(what))
    }

    fn key_url(&self) -> String {
        let Azure { hsm_url, key_name, key_version, .. } = &self.config;
        match &key_version[..] {
            "" => format!("{}/keys/{key_name}", hsm_url.as_str()),
            version => format!("{}/keys/{key_name}/{version}", hsm_url.as_str()),
        }
    }
}

impl KeyRelease for Cloud {
    fn endorse<'a>(
        &'a self, report: &'a [u8], refresh: bool, journal: &'a Journal,
    ) -> Asking<'a, Endorsements> {
        Box::pin(self.source.find(&self.metadata, &self.http, report, refresh, journal))
    }

    fn release<'a>(
        &'a self, claims: &'a [u8], report: &'a [u8], endorsements: &'a Endorsements,
        journal: &'a Journal,
    ) -> Asking<'a, Released> {
        Box::pin(async move {
            let attestation = self.attest(claims, report, endorsements, journal).await?;
            let wrapped = self.release_key(claims, &attestation, journal).await?;
            Ok(Released { wrapped, algorithm: self.config.key_wrap })
        })
    }
}

fn wrap_name(wrap: KeyWrap) -> &'static str {
    KEY_WRAPS.iter().find(|(known, _)| *known == wrap).map_or("", |(_, name)| name)
}

/// Id and modulus length of the RSA key in release claims.
fn one_boot_key(claims: &[u8]) -> Option<(String, usize)> {
    let claims: Value = serde_json::from_slice(claims).ok()?;
    let key = claims["keys"].as_array()?.iter().find(|key| key["kty"] == "RSA")?;
    let modulus = base64url(key["n"].as_str()?).ok()?;
    Some((key["kid"].as_str()?.to_owned(), modulus.len()))
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

#[cfg(test)]
mod tests;
