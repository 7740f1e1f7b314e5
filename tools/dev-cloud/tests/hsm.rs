//! The Managed HSM: releases a key to the attested workload the policy names, and to nobody else.

mod common;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use common::evidence::{Chip, Workload, attest, attest_body, b64, claims, forge, header, unb64};
use common::{client, config, fresh_dir, json, start};
use der::{Decode, Encode};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keyfold_dev_cloud::{DevCloud, Endpoints, Failure, Mode, Service};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::path::PathBuf;

const ROOT_KEY: [u8; 32] = [0x42; 32];

/// A cloud with a workload on its chip, and tokens for both sides of the HSM.
struct Scene {
    cloud: DevCloud,
    dir: PathBuf,
    workload: Workload,
    admin: String,
    release: String,
    target: String,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let dir = fresh_dir(name);
        let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
        let endpoints = cloud.endpoints();
        let workload = Workload::new();
        let target = maa_token(&endpoints, &workload.runtime_data()).await;
        let (admin, release) = (admin_token(&endpoints).await, release_token(&endpoints).await);
        Self { cloud, dir, workload, admin, release, target }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.cloud.endpoints().hsm.url)
    }

    fn policy(&self) -> Value {
        policy(&self.cloud.endpoints().maa.url, &self.target)
    }

    /// An administrator's request.
    async fn admin(&self, method: Method, path: &str, body: &Value) -> Response {
        let request = client().request(method, self.url(path)).bearer_auth(&self.admin);
        request.json(body).send().await.unwrap()
    }

    /// Imports a key whose bytes the test knows.
    async fn import(&self, name: &str, policy: &Value) -> Value {
        let body = json!({
            "key": {"kty": "oct-HSM", "k": b64(ROOT_KEY), "key_ops": ["encrypt"]},
            "attributes": {"exportable": true},
            "release_policy": release_policy(policy, true),
        });
        json(self.admin(Method::PUT, &format!("/keys/{name}?api-version=7.4"), &body).await, 200)
            .await
    }

    async fn release(&self, path: &str, body: &Value) -> Response {
        let request = client().post(self.url(path)).bearer_auth(&self.release);
        request.json(body).send().await.unwrap()
    }

    async fn refused(&self, target: &str, status: u16, why: &str) {
        let body = json!({"target": target});
        let answer =
            json(self.release("/keys/root//release?api-version=7.4", &body).await, status).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "wanted {why:?}: {message}");
    }
}

async fn maa_token(endpoints: &Endpoints, runtime_data: &[u8]) -> String {
    let chip = Chip::open(&endpoints.chip.dir);
    let report = chip.report(runtime_data, |_| {});
    let body = attest_body(&report, &chip.chain(), runtime_data);
    let answer = json(attest(endpoints, &body).await, 200).await;
    answer["token"].as_str().unwrap().to_owned()
}

async fn admin_token(endpoints: &Endpoints) -> String {
    let scope = format!("{}/.default", endpoints.hsm.resource);
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &endpoints.hsm.admin_client_id),
        ("scope", &scope),
    ];
    let url = format!("{}/token", endpoints.oidc.issuer);
    let answer = json(client().post(url).form(&form).send().await.unwrap(), 200).await;
    answer["access_token"].as_str().unwrap().to_owned()
}

async fn imds_token(endpoints: &Endpoints, resource: &str) -> String {
    let url = format!(
        "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}",
        endpoints.imds.url
    );
    let answer = client().get(url).header("Metadata", "true").send().await.unwrap();
    json(answer, 200).await["access_token"].as_str().unwrap().to_owned()
}

async fn release_token(endpoints: &Endpoints) -> String {
    imds_token(endpoints, "https%3A%2F%2Fmanagedhsm.azure.net").await
}

/// The policy Keyfold's keys carry.
fn policy(authority: &str, target: &str) -> Value {
    let claims = claims(target);
    json!({"version": "1.0.0", "anyOf": [{"authority": authority, "allOf": [
        {"claim": "x-ms-attestation-type", "equals": "sevsnpvm"},
        {"claim": "x-ms-sevsnpvm-launchmeasurement", "equals": claims["x-ms-sevsnpvm-launchmeasurement"]},
        {"claim": "x-ms-sevsnpvm-is-debuggable", "equals": false},
        {"claim": "x-ms-runtime.keyfold.role", "equals": "release"},
        {"claim": "x-ms-runtime.keyfold.config", "equals": "5c".repeat(32)},
    ]}]})
}

