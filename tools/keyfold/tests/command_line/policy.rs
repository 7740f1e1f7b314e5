//! The way of a deployment through `keyfold policy`: described, looked at, signed by holders on
//! machines of their own, its release policy checked, its successor compared.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyfold_attestation_policy::statement::{SerialFloor, VerifiedStatement, verify_statement};
use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_attestation_policy::values::Timestamp;
use serde_json::{Value, json};

use super::{Desk, json_of, text};

/// A deployment as operators describe it.
const DEPLOYMENT: &str =
    include_str!("../../../../attestation-policy/tests/deployment/deployment.toml");

impl Desk {
    fn described() -> Self {
        let desk = Self::new();
        desk.trust_root();
        std::fs::write(desk.path("deployment.toml"), DEPLOYMENT).unwrap();
        desk
    }

    /// Runs `policy` and gives the object that it printed.
    fn policy(&self, arguments: &[&str]) -> Value {
        let out = self.run(&[&["policy"], arguments, &["--json"]].concat(), "");
        assert_eq!(out.status.code(), Some(0), "{arguments:?}: {}", text(&out.stderr));
        json_of(&out.stdout)
    }

    /// Runs `policy`, which reports on stdout and then fails: status, report, error.
    fn finds(&self, arguments: &[&str]) -> (i32, Value, Value) {
        let out = self.run(&[&["policy"], arguments, &["--json"]].concat(), "");
        let error = json_of(&out.stderr)["error"].clone();
        (out.status.code().unwrap(), json_of(&out.stdout), error)
    }

    fn verified(&self, file: &str) -> VerifiedStatement {
        let root = TrustRoot::from_json(&std::fs::read(self.path("root")).unwrap()).unwrap();
        let signed = std::fs::read(self.path(file)).unwrap();
        let now = Timestamp::from_rfc3339("2026-12-01T00:00:00Z").unwrap();
        verify_statement(&signed, &root, &SerialFloor::default(), now).unwrap()
    }
}

const SIGN: [&str; 6] =
    ["sign", "--deployment", "deployment.toml", "--trust-root", "root", "--out"];

#[test]
fn a_statement_is_signed_by_enough_keys_or_not_at_all() {
    let desk = Desk::described();
    #[cfg(unix)]
    assert_eq!(super::mode(&desk.path("a.key")), 0o600);

    let sign = |keys: &[&'static str]| [&["policy"], &SIGN[..], &["statement.json"], keys].concat();
    for too_few in [&["--key", "a.key"][..], &["--key", "a.key", "--key", "one"]] {
        let (exit, error) = desk.fails(&sign(too_few), "");
        assert_eq!((exit, &error["code"]), (2, &json!("policy")), "{too_few:?}");
        assert!(!desk.path("statement.json").exists());
    }
    let signed = desk.policy(&sign(&["--key", "a.key", "--key", "b.key"])[1..]);
    assert_eq!((&signed["serial"], &signed["complete"]), (&json!(12), &json!(true)));
    assert_eq!(desk.verified("statement.json").statement().name(), "keyfold-eu");

    // Keys are never overwritten.
    let before = std::fs::read(desk.path("a.key")).unwrap();
    let (exit, error) = desk.fails(&["policy", "key", "--out", "a.key"], "");
    assert_eq!((exit, &error["code"]), (4, &json!("file")));
    assert!(error["message"].as_str().unwrap().contains("not written over"), "{error}");
    assert_eq!(std::fs::read(desk.path("a.key")).unwrap(), before);
}

#[test]
fn a_key_that_clients_would_not_count_signs_nothing() {
    let desk = Desk::described();
    let sign = [&["policy"], &SIGN[..], &["out.json", "--key", "one", "--partial"]].concat();
    let (exit, error) = desk.fails(&sign, "");
    assert_eq!((exit, &error["code"]), (2, &json!("policy")));
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("one: ") && message.contains("is not in root"), "{message}");
    assert!(!desk.path("out.json").exists());
}

