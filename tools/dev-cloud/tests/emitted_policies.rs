//! What Keyfold emits for a deployment, word for word, in the hands of the services it is made for: the
//! attestation policy is set, the key is made under the release policy, and the key comes to a guest that
//! is as the statement demands and to no other. Each wrong guest is refused twice: by the attestation
//! policy, and, where whoever administers that has taken it away, by the release policy alone.

mod common;

use aws_lc_rs::rsa::OAEP_SHA1_MGF1SHA1;
use common::evidence::{Chip, attest, attest_body, b64, claims, evidence_text};
use common::scene::{Scene, admin_token, key_hsm, policy_jws, release_policy, verify_release};
use common::vectors::{present, text, vector};
use common::{client, json, sha256};
use keyfold_attestation_policy::deployment::Deployment;
use reqwest::Method;
use serde_json::{Value, json};

const CONFIG: &str = "5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c";
const ENDORSEMENT: &str = "uvm-endorsements/uvm-svn100-secctx.cose";

/// What is done to a report before the chip signs it.
type Launch = fn(&mut [u8]);

/// How a guest is wrong, and the claim that tells.
type Wrong = (Launch, &'static str);

/// A deployment's texts in force.
struct Deployed {
    scene: Scene,
    chip: Chip,
    attestation_admin: String,
    deployment: Deployment,
    /// Of the utility VM around a container, with the measurement it is for.
    endorsement: Option<(Vec<u8>, Vec<u8>)>,
    /// How the right guest is launched.
    launch: Launch,
}

impl Deployed {
    async fn new(name: &str, workload: &str, is_pinned: bool, launch: Launch) -> Self {
        let scene = Scene::new(name).await;
        let endpoints = scene.cloud.endpoints();
        let chip = Chip::open(&endpoints.chip.dir);
        let root = hex::encode(sha256(&common::pem_der(&chip.pem("ark.pem"))));
        let workload = workload.replace("<the chip's root>", &root);
        let deployment = describe(&endpoints.maa.url, &workload, is_pinned);
        let attestation_admin = admin_token(&endpoints, "https://attest.azure.net").await;
        let this = Self { scene, chip, attestation_admin, deployment, endorsement: None, launch };
        this.administer(Method::PUT, "SevSnpVm", &this.deployment.attestation_policy()).await;
        this.create_key().await;
        this
    }

    async fn administer(&self, method: Method, path: &str, policy: &str) {
        let maa = self.scene.cloud.endpoints().maa.url;
        let url = format!("{maa}/policies/{path}?api-version=2022-08-01");
        let request = client().request(method, url).bearer_auth(&self.attestation_admin);
        let request = request.header("content-type", "text/plain").body(policy_jws(policy));
        json(request.send().await.unwrap(), 200).await;
    }

    /// Born in the HSM under the release policy; what the HSM then shows passes `keyfold policy check`.
    async fn create_key(&self) {
        let body = json!({
            "kty": "oct-HSM", "key_size": 256, "key_ops": ["encrypt", "decrypt"],
            "attributes": {"exportable": true},
            "release_policy": release_policy(&self.deployment.release_policy(), true),
        });
        let create = "/keys/root/create?api-version=7.4";
        json(self.scene.admin(Method::POST, create, &body).await, 200).await;
        let shown = self.scene.admin(Method::GET, "/keys/root?api-version=7.4", &json!(null)).await;
        let shown = json(shown, 200).await.to_string();
        let verdict = self.deployment.check_release_policy(shown.as_bytes()).unwrap();
        assert!(verdict.findings.is_empty() && verdict.unserved.is_empty(), "{verdict:?}");
        assert_eq!(verdict.immutable, Some(true));
    }

    /// Asks for a token, for the right guest after `change`.
    async fn attest(&self, change: Launch, runtime: &[u8], status: u16) -> Value {
        let report = self.chip.report(runtime, |report| {
            if let Some((_, measurement)) = &self.endorsement {
                report[0x90..0xc0].copy_from_slice(measurement);
            }
            (self.launch)(report);
            change(report);
        });
        let chain = self.chip.chain();
        let mut body = attest_body(&report, &chain, runtime);
        let endorsement = self.endorsement.iter().map(|(endorsement, _)| endorsement.clone());
        let endorsements: Vec<Vec<u8>> = endorsement.collect();
        body["report"] = json!(b64(evidence_text(&report, &chain, &endorsements)));
        json(attest(&self.scene.cloud.endpoints(), &body).await, status).await
    }

    async fn token(&self, change: Launch, runtime: &[u8]) -> String {
        self.attest(change, runtime, 200).await["token"].as_str().unwrap().to_owned()
    }

    /// The right guest gets the key.
    async fn releases(&self) {
        let target = self.token(|_| {}, &self.scene.workload.runtime_data()).await;
        let body = json!({"target": target});
        let answer = self.scene.release("/keys/root//release?api-version=7.4", &body).await;
        let answer = json(answer, 200).await;
        let endpoints = self.scene.cloud.endpoints();
        let payload = verify_release(&endpoints, answer["value"].as_str().unwrap());
        let (_, wrapped) = key_hsm(&payload);
        assert_eq!(self.scene.workload.unwrap(&OAEP_SHA1_MGF1SHA1, &wrapped).len(), 32);
    }

    /// Gets a token, and not the key.
    async fn refused(&self, change: Launch, runtime: &[u8], claim: &str) {
        let target = self.token(change, runtime).await;
        self.scene.refused(&target, 403, claim).await;
    }

    async fn judges(&self, wrong: &[Wrong]) {
        self.releases().await;
        let runtime = self.scene.workload.runtime_data();
        for (change, claim) in wrong {
            let answer = self.attest(*change, &runtime, 400).await;
            assert_eq!(answer["error"]["code"], "PolicyEvaluationError", "{claim}: {answer}");
        }
        // The attestation policy says nothing about these.
        let other_config = self.scene.workload.runtime_data_of("release", &"5d".repeat(32));
        self.refused(|_| {}, &other_config, "x-ms-runtime.keyfold.config").await;
        let other_role = self.scene.workload.runtime_data_of("channel", CONFIG);
        self.refused(|_| {}, &other_role, "x-ms-runtime.keyfold.role").await;

        self.administer(Method::POST, "SevSnpVm:reset", "").await;
        for (change, claim) in wrong {
            self.refused(*change, &runtime, claim).await;
        }
    }
}

fn describe(maa: &str, workload: &str, is_pinned: bool) -> Deployment {
    let root = "10".repeat(32);
    let text = format!(
        r#"
[statement]
name = "keyfold-test"
serial = 1
issued = "2026-11-22T00:00:00Z"
expires = "2027-02-20T00:00:00Z"
url = "https://keyfold.example"
config = "{CONFIG}"
root = "{root}"

[statement.identity]
issuer = "https://login.example/v2.0"
client_id = "keyfold"
audience = "api://keyfold"

[[statement.workloads]]
{workload}

[key_release]
authority = "{maa}"
pin_attestation_policy = {is_pinned}
"#
    );
    Deployment::from_toml(&text).unwrap()
}

const MILAN: &str = r#"minimum_tcb = [
    { product = "Milan", tcb = { bootloader = 4, tee = 0, snp = 24, microcode = 219 } },
]"#;

