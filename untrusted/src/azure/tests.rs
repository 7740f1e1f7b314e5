//! What is sent to the attestation service, and that a token it did not sign for this goes nowhere.

use super::release::tests::Signer;
use super::testing::serve;
use super::*;
use crate::config::Config;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::engine::general_purpose::STANDARD;
use std::sync::{Arc, Mutex};

/// A service that signs whatever it is asked to attest, then changes it.
struct Maa {
    signer: Signer,
    alter: fn(&mut Value),
    url: Mutex<String>,
    asked: Mutex<Vec<Value>>,
}

impl Maa {
    async fn start(alter: fn(&mut Value)) -> (Arc<Self>, BaseUrl) {
        let (url, asked) = (Mutex::default(), Mutex::default());
        let maa = Arc::new(Self { signer: Signer::new(), alter, url, asked });
        let router = Router::new()
            .route("/attest/SevSnpVm", post(Self::attest))
            .route("/certs", get(Self::certs))
            .route("/.well-known/openid-configuration", get(Self::discovery))
            .with_state(maa.clone());
        let url = serve(router).await;
        *maa.url.lock().unwrap() = url.as_str().to_owned();
        (maa, url)
    }

    async fn attest(State(maa): State<Arc<Self>>, Json(body): Json<Value>) -> Json<Value> {
        let data = base64url(body["runtimeData"]["data"].as_str().unwrap()).unwrap();
        let now = crate::clock::unix_now();
        let mut claims = json!({
            "iss": *maa.url.lock().unwrap(), "iat": now, "nbf": now, "exp": now + 28_800,
            "nonce": body["nonce"].as_u64().unwrap().to_string(),
            "x-ms-attestation-type": "sevsnpvm", "x-ms-sevsnpvm-is-debuggable": false,
            "x-ms-sevsnpvm-reportdata": "07".repeat(64),
            "x-ms-runtime": serde_json::from_slice::<Value>(&data).unwrap(),
        });
        maa.asked.lock().unwrap().push(body);
        (maa.alter)(&mut claims);
        let header = json!({"alg": "RS256", "kid": "one", "typ": "JWT"});
        Json(json!({"token": maa.signer.signed(&header, &claims)}))
    }

    async fn certs(State(maa): State<Arc<Self>>) -> Json<Value> {
        let certificate = STANDARD.encode(maa.signer.root("maa"));
        Json(json!({"keys": [{"kid": "one", "kty": "RSA", "x5c": [certificate]}]}))
    }

    async fn discovery(State(maa): State<Arc<Self>>) -> Json<Value> {
        let url = maa.url.lock().unwrap().clone();
        Json(json!({"issuer": format!("{url}/"), "jwks_uri": format!("{url}/certs")}))
    }
}

/// A host's cloud with this attestation service.
fn cloud(maa: &BaseUrl) -> Cloud {
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, vcek::to_pem(&Signer::new().root("root"))).unwrap();
    let overrides = [("MAA_URL", maa.as_str()), ("HSM_ROOTS", roots.to_str().unwrap())];
    let overrides = overrides
        .into_iter()
        .map(|(key, value)| (format!("KEYFOLD_HOST__AZURE__{key}"), value.to_owned()));
    let config = Config::parse(crate::config::EXAMPLE, overrides).expect("the configuration");
    Cloud::new(config.azure, &Environment::new()).expect("a cloud")
}

const CLAIMS: &[u8] = br#"{"keyfold":{"role":"release"}}"#;
const REPORT: [u8; 1184] = [7; 1184];

#[tokio::test]
async fn evidence_goes_with_what_stands_behind_it() {
    let (maa, url) = Maa::start(|_| {}).await;
    let cloud = cloud(&url);
    let mut endorsements =
        Endorsements { vcek_chain: "VCEK ASK ARK".into(), uvm_endorsement: None, mismatch: None };
    for uvm in [None, Some(b"COSE".to_vec())] {
        endorsements.uvm_endorsement.clone_from(&uvm);
        let journal = Journal::default();
        cloud.attest(CLAIMS, &REPORT, &endorsements, &journal).await.expect("a token");
        assert!(journal.entries().iter().all(|entry| entry.outcome.is_ok()));
        let body = maa.asked.lock().unwrap().pop().expect("a question");
        let json = |text: &Value| -> Value {
            serde_json::from_slice(&base64url(text.as_str().unwrap()).unwrap()).unwrap()
        };
        let bytes = |text: &Value| base64url(text.as_str().unwrap()).unwrap();
        let evidence = json(&body["report"]);
        assert_eq!(bytes(&evidence["SnpReport"]), REPORT);
        assert_eq!(bytes(&evidence["VcekCertChain"]), b"VCEK ASK ARK");
        match uvm {
            None => assert_eq!(evidence.get("Endorsements"), None),
            Some(uvm) => assert_eq!(bytes(&json(&evidence["Endorsements"])["Uvm"][0]), uvm),
        }
        assert_eq!(bytes(&body["runtimeData"]["data"]), CLAIMS);
        assert_eq!(body["runtimeData"]["dataType"], "JSON");
        assert_eq!(body["initTimeData"], json!({"data": "", "dataType": ""}));
    }
}

#[tokio::test]
async fn a_token_that_was_not_asked_for_goes_nowhere() {
    type Alter = fn(&mut Value);
    let table: [(Alter, Step, &str); 5] = [
        (|claims| claims["nonce"] = "1".into(), Step::AttestationToken, "nonce"),
        (|claims| claims["iss"] = "https://x".into(), Step::AttestationToken, "issued by"),
        (|claims| claims["x-ms-runtime"] = json!({}), Step::AttestationToken, "x-ms-runtime"),
        (|claims| claims["exp"] = 1.into(), Step::Clock, "does not hold now"),
        (|claims| claims["nbf"] = 99_999_999_999_u64.into(), Step::Clock, "does not hold now"),
    ];
    for (alter, step, complaint) in table {
        let (_maa, url) = Maa::start(alter).await;
        let endorsements =
            Endorsements { vcek_chain: String::new(), uvm_endorsement: None, mismatch: None };
        // The Managed HSM of the example is not there: it is not come to.
        let journal = Journal::default();
        let error = cloud(&url).release(CLAIMS, &REPORT, &endorsements, &journal).await;
        let error = error.expect_err(complaint);
        assert_eq!(error.step, step, "{error}");
        assert!(error.what.contains(complaint), "{error}");
        let last = journal.entries().pop().expect("an entry");
        assert!(last.step == step && last.outcome.is_err());
    }
}
