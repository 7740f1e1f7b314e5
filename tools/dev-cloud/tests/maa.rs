//! The attestation service: genuine evidence becomes a token; anything altered, mixed up or malformed does not.

mod common;

use common::evidence::{Chip, Workload, attest, attest_body, b64, claims, header};
use common::{client, config, fresh_dir, get, json, post, sha256, start};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keyfold_dev_cloud::{DevCloud, Service};
use serde_json::{Value, json};

const RUNTIME: &[u8] = br#"{"keyfold":{"version":1,"role":"channel"},"deep":{"n":[1,2]}}"#;

/// As a client verifies: kid, x5c, RS256.
async fn verify(cloud: &DevCloud, token: &str) -> Value {
    let url = cloud.endpoints().maa.url;
    let document = json(get(format!("{url}/.well-known/openid-configuration")).await, 200).await;
    assert_eq!(document["issuer"], *url);
    let jwks = json(get(document["jwks_uri"].as_str().unwrap().into()).await, 200).await;
    let kid = &header(token)["kid"];
    let jwk = jwks["keys"].as_array().unwrap().iter().find(|jwk| jwk["kid"] == *kid).unwrap();
    let members: Vec<_> = jwk.as_object().unwrap().keys().collect();
    assert_eq!(members, ["kid", "kty", "x5c"]);
    let certificate = common::unb64_standard(jwk["x5c"][0].as_str().unwrap());
    let key = DecodingKey::from_rsa_der(&common::certificate_key(&certificate));
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[&url]);
    validation.validate_aud = false;
    validation.validate_nbf = true;
    jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims
}

#[tokio::test]
async fn genuine_evidence_becomes_a_token() {
    let cloud = start("maa-genuine").await;
    let endpoints = cloud.endpoints();
    let chip = Chip::open(&endpoints.chip.dir);
    let report = chip.report(RUNTIME, |_| {});
    let mut body = attest_body(&report, &chip.chain(), RUNTIME);
    body["initTimeData"] = json!({"data": b64("init"), "dataType": "Binary"});
    let answer = json(attest(&endpoints, &body).await, 200).await;
    let token = answer["token"].as_str().unwrap();
    let claims = verify(&cloud, token).await;
    let maa = &endpoints.maa.url;
    let kid = header(token)["kid"].clone();
    let expected = json!({"alg": "RS256", "jku": format!("{maa}/certs"), "kid": kid, "typ": "JWT"});
    assert_eq!(header(token), expected);
    assert!(kid.as_str().unwrap().ends_with('='), "MAA's key ids are padded base64");

    let now = claims["iat"].as_u64().unwrap();
    assert_eq!(claims["jti"].as_str().unwrap().len(), 64);
    let expected = json!({
        "iss": maa, "iat": now, "nbf": now, "exp": now + 28800, "jti": claims["jti"],
        "nonce": "13202930541250959283",
        "x-ms-ver": "1.0",
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-policy-hash": claims["x-ms-policy-hash"],
        "x-ms-runtime": serde_json::from_slice::<Value>(RUNTIME).unwrap(),
        "x-ms-sevsnpvm-authorkeydigest": "0".repeat(96),
        "x-ms-sevsnpvm-bootloader-svn": 4,
        "x-ms-sevsnpvm-familyId": "0".repeat(32),
        "x-ms-sevsnpvm-guestsvn": 7,
        "x-ms-sevsnpvm-hostdata": hex::encode(sha256(b"init")),
        "x-ms-sevsnpvm-idkeydigest": "0".repeat(96),
        "x-ms-sevsnpvm-imageId": "0".repeat(32),
        "x-ms-sevsnpvm-is-debuggable": false,
        "x-ms-sevsnpvm-launchmeasurement": "ab".repeat(48),
        "x-ms-sevsnpvm-microcode-svn": 219,
        "x-ms-sevsnpvm-migration-allowed": false,
        "x-ms-sevsnpvm-reportdata": hex::encode(sha256(RUNTIME)) + &"0".repeat(64),
        "x-ms-sevsnpvm-reportid": "0".repeat(64),
        "x-ms-sevsnpvm-smt-allowed": true,
        "x-ms-sevsnpvm-snpfw-svn": 24,
        "x-ms-sevsnpvm-tee-svn": 0,
        "x-ms-sevsnpvm-vmpl": 0,
    });
    assert_eq!(claims, expected);
    cloud.stop().await;
}

