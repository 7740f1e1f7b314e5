//! One `deployment.toml`, four texts: golden files, and the conditions that matter read back.
//!
//! With `UPDATE_GOLDEN=1` the golden files are written anew; the difference is then for review.

use std::path::PathBuf;

use keyfold_attestation_policy::deployment::Deployment;
use keyfold_attestation_policy::statement::Statement;
use keyfold_attestation_policy::values::Sha256;
use serde_json::{Value, json};

const TOML: &str = include_str!("deployment.toml");

fn deployment() -> Deployment {
    Deployment::from_toml(TOML).unwrap()
}

fn golden(file: &str, text: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/deployment").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read(&path).unwrap();
    assert_eq!(String::from_utf8_lossy(text), String::from_utf8_lossy(&expected), "{file}");
}

#[test]
fn texts_are_the_golden_ones() {
    let deployment = deployment();
    golden("statement.json", &deployment.statement_payload());
    golden("release-policy.json", deployment.release_policy().as_bytes());
    golden("attestation-policy.txt", deployment.attestation_policy().as_bytes());
    golden("summary.md", deployment.summary().as_bytes());
}

#[test]
fn payload_is_the_statement() {
    let payload = deployment().statement_payload();
    assert_eq!(&Statement::from_payload(&payload).unwrap(), deployment().statement());
}

/// Evaluates a release policy as the service does: any of, all of, dotted claims, equality.
fn releases(policy: &str, issuer: &str, token: &Value) -> bool {
    let policy: Value = serde_json::from_str(policy).unwrap();
    assert_eq!(policy["version"], "1.0.0");
    policy["anyOf"].as_array().unwrap().iter().any(|authority| {
        authority["authority"] == issuer
            && authority["allOf"].as_array().unwrap().iter().all(|condition| {
                let claim = condition["claim"].as_str().unwrap();
                let found = claim.split('.').try_fold(token, |object, name| object.get(name));
                found == Some(&condition["equals"])
            })
    })
}

#[test]
fn release_policy_releases_to_the_deployment_only() {
    const ISSUER: &str = "https://keyfold.weu.attest.azure.net";
    let policy = deployment().release_policy();
    let token = json!({
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-sevsnpvm-launchmeasurement": "ab".repeat(48),
        "x-ms-sevsnpvm-is-debuggable": false,
        "x-ms-sevsnpvm-migration-allowed": false,
        "x-ms-runtime": {"keyfold": {"version": 1, "role": "release", "config": "c0".repeat(32)}},
    });
    assert!(releases(&policy, ISSUER, &token));
    let mut previous = token.clone();
    previous["x-ms-sevsnpvm-launchmeasurement"] = json!("ac".repeat(48));
    assert!(releases(&policy, ISSUER, &previous));
    assert!(!releases(&policy, "https://other.weu.attest.azure.net", &token));

    for (pointer, value) in [
        ("/x-ms-attestation-type", json!("azurevm")),
        ("/x-ms-sevsnpvm-launchmeasurement", json!("ad".repeat(48))),
        ("/x-ms-sevsnpvm-is-debuggable", json!(true)),
        ("/x-ms-sevsnpvm-migration-allowed", json!(true)),
        ("/x-ms-runtime/keyfold/role", json!("channel")),
        ("/x-ms-runtime/keyfold/config", json!("c1".repeat(32))),
    ] {
        let mut changed = token.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert!(!releases(&policy, ISSUER, &changed), "{pointer} is not pinned");
        let mut missing = token.clone();
        *missing.pointer_mut(pointer).unwrap() = Value::Null;
        assert!(!releases(&policy, ISSUER, &missing), "{pointer} may be missing");
    }
}

#[test]
fn attestation_policy_has_a_rule_per_workload_and_product() {
    let policy = deployment().attestation_policy();
    assert_eq!(policy.matches("=> permit();").count(), 3);
    // No condition trusts claims that the asker adds.
    assert_eq!(policy.matches("[ type==").count(), policy.matches("AttestationService").count());
    for rule in policy.split("=> permit();").take(3) {
        for condition in [
            "\"x-ms-sevsnpvm-is-debuggable\", value==false",
            "\"x-ms-sevsnpvm-migration-allowed\", value==false",
            "\"x-ms-sevsnpvm-vmpl\", value==0",
            "\"x-ms-sevsnpvm-launchmeasurement\", value==\"a",
            "\"x-ms-sevsnpvm-bootloader-svn\", value>=",
            "\"x-ms-sevsnpvm-tee-svn\", value>=",
            "\"x-ms-sevsnpvm-snpfw-svn\", value>=",
            "\"x-ms-sevsnpvm-microcode-svn\", value>=",
        ] {
            assert!(rule.contains(condition), "{condition} is missing in {rule}");
        }
    }
}

#[test]
fn summary_pins_the_other_texts() {
    let deployment = deployment();
    let page = deployment.summary();
    for text in [
        deployment.statement_payload(),
        deployment.release_policy().into_bytes(),
        deployment.attestation_policy().into_bytes(),
    ] {
        assert!(page.contains(&Sha256::of(&text).to_string()), "{page}");
    }
    assert!(page.contains("(90 days)"), "{page}");
}

#[test]
fn wrong_files_are_refused_with_the_place() {
    for (from, to, expected) in [
        ("serial = 12", "serial = 12\nserial = 13", "duplicate key"),
        ("serial = 12", "serial = 12\nsurprise = 1", "unknown field `surprise`"),
        ("serial = 12\n", "", "missing field `serial`"),
        ("[key_release]", "[key_release]\nimmutable = false", "unknown field `immutable`"),
        ("https://keyfold.weu", "http://keyfold.weu", "https URL"),
        ("2027-02-20", "2027-02-21", "at most 90 days"),
        ("\"acacac", "\"ACACAC", "lower-case hex"),
        ("fmc = 1, ", "", "fmc"),
        ("[\"single-socket\"]", "[\"debug\"]", "unknown variant `debug`"),
    ] {
        let changed = TOML.replacen(from, to, 1);
        assert_ne!(changed, TOML);
        let error = Deployment::from_toml(&changed).unwrap_err().to_string();
        assert!(error.contains(expected), "{from} -> {to}: {error}");
        assert!(error.starts_with("deployment.toml: "), "{error}");
    }
}

#[cfg(not(feature = "development"))]
#[test]
fn simulated_workloads_are_refused() {
    let changed = TOML.replacen("snp-direct", "simulated", 1);
    let error = Deployment::from_toml(&changed).unwrap_err().to_string();
    assert!(error.contains("`development`"), "{error}");
}

#[cfg(feature = "development")]
#[test]
fn simulated_workloads_are_shouted_about() {
    let start = TOML.find("[[statement.workloads]]").unwrap();
    let end = TOML.find("[key_release]").unwrap();
    let workload = format!(
        "[[statement.workloads]]\nprofile = \"simulated\"\nark_sha256 = \"{}\"\nmeasurement = \"{}\"\n",
        "aa".repeat(32),
        "ee".repeat(48),
    );
    let text = [&TOML[..start], &workload, &TOML[end..]].concat();
    let deployment = Deployment::from_toml(&text).unwrap();
    assert!(deployment.summary().contains("SIMULATED, PROTECTS NOTHING"));
    assert!(deployment.release_policy().contains(&"ee".repeat(48)));
    assert!(!deployment.attestation_policy().contains("-svn"));
}
