//! Release policies, as made and as somebody changed them: what is stricter passes, what releases more
//! is refused with the reason.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfold_attestation_policy::deployment::{Deployment, PolicyVerdict, Reason};
use serde_json::{Value, json};

use super::{container, deployment};

const ISSUER: &str = "https://keyfold.weu.attest.azure.net";

type Change = fn(&mut Value);

fn made(deployment: &Deployment) -> Value {
    serde_json::from_str(&deployment.release_policy()).unwrap()
}

fn check(deployment: &Deployment, policy: &Value) -> PolicyVerdict {
    deployment.check_release_policy(policy.to_string().as_bytes()).unwrap()
}

fn reasons(verdict: &PolicyVerdict) -> Vec<Reason> {
    verdict.findings.iter().map(|finding| finding.reason).collect()
}

/// As Azure keeps it.
fn kept(policy: &Value, immutable: bool) -> Value {
    json!({
        "contentType": "application/json; charset=utf-8",
        "data": URL_SAFE_NO_PAD.encode(policy.to_string()),
        "immutable": immutable,
    })
}

/// The conditions of an entry.
fn conditions(policy: &mut Value, entry: usize) -> &mut Vec<Value> {
    policy["anyOf"][entry]["allOf"].as_array_mut().unwrap()
}

fn is_on(condition: &Value, claim: &str) -> bool {
    condition["claim"].as_str().is_some_and(|it| it.ends_with(claim))
}

/// The first entry's condition on a claim that ends so.
fn condition<'a>(policy: &'a mut Value, claim: &str) -> &'a mut Value {
    condition_of(policy, 0, claim)
}

fn condition_of<'a>(policy: &'a mut Value, entry: usize, claim: &str) -> &'a mut Value {
    conditions(policy, entry).iter_mut().find(|condition| is_on(condition, claim)).unwrap()
}

/// The first entry without it.
fn without(policy: &mut Value, claim: &str) {
    without_of(policy, 0, claim);
}

fn without_of(policy: &mut Value, entry: usize, claim: &str) {
    let conditions = conditions(policy, entry);
    let before = conditions.len();
    conditions.retain(|condition| !is_on(condition, claim));
    assert_eq!(conditions.len() + 1, before, "{claim}");
}

#[test]
fn what_is_made_passes_in_every_form() {
    for deployment in [deployment(), container()] {
        let policy = made(&deployment);
        let verdict = check(&deployment, &policy);
        assert_eq!(verdict, PolicyVerdict { immutable: None, ..verdict.clone() });
        assert!(verdict.findings.is_empty() && verdict.unserved.is_empty(), "{verdict:?}");

        let right = PolicyVerdict { immutable: Some(true), ..verdict };
        assert_eq!(check(&deployment, &kept(&policy, true)), right);
        let key = json!({"key": {"kid": "k"}, "release_policy": kept(&policy, true)});
        assert_eq!(check(&deployment, &key), right);
    }
}

#[test]
fn what_is_stricter_passes() {
    let deployment = deployment();
    let changes: [(&str, Change); 6] = [
        ("one workload fewer", |it| drop(it["anyOf"].as_array_mut().unwrap().remove(1))),
        ("a condition more", |it| {
            conditions(it, 0).push(json!({"claim": "x-ms-sevsnpvm-guestsvn", "equals": 3}));
        }),
        ("a condition of another kind more", |it| {
            conditions(it, 0).push(json!({"claim": "x-ms-sevsnpvm-guestsvn", "greater": 3}));
        }),
        ("a choice more", |it| {
            let svns = [3, 4].map(|svn| json!({"claim": "x-ms-sevsnpvm-guestsvn", "equals": svn}));
            conditions(it, 0).push(json!({"anyOf": svns}));
        }),
        ("the conditions in groups", |it| {
            let mut all = conditions(it, 0).clone();
            let rest = all.split_off(3);
            it["anyOf"][0]["allOf"] = json!([{"allOf": all}, {"anyOf": [{"allOf": rest}]}]);
        }),
        ("a slash behind the authority", |it| {
            it["anyOf"][0]["authority"] = json!(format!("{ISSUER}/"));
        }),
    ];
    for (what, change) in changes {
        let mut policy = made(&deployment);
        change(&mut policy);
        let verdict = check(&deployment, &policy);
        assert!(verdict.findings.is_empty(), "{what}: {verdict:?}");
        assert_eq!(verdict.unserved.is_empty(), what != "one workload fewer", "{what}");
    }
}

