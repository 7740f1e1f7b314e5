//! The built program, run as scripts run it: exit statuses, JSON on the right stream, file modes,
//! and what is refused before the network is asked for anything.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const PASSPHRASE: &str = "correct horse battery staple";

/// A directory to run in, with a passphrase, a PIN and a trust root.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.secret("passphrase", PASSPHRASE);
        desk.secret("pin", "593021");
        for name in ["one", "two"] {
            assert_eq!(desk.run(&["policy", "key", "--out", name], "").status.code(), Some(0));
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn secret(&self, name: &str, content: &str) {
        let mut file = tempfile::NamedTempFile::new_in(self.0.path()).unwrap();
        writeln!(file, "{content}").unwrap();
        file.persist(self.path(name)).unwrap();
    }

    /// The public half of a key made by `policy key`, in a trust root of both.
    fn trust_root(&self) {
        let public = |name: &str| {
            let file = self.path(&format!("{name}.public"));
            let out = self.run(&["policy", "key", "--out", &format!("{name}.key"), "--json"], "");
            let key = json_of(&out.stdout)["key"].as_str().unwrap().to_owned();
            std::fs::write(file, &key).unwrap();
            key
        };
        let (a, b) = (public("a"), public("b"));
        let arguments =
            ["policy", "trust-root", "--threshold", "2", "--key", &a, "--key", &b, "--out", "root"];
        assert_eq!(self.run(&arguments, "").status.code(), Some(0));
    }

    fn run(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyfold"))
            .args(arguments)
            .arg("--no-input")
            .current_dir(self.0.path())
            .env("KEYFOLD_HOME", self.path("home"))
            .env_remove("KEYFOLD_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may be done before it has read anything.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs with `--json`; gives exit status and the error object, with nothing on stdout.
    fn fails(&self, arguments: &[&str], stdin: &str) -> (i32, Value) {
        let out = self.run(&[arguments, &["--json"]].concat(), stdin);
        assert!(out.stdout.is_empty(), "{arguments:?}: {}", text(&out.stdout));
        let error = json_of(&out.stderr)["error"].clone();
        let exit = out.status.code().unwrap();
        assert_eq!(error["exit"], exit, "{arguments:?}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{arguments:?}");
        (exit, error)
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {:?}", text(bytes)))
}

fn options() -> Value {
    json!({
        "rp": {"id": "example.org", "name": "Example"},
        "user": {"id": "AQID", "name": "ana", "displayName": "Ana"},
        "challenge": "AAECAwQFBgcICQoLDA0ODw",
        "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
    })
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn help_teaches_and_is_no_failure() {
    let desk = Desk::new();
    for arguments in [&["--help"][..], &["enroll", "--help"], &["devices", "approve", "--help"]] {
        let out = desk.run(arguments, "");
        assert_eq!(out.status.code(), Some(0));
        assert!(text(&out.stdout).contains("Usage:"), "{arguments:?}");
    }
    let long = desk.run(&["--help"], "");
    for promised in ["Exit statuses:", "keyfold doctor", "keyfold enroll --deployment"] {
        assert!(text(&long.stdout).contains(promised), "{promised}");
    }
}

#[test]
fn wrong_arguments_are_usage_failures_in_both_forms() {
    let desk = Desk::new();
    for arguments in [
        &["frobnicate"][..],
        &["passkeys", "create"],
        &["status", "--passphrase", "x"],
        &["login", "x"],
    ] {
        let out = desk.run(arguments, "");
        assert_eq!(out.status.code(), Some(2), "{arguments:?}");
        assert!(text(&out.stderr).starts_with("error: "), "{arguments:?}");
        let (exit, error) = desk.fails(arguments, "");
        assert_eq!((exit, &error["code"]), (2, &json!("usage")), "{arguments:?}");
    }
}

#[test]
fn commands_of_a_device_that_is_none_say_so() {
    let desk = Desk::new();
    for arguments in [
        &["login"][..],
        &["status"],
        &["sync"],
        &["audit"],
        &["anchor"],
        &["devices", "list"],
        &["devices", "approve"],
        &["devices", "revoke", "phone"],
        &["passkeys", "list"],
        &["passkeys", "list", "--offline"],
        &["passkeys", "rename", "AQ", "--name", "x"],
        &["passkeys", "delete", "AQ"],
    ] {
        let (exit, error) = desk.fails(arguments, "");
        assert_eq!((exit, &error["code"]), (4, &json!("not-registered")), "{arguments:?}");
    }
}

#[test]
fn options_and_origin_are_judged_before_anything_else() {
    let desk = Desk::new();
    let create = |origin: &str, options: &str| {
        let (exit, error) = desk.fails(&["passkeys", "create", "--origin", origin], options);
        (exit, error["code"].clone(), error["exception"].clone())
    };
    let good = options().to_string();
    let mut key = options();
    key["authenticatorSelection"] = json!({"authenticatorAttachment": "cross-platform"});
    for (origin, options, exit, code, exception) in [
        ("https://evil-example.org", &*good, 9, "origin-refused", "SecurityError"),
        ("http://example.org", &good, 9, "origin-refused", "SecurityError"),
        ("https://example.org", "{", 2, "options-malformed", "TypeError"),
        ("https://example.org", "", 2, "options-malformed", "TypeError"),
        ("https://example.org", &key.to_string(), 9, "security-key-wanted", "NotAllowedError"),
    ] {
        assert_eq!(create(origin, options), (exit, json!(code), json!(exception)), "{origin}");
    }
    // Nothing wrong with these; there is just no account yet.
    for options in [options(), json!({"publicKey": options()})] {
        let found = create("https://login.example.org:8443", &options.to_string());
        assert_eq!(found.1, json!("not-registered"));
    }
    let request = r#"{"challenge":"AA","rpId":"co.uk"}"#;
    let arguments = ["passkeys", "sign-in", "--origin", "https://example.co.uk"];
    assert_eq!(desk.fails(&arguments, request).1["code"], "origin-refused");
}

#[cfg(unix)]
#[test]
fn a_deployment_that_does_not_answer_leaves_keys_that_are_the_owners_alone() {
    let desk = Desk::new();
    desk.trust_root();
    // Nobody listens on the discard port.
    let enroll = ["enroll", "--deployment", "https://127.0.0.1:9", "--trust-root", "root"];
    let secrets = ["--passphrase-file", "passphrase", "--pin-file", "pin"];
    let (exit, error) = desk.fails(&[&enroll[..], &secrets].concat(), "");
    assert_eq!((exit, &error["code"]), (5, &json!("unreachable")));

    let home = desk.path("home");
    assert_eq!(mode(&home), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&home).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        let content = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert!(!content.contains(PASSPHRASE) && !content.contains("593021"));
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    // What was never verified is not remembered.
    assert_eq!(names, ["lock", "presence.key", "uv.key"]);
}

#[test]
fn secrets_that_nobody_can_be_asked_for_are_a_failure() {
    let desk = Desk::new();
    desk.trust_root();
    let enroll = ["enroll", "--deployment", "https://127.0.0.1:9", "--trust-root", "root"];
    let (exit, error) = desk.fails(&enroll, "");
    assert_eq!((exit, &error["code"]), (4, &json!("no-passphrase")));
    let (exit, error) = desk.fails(&["enroll"], "");
    assert_eq!((exit, &error["code"]), (2, &json!("usage")));
    let join = ["devices", "join", "--deployment", "https://127.0.0.1:9", "--trust-root", "root"];
    for code in ["", "01234-56789-ABCDE-FGH9C\n", "hello\n"] {
        let (exit, error) = desk.fails(&join, code);
        assert_eq!((exit, &error["code"]), (2, &json!("pairing-code")), "{code:?}");
    }
}

#[cfg(unix)]
#[test]
fn what_others_can_read_is_told_or_refused() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    desk.trust_root();
    let open = |path: PathBuf, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let enroll = ["enroll", "--deployment", "https://127.0.0.1:9", "--trust-root", "root"];
    let enroll = [&enroll[..], &["--passphrase-file", "passphrase"]].concat();
    for (mode, told) in [(0o644, true), (0o600, false)] {
        open(desk.path("passphrase"), mode);
        let said = desk.run(&enroll, "").stderr;
        assert_eq!(text(&said).contains("can be read by others"), told, "{mode:o}");
    }
    std::fs::remove_dir_all(desk.path("home")).unwrap();
    std::fs::create_dir_all(desk.path("home")).unwrap();
    open(desk.path("home"), 0o755);
    let (exit, error) = desk.fails(&enroll, "");
    assert_eq!((exit, &error["code"]), (4, &json!("permissions")));
    assert!(error["message"].as_str().unwrap().contains("chmod 700"));
}

#[test]
fn doctor_says_which_step_fails_and_tries_nothing_behind_it() {
    let desk = Desk::new();
    let out = desk.run(&["doctor", "--json"], "");
    assert_eq!(out.status.code(), Some(1));
    let report = json_of(&out.stdout);
    assert_eq!(report["healthy"], false);
    let results: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["result"].as_str().unwrap())
        .collect();
    assert_eq!(results[0], "fail");
    assert!(results.len() > 10 && results[1..].iter().all(|result| *result == "not tried"));
    assert_eq!(json_of(&out.stderr)["error"]["code"], "unhealthy");

    let out = desk.run(&["doctor"], "");
    let table = text(&out.stdout);
    assert!(table.starts_with("CHECK") && table.contains("enroll it"), "{table}");
    assert!(!table.contains('\x1b'), "colours outside a terminal");
}

/// A deployment as operators describe it.
const DEPLOYMENT: &str = r#"
[statement]
name = "keyfold-eu"
serial = 3
issued = "2026-11-22T00:00:00Z"
expires = "2027-02-20T00:00:00Z"
url = "https://keyfold.example"
config = "1111111111111111111111111111111111111111111111111111111111111111"
root = "2222222222222222222222222222222222222222222222222222222222222222"

[statement.identity]
issuer = "https://login.example/v2.0"
client_id = "00000000-0000-0000-0000-000000000000"
audience = "api://keyfold"

[[statement.workloads]]
profile = "snp-direct"
measurement = "MEASUREMENT"
policy_required = []
policy_forbidden = ["smt-allowed"]
platform_required = ["alias-check-complete"]
platform_forbidden = []
minimum_tcb = [
    { product = "Milan", tcb = { bootloader = 4, tee = 0, snp = 24, microcode = 219 } },
]

[key_release]
authority = "https://keyfold.weu.attest.azure.net"
"#;

#[test]
fn a_statement_is_signed_by_enough_keys_or_not_at_all() {
    let desk = Desk::new();
    desk.trust_root();
    let description = DEPLOYMENT.replace("MEASUREMENT", &"33".repeat(48));
    std::fs::write(desk.path("deployment.toml"), description).unwrap();
    #[cfg(unix)]
    assert_eq!(mode(&desk.path("a.key")), 0o600);

    let statement = ["policy", "statement", "--deployment", "deployment.toml"];
    let rest = ["--trust-root", "root", "--out", "statement.json"];
    let sign = |keys: &[&'static str]| [&statement[..], keys, &rest].concat();
    for too_few in [&["--key", "a.key"][..], &["--key", "a.key", "--key", "one"]] {
        let (exit, error) = desk.fails(&sign(too_few), "");
        assert_eq!((exit, &error["code"]), (2, &json!("policy")), "{too_few:?}");
        assert!(!desk.path("statement.json").exists());
    }
    let signed = [&sign(&["--key", "a.key", "--key", "b.key"])[..], &["--json"]].concat();
    let out = desk.run(&signed, "");
    assert_eq!(json_of(&out.stdout)["serial"], 3, "{}", text(&out.stderr));

    use keyfold_attestation_policy::statement::{SerialFloor, verify_statement};
    use keyfold_attestation_policy::trust_root::TrustRoot;
    use keyfold_attestation_policy::values::Timestamp;
    let root = TrustRoot::from_json(&std::fs::read(desk.path("root")).unwrap()).unwrap();
    let signed = std::fs::read(desk.path("statement.json")).unwrap();
    let now = Timestamp::from_rfc3339("2026-12-01T00:00:00Z").unwrap();
    let verified = verify_statement(&signed, &root, &SerialFloor::default(), now).unwrap();
    assert_eq!(verified.statement().name(), "keyfold-eu");

    // Keys are never overwritten.
    assert_eq!(desk.fails(&["policy", "key", "--out", "a.key"], "").1["code"], "policy");
}

#[test]
fn the_demo_is_a_program_of_its_own() {
    let desk = Desk::new();
    // Away from what is built beside it.
    let alone = desk.path("keyfold");
    std::fs::copy(env!("CARGO_BIN_EXE_keyfold"), &alone).unwrap();
    let output = Command::new(&alone).args(["--json", "demo", "--keep"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let error = &json_of(&output.stderr)["error"];
    assert_eq!(error["code"], "demo-missing");
    assert!(error["message"].as_str().unwrap().contains("cargo xtask demo"));
}