fn set_policy(report: &mut [u8], bits: u64) {
    report[8..16].copy_from_slice(&bits.to_le_bytes());
}

/// Single-threaded, and under an ID block whose key is certified.
fn launch_signed(report: &mut [u8]) {
    set_policy(report, 0x2_0000);
    report[0xe0..0x110].fill(0x1d);
    report[0x110..0x140].fill(0xa0);
}

#[tokio::test]
async fn an_image_gets_the_key_only_as_its_statement_demands() {
    let (measurement, id_key, author_key) = ("ab".repeat(48), "1d".repeat(48), "a0".repeat(48));
    let workload = format!(
        r#"profile = "snp-direct"
measurement = "{measurement}"
policy_required = []
policy_forbidden = ["smt-allowed"]
platform_required = []
platform_forbidden = []
id_key_digest = "{id_key}"
author_key_digest = "{author_key}"
{MILAN}"#
    );
    let wrong: &[Wrong] = &[
        (|report| report[0x90] = 0xac, "x-ms-sevsnpvm-launchmeasurement"),
        (|report| set_policy(report, 0xa_0000), "x-ms-sevsnpvm-is-debuggable"),
        (|report| set_policy(report, 0x6_0000), "x-ms-sevsnpvm-migration-allowed"),
        (|report| set_policy(report, 0x3_0000), "x-ms-sevsnpvm-smt-allowed"),
        (|report| report[0x30] = 1, "x-ms-sevsnpvm-vmpl"),
        // The host itself asks.
        (|report| report[0x30..0x34].fill(0xff), "x-ms-sevsnpvm-vmpl"),
        (|report| report[0xe0..0x110].fill(0), "x-ms-sevsnpvm-idkeydigest"),
        (|report| report[0xe0] = 0x1e, "x-ms-sevsnpvm-idkeydigest"),
        (|report| report[0x110..0x140].fill(0), "x-ms-sevsnpvm-authorkeydigest"),
    ];
    let deployed = Deployed::new("emitted-image", &workload, false, launch_signed).await;
    deployed.judges(wrong).await;

    // Where multithreading is demanded, a guest without it is the wrong one.
    let turned = workload.replace(
        "[]\npolicy_forbidden = [\"smt-allowed\"]",
        "[\"smt-allowed\"]\npolicy_forbidden = []",
    );
    assert_ne!(turned, workload);
    let threaded = |report: &mut [u8]| {
        launch_signed(report);
        set_policy(report, 0x3_0000);
    };
    let single: &[Wrong] = &[(|report| set_policy(report, 0x2_0000), "x-ms-sevsnpvm-smt-allowed")];
    Deployed::new("emitted-threads", &turned, true, threaded).await.judges(single).await;

    // Firmware below the floor gets no token.
    let higher = workload.replace("microcode = 219", "microcode = 220");
    let deployed = Deployed::new("emitted-firmware", &higher, true, launch_signed).await;
    let runtime = deployed.scene.workload.runtime_data();
    let answer = deployed.attest(|_| {}, &runtime, 400).await;
    assert_eq!(answer["error"]["code"], "PolicyEvaluationError", "{answer}");
    deployed.administer(Method::POST, "SevSnpVm:reset", "").await;
    deployed.refused(|_| {}, &runtime, "x-ms-policy-hash").await;
}

