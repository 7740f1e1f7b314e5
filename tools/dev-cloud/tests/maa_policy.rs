//! The attestation service's policy: who may set it, how it travels, and that it decides.

mod common;

use common::evidence::{Chip, attest, attest_body, b64, claims, header, unb64};
use common::scene::{admin_token, imds_token, policy_jws};
use common::{client, config, fresh_dir, get, json, start};
use keyfold_dev_cloud::{DevCloud, Endpoints};
use reqwest::Method;
use serde_json::{Value, json};

const RUNTIME: &[u8] = br#"{"keyfold":{"role":"release"},"x-ms-sevsnpvm-is-debuggable":false}"#;
const DEFAULT: &str =
    "version= 1.0;\nauthorizationrules\n{\n\t=> permit();\n};\nissuancerules\n{\n};\n";

/// As Keyfold's own texts are: one rule for each workload.
fn policy(measurement: &str, minimum_microcode: u8) -> String {
    let condition = |claim: &str, comparison: &str| {
        format!(
            r#"[ type=="x-ms-sevsnpvm-{claim}", value{comparison}, issuer=="AttestationService" ]"#
        )
    };
    let conditions = [
        condition("launchmeasurement", &format!("==\"{measurement}\"")),
        condition("is-debuggable", "==false"),
        condition("migration-allowed", "==false"),
        condition("vmpl", "==0"),
        condition("microcode-svn", &format!(">={minimum_microcode}")),
    ];
    format!(
        "version= 1.0;\nauthorizationrules\n{{\n        {}\n    => permit();\n}};\nissuancerules\n{{\n}};\n",
        conditions.join("\n        && ")
    )
}

struct Scene {
    cloud: DevCloud,
    endpoints: Endpoints,
    chip: Chip,
    admin: String,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let cloud = start(name).await;
        let endpoints = cloud.endpoints();
        let admin = admin_token(&endpoints, "https://attest.azure.net").await;
        Self { chip: Chip::open(&endpoints.chip.dir), cloud, endpoints, admin }
    }

    async fn ask(
        &self, method: Method, path: &str, bearer: Option<&str>, body: String,
    ) -> reqwest::Response {
        let url = format!("{}/policies/{path}?api-version=2022-08-01", self.endpoints.maa.url);
        let request = client().request(method, url).header("content-type", "text/plain").body(body);
        let request = match bearer {
            Some(bearer) => request.bearer_auth(bearer),
            None => request,
        };
        request.send().await.unwrap()
    }

    async fn set(&self, policy: &str) -> Value {
        let answer = self.ask(Method::PUT, "SevSnpVm", Some(&self.admin), policy_jws(policy)).await;
        claims(json(answer, 200).await["token"].as_str().unwrap())
    }

    async fn attest(&self, edit: impl FnOnce(&mut [u8]), status: u16) -> Value {
        let report = self.chip.report(RUNTIME, edit);
        let body = attest_body(&report, &self.chip.chain(), RUNTIME);
        json(attest(&self.endpoints, &body).await, status).await
    }

    async fn denied(&self, edit: impl FnOnce(&mut [u8])) {
        let answer = self.attest(edit, 400).await;
        assert_eq!(answer["error"]["code"], "PolicyEvaluationError", "{answer}");
    }
}

