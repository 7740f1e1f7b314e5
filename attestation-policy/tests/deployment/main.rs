//! One `deployment.toml`, four texts: golden files, and the conditions that matter read back; a release
//! policy checked against it, two deployments compared, and the file to begin with.
//!
//! With `UPDATE_GOLDEN=1` the golden files are written anew; the difference is then for review.

mod changes;
mod policies;
mod start;

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfold_attestation_policy::deployment::Deployment;
use keyfold_attestation_policy::statement::Statement;
use keyfold_attestation_policy::values::Sha256;
use serde_json::{Value, json};

const TOML: &str = include_str!("deployment.toml");
/// A confidential container, its attestation policy pinned.
const CONTAINER: &str = include_str!("container.toml");

fn deployment() -> Deployment {
    Deployment::from_toml(TOML).unwrap()
}

fn container() -> Deployment {
    Deployment::from_toml(CONTAINER).unwrap()
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

    let container = container();
    golden("container-statement.json", &container.statement_payload());
    golden("container-release-policy.json", container.release_policy().as_bytes());
    golden("container-attestation-policy.txt", container.attestation_policy().as_bytes());
    golden("container-summary.md", container.summary().as_bytes());
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
    policy["anyOf"]
        .as_array()
        .unwrap()
        .iter()
        .any(|entry| entry["authority"] == issuer && holds(entry, token))
}