type Row = (Reason, &'static str, Change);

fn image_policies() -> Vec<Row> {
    vec![
        (Reason::ForeignAuthority, "another", |it| {
            it["anyOf"][0]["authority"] = json!("https://keyfold.neu.attest.azure.net");
        }),
        (Reason::AttestationType, "none", |it| without(it, "attestation-type")),
        (Reason::AttestationType, "another", |it| {
            condition(it, "attestation-type")["equals"] = json!("azurevm");
        }),
        (Reason::DebugGuest, "not demanded", |it| without(it, "is-debuggable")),
        (Reason::DebugGuest, "demanded", |it| {
            condition(it, "is-debuggable")["equals"] = json!(true);
        }),
        (Reason::DebugGuest, "a text", |it| {
            condition(it, "is-debuggable")["equals"] = json!("false");
        }),
        (Reason::DebugGuest, "another operator", |it| {
            let condition = condition(it, "is-debuggable");
            *condition = json!({"claim": condition["claim"], "exists": true});
        }),
        (Reason::DebugGuest, "one of two ways", |it| {
            let ways = json!({"anyOf": [
                {"claim": "x-ms-sevsnpvm-is-debuggable", "equals": false},
                {"claim": "x-ms-sevsnpvm-is-debuggable", "equals": true},
            ]});
            *condition(it, "is-debuggable") = ways;
        }),
        (Reason::DebugGuest, "any instead of all", |it| {
            let conditions = conditions(it, 0).clone();
            it["anyOf"][0] = json!({"authority": ISSUER, "anyOf": conditions});
        }),
        (Reason::DebugGuest, "in one more entry", |it| {
            let more = it["anyOf"][0].clone();
            it["anyOf"].as_array_mut().unwrap().push(more);
            without_of(it, 2, "is-debuggable");
        }),
        (Reason::DebugGuest, "a guest's own word", |it| {
            condition(it, "is-debuggable")["claim"] =
                json!("x-ms-runtime.x-ms-sevsnpvm-is-debuggable");
        }),
        (Reason::MigratableGuest, "not demanded", |it| without(it, "migration-allowed")),
        (Reason::LessPrivileged, "not demanded", |it| without(it, "vmpl")),
        (Reason::LessPrivileged, "demanded", |it| condition(it, "vmpl")["equals"] = json!(1)),
        (Reason::LessPrivileged, "not demanded in another entry", |it| without_of(it, 1, "vmpl")),
        (Reason::Multithreading, "not demanded", |it| without(it, "smt-allowed")),
        (Reason::Multithreading, "the other way", |it| {
            condition(it, "smt-allowed")["equals"] = json!(true);
        }),
        (Reason::IdKey, "not demanded", |it| without_of(it, 1, "-idkeydigest")),
        (Reason::IdKey, "another", |it| {
            condition_of(it, 1, "-idkeydigest")["equals"] = json!("12".repeat(48));
        }),
        (Reason::AuthorKey, "not demanded", |it| without_of(it, 1, "-authorkeydigest")),
        (Reason::AuthorKey, "none", |it| {
            condition_of(it, 1, "-authorkeydigest")["equals"] = json!("00".repeat(48));
        }),
        (Reason::Role, "not demanded", |it| without(it, "keyfold.role")),
        (Reason::Role, "another", |it| condition(it, "keyfold.role")["equals"] = json!("channel")),
        (Reason::Config, "not demanded", |it| without(it, "keyfold.config")),
        (Reason::Config, "another", |it| {
            condition(it, "keyfold.config")["equals"] = json!("c1".repeat(32));
        }),
        (Reason::UnlistedWorkload, "another", |it| {
            condition(it, "launchmeasurement")["equals"] = json!("ad".repeat(48));
        }),
        (Reason::UnlistedWorkload, "one in another entry", |it| {
            condition_of(it, 1, "launchmeasurement")["equals"] = json!("ad".repeat(48));
        }),
        (Reason::AnyWorkload, "not demanded", |it| without(it, "launchmeasurement")),
        (Reason::Mutable, "mutable", |it| *it = kept(it, false)),
        (Reason::Mutable, "does not say", |it| {
            *it = kept(it, true);
            it.as_object_mut().unwrap().remove("immutable");
        }),
        (Reason::Mutable, "in a key", |it| *it = json!({"release_policy": kept(it, false)})),
    ]
}

fn container_policies() -> Vec<Row> {
    vec![
        (Reason::DebugGuest, "not demanded", |it| without(it, "is-debuggable")),
        (Reason::LessPrivileged, "not demanded", |it| without(it, "vmpl")),
        (Reason::Multithreading, "not demanded", |it| without(it, "smt-allowed")),
        (Reason::Multithreading, "the other way", |it| {
            condition(it, "smt-allowed")["equals"] = json!(false);
        }),
        (Reason::AttestationPolicy, "not demanded", |it| without(it, "policy-hash")),
        (Reason::AttestationPolicy, "another", |it| {
            condition(it, "policy-hash")["equals"] = json!("A".repeat(43));
        }),
        (Reason::AciWithoutHostData, "not demanded", |it| without(it, "hostdata")),
        (Reason::UnlistedWorkload, "another policy", |it| {
            condition(it, "hostdata")["equals"] = json!("78".repeat(32));
        }),
        (Reason::UnlistedWorkload, "a measurement instead", |it| {
            for claim in ["hostdata", "compliance-status", "headers.iss", "headers.feed"] {
                without(it, claim);
            }
            conditions(it, 0).retain(|condition| condition["anyOf"].is_null());
            let measurement = "x-ms-sevsnpvm-launchmeasurement";
            conditions(it, 0).push(json!({"claim": measurement, "equals": "ab".repeat(48)}));
        }),
        (Reason::AciUnendorsed, "any compliance", |it| without(it, "compliance-status")),
        (Reason::AciUnendorsed, "any issuer", |it| without(it, "headers.iss")),
        (Reason::AciUnendorsed, "another feed", |it| {
            condition(it, "headers.feed")["equals"] = json!("ConfAKS-AMD-UVM");
        }),
        (Reason::AciVersion, "any", |it| {
            conditions(it, 0).retain(|condition| condition["anyOf"].is_null());
        }),
        (Reason::AciVersion, "one lower", |it| {
            let versions = conditions(it, 0).last_mut().unwrap();
            versions["anyOf"][7]["equals"] = json!("103");
        }),
        (Reason::AciVersion, "another spelling", |it| {
            let versions = conditions(it, 0).last_mut().unwrap();
            versions["anyOf"][7]["equals"] = json!("0110");
        }),
        (Reason::AciVersion, "a range, which not every service evaluates", |it| {
            let last = conditions(it, 0).last_mut().unwrap();
            *last = json!({
                "claim": "x-ms-sevsnpvm-uvm-endorsement.x-ms-sevsnpvm-guestsvn-int",
                "greaterOrEquals": 104,
            });
        }),
    ]
}

/// Each change for one reason, and no other.
#[test]
fn what_releases_more_is_refused_with_the_reason() {
    let mut tested = BTreeSet::new();
    for (deployment, rows) in
        [(deployment(), image_policies()), (container(), container_policies())]
    {
        for (reason, what, change) in rows {
            let mut policy = made(&deployment);
            change(&mut policy);
            let verdict = check(&deployment, &policy);
            let found = reasons(&verdict);
            let once = what == "any instead of all" || found == [reason];
            assert!(found.contains(&reason) && once, "{reason:?} ({what}): {verdict:?}");
            assert!(verdict.findings.iter().all(|it| !it.detail.is_empty()));
            tested.insert(reason);
        }
    }
    assert_eq!(tested.len(), 17, "each reason has its negative: {tested:?}");
}

#[test]
fn findings_name_the_entry_and_what_is_there() {
    let deployment = deployment();
    let mut policy = made(&deployment);
    condition_of(&mut policy, 1, "keyfold.config")["equals"] = json!("c1".repeat(32));
    let verdict = check(&deployment, &policy);
    let [finding] = verdict.findings.as_slice() else { panic!("{verdict:?}") };
    assert_eq!(finding.entry, Some(2));
    let line = finding.to_string();
    assert!(line.starts_with("entry 2: x-ms-runtime.keyfold.config: expected equals"), "{line}");
    assert!(line.contains(&"c0".repeat(32)) && line.contains("found \"c1c1"), "{line}");
    // The workload of the wrong entry never gets the key.
    assert_eq!(verdict.unserved.len(), 1);
}

#[test]
fn what_is_no_policy_is_refused_as_such() {
    let deployment = deployment();
    let good = deployment.release_policy();
    let twice = r#""equals": true, "equals": false"#;
    for (what, text) in [
        ("not JSON", "{".to_owned()),
        ("another version", good.replace("1.0.0", "2.0.0")),
        ("an unknown member", good.replacen('{', "{\"x\": 1,", 1)),
        ("a member twice", good.replacen("\"equals\": false", twice, 1)),
        ("an unknown operator", good.replacen("\"equals\"", "\"matches\"", 1)),
        ("no operator", good.replacen("\"equals\": \"sevsnpvm\"", "\"equals\": null", 1)),
        ("a list as value", good.replacen("\"sevsnpvm\"", "[\"sevsnpvm\"]", 1)),
        ("an empty list", json!({"version": "1.0.0", "anyOf": []}).to_string()),
        ("an empty group", {
            json!({"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": []}]}).to_string()
        }),
        ("a condition and a group", {
            let both = json!({"claim": "a", "equals": 1, "anyOf": [{"claim": "b", "equals": 1}]});
            let entry = json!({"authority": ISSUER, "allOf": [both]});
            json!({"version": "1.0.0", "anyOf": [entry]}).to_string()
        }),
        ("too many ways", {
            let choice =
                json!({"anyOf": [{"claim": "a", "equals": 1}, {"claim": "a", "equals": 2}]});
            let entry = json!({"authority": ISSUER, "allOf": vec![choice; 40]});
            json!({"version": "1.0.0", "anyOf": [entry]}).to_string()
        }),
        ("one large choice after many small ones", {
            let choice = |ways: i32| {
                let ways = (0..ways).map(|way| json!({"claim": "a", "equals": way}));
                json!({"anyOf": ways.collect::<Vec<_>>()})
            };
            let mut choices = vec![choice(2); 12];
            choices.push(choice(7000));
            let entry = json!({"authority": ISSUER, "allOf": choices});
            json!({"version": "1.0.0", "anyOf": [entry]}).to_string()
        }),
        ("too many entries", {
            let all = json!([{"claim": "a", "equals": 1}]);
            let entry = json!({"authority": "https://a", "allOf": all});
            json!({"version": "1.0.0", "anyOf": vec![entry; 4097]}).to_string()
        }),
        ("more conditions than anybody reads", {
            let all = vec![json!({"claim": "a", "equals": 1}); 257];
            let entry = json!({"authority": ISSUER, "allOf": all});
            json!({"version": "1.0.0", "anyOf": [entry]}).to_string()
        }),
        ("another content", {
            let mut kept = kept(&made(&deployment), true);
            kept["contentType"] = json!("application/xml");
            kept.to_string()
        }),
        ("no base64url", json!({"data": "**", "immutable": true}).to_string()),
        ("an unknown member around it", {
            let mut kept = kept(&made(&deployment), true);
            kept["mutable"] = json!(true);
            kept.to_string()
        }),
    ] {
        let refused = deployment.check_release_policy(text.as_bytes());
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
}

/// One file is one document: what stands beside a key's policy could be read instead of it.
#[test]
fn a_key_with_another_document_in_it_is_refused() {
    let deployment = deployment();
    let policy = made(&deployment);
    let key = json!({"key": {"kid": "k"}, "release_policy": kept(&policy, true)});
    assert!(check(&deployment, &key).findings.is_empty());
    let other = kept(&policy, false);
    for (member, value) in [
        ("version", &policy["version"]),
        ("anyOf", &policy["anyOf"]),
        ("contentType", &other["contentType"]),
        ("data", &other["data"]),
        ("immutable", &other["immutable"]),
    ] {
        let mut two = key.clone();
        two[member] = value.clone();
        let refused = deployment.check_release_policy(two.to_string().as_bytes()).unwrap_err();
        let expected = format!("{member} beside release_policy");
        assert!(refused.to_string().contains(&expected), "{member}: {refused}");
    }
}
