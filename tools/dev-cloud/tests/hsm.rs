//! The Managed HSM: releases a key to the attested workload the policy names, and to nobody else.

mod common;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384};
use common::evidence::{b64, claims, forge, header, unb64};
use common::scene::{
    ROOT_KEY, Scene, imds_token, key_hsm, maa_token, release_policy, release_token, verify_release,
};
use common::{client, config, json, start};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keyfold_dev_cloud::{DevCloud, Failure, Mode, Service};
use reqwest::Method;
use serde_json::{Value, json};

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

            let (header, ciphertext) = key_hsm(&payload);
            assert_eq!(header, json!({"kid": "kek-1", "alg": "dir", "enc": enc}));
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
        let (_, ciphertext) = key_hsm(&payload);
        let request = json!({
            "pkcs8": hex::encode(&scene.workload.pkcs8),
            "ciphertext": hex::encode(ciphertext),
            "hash": hash,
        });
        let unwrapped = common::python::ask(&common::CCF, "unwrap_key.py", &request);
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
        let (_, ciphertext) = key_hsm(&payload);
        released.push(scene.workload.unwrap(&OAEP_SHA1_MGF1SHA1, &ciphertext));
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
        (oct(json!({"kty": "EC-HSM"})), "oct-HSM"),
        (
            oct(json!({"kty": "RSA", "attributes": exportable, "release_policy": policy})),
            "AKV.SKR.1006",
        ),
        (
            oct(json!({"kty": "EC", "attributes": exportable, "release_policy": policy})),
            "AKV.SKR.1006",
        ),
        (oct(json!({"kty": "RSA"})), "not RSA"),
        (oct(json!({"kty": "RSA-HSM"})), "key_size of an RSA key"),
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

/// As the real service, the HSM keeps more kinds than Keyfold uses, and tells a release's kind as recorded.
#[tokio::test]
async fn keys_of_every_kind_are_released() {
    let scene = Scene::new("hsm-kinds").await;
    let endpoints = scene.cloud.endpoints();
    let times = json!({"exportable": true, "nbf": 4_102_444_800u64, "exp": 1});
    for (kty, size, released, length) in [
        ("oct", 128, "oct", 16),
        ("oct", 192, "oct", 24),
        ("oct-HSM", 256, "oct-HSM", 32),
        ("RSA-HSM", 2048, "RSA", 1200),
    ] {
        let body = json!({
            "kty": kty, "key_size": size, "attributes": times, "key_ops": ["sign"],
            "release_policy": release_policy(&scene.policy(), true),
        });
        let created =
            json(scene.admin(Method::POST, "/keys/k/create?api-version=7.4", &body).await, 200)
                .await;
        assert_eq!(created["key"]["kty"], kty);
        assert_eq!(created["attributes"]["exp"], 1);
        // Neither of its times keeps a key from being released.
        let body = json!({"target": scene.target});
        let answer = json(scene.release("/keys/k/release?api-version=7.4", &body).await, 200).await;
        let payload = verify_release(&endpoints, answer["value"].as_str().unwrap());
        let jwk = &payload["response"]["key"]["key"];
        assert_eq!(jwk["kty"], released);
        let (_, ciphertext) = key_hsm(&payload);
        let value = scene.workload.unwrap(&OAEP_SHA1_MGF1SHA1, &ciphertext);
        if kty == "RSA-HSM" {
            assert!(value.len() > length, "a PKCS#8");
            let pair = aws_lc_rs::rsa::KeyPair::from_pkcs8(&value).unwrap();
            let public = aws_lc_rs::signature::KeyPair::public_key(&pair);
            let n = public.modulus().big_endian_without_leading_zero();
            assert_eq!(unb64(&jwk["n"]), n);
            assert_eq!(created["key"]["n"], jwk["n"]);
        } else {
            assert_eq!(value.len(), length);
        }
    }
    let imported = json!({"key": {"kty": "RSA-HSM", "k": b64([1; 32])}});
    json(scene.admin(Method::PUT, "/keys/k?api-version=7.4", &imported).await, 400).await;
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
