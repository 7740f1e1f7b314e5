//! What the dev cloud's tests share: a cloud in a fresh directory, and an HTTP client that knows no proxy.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod evidence;
pub mod python;
pub mod scene;
pub mod vectors;

use base64::Engine;
use keyfold_dev_cloud::{Config, DevCloud};
use reqwest::header::HeaderValue;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use std::path::PathBuf;

/// CCF's verifier, and with it pyca's cryptography.
pub const CCF: python::Environment =
    python::Environment { name: "ccf-6.0.28", packages: &["ccf==6.0.28", "cbor2<6"] };

/// An empty directory of this test's own, under the target directory.
pub fn fresh_dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dev-cloud").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub async fn start(name: &str) -> DevCloud {
    DevCloud::start(config(fresh_dir(name))).await.unwrap()
}

/// The defaults in `dir`, with RSA keys that all tests share.
pub fn config(dir: PathBuf) -> Config {
    Config { key_cache: Some(key_cache()), ..Config::new(dir) }
}

pub fn key_cache() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dev-cloud-rsa-keys")
}

pub fn client() -> Client {
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// The body of an answer that must have this status.
pub async fn json(response: Response, status: u16) -> Value {
    let got = response.status();
    let written = response.headers().get("x-ms-ccf-transaction-id").cloned();
    let text = response.text().await.unwrap();
    assert_eq!(got, StatusCode::from_u16(status).unwrap(), "{text}");
    let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    named(body, written)
}

/// What was written now is named in the header alone: puts it where later answers have it.
pub fn named(mut body: Value, written: Option<HeaderValue>) -> Value {
    if let Some(id) = written.filter(|_| body["transactionId"].is_null()) {
        body["transactionId"] = id.to_str().unwrap().into();
    }
    body
}

pub async fn get(url: String) -> Response {
    client().get(url).send().await.unwrap()
}

pub async fn post(url: String, body: &Value) -> Response {
    client().post(url).json(body).send().await.unwrap()
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().try_into().unwrap()
}

/// The ledger claim's digest, from its documented 121 bytes.
pub fn claims(kind: u8, tag: &[u8], version: u64, digest: &[u8], nonce: &[u8]) -> [u8; 32] {
    let version = version.to_be_bytes();
    let claim = [b"keyfold-ledger/1", &[kind][..], tag, &version, digest, nonce].concat();
    assert_eq!(claim.len(), 121);
    sha256(&claim)
}

/// Asks until the receipt is there.
pub async fn receipt(http: &Client, url: &str, transaction: &str) -> Vec<u8> {
    for _ in 0..2000 {
        let answer = http
            .get(format!("{url}/app/receipt?transaction_id={transaction}"))
            .send()
            .await
            .unwrap();
        match answer.status().as_u16() {
            200 => {
                assert_eq!(answer.headers()["content-type"], "application/cose");
                return answer.bytes().await.unwrap().to_vec();
            }
            202 => assert!(answer.headers().contains_key("retry-after")),
            other => panic!("{other}: {}", answer.text().await.unwrap()),
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("no receipt for {transaction}");
}

/// The DER in a PEM block.
pub fn pem_der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

/// The JWKS key of this id, as a verifier reads it.
pub fn jwk_key(jwks: &Value, kid: &Value) -> jsonwebtoken::DecodingKey {
    let jwk = jwks["keys"].as_array().unwrap().iter().find(|jwk| jwk["kid"] == *kid).unwrap();
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwk.clone()).unwrap();
    jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap()
}

/// The public key of a certificate: RSAPublicKey, or a point.
pub fn certificate_key(der: &[u8]) -> Vec<u8> {
    use der::Decode;
    let certificate = x509_cert::Certificate::from_der(der).unwrap();
    let spki = certificate.tbs_certificate().subject_public_key_info();
    spki.subject_public_key.raw_bytes().to_vec()
}

pub fn unb64_standard(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