#[test]
fn a_file_that_is_another_is_named() {
    let desk = Desk::described();
    std::fs::write(desk.path("newer.toml"), DEPLOYMENT.replace("serial = 12", "serial = three"))
        .unwrap();
    let with = |key: &'static str, root: &'static str, deployment: &'static str| {
        let sign = ["policy", "sign", "--deployment", deployment, "--trust-root", root];
        [&sign[..], &["--key", key, "--partial", "--out", "out.json"]].concat()
    };
    for (arguments, named) in [
        (with("a.public", "root", "deployment.toml"), "a.public: "),
        (with("a.key", "a.public", "deployment.toml"), "a.public: "),
        (with("a.key", "root", "newer.toml"), "newer.toml: "),
        (vec!["policy", "show", "root"], "root: "),
        (vec!["policy", "diff", "deployment.toml", "newer.toml"], "newer.toml: "),
    ] {
        let (exit, error) = desk.fails(&arguments, "");
        assert_eq!(exit, 2, "{arguments:?}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(named), "{arguments:?}: {message}");
    }
    // The parser points at the place.
    let said = desk.run(&["policy", "show", "newer.toml"], "").stderr;
    let lines: Vec<&str> = text(&said).lines().collect();
    assert!(lines[0].ends_with("at line 3, column 10"), "{lines:?}");
    assert!(
        lines[2].ends_with("serial = three") && lines[3].trim_end().ends_with('^'),
        "{lines:?}"
    );
}

#[test]
fn a_key_is_listed_once() {
    let desk = Desk::described();
    let key = std::fs::read_to_string(desk.path("a.public")).unwrap();
    let root = ["policy", "trust-root", "--threshold", "2", "--out", "twice"];
    let (exit, error) = desk.fails(&[&root[..], &["--key", &key, "--key", &key]].concat(), "");
    assert_eq!(exit, 2);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&format!("found {key} twice")), "{message}");
    assert!(!desk.path("twice").exists());
}

#[test]
fn holders_sign_one_after_the_other_what_each_of_them_saw() {
    let desk = Desk::described();
    let first = [&SIGN[..], &["first.json", "--key", "a.key", "--partial"]].concat();
    let first = desk.policy(&first);
    assert_eq!(first["complete"], false);
    assert_eq!((&first["signatures"], &first["threshold"]), (&json!(1), &json!(2)));

    let second = [&SIGN[..], &["statement.json", "--key", "b.key", "--signed", "first.json"]];
    let second = second.concat();
    // The second holder's description says something else.
    let other = DEPLOYMENT.replace("keyfold.example", "keyfold.test");
    std::fs::write(desk.path("deployment.toml"), other).unwrap();
    let (exit, error) = desk.fails(&[&["policy"], &second[..]].concat(), "");
    assert_eq!((exit, &error["code"]), (2, &json!("policy")));
    assert!(error["message"].as_str().unwrap().contains("another statement"), "{error}");
    assert!(!desk.path("statement.json").exists());

    std::fs::write(desk.path("deployment.toml"), DEPLOYMENT).unwrap();
    let signed = desk.policy(&second);
    assert_eq!(signed["complete"], true);
    assert_eq!(signed["payload_sha256"], first["payload_sha256"]);
    assert_eq!(desk.verified("statement.json").statement().serial(), 12);
}

#[test]
fn a_description_begins_with_a_template_that_is_not_accepted_as_it_is() {
    let desk = Desk::new();
    for profile in ["snp-direct", "aci"] {
        let file = format!("{profile}.toml");
        let init = ["policy", "init", "--profile", profile, "--out", &file];
        assert_eq!(desk.run(&init, "").status.code(), Some(0));
        let written = std::fs::read_to_string(desk.path(&file)).unwrap();
        assert!(written.contains(&format!("profile = \"{profile}\"")));
        let (exit, error) = desk.fails(&["policy", "show", &file], "");
        assert_eq!((exit, &error["code"]), (2, &json!("policy")));
        // What was filled in is not written over.
        assert_eq!(desk.fails(&init, "").1["code"], "file");
    }
}