fn release_policy(policy: &Value, immutable: bool) -> Value {
    json!({
        "contentType": "application/json; charset=utf-8",
        "data": b64(policy.to_string()),
        "immutable": immutable,
    })
}

/// As a client verifies a release: x5c[0] signs, the chain holds, the root is the known one, the name fits.
fn verify_release(endpoints: &Endpoints, jws: &str) -> Value {
    let header = header(jws);
    let chain: Vec<Vec<u8>> = header["x5c"]
        .as_array()
        .unwrap()
        .iter()
        .map(|certificate| common::unb64_standard(certificate.as_str().unwrap()))
        .collect();
    assert_eq!(chain.len(), 3);
    assert_eq!(header["alg"], "RS256");
    assert_eq!(header["kid"], b64(common::sha256(&chain[0])));
    assert_eq!(header["x5t#S256"], header["kid"]);
    let (input, signature) = jws.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, common::certificate_key(&chain[0]))
        .verify(input.as_bytes(), &unb64(&json!(signature)))
        .unwrap();
    for (index, certificate) in chain.iter().enumerate() {
        let issuer = &chain[(index + 1).min(2)];
        let parsed = x509_cert::Certificate::from_der(certificate).unwrap();
        let tbs = parsed.tbs_certificate().to_der().unwrap();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, common::certificate_key(issuer))
            .verify(&tbs, parsed.signature().raw_bytes())
            .unwrap();
    }
    let root = std::fs::read_to_string(&endpoints.hsm.root_certificate).unwrap();
    assert_eq!(chain[2], common::pem_der(&root));
    let name = format!("*.{}", endpoints.hsm.host_name);
    let leaf = x509_cert::Certificate::from_der(&chain[0]).unwrap();
    let (_, names) = leaf
        .tbs_certificate()
        .get_extension::<x509_cert::ext::pkix::SubjectAltName>()
        .unwrap()
        .unwrap();
    assert!(format!("{names:?}").contains(&name), "{names:?}");
    claims(jws)
}

#[tokio::test]
async fn the_attested_workload_gets_the_key_in_every_wrapping() {
    let scene = Scene::new("hsm-release").await;
    let endpoints = scene.cloud.endpoints();
    let created = scene.import("root", &scene.policy()).await;
    let kid = created["key"]["kid"].as_str().unwrap();
    let version = kid.rsplit('/').next().unwrap();
    for (enc, algorithm) in [
        (None, &OAEP_SHA1_MGF1SHA1),
        (Some("CKM_RSA_AES_KEY_WRAP"), &OAEP_SHA1_MGF1SHA1),
        (Some("RSA_AES_KEY_WRAP_256"), &OAEP_SHA256_MGF1SHA256),
        (Some("RSA_AES_KEY_WRAP_384"), &OAEP_SHA384_MGF1SHA384),
    ] {
        for path in ["root/release", "root//release", &format!("root/{version}/release")] {
            let mut body = json!({"target": scene.target, "nonce": "abc"});
            if let Some(enc) = enc {
                body["enc"] = json!(enc);
            }
            let answer = scene.release(&format!("/keys/{path}?api-version=7.4"), &body).await;
            let answer = json(answer, 200).await;
            let payload = verify_release(&endpoints, answer["value"].as_str().unwrap());
            let enc = enc.unwrap_or("CKM_RSA_AES_KEY_WRAP");
            let asked = if path.contains(version) { kid } else { kid.rsplit_once('/').unwrap().0 };
            let request = json!({"api-version": "7.4", "enc": enc, "kid": asked, "nonce": "abc"});
            assert_eq!(payload["request"], request);
            let response = &payload["response"]["key"];
            assert_eq!(response["key"]["kid"], kid);
            assert_eq!(response["key"]["kty"], "oct-HSM");
            assert_eq!(response["attributes"]["exportable"], true);
            assert_eq!(response["release_policy"], created["release_policy"]);

            let key_hsm: Value =
                serde_json::from_slice(&unb64(&response["key"]["key_hsm"])).unwrap();
            assert_eq!(key_hsm["schema_version"], "1.0");
            assert_eq!(key_hsm["header"], json!({"kid": "kek-1", "alg": "dir", "enc": enc}));
            let ciphertext = unb64(&key_hsm["ciphertext"]);
            assert_eq!(ciphertext.len(), 256 + 40);
            assert_eq!(scene.workload.unwrap(algorithm, &ciphertext), ROOT_KEY);
        }
    }
    scene.cloud.stop().await;
}

