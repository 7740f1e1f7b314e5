//! Workload identity: the assertion in the file becomes an access token; no other assertion does.

mod common;

use common::evidence::{claims, forge, header};
use common::{client, config, fresh_dir, json};
use keyfold_dev_cloud::{DevCloud, SignIn};
use serde_json::{Value, json};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

struct Scene {
    cloud: DevCloud,
    /// The issuer's key, with which the cluster signs.
    key: Vec<u8>,
    assertion: String,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let dir = fresh_dir(name);
        let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
        let assertion = std::fs::read_to_string(cloud.endpoints().aad.token_file).unwrap();
        Self { cloud, key: std::fs::read(dir.join("oidc/0.pk8")).unwrap(), assertion }
    }

    fn form(&self) -> Vec<(&'static str, String)> {
        vec![
            ("grant_type", "client_credentials".into()),
            ("client_id", self.cloud.endpoints().aad.client_id),
            ("scope", "https://managedhsm.azure.net/.default".into()),
            ("client_assertion_type", ASSERTION_TYPE.into()),
            ("client_assertion", self.assertion.clone()),
        ]
    }

    async fn ask(&self, tenant: &str, form: &[(&str, String)], status: u16) -> Value {
        let url = format!("{}/{tenant}/oauth2/v2.0/token", self.cloud.endpoints().aad.url);
        json(client().post(url).form(form).send().await.unwrap(), status).await
    }

    /// With another value of one field.
    async fn refused(&self, field: &str, value: &str, status: u16, error: &str, number: u32) {
        let mut form = self.form();
        match field {
            "" => {}
            name => form.iter_mut().find(|(field, _)| *field == name).unwrap().1 = value.into(),
        }
        let tenant = self.cloud.endpoints().aad.tenant;
        let tenant = if field.is_empty() { value } else { &tenant };
        let answer = self.ask(tenant, &form, status).await;
        assert_eq!(answer["error"], error, "{field}: {answer}");
        assert_eq!(answer["error_codes"], json!([number]), "{field}: {answer}");
        let description = answer["error_description"].as_str().unwrap();
        assert!(description.starts_with(&format!("AADSTS{number}: ")), "{description}");
    }
}

#[tokio::test]
async fn the_assertion_becomes_a_token_that_the_hsm_takes() {
    let scene = Scene::new("aad-token").await;
    let endpoints = scene.cloud.endpoints();
    let answer = scene.ask(&endpoints.aad.tenant, &scene.form(), 200).await;
    assert_eq!(answer["token_type"], "Bearer");
    assert!(answer["expires_in"].is_u64());
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(claims(token)["aud"], "https://managedhsm.azure.net");
    assert_eq!(claims(token)["tid"], endpoints.aad.tenant);
    // The workload: it may release, if there were such a key, and not look at keys.
    for (method, path, status) in
        [(reqwest::Method::POST, "/keys/k//release", 404), (reqwest::Method::GET, "/keys/k", 403)]
    {
        let url = format!("{}{path}?api-version=7.4", endpoints.hsm.url);
        let request = client().request(method, url).bearer_auth(token);
        json(request.json(&json!({"target": "x"})).send().await.unwrap(), status).await;
    }
    scene.cloud.stop().await;
}

#[tokio::test]
async fn requests_that_do_not_fit_are_refused() {
    let scene = Scene::new("aad-request").await;
    for (field, value, error, number) in [
        ("", "6b657966-0000-4064-8064-657600000000", "invalid_request", 90_002),
        ("grant_type", "password", "unsupported_grant_type", 70_003),
        ("client_id", "keyfold-admin", "unauthorized_client", 700_016),
        ("scope", "https://managedhsm.azure.net", "invalid_scope", 1_002_012),
        ("scope", "https://graph.microsoft.com/.default", "invalid_resource", 500_011),
        ("client_assertion_type", "urn:other", "invalid_request", 50_027),
        ("client_assertion", "", "invalid_request", 900_144),
    ] {
        scene.refused(field, value, 400, error, number).await;
    }
    let tenant = scene.cloud.endpoints().aad.tenant;
    for index in 0..scene.form().len() {
        let mut form = scene.form();
        let (missing, _) = form.remove(index);
        let answer = scene.ask(&tenant, &form, 400).await;
        assert!(answer["error_description"].as_str().unwrap().contains(missing), "{answer}");
    }
    scene.cloud.stop().await;
}

#[tokio::test]
async fn only_the_clusters_assertion_for_the_workload_counts() {
    let scene = Scene::new("aad-assertion").await;
    let genuine = claims(&scene.assertion);
    let kid = header(&scene.assertion)["kid"].as_str().unwrap().to_owned();
    let now = genuine["iat"].as_u64().unwrap();
    let signed = |name: &str, value: Value| {
        let mut claims = genuine.clone();
        claims[name] = value;
        forge(&scene.key, &kid, &claims)
    };
    // The control: what the test forges is accepted when nothing is wrong with it.
    let mut form = scene.form();
    form[4].1 = forge(&scene.key, &kid, &genuine);
    scene.ask(&scene.cloud.endpoints().aad.tenant, &form, 200).await;

    let foreign = common::evidence::Workload::new();
    let person = scene.cloud.sign_in(&SignIn::new("alice")).unwrap();
    let (head, _) = scene.assertion.rsplit_once('.').unwrap();
    for (assertion, number) in [
        (signed("exp", json!(now - 600)), 700_024),
        (signed("nbf", json!(now + 600)), 700_024),
        (signed("iss", json!("https://oidc.example")), 700_211),
        (signed("aud", json!("api://other")), 700_212),
        (person, 700_212),
        (signed("sub", json!("system:serviceaccount:keyfold:other")), 700_213),
        (forge(&foreign.pkcs8, &kid, &genuine), 700_027),
        (forge(&foreign.pkcs8, "unknown", &genuine), 700_027),
        (format!("{head}."), 700_027),
        ("x".to_owned(), 50_027),
    ] {
        scene.refused("client_assertion", &assertion, 401, "invalid_client", number).await;
    }
    scene.cloud.stop().await;
}