#[test]
fn what_a_signature_means_is_shown_before_and_after() {
    let desk = Desk::described();
    let page = desk.run(&["policy", "show", "deployment.toml"], "");
    let page = text(&page.stdout);
    assert!(page.contains("## Key release") && page.contains("NOT pinned"), "{page}");
    let shown = desk.policy(&["show", "deployment.toml"]);
    assert_eq!(shown["statement"]["workloads"][0]["profile"], "snp-direct");
    assert_eq!(shown["key_release"]["pin_attestation_policy"], false);
    assert_eq!(shown["sha256"].as_object().unwrap().len(), 3);

    desk.policy(&[&SIGN[..], &["statement.json", "--key", "a.key", "--key", "b.key"]].concat());
    let unchecked = desk.policy(&["show", "statement.json"]);
    assert_eq!(unchecked["signatures_checked"], false);
    assert_eq!(unchecked["signers"].as_array().unwrap().len(), 2);
    assert_eq!(unchecked["statement"], shown["statement"]);
    let page = desk.run(&["policy", "show", "statement.json"], "");
    assert!(text(&page.stdout).contains("Signatures: NOT CHECKED"));

    // Signed by others than the trust root says.
    desk.policy(&[
        "trust-root",
        "--threshold",
        "2",
        "--key",
        &"4".repeat(64),
        "--key",
        &"5".repeat(64),
        "--out",
        "other",
    ]);
    let show = ["policy", "show", "statement.json", "--trust-root", "other"];
    let (exit, error) = desk.fails(&show, "");
    assert_eq!((exit, &error["code"]), (7, &json!("statement-refused")));
}

#[test]
fn what_is_emitted_passes_the_check_and_what_releases_more_does_not() {
    let desk = Desk::described();
    let emitted = desk.policy(&["emit", "deployment.toml", "--out", "texts"]);
    assert_eq!(emitted["sha256"].as_object().unwrap().len(), 4);
    let policy = std::fs::read_to_string(desk.path("texts/release-policy.json")).unwrap();
    assert!(desk.path("texts/attestation-policy.txt").is_file());
    assert!(desk.path("texts/statement-payload.json").is_file());
    let page = std::fs::read_to_string(desk.path("texts/summary.md")).unwrap();
    assert!(page.contains(emitted["sha256"]["release-policy.json"].as_str().unwrap()));

    let check = |file: &'static str| ["check", "--deployment", "deployment.toml", "--policy", file];
    let passed = desk.policy(&check("texts/release-policy.json"));
    assert_eq!((&passed["passes"], &passed["immutable"]), (&json!(true), &Value::Null));

    let mut debug: Value = serde_json::from_str(&policy).unwrap();
    let conditions = debug["anyOf"][0]["allOf"].as_array_mut().unwrap();
    let claim = json!("x-ms-sevsnpvm-is-debuggable");
    let is_debuggable = conditions.iter_mut().find(|it| it["claim"] == claim).unwrap();
    is_debuggable["equals"] = true.into();
    std::fs::write(desk.path("debug.json"), debug.to_string()).unwrap();
    let (exit, report, error) = desk.finds(&check("debug.json"));
    assert_eq!((exit, &error["code"]), (12, &json!("release-policy-refused")));
    assert_eq!(report["findings"][0]["reason"], "debug-guest");
    assert_eq!(report["findings"].as_array().unwrap().len(), 1);
    // Each is told once.
    let out = desk.run(&[&["policy"], &check("debug.json")[..]].concat(), "");
    let both = [text(&out.stdout), text(&out.stderr)].concat();
    assert_eq!(both.matches("x-ms-sevsnpvm-is-debuggable").count(), 1, "{both}");
    assert!(text(&out.stderr).contains("1 finding"), "{both}");

    // As Managed HSM answers it.
    let key = json!({"release_policy": {
        "contentType": "application/json; charset=utf-8",
        "data": BASE64_URL_SAFE_NO_PAD.encode(&policy),
        "immutable": false,
    }});
    std::fs::write(desk.path("key.json"), key.to_string()).unwrap();
    let (exit, report, _) = desk.finds(&check("key.json"));
    assert_eq!((exit, &report["findings"][0]["reason"]), (12, &json!("mutable")));
    let accepted = [&check("key.json")[..], &["--accept-a-policy-that-can-be-replaced"]].concat();
    assert_eq!(desk.policy(&accepted)["passes"], true);
    // It accepts that, and nothing else.
    let accepted = [&check("debug.json")[..], &["--accept-a-policy-that-can-be-replaced"]].concat();
    assert_eq!(desk.finds(&accepted).0, 12);

    std::fs::write(desk.path("none.json"), "{}").unwrap();
    let none = [&["policy"], &check("none.json")[..]].concat();
    assert_eq!(desk.fails(&none, "").0, 2);
}