#[tokio::test]
async fn the_policy_decides_who_gets_a_token_and_is_named_in_it() {
    let scene = Scene::new("maa-policy").await;
    let policy = policy(&"ab".repeat(48), 219);
    let hash = b64(common::sha256(b64(&policy).as_bytes()));
    let set = scene.set(&policy).await;
    assert_eq!(set["x-ms-policy-result"], "Updated");
    assert_eq!(set["x-ms-policy-token-hash"], hash);
    let answer = scene.attest(|_| {}, 200).await;
    assert_eq!(claims(answer["token"].as_str().unwrap())["x-ms-policy-hash"], hash);

    scene.denied(|report| report[0x90] = 0xac).await;
    scene.denied(|report| report[8..16].copy_from_slice(&0xb0000u64.to_le_bytes())).await;
    scene.denied(|report| report[8..16].copy_from_slice(&0x70000u64.to_le_bytes())).await;
    scene.denied(|report| report[0x30] = 1).await;

    // A debuggable machine that says it is none: the claim is its own, and the policy asks for the service's.
    let answer = json(scene.ask(Method::GET, "SevSnpVm", None, String::new()).await, 200).await;
    let shown = claims(answer["token"].as_str().unwrap());
    let shown = shown["x-ms-policy"].as_str().unwrap();
    assert_eq!(unb64(&claims(shown)["AttestationPolicy"]), policy.as_bytes());
    let trusting = policy.replace(r#", issuer=="AttestationService""#, "");
    scene.set(&trusting).await;
    scene.attest(|report| report[8..16].copy_from_slice(&0xb0000u64.to_le_bytes()), 200).await;

    // A floor above the chip's firmware.
    scene.set(&policy.replace(">=219", ">=220")).await;
    scene.denied(|_| {}).await;
    // One of two workloads.
    let two = format!(
        "{}{}",
        policy.split("};").next().unwrap().replace("ab", "cd"),
        policy.split_once("{\n").unwrap().1
    );
    scene.set(&two).await;
    scene.attest(|_| {}, 200).await;
    scene.denied(|report| report[0x90] = 0xac).await;

    let reset = scene.ask(Method::POST, "SevSnpVm:reset", Some(&scene.admin), policy_jws("")).await;
    let reset = claims(json(reset, 200).await["token"].as_str().unwrap());
    assert_eq!(reset["x-ms-policy-result"], "Removed");
    let answer = scene.attest(|report| report[0x30] = 1, 200).await;
    let hash = b64(common::sha256(b64(DEFAULT).as_bytes()));
    assert_eq!(claims(answer["token"].as_str().unwrap())["x-ms-policy-hash"], hash);
    scene.cloud.stop().await;
}

#[tokio::test]
async fn a_draft_policy_decides_one_request_and_secures_nothing() {
    let scene = Scene::new("maa-draft").await;
    let report = scene.chip.report(RUNTIME, |_| {});
    let mut body = attest_body(&report, &scene.chip.chain(), RUNTIME);
    body["draftPolicyForAttestation"] = json!(policy(&"ab".repeat(48), 0));
    let answer = json(attest(&scene.endpoints, &body).await, 200).await;
    assert_eq!(header(answer["token"].as_str().unwrap())["alg"], "none");
    for (draft, code) in [
        (policy(&"ac".repeat(48), 0), "PolicyEvaluationError"),
        (
            "version= 1.0; authorizationrules { => deny(); }; issuancerules { };".into(),
            "PolicyEvaluationError",
        ),
        ("version= 1.0;".into(), "PolicyParsingError"),
    ] {
        body["draftPolicyForAttestation"] = json!(draft);
        let answer = json(attest(&scene.endpoints, &body).await, 400).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    body.as_object_mut().unwrap().remove("draftPolicyForAttestation");
    let answer = json(attest(&scene.endpoints, &body).await, 200).await;
    assert_eq!(header(answer["token"].as_str().unwrap())["alg"], "RS256", "the draft left nothing");
    scene.cloud.stop().await;
}

#[tokio::test]
async fn only_the_administrator_sets_policies_and_only_well_formed_ones() {
    let dir = fresh_dir("maa-policy-rules");
    let cloud = DevCloud::start(config(dir.clone())).await.unwrap();
    let endpoints = cloud.endpoints();
    let admin = admin_token(&endpoints, "https://attest.azure.net").await;
    let scene = Scene { chip: Chip::open(&endpoints.chip.dir), cloud, endpoints, admin };
    let good = policy_jws(&policy(&"cd".repeat(48), 0));
    let of_hsm = admin_token(&scene.endpoints, "https://managedhsm.azure.net").await;
    let workload = imds_token(&scene.endpoints, "https%3A%2F%2Fattest.azure.net").await;
    for (bearer, status) in [(None, 401), (Some(of_hsm), 401), (Some(workload), 403)] {
        for (method, path) in [(Method::PUT, "SevSnpVm"), (Method::POST, "SevSnpVm:reset")] {
            json(scene.ask(method, path, bearer.as_deref(), good.clone()).await, status).await;
        }
    }
    let admin = Some(scene.admin.as_str());
    let signed = good.replacen(&b64(r#"{"alg":"none"}"#), &b64(r#"{"alg":"RS256"}"#), 1);
    for (body, why) in [
        (policy(&"cd".repeat(48), 0), "not an unsecured JWS"),
        (format!("{good}x"), "not an unsecured JWS"),
        (signed, "no signers"),
        (format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64("{}")), "no AttestationPolicy"),
        (policy_jws("version= 1.0;"), "ends too early"),
        (
            policy_jws(
                "version= 1.0; authorizationrules{ => permit(); }; issuancerules{ => issue(type=\"a\", value=1); };",
            ),
            "not played",
        ),
    ] {
        let answer = json(scene.ask(Method::PUT, "SevSnpVm", admin, body).await, 400).await;
        assert_eq!(answer["error"]["code"], "PolicyParsingError");
        assert!(answer["error"]["message"].as_str().unwrap().contains(why), "{why}: {answer}");
    }
    scene.attest(|_| {}, 200).await;
    for (method, path) in [
        (Method::PUT, "SgxEnclave"),
        (Method::GET, "SgxEnclave"),
        (Method::POST, "SgxEnclave:reset"),
        (Method::POST, "SevSnpVm"),
    ] {
        json(scene.ask(method, path, admin, good.clone()).await, 404).await;
    }
    let unversioned = format!("{}/policies/SevSnpVm", scene.endpoints.maa.url);
    json(get(unversioned).await, 400).await;

    // What is set stays set.
    json(scene.ask(Method::PUT, "SevSnpVm", admin, good.clone()).await, 200).await;
    scene.denied(|_| {}).await;
    scene.cloud.stop().await;
    let cloud = DevCloud::start(config(dir)).await.unwrap();
    let scene = Scene { cloud, ..scene };
    scene.denied(|_| {}).await;
    scene.cloud.stop().await;
}
