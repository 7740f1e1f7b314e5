//! The failure switches of Azure's services: each makes the very thing wrong that it is named after.

mod common;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256};
use common::evidence::{Chip, attest, attest_body, claims, header};
use common::scene::{ROOT_KEY, Scene, key_hsm, read_release, verify_release};
use common::{client, get, json, start};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keyfold_dev_cloud::{DevCloud, Endpoints, Failure, Firmware, Foreign, Mode, Service};
use serde_json::{Value, json};

const RUNTIME: &[u8] = br#"{"keyfold":{"version":1,"role":"channel"}}"#;
const RELEASE: &str = "/keys/root//release?api-version=7.4";

/// On until it is mended.
async fn on(cloud: &DevCloud, service: Service, mode: Mode) {
    cloud.fail(Failure { times: None, ..Failure::new(service, mode, 1) }).await.unwrap();
}

async fn token(endpoints: &Endpoints) -> String {
    let chip = Chip::open(&endpoints.chip.dir);
    let body = attest_body(&chip.report(RUNTIME, |_| {}), &chip.chain(), RUNTIME);
    json(attest(endpoints, &body).await, 200).await["token"].as_str().unwrap().to_owned()
}

async fn listed(endpoints: &Endpoints) -> Vec<(String, DecodingKey)> {
    let jwks = json(get(format!("{}/certs", endpoints.maa.url)).await, 200).await;
    let key = |jwk: &Value| {
        let certificate = common::unb64_standard(jwk["x5c"][0].as_str().unwrap());
        let key = DecodingKey::from_rsa_der(&common::certificate_key(&certificate));
        (jwk["kid"].as_str().unwrap().to_owned(), key)
    };
    jwks["keys"].as_array().unwrap().iter().map(key).collect()
}

fn signed_by(token: &str, key: &DecodingKey) -> bool {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_aud = false;
    jsonwebtoken::decode::<Value>(token, key, &validation).is_ok()
}

#[tokio::test]
async fn the_attestation_services_clock_can_be_wrong() {
    let cloud = start("azure-clock").await;
    let endpoints = cloud.endpoints();
    let now = claims(&token(&endpoints).await)["iat"].as_u64().unwrap();
    for offset in [600i64, -40_000] {
        cloud.fail(Failure::new(Service::Maa, Mode::ClockOffset(offset), 1)).await.unwrap();
        let claims = claims(&token(&endpoints).await);
        let off = claims["iat"].as_i64().unwrap() - i64::try_from(now).unwrap();
        assert!((offset..offset + 60).contains(&off), "{off} for {offset}");
        assert_eq!(claims["nbf"], claims["iat"]);
        assert_eq!(claims["exp"].as_u64(), claims["iat"].as_u64().map(|iat| iat + 28_800));
    }
    let after = claims(&token(&endpoints).await)["iat"].as_u64().unwrap();
    assert!((now..now + 60).contains(&after), "right again");
    cloud.stop().await;
}

#[tokio::test]
async fn the_signing_certificate_can_be_missing_or_the_second_of_two() {
    let cloud = start("azure-kid").await;
    let endpoints = cloud.endpoints();
    for rotated in [false, true] {
        if rotated {
            cloud.rotate(Service::Maa).unwrap();
        }
        let token = token(&endpoints).await;
        let kid = header(&token)["kid"].as_str().unwrap().to_owned();
        on(&cloud, Service::Maa, Mode::KidMissing).await;
        let keys = listed(&endpoints).await;
        assert!(!keys.is_empty(), "a client has other certificates to try");
        assert!(keys.iter().all(|(listed, key)| *listed != kid && !signed_by(&token, key)));
        cloud.heal();

        on(&cloud, Service::Maa, Mode::TwoCertificates).await;
        let keys = listed(&endpoints).await;
        assert_eq!(keys.len(), 2);
        assert!(!signed_by(&token, &keys[0].1) && signed_by(&token, &keys[1].1));
        assert_eq!(keys[1].0, kid);
        cloud.heal();
        assert!(listed(&endpoints).await.iter().any(|(listed, _)| *listed == kid));
    }
    cloud.stop().await;
}

/// The HSM is a correct client of the attestation service: it notices what must be noticed.
#[tokio::test]
async fn the_hsm_releases_nothing_for_what_is_wrong_with_a_token() {
    let scene = Scene::new("azure-token").await;
    let endpoints = scene.cloud.endpoints();
    scene.import("root", &scene.policy()).await;
    let runtime = scene.workload.runtime_data();
    let target = async || common::scene::maa_token(&endpoints, &runtime).await;
    for (mode, why) in [
        (Mode::ClockOffset(600), "ImmatureSignature"),
        (Mode::ClockOffset(-40_000), "ExpiredSignature"),
        (Mode::KidMissing, "signature is not its authority's"),
        (Mode::UnsecuredToken, "not a signed token"),
    ] {
        on(&scene.cloud, Service::Maa, mode).await;
        let target = target().await;
        if why.contains("signed") {
            assert_eq!(header(&target), json!({"alg": "none", "typ": "JWT"}));
            assert!(target.ends_with('.'));
        }
        scene.refused(&target, 403, why).await;
        scene.cloud.heal();
    }
    on(&scene.cloud, Service::Maa, Mode::TwoCertificates).await;
    let body = json!({"target": target().await});
    json(scene.release(RELEASE, &body).await, 200).await;
    scene.cloud.stop().await;
}