#[tokio::test]
async fn both_paddings_versions_spellings_and_policy_bits() {
    let cloud = start("maa-forms").await;
    let url = cloud.endpoints().maa.url;
    let chip = Chip::open(&cloud.endpoints().chip.dir);
    let report = chip.report(RUNTIME, |report| {
        report[8..16].copy_from_slice(&0xe0000u64.to_le_bytes());
        report[0x30] = 2;
    });
    let mut body = attest_body(&report, &chip.chain(), RUNTIME);
    for field in ["/report", "/runtimeData/data"] {
        let text = body.pointer_mut(field).unwrap();
        let padded = text.as_str().unwrap().to_owned();
        *text = json!(format!("{padded}{}", "=".repeat((4 - padded.len() % 4) % 4)));
    }
    body["nonce"] = json!("7");
    for path in ["SevSnpVm?api-version=2020-10-01", "sevsnpvM?api-version=2022-08-01"] {
        let answer = json(post(format!("{url}/attest/{path}"), &body).await, 200).await;
        let claims = claims(answer["token"].as_str().unwrap());
        assert_eq!(claims["nonce"], "7");
        for (claim, value) in [
            ("is-debuggable", json!(true)),
            ("migration-allowed", json!(true)),
            ("smt-allowed", json!(false)),
            ("vmpl", json!(2)),
        ] {
            assert_eq!(claims[format!("x-ms-sevsnpvm-{claim}")], value, "{claim}");
        }
    }
    for path in ["SgxEnclave?api-version=2022-08-01"] {
        json(post(format!("{url}/attest/{path}"), &body).await, 404).await;
    }
    for path in ["SevSnpVm", "SevSnpVm?api-version=2019-01-01"] {
        json(post(format!("{url}/attest/{path}"), &body).await, 400).await;
    }
    cloud.stop().await;
}