/// OAEP and RFC 5649 as another library reads them.
#[tokio::test]
async fn pyca_unwraps_the_key_too() {
    let scene = Scene::new("hsm-pyca").await;
    scene.import("root", &scene.policy()).await;
    for (enc, hash) in [
        ("CKM_RSA_AES_KEY_WRAP", "SHA1"),
        ("RSA_AES_KEY_WRAP_256", "SHA256"),
        ("RSA_AES_KEY_WRAP_384", "SHA384"),
    ] {
        let body = json!({"target": scene.target, "enc": enc});
        let answer =
            json(scene.release("/keys/root//release?api-version=7.4", &body).await, 200).await;
        let payload = claims(answer["value"].as_str().unwrap());
        let key_hsm = unb64(&payload["response"]["key"]["key"]["key_hsm"]);
        let key_hsm: Value = serde_json::from_slice(&key_hsm).unwrap();
        let request = json!({
            "pkcs8": hex::encode(&scene.workload.pkcs8),
            "ciphertext": hex::encode(unb64(&key_hsm["ciphertext"])),
            "hash": hash,
        });
        let unwrapped = common::python::ask("unwrap_key.py", &request);
        assert_eq!(unwrapped, json!(hex::encode(ROOT_KEY)), "{enc}");
    }
    scene.cloud.stop().await;
}

#[tokio::test]
async fn keys_are_made_in_the_hsm_versioned_and_survive_a_restart() {
    let scene = Scene::new("hsm-create").await;
    let body = json!({
        "kty": "oct-HSM", "key_size": 256, "key_ops": ["encrypt", "decrypt"],
        "attributes": {"exportable": true},
        "release_policy": release_policy(&scene.policy(), true),
    });
    let create = "/keys/root/create?api-version=7.4";
    let first = json(scene.admin(Method::POST, create, &body).await, 200).await;
    let second = json(scene.admin(Method::POST, create, &body).await, 200).await;
    assert_ne!(first["key"]["kid"], second["key"]["kid"]);
    assert!(first["key"].get("k").is_none(), "the key does not leave");

    let endpoints = scene.cloud.endpoints();
    scene.cloud.stop().await;
    let cloud = DevCloud::start(config(scene.dir.clone())).await.unwrap();
    let scene = Scene { cloud, ..scene };
    assert_eq!(scene.cloud.endpoints().hsm, endpoints.hsm);
    let mut released = Vec::new();
    for key in [&first, &second, &first] {
        let version = key["key"]["kid"].as_str().unwrap().rsplit('/').next().unwrap();
        let path = format!("/keys/root/{version}?api-version=7.4");
        let shown = scene.admin(Method::GET, &path, &json!(null)).await;
        assert_eq!(json(shown, 200).await, *key);
        let path = format!("/keys/root/{version}/release?api-version=7.4");
        let answer = json(scene.release(&path, &json!({"target": scene.target})).await, 200).await;
        let payload = verify_release(&endpoints, answer["value"].as_str().unwrap());
        let key_hsm = unb64(&payload["response"]["key"]["key"]["key_hsm"]);
        let key_hsm: Value = serde_json::from_slice(&key_hsm).unwrap();
        released.push(scene.workload.unwrap(&OAEP_SHA1_MGF1SHA1, &unb64(&key_hsm["ciphertext"])));
    }
    assert_eq!(released[0].len(), 32);
    assert_eq!(released[0], released[2], "a version is one key");
    assert_ne!(released[0], released[1]);
    scene.cloud.stop().await;
}

