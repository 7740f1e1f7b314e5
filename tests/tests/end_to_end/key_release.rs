//! Each way the cloud can fail to give the key: what the doctor exits with and says, that nothing is
//! released, that a host in the same place does not serve, and that one that serves already does not
//! notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyfold_host::{Config, Host};
use keyfold_local::Deployment;
use serde_json::{Value, json};

use crate::common;
use crate::doctor::{self, Diagnosis};

/// Turns switches on.
async fn switch(deployment: &Deployment, switches: &Value) {
    let url = format!("{}/dev/fail", deployment.endpoints.control.url);
    let http = reqwest::Client::new();
    for switch in switches.as_array().expect("a list") {
        let answer = http.post(&url).json(switch).send().await.expect("the dev cloud answers");
        assert!(answer.status().is_success(), "{switch}: {}", answer.text().await.expect("why"));
    }
}

async fn heal(deployment: &Deployment) {
    let url = format!("{}/dev/fail", deployment.endpoints.control.url);
    reqwest::Client::new().delete(url).send().await.expect("the dev cloud answers");
}

/// A folder for certificates that holds none.
fn empty_cache(deployment: &Deployment) -> String {
    let folder = deployment.folder.join("no-endorsements");
    let _ = std::fs::remove_dir_all(&folder);
    folder.display().to_string()
}

const CACHE: &str = "KEYFOLD_HOST__AZURE__ENDORSEMENT_CACHE";

fn diagnose(deployment: &Deployment) -> Diagnosis {
    doctor::run(deployment, &[(CACHE, &empty_cache(deployment))], &[])
}