/// A condition, or a group of them.
fn holds(rule: &Value, token: &Value) -> bool {
    if let Some(rules) = rule["allOf"].as_array() {
        return rules.iter().all(|rule| holds(rule, token));
    }
    if let Some(rules) = rule["anyOf"].as_array() {
        return rules.iter().any(|rule| holds(rule, token));
    }
    let claim = rule["claim"].as_str().unwrap();
    let found = claim.split('.').try_fold(token, |object, name| object.get(name));
    found == Some(&rule["equals"])
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
        "x-ms-sevsnpvm-vmpl": 0,
        "x-ms-sevsnpvm-smt-allowed": false,
        "x-ms-sevsnpvm-idkeydigest": "00".repeat(48),
        "x-ms-sevsnpvm-authorkeydigest": "00".repeat(48),
        "x-ms-runtime": {"keyfold": {"version": 1, "role": "release", "config": "c0".repeat(32)}},
    });
    assert!(releases(&policy, ISSUER, &token));
    let mut previous = token.clone();
    previous["x-ms-sevsnpvm-launchmeasurement"] = json!("ac".repeat(48));
    previous["x-ms-sevsnpvm-smt-allowed"] = json!(true);
    previous["x-ms-sevsnpvm-idkeydigest"] = json!("11".repeat(48));
    previous["x-ms-sevsnpvm-authorkeydigest"] = json!("22".repeat(48));
    assert!(releases(&policy, ISSUER, &previous));
    for key in ["x-ms-sevsnpvm-idkeydigest", "x-ms-sevsnpvm-authorkeydigest"] {
        let mut unsigned = previous.clone();
        unsigned[key] = json!("00".repeat(48));
        assert!(!releases(&policy, ISSUER, &unsigned), "{key} is not pinned");
    }
    assert!(!releases(&policy, "https://other.weu.attest.azure.net", &token));

    for (pointer, value) in [
        ("/x-ms-attestation-type", json!("azurevm")),
        ("/x-ms-sevsnpvm-launchmeasurement", json!("ad".repeat(48))),
        ("/x-ms-sevsnpvm-is-debuggable", json!(true)),
        ("/x-ms-sevsnpvm-migration-allowed", json!(true)),
        ("/x-ms-sevsnpvm-vmpl", json!(1)),
        ("/x-ms-sevsnpvm-smt-allowed", json!(true)),
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
fn release_policy_releases_to_the_container_only() {
    const ISSUER: &str = "https://keyfold.weu.attest.azure.net";
    let policy = container().release_policy();
    let hash = policy.split("x-ms-policy-hash").nth(1).unwrap().split('"').nth(4).unwrap();
    // Of the policy's base64url text, as tokens carry it.
    let stored = URL_SAFE_NO_PAD.encode(container().attestation_policy());
    assert_eq!(hash, URL_SAFE_NO_PAD.encode(Sha256::of(stored.as_bytes()).as_bytes()));
    let token = json!({
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-compliance-status": "azure-compliant-uvm",
        "x-ms-policy-hash": hash,
        "x-ms-sevsnpvm-launchmeasurement": "ee".repeat(48),
        "x-ms-sevsnpvm-hostdata": "77".repeat(32),
        "x-ms-sevsnpvm-is-debuggable": false,
        "x-ms-sevsnpvm-migration-allowed": false,
        "x-ms-sevsnpvm-vmpl": 0,
        "x-ms-sevsnpvm-smt-allowed": true,
        "x-ms-sevsnpvm-uvm-endorsement": {"x-ms-sevsnpvm-guestsvn": "104"},
        "x-ms-sevsnpvm-uvm-endorsement-headers": {
            "feed": "ContainerPlat-AMD-UVM",
            "iss": "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.2",
        },
        "x-ms-runtime": {"keyfold": {"version": 1, "role": "release", "config": "c0".repeat(32)}},
    });
    assert!(releases(&policy, ISSUER, &token));
    const SVN: &str = "/x-ms-sevsnpvm-uvm-endorsement/x-ms-sevsnpvm-guestsvn";
    let mut newer = token.clone();
    *newer.pointer_mut(SVN).unwrap() = json!("136");
    assert!(releases(&policy, ISSUER, &newer));

    for (pointer, value) in [
        (SVN, json!("103")),
        (SVN, json!("137")),
        ("/x-ms-compliance-status", json!("azure-compliant-cvm")),
        ("/x-ms-policy-hash", json!("9NY0VnTQ-IiBriBplVUpFbczcDaEBUwsiFYAzHu_gco")),
        ("/x-ms-sevsnpvm-hostdata", json!("78".repeat(32))),
        ("/x-ms-sevsnpvm-is-debuggable", json!(true)),
        ("/x-ms-sevsnpvm-vmpl", json!(u32::MAX)),
        ("/x-ms-sevsnpvm-smt-allowed", json!(false)),
        ("/x-ms-sevsnpvm-uvm-endorsement-headers/feed", json!("ConfAKS-AMD-UVM")),
        ("/x-ms-sevsnpvm-uvm-endorsement-headers/iss", json!("did:x509:0:sha256:other")),
        ("/x-ms-runtime/keyfold/config", json!("c1".repeat(32))),
    ] {
        let mut changed = token.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert!(!releases(&policy, ISSUER, &changed), "{pointer} is not pinned");
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
    // What a workload demands of its launch, in each of its rules and in no other's.
    for (condition, rules) in [
        ("\"x-ms-sevsnpvm-smt-allowed\", value==false".to_owned(), 2),
        (format!("\"x-ms-sevsnpvm-idkeydigest\", value==\"{}\"", "11".repeat(48)), 1),
        (format!("\"x-ms-sevsnpvm-authorkeydigest\", value==\"{}\"", "22".repeat(48)), 1),
    ] {
        assert_eq!(policy.matches(&condition).count(), rules, "{condition}");
    }
    let container = container().attestation_policy();
    assert_eq!(container.matches("\"x-ms-sevsnpvm-smt-allowed\", value==true").count(), 2);
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

/// Who signs knows which of the demands keep a host from the key, and which only clients see.
#[test]
fn summary_says_what_does_not_guard_the_key() {
    let page = deployment().summary();
    let [_, image, with_id_block] = page.split("## Workload").collect::<Vec<_>>()[..] else {
        panic!("two workloads: {page}")
    };
    let client_only = "clients check this; it does not guard the key: ";
    for line in [
        "release policy demands: VMPL 0, debugging off, migration off, smt-allowed off\n",
        &format!("{client_only}guest policy single-socket on, cxl-allowed off (naming an ID key"),
        &format!("{client_only}platform ecc-enabled on, alias-check-complete on\n"),
    ] {
        assert!(image.contains(line), "{line}: {image}");
    }
    let keys = "release policy demands: VMPL 0, debugging off, migration off, the ID key, the author key\n";
    assert!(with_id_block.contains(keys), "{with_id_block}");
    assert!(!with_id_block.contains(client_only), "it demands nothing more: {with_id_block}");

    let one_more =
        TOML.replacen("policy_required = []", "policy_required = [\"ciphertext-hiding\"]", 1);
    let page = Deployment::from_toml(&one_more).unwrap().summary();
    let bound = "which carries POLICY, in each block that its signer ever signed: guest policy \
                 ciphertext-hiding on\n";
    assert!(page.contains(bound), "{page}");
    // No ID block can be demanded of a container.
    assert!(
        container().summary().contains(&format!("{client_only}guest policy cxl-allowed off\n"))
    );
    // A floor of any product, not of the machine's own, is what a pinned policy gives the key.
    assert!(container().summary().contains("meets any one's floor gets the key"));
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
        assert!(error.starts_with("TOML parse error at line "), "{error}");
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
