//! Instance metadata: the managed identity's token, THIM's certificates, and the header both demand.

mod common;

use common::evidence::{Chip, claims};
use common::{client, json, start};
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Value, json};

const TOKEN: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagedhsm.azure.net";
const THIM: &str = "/metadata/THIM/amd/certification";

#[tokio::test]
async fn the_managed_identity_gets_a_token_for_the_hsm() {
    let cloud = start("imds-token").await;
    let endpoints = cloud.endpoints();
    let named = format!("{TOKEN}&client_id={}", endpoints.imds.client_id);
    for path in [TOKEN, &named] {
        let url = format!("{}{path}", endpoints.imds.url);
        let answer = client().get(url).header("Metadata", "true").send().await.unwrap();
        let answer = json(answer, 200).await;
        assert!(
            answer.as_object().unwrap().values().all(Value::is_string),
            "IMDS writes text only"
        );
        assert_eq!(answer["resource"], "https://managedhsm.azure.net");
        assert_eq!(answer["token_type"], "Bearer");

        let token = answer["access_token"].as_str().unwrap();
        let jwks = json(common::get(format!("{}/jwks", endpoints.oidc.issuer)).await, 200).await;
        let key = common::jwk_key(&jwks, &common::evidence::header(token)["kid"]);
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&["https://managedhsm.azure.net"]);
        jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();
        let expires = claims(token)["exp"].as_u64().unwrap().to_string();
        assert_eq!(answer["expires_on"], json!(expires));
    }
    cloud.stop().await;
}

#[tokio::test]
async fn thim_serves_the_chips_certificates() {
    let cloud = start("imds-thim").await;
    let endpoints = cloud.endpoints();
    let url = format!("{}{THIM}", endpoints.imds.url);
    let answer =
        json(client().get(url).header("metadata", "True").send().await.unwrap(), 200).await;
    let chip = Chip::open(&endpoints.chip.dir);
    let expected = json!({
        "vcekCert": chip.pem("vcek.pem"),
        "tcbm": "db18000000000004",
        "cacheControl": "86400",
        "certificateChain": chip.pem("ask.pem") + &chip.pem("ark.pem"),
    });
    assert_eq!(answer, expected);
    let root = common::sha256(&common::pem_der(&chip.pem("ark.pem")));
    assert_eq!(endpoints.chip.ark_sha256, hex::encode(root));
    cloud.stop().await;
}

#[tokio::test]
async fn requests_that_are_not_the_machines_own_are_refused() {
    let cloud = start("imds-refused").await;
    let base = cloud.endpoints().imds.url;
    let ask = |path: &str, headers: &[(&'static str, &'static str)]| {
        let request = client().get(format!("{base}{path}"));
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send()
    };
    for path in [TOKEN, THIM] {
        json(ask(path, &[]).await.unwrap(), 400).await;
        json(ask(path, &[("Metadata", "false")]).await.unwrap(), 400).await;
        let forwarded = [("Metadata", "true"), ("X-Forwarded-For", "10.0.0.1")];
        json(ask(path, &forwarded).await.unwrap(), 400).await;
    }
    for path in [
        "/metadata/identity/oauth2/token?resource=x",
        "/metadata/identity/oauth2/token?api-version=2018-02-01",
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=",
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x&client_id=unknown",
    ] {
        let answer = json(ask(path, &[("Metadata", "true")]).await.unwrap(), 400).await;
        assert_eq!(answer["error"], "invalid_request", "{path}");
    }
    cloud.stop().await;
}

/// The enclave reads the chip's key with ring: the file must be in the one form ring takes.
#[tokio::test]
async fn ring_reads_the_chips_key_and_the_vcek_verifies_it() {
    let cloud = start("imds-ring").await;
    let dir = cloud.endpoints().chip.dir;
    let pkcs8 = std::fs::read(dir.join("vcek.key.pk8")).unwrap();
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P384_SHA384_FIXED_SIGNING;
    let key = ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8, &random).unwrap();
    let signature = key.sign(&random, b"report").unwrap();
    let vcek = common::pem_der(&std::fs::read_to_string(dir.join("vcek.pem")).unwrap());
    let point = common::certificate_key(&vcek);
    let public =
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P384_SHA384_FIXED, &point);
    public.verify(b"report", signature.as_ref()).unwrap();
    public.verify(b"another", signature.as_ref()).unwrap_err();
    cloud.stop().await;
}