/// One failing cloud: the switches, then exit code, step and words.
fn failures() -> Vec<(Value, u8, &'static str, &'static [&'static str])> {
    let one = |service: &str, mode: &str| json!([{"service": service, "mode": mode}]);
    let of = |service: &str, mode: &str, path: &str| json!([{"service": service, "mode": mode, "path": path}]);
    let (thim, token) = ("/metadata/THIM", "/metadata/identity");
    let both = |mode: &str| json!([{"service": "imds", "mode": mode, "path": thim}, {"service": "kds", "mode": "404"}]);
    let stale = |firmware: &str| {
        json!([
            {"service": "imds", "mode": "stale_tcb", "firmware": firmware},
            {"service": "kds", "mode": "404"},
        ])
    };
    let clock =
        |seconds: i64| json!([{"service": "maa", "mode": "clock_offset", "offset_s": seconds}]);
    let foreign = |certificate: &str| json!([{"service": "hsm", "mode": "foreign_certificate", "certificate": certificate}]);
    vec![
        (both("400"), 15, "THIM", &["status 400", "AMD KDS", "status 404"]),
        (both("down"), 15, "THIM", &["AMD KDS"]),
        (stale("older"), 17, "TCB", &["the report says", "the VCEK of THIM is for"]),
        (stale("newer"), 17, "TCB", &["the report says", "the VCEK of THIM is for"]),
        (one("maa", "400"), 18, "MAA", &["status 400"]),
        (of("maa", "503", "/attest"), 18, "MAA", &["status 503"]),
        (of("maa", "429", "/attest"), 18, "MAA", &["status 429"]),
        (of("maa", "down", "/attest"), 18, "MAA", &[]),
        (of("maa", "500", "/certs"), 19, "MAA keys", &["status 500"]),
        (of("maa", "404", "/.well-known"), 19, "MAA keys", &["status 404"]),
        (one("maa", "kid_missing"), 20, "MAA token", &["no certificate of the service verifies"]),
        (one("maa", "unsecured_token"), 20, "MAA token", &["\"none\", not RS256"]),
        (clock(3600), 21, "clock", &["does not hold now", "this machine's clock says"]),
        (clock(-40_000), 21, "clock", &["does not hold now", "this machine's clock says"]),
        (of("imds", "400", token), 22, "access token", &["status 400"]),
        (of("imds", "503", token), 22, "access token", &["status 503"]),
        (one("hsm", "401"), 23, "Managed HSM", &["status 401"]),
        (one("hsm", "403"), 23, "Managed HSM", &["status 403"]),
        (one("hsm", "404"), 23, "Managed HSM", &["status 404"]),
        (one("hsm", "429"), 23, "Managed HSM", &["status 429"]),
        (one("hsm", "503"), 23, "Managed HSM", &["status 503"]),
        (one("hsm", "down"), 23, "Managed HSM", &[]),
        (one("hsm", "stale_policy"), 23, "Managed HSM", &["status 403", "release policy"]),
        (one("hsm", "truncated_ciphertext"), 24, "released key", &["423 bytes, expected 424"]),
        (foreign("root"), 24, "released key", &["do not chain to azure.hsm_roots"]),
        (foreign("name"), 24, "released key", &["is signed by", "not by keyfold-dev"]),
        (one("hsm", "rewrapped_ciphertext"), 25, "Unlock", &["refused Unlock: Unwrap"]),
        (one("hsm", "wrong_oaep_hash"), 25, "Unlock", &["refused Unlock: Unwrap"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_exit_code_and_releases_nothing() {
    let mut deployment = common::deployment("e2e-key-release").await;
    let enclaves = deployment.enclave_ids().expect("the system tells");
    for (switches, exit, step, words) in failures() {
        switch(&deployment, &switches).await;
        let found = diagnose(&deployment);
        let (failed, what) = found.failed().unwrap_or_else(|| panic!("{switches}: {}", found.json));
        assert_eq!((found.exit, failed), (i32::from(exit), step), "{switches}: {what}");
        for word in words {
            assert!(what.contains(word), "{switches}: {word:?} is not in {what:?}");
        }
        assert!(!found.is_keyed(), "{switches}: an enclave was given the key");
        assert_eq!(found.step(step)["outcome"], "fail", "{switches}");
        does_not_serve(&deployment, &switches, words).await;
        heal(&deployment).await;
    }
    let found = diagnose(&deployment);
    assert!(found.exit == 0 && found.is_keyed(), "{}", found.json);
    // Nobody disturbed the host that serves.
    assert_eq!(deployment.enclave_ids().expect("the system tells"), enclaves);
    deployment.wait_until_ready().await.expect("ready");
}

/// A host that starts now has no enclave, and says why.
async fn does_not_serve(deployment: &Deployment, switches: &Value, words: &[&str]) {
    let database = deployment.folder.join("matrix.db");
    let overrides = [
        ("LISTEN__PUBLIC", "127.0.0.1:0".into()),
        ("LISTEN__ADMIN", "127.0.0.1:0".into()),
        ("STORAGE__PATH", database.display().to_string()),
        ("AZURE__ENDORSEMENT_CACHE", empty_cache(deployment)),
    ];
    let overrides =
        overrides.into_iter().map(|(key, value)| (format!("KEYFOLD_HOST__{key}"), value));
    let text = std::fs::read_to_string(deployment.folder.join("host.toml")).expect("the file");
    let config = Config::parse(&text, overrides).expect("the configuration");
    let host = Host::builder(config).start().await.expect("it starts, and waits for its enclaves");
    let links = Arc::clone(&host.service().parts().links);
    let deadline = Instant::now() + Duration::from_secs(30);
    let why = loop {
        if let Some((_, why)) = links.failing().pop() {
            break why;
        }
        assert!(links.live().next().is_none(), "{switches}: an enclave serves");
        assert!(Instant::now() < deadline, "{switches}: it does not say why");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(words.iter().all(|word| why.contains(word)), "{switches}: {why}");
    let url = format!("http://{}/readyz", host.admin_address());
    let ready = reqwest::get(url).await.expect("an answer");
    assert_eq!(ready.status().as_u16(), 503, "{switches}");
    let ready: Value = ready.json().await.expect("JSON");
    assert_eq!(ready["enclaves"], json!([]), "{switches}");
    let url = format!("http://{}/v1/deployment", host.public_address());
    assert_eq!(reqwest::get(url).await.expect("an answer").status().as_u16(), 503, "{switches}");
    host.stop().await;
}

#[tokio::test]
async fn what_passes_or_has_another_way_is_got_over() {
    let deployment = common::deployment("e2e-key-release-passing").await;
    let again = |service: &str, mode: &str, path: &str| json!([{"service": service, "mode": mode, "path": path, "times": 1}]);
    let without_thim = json!([{"service": "imds", "mode": "400", "path": "/metadata/THIM"}]);
    for (switches, step, detail) in [
        (json!([{"service": "maa", "mode": "two_certificates"}]), "MAA token", "signed"),
        (again("imds", "503", "/metadata/identity"), "access token", "attempts 2"),
        (again("maa", "503", "/attest"), "MAA", "attempts 2"),
        (again("hsm", "429", "/keys"), "Managed HSM", "attempts 2"),
        (without_thim.clone(), "TCB", "AMD KDS"),
        (json!([{"service": "imds", "mode": "stale_tcb", "times": 1}]), "TCB", "AMD KDS"),
    ] {
        switch(&deployment, &switches).await;
        let found = diagnose(&deployment);
        assert_eq!(found.exit, 0, "{switches}: {}", found.json);
        let entry = found.step(step);
        match detail {
            "attempts 2" => assert_eq!(entry["attempts"], 2, "{switches}: {entry}"),
            "AMD KDS" => assert!(found.is_endorsed_by("AMD KDS"), "{switches}: {}", found.json),
            part => assert!(entry["detail"].as_str().is_some_and(|told| told.contains(part))),
        }
        heal(&deployment).await;
    }

    // Services that start after the host.
    for (service, step) in [("maa", "MAA keys"), ("imds", "access token")] {
        let starts = json!([{"service": service, "mode": "slow_start", "delay_ms": 1000}]);
        switch(&deployment, &starts).await;
        let found = doctor::run(&deployment, &[], &["--without-enclave"]);
        let attempts =
            |entry: &Value| entry["step"] == step && entry["attempts"].as_u64() > Some(1);
        let steps = found.json["steps"].as_array().expect("steps");
        assert!(found.exit == 0 && steps.iter().any(attempts), "{service}: {}", found.json);
        heal(&deployment).await;
    }

    // What AMD said once is on disk, and serves when neither it nor the machine does.
    let cache = empty_cache(&deployment);
    switch(&deployment, &without_thim).await;
    assert_eq!(doctor::run(&deployment, &[(CACHE, &cache)], &[]).exit, 0);
    switch(&deployment, &json!([{"service": "kds", "mode": "down"}])).await;
    let found = doctor::run(&deployment, &[(CACHE, &cache)], &[]);
    assert_eq!((found.exit, &found.json["machine"]["source"]), (0, &json!("the cache on disk")));
}

#[tokio::test]
async fn the_doctor_shows_why_on_one_screen() {
    let deployment = common::deployment("e2e-doctor").await;
    let found = diagnose(&deployment);
    let json = &found.json;
    assert_eq!((found.exit, &json["failed"]), (0, &Value::Null));
    assert_eq!(json["machine"]["report_tcb"], json["machine"]["vcek_tcb"]);
    assert_eq!(
        (&json["machine"]["source"], &json["machine"]["same_chip"]),
        (&json!("THIM"), &json!(true))
    );
    assert!(json["clock"]["exp"].as_u64() > json["clock"]["now"].as_u64());
    assert_eq!(json["identity"]["aud"], "https://managedhsm.azure.net");
    assert_eq!(json["key"]["algorithm"], "RSA_AES_KEY_WRAP_256");
    assert!(json["key"]["id"].as_str().is_some_and(|id| id.contains("/keys/keyfold-root/")));
    assert_eq!(
        (&json["policy"]["met"], &json["policy"]["source"]),
        (&json!(true), &json!("the release"))
    );

    // The policy that was meant, and the one the key still has: which condition, expected and actual.
    let mut policy: Value = serde_json::from_slice(
        &std::fs::read(deployment.folder.join("release-policy.json")).expect("the policy"),
    )
    .expect("JSON");
    let conditions = policy["anyOf"][0]["allOf"].as_array_mut().expect("conditions");
    let measured = |condition: &&mut Value| condition["claim"] == "x-ms-sevsnpvm-launchmeasurement";
    conditions.iter_mut().find(measured).expect("a measurement")["equals"] = "5a".repeat(48).into();
    let path = deployment.folder.join("stale-policy.json");
    std::fs::write(&path, policy.to_string()).expect("a file");
    let path = path.display().to_string();
    switch(&deployment, &json!([{"service": "hsm", "mode": "403"}])).await;
    let found = doctor::run(&deployment, &[], &["--release-policy", &path]);
    let (exit, judged) = (found.exit, &found.json["policy"]["alternatives"][0]);
    assert_eq!((exit, &judged["met"]), (23, &json!(false)));
    let rows = judged["conditions"].as_array().expect("rows");
    let failing: Vec<_> = rows.iter().filter(|row| row["pass"] == false).collect();
    assert_eq!(failing.len(), 1, "{judged}");
    assert_eq!(failing[0]["expected"], "5a".repeat(48));
    assert!(failing[0]["actual"].as_str().is_some_and(|actual| actual.len() == 96));
    let screen = doctor::screen(&deployment, &["--release-policy", &path]);
    for line in [
        "FAIL         Managed HSM",
        "NOT MET",
        "FAIL x-ms-sevsnpvm-launchmeasurement",
        "exit code 23",
    ] {
        assert!(screen.contains(line), "{line} is not in\n{screen}");
    }
    // Without a copy of it, what could be had is said.
    let found = doctor::run(&deployment, &[], &[]);
    let why = found.json["policy"]["not_compared"].as_str().expect("why");
    assert!(why.contains("--release-policy"), "{why}");
    heal(&deployment).await;

    // It is there, and cannot be started.
    let nothing = r#"[{transport = "pipe", command = "/etc/passwd"}]"#;
    let found = doctor::run(&deployment, &[("KEYFOLD_HOST__ENCLAVE", nothing)], &[]);
    assert_eq!((found.exit, found.failed().map(|(step, _)| step)), (11, Some("enclave")));
    let missing = [("KEYFOLD_HOST__AZURE__HSM_ROOTS", "/does/not/exist")];
    assert_eq!(doctor::run(&deployment, &missing, &[]).exit, 10);
    let found = doctor::run(&deployment, &[], &["--without-enclave"]);
    assert!(found.exit == 0 && !found.is_keyed(), "{}", found.json);
    assert_eq!(found.step("MAA keys")["outcome"], "ok");

    workload_identity(&deployment).await;
}

/// The same way with a token of the cluster instead of the machine's.
async fn workload_identity(deployment: &Deployment) {
    let aad = &deployment.endpoints.aad;
    let token_file = aad.token_file.display().to_string();
    let platform = [
        ("AZURE_FEDERATED_TOKEN_FILE", token_file.as_str()),
        ("AZURE_TENANT_ID", &aad.tenant),
        ("AZURE_CLIENT_ID", &aad.client_id),
        ("AZURE_AUTHORITY_HOST", &aad.url),
    ];
    let found = doctor::run(deployment, &platform, &[]);
    assert_eq!(found.exit, 0, "{}", found.json);
    let asked = found.step("access token")["endpoint"].as_str().expect("an endpoint");
    assert!(asked.starts_with(&aad.url), "{asked}");
    switch(deployment, &json!([{"service": "aad", "mode": "401"}])).await;
    let found = doctor::run(deployment, &platform, &[]);
    assert_eq!((found.exit, found.is_keyed()), (22, false), "{}", found.json);
    heal(deployment).await;
}
