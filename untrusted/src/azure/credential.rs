//! Who this host is to the Managed HSM: the machine's managed identity, asked of the metadata service,
//! or a workload identity, whose federated token the platform keeps in a file.

use super::{AzureError, Environment, base64url, call::Call};
use crate::config::{Azure, BaseUrl};
use crate::journal::{Journal, Step};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Whom tokens are for.
const RESOURCE: &str = "https://managedhsm.azure.net";
/// A token this close to its end is not used any more.
const MARGIN: Duration = Duration::from_secs(300);

/// Gives bearer tokens, and keeps the last one until shortly before it expires.
pub(super) struct Credential {
    kind: Kind,
    kept: Mutex<Option<(String, Instant)>>,
}

enum Kind {
    Managed { imds: BaseUrl, client_id: Option<String> },
    Workload { authority: BaseUrl, tenant_id: String, client_id: String, token_file: PathBuf },
}

impl Credential {
    /// A workload identity where the platform's webhook left AZURE_FEDERATED_TOKEN_FILE, otherwise
    /// the managed identity.
    pub(super) fn new(config: &Azure, environment: &Environment) -> Result<Self, String> {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let client_id = config.client_id.as_ref();
        let kind = match variable("AZURE_FEDERATED_TOKEN_FILE") {
            None => Kind::Managed { imds: config.imds_url.clone(), client_id: client_id.cloned() },
            Some(file) => {
                let needed = |name: &str| {
                    let missing = || format!("AZURE_FEDERATED_TOKEN_FILE is set, {name} is not");
                    variable(name).cloned().ok_or_else(missing)
                };
                let authority = match (&config.authority_url, variable("AZURE_AUTHORITY_HOST")) {
                    (Some(url), _) => url.clone(),
                    (None, Some(url)) => BaseUrl::parse(url)?,
                    (None, None) => BaseUrl::parse("https://login.microsoftonline.com")?,
                };
                let client_id = client_id.cloned().map_or_else(|| needed("AZURE_CLIENT_ID"), Ok)?;
                let tenant_id = needed("AZURE_TENANT_ID")?;
                Kind::Workload { authority, tenant_id, client_id, token_file: file.into() }
            }
        };
        Ok(Self { kind, kept: Mutex::default() })
    }

    /// A token that holds for some minutes more.
    pub(super) async fn token(
        &self, metadata: &reqwest::Client, http: &reqwest::Client, journal: &Journal,
    ) -> Result<String, AzureError> {
        let mut kept = self.kept.lock().await;
        if let Some((token, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let answer: Value = match &self.kind {
            Kind::Managed { imds, client_id } => {
                let url = format!("{}/metadata/identity/oauth2/token", imds.as_str());
                let mut query = vec![("api-version", "2018-02-01"), ("resource", RESOURCE)];
                query.extend(client_id.iter().map(|id| ("client_id", id.as_str())));
                let request = metadata.get(&url).header("Metadata", "true").query(&query);
                Call::new(Step::AccessToken, url, journal).json(request).await?
            }
            Kind::Workload { authority, tenant_id, client_id, token_file } => {
                let url = format!("{}/{tenant_id}/oauth2/v2.0/token", authority.as_str());
                let call = Call::new(Step::AccessToken, url.clone(), journal);
                // Read every time: the platform renews the file.
                let assertion = tokio::fs::read_to_string(token_file).await;
                let assertion = assertion
                    .map_err(|error| call.refuse(format!("{}: {error}", token_file.display())))?;
                let form = [
                    ("grant_type", "client_credentials"),
                    ("client_id", client_id.as_str()),
                    ("scope", &format!("{RESOURCE}/.default")),
                    (
                        "client_assertion_type",
                        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    ),
                    ("client_assertion", assertion.trim()),
                ];
                call.json(http.post(&url).form(&form)).await?
            }
        };
        let call = Call::new(Step::AccessToken, self.describe(), journal);
        let token = answer["access_token"].as_str();
        let token = token.ok_or_else(|| call.refuse("the answer has no access_token"))?;
        journal.learn(|facts| facts.identity = who(token));
        if let Some(lifetime) = lifetime(&answer["expires_in"]) {
            *kept = lifetime.checked_sub(MARGIN).map(|rest| (token.into(), Instant::now() + rest));
        }
        Ok(token.to_owned())
    }

    /// Forgets the token: the Managed HSM did not take it.
    pub(super) async fn forget(&self) {
        *self.kept.lock().await = None;
    }

    /// Whose tokens these are.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Managed { client_id: None, .. } => "system-assigned managed identity".into(),
            Kind::Managed { client_id: Some(id), .. } => format!("managed identity {id}"),
            Kind::Workload { client_id, tenant_id, .. } => {
                format!("workload identity {client_id} of tenant {tenant_id}")
            }
        }
    }
}

/// Seconds: text from the metadata service, a number from the authority.
fn lifetime(value: &Value) -> Option<Duration> {
    let seconds = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    seconds.map(Duration::from_secs)
}

/// Audience, object id and tenant that an access token states, to print: the service checks it.
fn who(token: &str) -> Option<[String; 3]> {
    let claims: Value = serde_json::from_slice(&base64url(token.split('.').nth(1)?).ok()?).ok()?;
    Some(["aud", "oid", "tid"].map(|name| claims[name].as_str().unwrap_or("absent").to_owned()))
}

#[cfg(test)]
mod tests;
