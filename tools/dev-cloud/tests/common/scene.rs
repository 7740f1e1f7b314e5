//! A dev cloud with a workload on its chip and a key in its HSM, and how a client reads what the HSM releases.

use super::evidence::{Chip, Workload, attest, attest_body, b64, claims, header, unb64};
use super::{client, config, fresh_dir, json, unb64_standard};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use der::{Decode, Encode};
use keyfold_dev_cloud::{DevCloud, Endpoints};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::path::PathBuf;

pub const ROOT_KEY: [u8; 32] = [0x42; 32];

/// A cloud with a workload on its chip, and tokens for both sides of the HSM.
pub struct Scene {
    pub cloud: DevCloud,
    pub dir: PathBuf,
    pub workload: Workload,
    pub admin: String,
    pub release: String,
    pub target: String,
}

impl Scene {
    pub async fn new(name: &str) -> Self {
        let dir = fresh_dir(name);
        let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
        let endpoints = cloud.endpoints();
        let workload = Workload::new();
        let target = maa_token(&endpoints, &workload.runtime_data()).await;
        let (admin, release) = (
            admin_token(&endpoints, &endpoints.hsm.resource).await,
            release_token(&endpoints).await,
        );
        Self { cloud, dir, workload, admin, release, target }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.cloud.endpoints().hsm.url)
    }

    pub fn policy(&self) -> Value {
        policy(&self.cloud.endpoints().maa.url, &self.target)
    }

    /// An administrator's request.
    pub async fn admin(&self, method: Method, path: &str, body: &Value) -> Response {
        let request = client().request(method, self.url(path)).bearer_auth(&self.admin);
        request.json(body).send().await.unwrap()
    }

    /// Imports a key whose bytes the test knows.
    pub async fn import(&self, name: &str, policy: &Value) -> Value {
        let body = json!({
            "key": {"kty": "oct-HSM", "k": b64(ROOT_KEY), "key_ops": ["encrypt"]},
            "attributes": {"exportable": true},
            "release_policy": release_policy(policy, true),
        });
        json(self.admin(Method::PUT, &format!("/keys/{name}?api-version=7.4"), &body).await, 200)
            .await
    }

    pub async fn release(&self, path: &str, body: &Value) -> Response {
        let request = client().post(self.url(path)).bearer_auth(&self.release);
        request.json(body).send().await.unwrap()
    }

    pub async fn refused(&self, target: &str, status: u16, why: &str) {
        let body = json!({"target": target});
        let answer =
            json(self.release("/keys/root//release?api-version=7.4", &body).await, status).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "wanted {why:?}: {message}");
    }
}

pub async fn maa_token(endpoints: &Endpoints, runtime_data: &[u8]) -> String {
    let chip = Chip::open(&endpoints.chip.dir);
    let report = chip.report(runtime_data, |_| {});
    let body = attest_body(&report, &chip.chain(), runtime_data);
    let answer = json(attest(endpoints, &body).await, 200).await;
    answer["token"].as_str().unwrap().to_owned()
}

pub async fn admin_token(endpoints: &Endpoints, resource: &str) -> String {
    let scope = format!("{resource}/.default");
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &endpoints.hsm.admin_client_id),
        ("scope", &scope),
    ];
    let url = format!("{}/token", endpoints.oidc.issuer);
    let answer = json(client().post(url).form(&form).send().await.unwrap(), 200).await;
    answer["access_token"].as_str().unwrap().to_owned()
}

pub async fn imds_token(endpoints: &Endpoints, resource: &str) -> String {
    let url = format!(
        "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}",
        endpoints.imds.url
    );
    let answer = client().get(url).header("Metadata", "true").send().await.unwrap();
    json(answer, 200).await["access_token"].as_str().unwrap().to_owned()
}

pub async fn release_token(endpoints: &Endpoints) -> String {
    imds_token(endpoints, "https%3A%2F%2Fmanagedhsm.azure.net").await
}

/// The policy Keyfold's keys carry.
pub fn policy(authority: &str, target: &str) -> Value {
    let claims = claims(target);
    json!({"version": "1.0.0", "anyOf": [{"authority": authority, "allOf": [
        {"claim": "x-ms-attestation-type", "equals": "sevsnpvm"},
        {"claim": "x-ms-sevsnpvm-launchmeasurement", "equals": claims["x-ms-sevsnpvm-launchmeasurement"]},
        {"claim": "x-ms-sevsnpvm-is-debuggable", "equals": false},
        {"claim": "x-ms-runtime.keyfold.role", "equals": "release"},
        {"claim": "x-ms-runtime.keyfold.config", "equals": "5c".repeat(32)},
    ]}]})
}

/// The object that Azure keeps a policy in.
pub fn release_policy(policy: &impl ToString, immutable: bool) -> Value {
    json!({
        "contentType": "application/json; charset=utf-8",
        "data": b64(policy.to_string()),
        "immutable": immutable,
    })
}

/// What a release says, to a client that verifies it.
pub fn verify_release(endpoints: &Endpoints, jws: &str) -> Value {
    read_release(endpoints, jws).unwrap()
}

/// x5c[0] signs, the chain holds, the root is the known one, the name fits. The error is what does not.
pub fn read_release(endpoints: &Endpoints, jws: &str) -> Result<Value, &'static str> {
    let header = header(jws);
    let chain: Vec<Vec<u8>> = header["x5c"]
        .as_array()
        .unwrap()
        .iter()
        .map(|certificate| unb64_standard(certificate.as_str().unwrap()))
        .collect();
    assert_eq!(chain.len(), 3);
    assert_eq!(header["alg"], "RS256");
    assert_eq!(header["kid"], b64(super::sha256(&chain[0])));
    assert_eq!(header["x5t#S256"], header["kid"]);
    let (input, signature) = jws.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, super::certificate_key(&chain[0]))
        .verify(input.as_bytes(), &unb64(&json!(signature)))
        .map_err(|_| "signature")?;
    for (index, certificate) in chain.iter().enumerate() {
        let issuer = &chain[(index + 1).min(2)];
        let parsed = x509_cert::Certificate::from_der(certificate).unwrap();
        let tbs = parsed.tbs_certificate().to_der().unwrap();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, super::certificate_key(issuer))
            .verify(&tbs, parsed.signature().raw_bytes())
            .map_err(|_| "chain")?;
    }
    let root = std::fs::read_to_string(&endpoints.hsm.root_certificate).unwrap();
    if chain[2] != super::pem_der(&root) {
        return Err("root");
    }
    let name = format!("*.{}", endpoints.hsm.host_name);
    let leaf = x509_cert::Certificate::from_der(&chain[0]).unwrap();
    let (_, names) = leaf
        .tbs_certificate()
        .get_extension::<x509_cert::ext::pkix::SubjectAltName>()
        .unwrap()
        .unwrap();
    if !format!("{names:?}").contains(&name) {
        return Err("name");
    }
    Ok(claims(jws))
}

/// `key_hsm` of a release's payload: its header and the ciphertext.
pub fn key_hsm(payload: &Value) -> (Value, Vec<u8>) {
    let key_hsm = unb64(&payload["response"]["key"]["key"]["key_hsm"]);
    let key_hsm: Value = serde_json::from_slice(&key_hsm).unwrap();
    assert_eq!(key_hsm["schema_version"], "1.0");
    (key_hsm["header"].clone(), unb64(&key_hsm["ciphertext"]))
}

/// How an attestation policy travels: an unsecured JWS around its text.
pub fn policy_jws(policy: &str) -> String {
    let payload = json!({"AttestationPolicy": b64(policy)}).to_string();
    format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(payload))
}