#[test]
fn a_successor_is_compared_in_words() {
    let desk = Desk::described();
    let same = desk.policy(&["diff", "deployment.toml", "deployment.toml"]);
    assert_eq!(same["changes"], json!([]));

    let newer = DEPLOYMENT.replace("serial = 12", "serial = 13").replace("snp = 24", "snp = 23");
    std::fs::write(desk.path("newer.toml"), newer).unwrap();
    let (exit, report, error) = desk.finds(&["diff", "deployment.toml", "newer.toml"]);
    assert_eq!((exit, &error["code"]), (13, &json!("different")));
    let effects: Vec<_> =
        report["changes"].as_array().unwrap().iter().map(|it| it["effect"].clone()).collect();
    assert_eq!(effects, ["other", "weaker"]);
    let lines = desk.run(&["policy", "diff", "deployment.toml", "newer.toml"], "");
    assert!(text(&lines.stdout).contains("WEAKER: workload measurement abab"));

    // A statement with a description: what is signed is compared.
    desk.policy(&[&SIGN[..], &["statement.json", "--key", "a.key", "--key", "b.key"]].concat());
    let (_, report, _) = desk.finds(&["diff", "statement.json", "newer.toml"]);
    assert_eq!(report["key_release_compared"], false);
    assert_eq!(report["changes"].as_array().unwrap().len(), 2);
}

#[cfg(feature = "development")]
#[test]
fn what_protects_nothing_is_said_by_every_command() {
    let desk = Desk::described();
    let (statement, _) = DEPLOYMENT.split_once("[[statement.workloads]]").unwrap();
    let (_, key_release) = DEPLOYMENT.split_once("[key_release]").unwrap();
    let workload = format!(
        "[[statement.workloads]]\nprofile = \"simulated\"\nark_sha256 = \"{}\"\nmeasurement = \"{}\"\n",
        "aa".repeat(32),
        "ee".repeat(48),
    );
    let text_of = format!("{statement}{workload}\n[key_release]{key_release}");
    std::fs::write(desk.path("deployment.toml"), text_of).unwrap();
    desk.policy(&["emit", "deployment.toml", "--out", "texts"]);
    let check = ["--deployment", "deployment.toml", "--policy", "texts/release-policy.json"];
    for arguments in [
        [&["policy", "check"], &check[..]].concat(),
        vec!["policy", "show", "deployment.toml"],
        vec!["policy", "emit", "deployment.toml", "--out", "texts"],
    ] {
        let said = desk.run(&arguments, "").stdout;
        let lines: Vec<&str> = text(&said).lines().collect();
        let all = lines.iter().all(|line| line.starts_with("[simulated] "));
        assert!(!lines.is_empty() && all, "{arguments:?}: {lines:?}");
    }
}