#[tokio::test]
async fn a_simulated_program_gets_the_key_only_as_its_statement_demands() {
    let measurement = "ab".repeat(48);
    let workload = format!(
        "profile = \"simulated\"\nark_sha256 = \"<the chip's root>\"\nmeasurement = \"{measurement}\"\n{MILAN}"
    );
    let wrong: &[Wrong] = &[
        (|report| report[0x90] = 0xac, "x-ms-sevsnpvm-launchmeasurement"),
        (|report| set_policy(report, 0xb_0000), "x-ms-sevsnpvm-is-debuggable"),
        (|report| set_policy(report, 0x7_0000), "x-ms-sevsnpvm-migration-allowed"),
        (|report| report[0x30] = 1, "x-ms-sevsnpvm-vmpl"),
    ];
    Deployed::new("emitted-simulated", &workload, false, |_| {}).await.judges(wrong).await;
}

#[tokio::test]
async fn a_container_gets_the_key_only_as_its_statement_demands() {
    if !present() {
        return;
    }
    let host_data = hex::encode(sha256(b"init"));
    let workload = format!(
        r#"profile = "aci"
host_data = "{host_data}"
uvm = {{ issuer = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.2", feed = "ContainerPlat-AMD-UVM", minimum_svn = 100 }}
policy_required = []
policy_forbidden = ["smt-allowed"]
platform_required = []
platform_forbidden = []
{MILAN}"#
    );
    let single: Launch = |report| set_policy(report, 0x2_0000);
    let mut deployed = Deployed::new("emitted-container", &workload, true, single).await;
    let runtime = deployed.scene.workload.runtime_data();
    let endorsement = "x-ms-sevsnpvm-uvm-endorsement";

    // Under no endorsement, and under that of a utility VM from before release.
    deployed.refused(|_| {}, &runtime, "x-ms-compliance-status").await;
    let old = vector("confidential-sidecar-containers/attest/snp_report.bin")[0x90..0xc0].to_vec();
    deployed.endorsement = Some((vector("uvm-endorsements/uvm-svn22.cose"), old));
    let svn = format!("{endorsement}.x-ms-sevsnpvm-guestsvn is \"22\"");
    deployed.refused(|_| {}, &runtime, &svn).await;

    let theirs: Value =
        serde_json::from_str(&text("maa/aci-sevsnpvm-token-payload-2023.json")).unwrap();
    let measurement = theirs["x-ms-sevsnpvm-launchmeasurement"].as_str().unwrap();
    deployed.endorsement = Some((vector(ENDORSEMENT), hex::decode(measurement).unwrap()));
    let token = deployed.token(|_| {}, &runtime).await;
    assert_eq!(claims(&token)[endorsement]["x-ms-sevsnpvm-guestsvn"], "100");
    let wrong: &[Wrong] = &[
        (|report| report[0xc0] ^= 1, "x-ms-sevsnpvm-hostdata"),
        (|report| set_policy(report, 0xa_0000), "x-ms-sevsnpvm-is-debuggable"),
        (|report| set_policy(report, 0x6_0000), "x-ms-sevsnpvm-migration-allowed"),
        (|report| set_policy(report, 0x3_0000), "x-ms-sevsnpvm-smt-allowed"),
        (|report| report[0x30] = 1, "x-ms-sevsnpvm-vmpl"),
    ];
    deployed.judges(wrong).await;
}