#[tokio::test]
async fn only_the_right_bearer_is_let_in() {
    let scene = Scene::new("hsm-bearer").await;
    let endpoints = scene.cloud.endpoints();
    scene.import("root", &scene.policy()).await;
    let wrong_audience = imds_token(&endpoints, "https%3A%2F%2Fvault.azure.net").await;
    let user = scene.cloud.sign_in(&keyfold_dev_cloud::SignIn::new("alice")).unwrap();
    let other = start("hsm-bearer-other").await;
    let foreign = release_token(&other.endpoints()).await;
    let mut expired = claims(&scene.release);
    expired["exp"] = json!(expired["exp"].as_u64().unwrap() - 90_000);
    let issuer_key = std::fs::read(scene.dir.join("oidc/0.pk8")).unwrap();
    let kid = header(&scene.release)["kid"].as_str().unwrap().to_owned();
    let expired = forge(&issuer_key, &kid, &expired);
    let url = scene.url("/keys/root//release?api-version=7.4");
    for (what, bearer) in [
        ("none", None),
        ("wrong audience", Some(&wrong_audience)),
        ("a person's ID token", Some(&user)),
        ("another directory", Some(&foreign)),
        ("expired", Some(&expired)),
    ] {
        let mut request = client().post(&url).json(&json!({"target": scene.target}));
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        let answer = request.send().await.unwrap();
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert!(challenge.starts_with("Bearer authorization=\"http"), "{challenge}");
        assert!(challenge.ends_with(r#"resource="https://managedhsm.azure.net""#), "{challenge}");
        assert_eq!(json(answer, 401).await["error"]["code"], "Unauthorized", "{what}");
    }

    // Roles: the workload only releases, the administrator never does.
    let request =
        client().post(&url).bearer_auth(&scene.admin).json(&json!({"target": scene.target}));
    json(request.send().await.unwrap(), 403).await;
    for (method, path) in [
        (Method::POST, "/keys/root/create"),
        (Method::PUT, "/keys/root"),
        (Method::PATCH, "/keys/root"),
        (Method::GET, "/keys/root"),
    ] {
        let url = scene.url(&format!("{path}?api-version=7.4"));
        let request = client().request(method.clone(), url).bearer_auth(&scene.release);
        json(request.json(&json!({"kty": "oct-HSM"})).send().await.unwrap(), 403).await;
    }
    scene.cloud.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn tokens_that_are_not_the_authoritys_or_not_valid_now_release_nothing() {
    let scene = Scene::new("hsm-target").await;
    scene.import("root", &scene.policy()).await;
    let maa_key = std::fs::read(scene.dir.join("maa/0.pk8")).unwrap();
    let kid = header(&scene.target)["kid"].as_str().unwrap().to_owned();
    let genuine = claims(&scene.target);
    let now = genuine["iat"].as_u64().unwrap();
    let with = |name: &str, value: Value| {
        let mut claims = genuine.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = genuine.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    // The control: what the test forges is accepted when nothing is wrong with it, whatever its kid.
    for kid in [kid.as_str(), "unknown"] {
        let body = json!({"target": forge(&maa_key, kid, &genuine)});
        json(scene.release("/keys/root//release?api-version=7.4", &body).await, 200).await;
    }

    let signed = |claims: &Value| forge(&maa_key, &kid, claims);
    scene.refused(&signed(&with("exp", json!(now - 120))), 403, "ExpiredSignature").await;
    scene.refused(&signed(&with("nbf", json!(now + 600))), 403, "ImmatureSignature").await;
    scene.refused(&signed(&without("exp")), 403, "exp").await;
    scene.refused(&signed(&without("nbf")), 403, "nbf").await;
    scene.refused(&signed(&without("iss")), 400, "issuer").await;
    scene.refused(&signed(&with("iss", json!("http://127.0.0.1:1"))), 403, "does not name").await;
    let foreign = forge(&scene.workload.pkcs8, &kid, &genuine);
    scene.refused(&foreign, 403, "signature is not its authority's").await;
    let (signed_part, _) = scene.target.rsplit_once('.').unwrap();
    scene.refused(&format!("{signed_part}."), 403, "signature").await;
    let (_, body_part) = signed_part.split_once('.').unwrap();
    let none = b64(r#"{"alg":"none","typ":"JWT"}"#);
    scene.refused(&format!("{none}.{body_part}."), 403, "not a signed token").await;
    let symmetric = b64(format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{kid}"}}"#));
    scene.refused(&format!("{symmetric}.{body_part}.AAAA"), 403, "not RS256").await;
    scene.refused("x", 400, "not a JWT").await;

    scene.cloud.fail(Failure::new(Service::Maa, Mode::Status(503), 1)).await.unwrap();
    scene.refused(&scene.target, 400, "AKV.SKR.1012").await;
    scene.cloud.stop().await;
}

#[tokio::test]
async fn every_condition_of_the_policy_must_hold() {
    let scene = Scene::new("hsm-policy").await;
    let maa = scene.cloud.endpoints().maa.url;
    let good = scene.policy();
    let conditions = good["anyOf"][0]["allOf"].as_array().unwrap().len();
    for index in 0..conditions {
        let mut policy = good.clone();
        let condition = &mut policy["anyOf"][0]["allOf"][index];
        condition["equals"] = match condition["equals"].as_bool() {
            Some(flag) => json!(!flag),
            None => json!("another"),
        };
        let claim = condition["claim"].as_str().unwrap().to_owned();
        scene.import("root", &policy).await;
        scene.refused(&scene.target, 403, &format!("{claim} is ")).await;
    }
    let mut elsewhere = good.clone();
    elsewhere["anyOf"][0]["authority"] = json!("https://sharedeus.eus.attest.azure.net");
    scene.import("root", &elsewhere).await;
    scene.refused(&scene.target, 403, "does not name the authority").await;

    let mut either = good.clone();
    either["anyOf"] = json!([elsewhere["anyOf"][0], good["anyOf"][0]]);
    either["anyOf"][1]["authority"] = json!(format!("{maa}/"));
    scene.import("root", &either).await;
    let body = json!({"target": scene.target});
    json(scene.release("/keys/root//release?api-version=7.4", &body).await, 200).await;
    scene.cloud.stop().await;
}

#[tokio::test]
async fn the_encryption_key_must_be_there_and_fit() {
    let scene = Scene::new("hsm-kek").await;
    let endpoints = scene.cloud.endpoints();
    scene.import("root", &scene.policy()).await;
    let jwk = scene.workload.jwk();
    let with = |changes: &[(&str, Option<Value>)]| {
        let mut jwk = jwk.clone();
        for (name, value) in changes {
            match value {
                Some(value) => jwk[*name] = value.clone(),
                None => drop(jwk.as_object_mut().unwrap().remove(*name)),
            }
        }
        jwk
    };
    let target = async |keys: Value| {
        let keyfold = json!({"version": 1, "role": "release", "config": "5c".repeat(32)});
        let runtime = json!({"keyfold": keyfold, "keys": keys}).to_string();
        maa_token(&endpoints, runtime.as_bytes()).await
    };
    let by_operation = with(&[("use", None), ("key_ops", Some(json!(["encrypt"])))]);
    let by_key_use = with(&[("use", None), ("key_use", Some(json!("enc")))]);
    let for_signing = with(&[("use", Some(json!("sig"))), ("kid", Some(json!("sign")))]);
    for keys in [json!([by_operation]), json!([by_key_use]), json!([for_signing, jwk])] {
        let body = json!({"target": target(keys).await});
        json(scene.release("/keys/root//release?api-version=7.4", &body).await, 200).await;
    }
    for (keys, why) in [
        (json!(null), "x-ms-runtime.keys"),
        (json!([]), "no RSA key for encryption"),
        (json!([for_signing]), "no RSA key for encryption"),
        (json!([with(&[("use", None)])]), "no RSA key for encryption"),
        (json!([with(&[("kty", Some(json!("EC")))])]), "no RSA key for encryption"),
        (json!([with(&[("kid", None)])]), "no kid"),
        (json!([with(&[("n", None)])]), "no n"),
        (json!([with(&[("n", Some(json!("%")))])]), "not base64url"),
        (json!([with(&[("n", Some(json!(b64([0xff; 128]))))])]), "2048"),
    ] {
        scene.refused(&target(keys).await, 400, why).await;
    }
    scene.cloud.stop().await;
}

#[tokio::test]
async fn key_management_follows_the_services_rules() {
    let scene = Scene::new("hsm-rules").await;
    let policy = release_policy(&scene.policy(), true);
    let oct = |extra: Value| {
        let mut body = json!({"kty": "oct-HSM", "key_size": 256});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let exportable = json!({"exportable": true});
    for (body, why) in [
        (oct(json!({"attributes": exportable})), "AKV.SKR.1004"),
        (oct(json!({"release_policy": policy})), "AKV.SKR.1005"),
        (
            oct(json!({"attributes": exportable, "release_policy": {"data": b64("{}")}})),
            "AKV.SKR.1016",
        ),
        (oct(json!({"attributes": exportable, "release_policy": {"data": "%"}})), "AKV.SKR.1016"),
        (oct(json!({"key_size": 100})), "key_size"),
        (oct(json!({"kty": "RSA-HSM"})), "oct-HSM"),
        (oct(json!({"unknown": 1})), "unknown"),
    ] {
        let answer =
            json(scene.admin(Method::POST, "/keys/k/create?api-version=7.4", &body).await, 400)
                .await;
        assert_eq!(answer["error"]["code"], "BadParameter");
        assert!(answer["error"]["message"].as_str().unwrap().contains(why), "{why}: {answer}");
    }
    let good = oct(json!({"attributes": exportable, "release_policy": policy}));
    for (path, why) in [
        ("/keys/k/create", "api-version"),
        ("/keys/k/create?api-version=7.3", "AKV.SKR.1001"),
        ("/keys/a_b/create?api-version=7.4", "name"),
    ] {
        let answer = json(scene.admin(Method::POST, path, &good).await, 400).await;
        assert!(answer["error"]["message"].as_str().unwrap().contains(why), "{answer}");
    }
    let short = json!({"key": {"kty": "oct-HSM", "k": b64([1; 31])}});
    json(scene.admin(Method::PUT, "/keys/k?api-version=7.4", &short).await, 400).await;

    scene.import("root", &scene.policy()).await;
    let update = |body: Value| async {
        scene.admin(Method::PATCH, "/keys/root?api-version=7.4", &{ body }).await
    };
    let answer = json(update(json!({"release_policy": policy})).await, 400).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("AKV.SKR.1020"));
    let answer = json(update(json!({"attributes": {"exportable": false}})).await, 400).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("AKV.SKR.1003"));
    json(update(json!({"attributes": {"enabled": false}})).await, 200).await;
    scene.refused(&scene.target, 403, "disabled").await;
    json(update(json!({"attributes": {"enabled": true}})).await, 200).await;
    let good = json!({"target": scene.target});
    json(scene.release("/keys/root//release?api-version=7.4", &good).await, 200).await;

    for (path, body, status) in [
        ("/keys/other//release?api-version=7.4", good.clone(), 404),
        ("/keys/root/00000000000000000000000000000000/release?api-version=7.4", good.clone(), 404),
        ("/keys/root//release", good.clone(), 400),
        (
            "/keys/root//release?api-version=7.4",
            json!({"target": scene.target, "enc": "RSA_OAEP"}),
            400,
        ),
        ("/keys/root//release?api-version=7.4", json!({"enc": "CKM_RSA_AES_KEY_WRAP"}), 400),
        ("/keys/root//release?api-version=7.4", json!({"target": scene.target, "more": 1}), 400),
    ] {
        json(scene.release(path, &body).await, status).await;
    }
    json(
        scene.admin(Method::POST, "/keys/plain/create?api-version=7.4", &oct(json!({}))).await,
        200,
    )
    .await;
    let answer =
        json(scene.release("/keys/plain//release?api-version=7.4", &good).await, 403).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("not exportable"));
    scene.cloud.stop().await;
}

/// A policy that is not immutable can be rewritten: the reason why Keyfold's are.
#[tokio::test]
async fn a_mutable_policy_can_be_replaced() {
    let scene = Scene::new("hsm-mutable").await;
    let mut strict = scene.policy();
    strict["anyOf"][0]["allOf"][0]["equals"] = json!("another");
    let body = json!({
        "kty": "oct-HSM", "attributes": {"exportable": true},
        "release_policy": release_policy(&strict, false),
    });
    json(scene.admin(Method::POST, "/keys/root/create?api-version=7.4", &body).await, 200).await;
    scene.refused(&scene.target, 403, "x-ms-attestation-type").await;
    let update = json!({"release_policy": release_policy(&scene.policy(), true)});
    json(scene.admin(Method::PATCH, "/keys/root?api-version=7.4", &update).await, 200).await;
    let body = json!({"target": scene.target});
    let answer = json(scene.release("/keys/root//release?api-version=7.4", &body).await, 200).await;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let jws = answer["value"].as_str().unwrap();
    let leaf = common::unb64_standard(header(jws)["x5c"][0].as_str().unwrap());
    let key = DecodingKey::from_rsa_der(&common::certificate_key(&leaf));
    jsonwebtoken::decode::<Value>(jws, &key, &validation).unwrap();
    scene.cloud.stop().await;
}