#[tokio::test]
async fn altered_or_mixed_up_evidence_is_refused() {
    let cloud = start("maa-altered").await;
    let other = start("maa-altered-other").await;
    let endpoints = cloud.endpoints();
    let chip = Chip::open(&endpoints.chip.dir);
    let foreign = Chip::open(&other.endpoints().chip.dir);
    let good = chip.report(RUNTIME, |_| {});
    let signed = |edit: fn(&mut [u8])| chip.report(RUNTIME, edit);
    let flipped = |at: usize| {
        let mut report = good.clone();
        report[at] ^= 1;
        report
    };
    let pem = |chip: &Chip, names: [&str; 3]| names.map(|name| chip.pem(name)).concat();
    let (vcek, ask, ark) = ("vcek.pem", "ask.pem", "ark.pem");

    let mut cases: Vec<(&str, Vec<u8>, String, &str)> = Vec::new();
    for (what, at) in [
        ("measurement", 0x90),
        ("host data", 0xc0),
        ("report data", 0x50),
        ("R", 0x2a0),
        ("S", 0x2e8),
        ("R's padding", 0x2a0 + 60),
    ] {
        cases.push((what, flipped(at), chip.chain(), "signature"));
    }
    cases.extend([
        ("truncated", good[..1183].to_vec(), chip.chain(), "1183 bytes"),
        ("longer", [&good[..], &[0]].concat(), chip.chain(), "1185 bytes"),
        ("another chip's key", foreign.report(RUNTIME, |_| {}), chip.chain(), "signature"),
        ("higher tcb", signed(|r| r[0x187] = 220), chip.chain(), "reported_tcb"),
        ("lower tcb", signed(|r| r[0x186] = 23), chip.chain(), "reported_tcb"),
        ("chip id", signed(|r| r[0x1a0] ^= 1), chip.chain(), "chip_id"),
        ("version", signed(|r| r[0] = 9), chip.chain(), "version 9"),
        ("algorithm", signed(|r| r[0x34] = 2), chip.chain(), "signature_algo"),
        ("signed by a VLEK", signed(|r| r[0x48] = 4), chip.chain(), "not signed by a VCEK"),
        ("policy bit 17", signed(|r| r[10] = 1), chip.chain(), "bit 17"),
        ("unbound data", signed(|r| r[0x50] ^= 1), chip.chain(), "report_data"),
        ("rest of report data", signed(|r| r[0x8f] = 1), chip.chain(), "report_data"),
        ("another root", foreign.report(RUNTIME, |_| {}), foreign.chain(), "not a root trusted"),
        (
            "another's VCEK",
            good.clone(),
            foreign.pem(vcek) + &chip.pem(ask) + &chip.pem(ark),
            "chip_id",
        ),
        (
            "another's ARK",
            good.clone(),
            chip.pem(vcek) + &chip.pem(ask) + &foreign.pem(ark),
            "not a root trusted",
        ),
        ("order", good.clone(), pem(&chip, [vcek, ark, ask]), "not a root trusted"),
        ("order", good.clone(), pem(&chip, [ask, vcek, ark]), "not with a VCEK"),
        ("short", good.clone(), chip.pem(vcek) + &chip.pem(ask), "2 certificates"),
        ("no ask", good.clone(), pem(&chip, [vcek, ark, ark]), "not issued by"),
        ("nothing after the VCEK", good.clone(), chip.pem(vcek), "1 certificates"),
        ("not pem", good.clone(), "x".repeat(100), "PEM"),
    ]);
    // The two clouds share cached RSA keys, so that only what is named differs.
    let wrong_vcek = cases.iter_mut().find(|case| case.0 == "another's VCEK").unwrap();
    wrong_vcek.1 = good.clone();
    wrong_vcek.3 = "signature";
    for (what, report, chain, why) in &cases {
        let answer =
            json(attest(&endpoints, &attest_body(report, chain, RUNTIME)).await, 400).await;
        assert_eq!(answer["error"]["code"], "InvalidParameter", "{what}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "{what}: {message}");
    }
    cloud.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_chain_whose_signatures_do_not_hold_is_refused() {
    // Without the cache: this chip's ARK and ASK keys are others, under the same names.
    let own = keyfold_dev_cloud::Config::new(fresh_dir("maa-chain-own"));
    let (cloud, other) = (start("maa-chain").await, DevCloud::start(own).await.unwrap());
    let chip = Chip::open(&cloud.endpoints().chip.dir);
    let foreign = Chip::open(&other.endpoints().chip.dir);
    let foreign_ask = chip.pem("vcek.pem") + &foreign.pem("ask.pem") + &chip.pem("ark.pem");
    let foreign_vcek = foreign.pem("vcek.pem") + &chip.pem("ask.pem") + &chip.pem("ark.pem");
    for (report, chain, why) in [
        (chip.report(RUNTIME, |_| {}), foreign_ask, "on SEV-Keyfold-Simulated is wrong"),
        (foreign.report(RUNTIME, |_| {}), foreign_vcek, "on SEV-VCEK is wrong"),
    ] {
        let body = attest_body(&report, &chain, RUNTIME);
        let answer = json(attest(&cloud.endpoints(), &body).await, 400).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "{message}");
    }
    cloud.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let cloud = start("maa-malformed").await;
    let endpoints = cloud.endpoints();
    let chip = Chip::open(&endpoints.chip.dir);
    let body = |runtime: &[u8]| attest_body(&chip.report(runtime, |_| {}), &chip.chain(), runtime);
    let good = body(RUNTIME);
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let mut unknown = good.clone();
    unknown["runtimedata"] = json!(1);
    let mut endorsed = good.clone();
    let report = chip.report(RUNTIME, |_| {});
    let evidence = json!({"SnpReport": b64(report), "VcekCertChain": b64(chip.chain()), "Endorsements": b64("x")});
    endorsed["report"] = json!(b64(evidence.to_string()));
    for (what, body, why) in [
        ("unknown member", unknown, "unknown field"),
        ("no report", json!({}), "missing field"),
        ("report not base64url", with("/report", json!("%")), "not base64url"),
        ("report not JSON", with("/report", json!(b64("x"))), "report"),
        (
            "duplicate in report",
            with("/report", json!(b64(r#"{"SnpReport":"","SnpReport":"","VcekCertChain":""}"#))),
            "duplicate",
        ),
        ("endorsements", endorsed, "Endorsements"),
        ("nonce not a u64", with("/nonce", json!(-1)), "Nonce"),
        ("nonce not whole", with("/nonce", json!(0.5)), "Nonce"),
        ("empty runtime data", with("/runtimeData/data", json!("")), "runtimeData is empty"),
        (
            "a space more",
            with("/runtimeData/data", json!(b64([RUNTIME, b" "].concat()))),
            "report_data",
        ),
        ("unknown data type", with("/runtimeData/dataType", json!("Text")), "dataType"),
        ("duplicate in runtime data", body(br#"{"a":1,"b":{"c":1,"c":2}}"#), "duplicate"),
        ("runtime data not an object", body(b"[]"), "not a JSON object"),
        ("runtime data not JSON", body(b"x"), "runtimeData"),
        (
            "init data not host data",
            with("/initTimeData", json!({"data": b64("other"), "dataType": "Binary"})),
            "host_data",
        ),
    ] {
        let answer = json(attest(&endpoints, &body).await, 400).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "{what}: {message}");
    }
    let url = format!("{}/attest/SevSnpVm?api-version=2022-08-01", endpoints.maa.url);
    let duplicate = good.to_string().replacen('{', r#"{"nonce":1,"#, 1);
    let answer = client().post(url).body(duplicate).send().await.unwrap();
    assert_eq!(answer.status(), 400, "a duplicate in the request itself");
    cloud.stop().await;
}

#[tokio::test]
async fn draft_policies_make_unsecured_tokens_and_keys_rotate() {
    let dir = fresh_dir("maa-rotate");
    let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
    let endpoints = cloud.endpoints();
    let chip = Chip::open(&endpoints.chip.dir);
    let runtime = Workload::new().runtime_data();
    let mut body = attest_body(&chip.report(&runtime, |_| {}), &chip.chain(), &runtime);
    let before = json(attest(&endpoints, &body).await, 200).await;
    let kid = cloud.rotate(Service::Maa).unwrap();
    cloud.stop().await;

    let cloud = DevCloud::start(config(dir)).await.unwrap();
    assert_eq!(cloud.endpoints().chip, endpoints.chip, "the same chip after a restart");
    let after = json(attest(&endpoints, &body).await, 200).await;
    assert_eq!(header(after["token"].as_str().unwrap())["kid"], *kid);
    verify(&cloud, before["token"].as_str().unwrap()).await;
    verify(&cloud, after["token"].as_str().unwrap()).await;

    body["draftPolicyForAttestation"] =
        json!("version=1.0; authorizationrules{=> permit();}; issuancerules{};");
    let draft = json(attest(&endpoints, &body).await, 200).await;
    let draft = draft["token"].as_str().unwrap();
    assert_eq!(header(draft), json!({"alg": "none", "typ": "JWT"}));
    assert!(draft.ends_with('.'));
    cloud.stop().await;
}
