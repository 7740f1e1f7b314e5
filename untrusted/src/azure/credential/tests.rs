//! Access tokens: asked for as each service wants, kept as long as they last, and no longer.

use super::*;
use crate::azure::testing::serve;
use crate::config::Config;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Lock};

/// Both services, and what they were sent.
#[derive(Clone, Default)]
struct Services {
    sent: Arc<Lock<Vec<String>>>,
    answered: Arc<AtomicUsize>,
    /// `expires_in`: text from one, a number from the other.
    seconds: Arc<AtomicUsize>,
}

impl Services {
    fn number(&self, sent: String) -> usize {
        self.sent.lock().unwrap().push(sent);
        self.answered.fetch_add(1, Ordering::SeqCst)
    }

    async fn start(&self) -> BaseUrl {
        let metadata = get(
            async |State(it): State<Self>, RawQuery(query): RawQuery, headers: HeaderMap| {
                let header = headers.get("metadata").and_then(|value| value.to_str().ok());
                let sent = format!("{} {}", header.unwrap_or("none"), query.unwrap_or_default());
                let seconds = it.seconds.load(Ordering::SeqCst).to_string();
                Json(
                    json!({"access_token": format!("token-{}", it.number(sent)), "expires_in": seconds}),
                )
            },
        );
        let directory =
            post(async |State(it): State<Self>, Path(tenant): Path<String>, body: String| {
                let seconds = it.seconds.load(Ordering::SeqCst);
                let number = it.number(format!("{tenant} {body}"));
                Json(json!({"access_token": format!("token-{number}"), "expires_in": seconds}))
            });
        let router = Router::new()
            .route("/metadata/identity/oauth2/token", metadata)
            .route("/{tenant}/oauth2/v2.0/token", directory)
            .with_state(self.clone());
        serve(router).await
    }

    fn sent(&self) -> Vec<String> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

fn azure(overrides: &[(&str, &str)]) -> Azure {
    let overrides = overrides
        .iter()
        .map(|(key, value)| (format!("KEYFOLD_HOST__AZURE__{key}"), (*value).to_owned()));
    Config::parse(crate::config::EXAMPLE, overrides).expect("the configuration").azure
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    variables.iter().map(owned).collect()
}

async fn token(credential: &Credential) -> Result<String, AzureError> {
    let http = reqwest::Client::new();
    credential.token(&http, &http, &Journal::default()).await
}

#[tokio::test]
async fn a_managed_identitys_token_is_kept_until_shortly_before_it_ends() {
    let services = Services::default();
    services.seconds.store(86_399, Ordering::SeqCst);
    let url = services.start().await;
    let config = azure(&[("IMDS_URL", url.as_str()), ("CLIENT_ID", "the-client")]);
    let credential = Credential::new(&config, &environment(&[])).unwrap();
    assert_eq!(credential.describe(), "managed identity the-client");
    for _ in 0..3 {
        assert_eq!(token(&credential).await.unwrap(), "token-0");
    }
    const QUERY: &str = "true api-version=2018-02-01&resource=https%3A%2F%2Fmanagedhsm.azure.net&client_id=the-client";
    assert_eq!(services.sent(), [QUERY]);
    // The service did not take it: another is asked for.
    credential.forget().await;
    assert_eq!(token(&credential).await.unwrap(), "token-1");
    // One that ends within minutes serves once.
    credential.forget().await;
    services.seconds.store(301, Ordering::SeqCst);
    assert_eq!(token(&credential).await.unwrap(), "token-2");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    services.seconds.store(200, Ordering::SeqCst);
    assert_eq!(token(&credential).await.unwrap(), "token-3");
    assert_eq!(token(&credential).await.unwrap(), "token-4");

    let config = azure(&[("IMDS_URL", url.as_str())]);
    let system = Credential::new(&config, &environment(&[])).unwrap();
    services.sent();
    token(&system).await.unwrap();
    assert!(!services.sent()[0].contains("client_id"));
}

#[tokio::test]
async fn a_workload_identity_shows_the_platforms_token() {
    let services = Services::default();
    services.seconds.store(3600, Ordering::SeqCst);
    let url = services.start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let file = file.to_str().unwrap();
    let variables = [
        ("AZURE_FEDERATED_TOKEN_FILE", file),
        ("AZURE_CLIENT_ID", "the-client"),
        ("AZURE_TENANT_ID", "the-tenant"),
        ("AZURE_AUTHORITY_HOST", url.as_str()),
    ];
    let credential = Credential::new(&azure(&[]), &environment(&variables)).unwrap();
    let error = token(&credential).await.unwrap_err();
    assert!(error.step == Step::AccessToken && error.what.contains(file), "{error}");
    std::fs::write(file, "first\n").unwrap();
    assert_eq!(token(&credential).await.unwrap(), "token-0");
    assert_eq!(token(&credential).await.unwrap(), "token-0");
    // The platform renews the file, and the next question shows the new one.
    std::fs::write(file, "second").unwrap();
    credential.forget().await;
    token(&credential).await.unwrap();
    let sent = services.sent();
    assert_eq!(sent.len(), 2);
    for (sent, assertion) in sent.iter().zip(["first", "second"]) {
        let (tenant, form) = sent.split_once(' ').unwrap();
        let form = reqwest::Url::parse(&format!("http://form/?{form}")).unwrap();
        let form: BTreeMap<_, _> = form.query_pairs().into_owned().collect();
        let expected = [
            ("client_assertion", assertion),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_id", "the-client"),
            ("grant_type", "client_credentials"),
            ("scope", "https://managedhsm.azure.net/.default"),
        ];
        assert_eq!((tenant, form), ("the-tenant", environment(&expected)));
    }

    // The configuration goes before the platform.
    let config = azure(&[("CLIENT_ID", "ours"), ("AUTHORITY_URL", "https://other.example")]);
    let credential = Credential::new(&config, &environment(&variables)).unwrap();
    assert!(matches!(&credential.kind, Kind::Workload { authority, client_id, .. }
        if authority.as_str() == "https://other.example" && client_id == "ours"));
    for absent in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"] {
        let mut variables = environment(&variables);
        variables.remove(absent);
        let error = Credential::new(&azure(&[]), &variables).err().unwrap();
        assert!(error.contains(absent), "{error}");
    }
}

#[test]
fn what_an_access_token_says_of_itself_is_told_without_it() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = json!({"aud": "a", "oid": "o", "secret": "s"}).to_string();
    let token = format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims));
    assert_eq!(who(&token), Some(["a".into(), "o".into(), "absent".into()]));
    assert_eq!(who("opaque"), None);
}