#[tokio::test]
async fn the_ciphertext_can_be_cut_short_exchanged_or_hashed_otherwise() {
    let scene = Scene::new("azure-ciphertext").await;
    let endpoints = scene.cloud.endpoints();
    scene.import("root", &scene.policy()).await;
    let released = async |enc: &str| {
        let body = json!({"target": scene.target, "enc": enc});
        let answer = json(scene.release(RELEASE, &body).await, 200).await;
        let payload = verify_release(&endpoints, answer["value"].as_str().unwrap());
        let (header, ciphertext) = key_hsm(&payload);
        assert_eq!(header, json!({"kid": "kek-1", "alg": "dir", "enc": enc}));
        ciphertext
    };
    let (sha1, sha256) = ("CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256");
    let workload = &scene.workload;
    let fails = |mode| scene.cloud.fail(Failure::new(Service::Hsm, mode, 1));

    fails(Mode::TruncatedCiphertext).await.unwrap();
    assert_eq!(released(sha1).await.len(), 256 + 39);

    fails(Mode::RewrappedCiphertext).await.unwrap();
    let exchanged = released(sha1).await;
    assert_eq!(exchanged.len(), 256 + 40, "another key of the same size");
    for algorithm in [&OAEP_SHA1_MGF1SHA1, &OAEP_SHA256_MGF1SHA256] {
        assert!(workload.try_unwrap(algorithm, &exchanged).is_none());
    }

    for (said, done) in [(sha1, &OAEP_SHA256_MGF1SHA256), (sha256, &OAEP_SHA1_MGF1SHA1)] {
        fails(Mode::WrongOaepHash).await.unwrap();
        assert_eq!(workload.unwrap(done, &released(said).await), ROOT_KEY);
    }
    assert_eq!(workload.unwrap(&OAEP_SHA1_MGF1SHA1, &released(sha1).await), ROOT_KEY);
    scene.cloud.stop().await;
}

#[tokio::test]
async fn the_policy_can_be_stale() {
    let scene = Scene::new("azure-policy").await;
    let created = scene.import("root", &scene.policy()).await;
    on(&scene.cloud, Service::Hsm, Mode::StalePolicy).await;
    scene.refused(&scene.target, 403, "x-ms-sevsnpvm-launchmeasurement is ").await;
    let path = "/keys/root?api-version=7.4";
    let shown = json(scene.admin(reqwest::Method::GET, path, &json!(null)).await, 200).await;
    assert_ne!(shown["release_policy"]["data"], created["release_policy"]["data"]);
    scene.cloud.heal();
    let shown = json(scene.admin(reqwest::Method::GET, path, &json!(null)).await, 200).await;
    assert_eq!(shown, created, "the key itself is as it was");
    json(scene.release(RELEASE, &json!({"target": scene.target})).await, 200).await;
    scene.cloud.stop().await;
}

#[tokio::test]
async fn releases_can_be_signed_under_a_foreign_certificate() {
    let scene = Scene::new("azure-foreign").await;
    let endpoints = scene.cloud.endpoints();
    scene.import("root", &scene.policy()).await;
    for (foreign, why) in [(Foreign::Root, "root"), (Foreign::Name, "name")] {
        let mode = Mode::ForeignCertificate(foreign);
        scene.cloud.fail(Failure::new(Service::Hsm, mode, 1)).await.unwrap();
        let body = json!({"target": scene.target});
        let answer = json(scene.release(RELEASE, &body).await, 200).await;
        let read = read_release(&endpoints, answer["value"].as_str().unwrap());
        assert_eq!(read.unwrap_err(), why, "and nothing else is wrong");
    }
    scene.cloud.stop().await;
}

/// THIM behind and ahead of the firmware: its chain holds, and the attestation service does not take it.
#[tokio::test]
async fn thim_can_serve_the_certificate_of_another_firmware() {
    let cloud = start("azure-thim").await;
    let endpoints = cloud.endpoints();
    let chip = Chip::open(&endpoints.chip.dir);
    let url = format!("{}/metadata/THIM/amd/certification", endpoints.imds.url);
    let thim = async || {
        let answer = client().get(&url).header("Metadata", "true").send().await.unwrap();
        json(answer, 200).await
    };
    let attested = async |thim: &Value, report: &[u8]| {
        let chain = ["vcekCert", "certificateChain"].map(|name| thim[name].as_str().unwrap());
        attest(&endpoints, &attest_body(report, &chain.concat(), RUNTIME)).await
    };
    let report = chip.report(RUNTIME, |_| {});
    for (firmware, tcbm, tcb) in [
        (Firmware::Older, "da17000000000004", [4, 0, 0, 0, 0, 0, 23, 218]),
        (Firmware::Newer, "dc19000000000004", [4, 0, 0, 0, 0, 0, 25, 220]),
    ] {
        cloud.fail(Failure::new(Service::Imds, Mode::StaleTcb(firmware), 1)).await.unwrap();
        let stale = thim().await;
        assert_eq!(stale["tcbm"], tcbm);
        let answer = json(attested(&stale, &report).await, 400).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("signature is not the VCEK's"), "{message}");
        // Only the firmware is another: the chain holds, and the chip is the same.
        let forged = chip.report(RUNTIME, |report| report[0x180..0x188].copy_from_slice(&tcb));
        let answer = json(attested(&stale, &forged).await, 400).await;
        assert!(answer["error"]["message"].as_str().unwrap().contains("signature"), "{answer}");
    }
    json(attested(&thim().await, &report).await, 200).await;
    cloud.stop().await;
}
