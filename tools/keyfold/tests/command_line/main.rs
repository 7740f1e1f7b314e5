//! The built program, run as scripts run it: exit statuses, JSON on the right stream, file modes,
//! and what is refused before the network is asked for anything.

mod policy;

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
    for arguments in [
        (&["enroll", "--help"][..], "more than ten guesses"),
        (&["recover", "--help"], "one of ten tries"),
        (&["pin", "change", "--help"], "Lifts a lockout"),
        (&["account", "delete", "--help"], "for good"),
        (&["devices", "approve", "--help"], "fingerprint"),
        (&["passkeys", "create", "--help"], "--origin https://example.org"),
        (&["passkeys", "sign-in", "--help"], "--origin https://example.org"),
        (&["passkeys", "delete", "--help"], "all devices"),
        (&["status", "--help"], "tries of the PIN that are left"),
        (&["audit", "--help"], "--verify"),
        (&["doctor", "--help"], "say what to do"),
        (&["policy", "--help"], "who signs for it"),
        (&["policy", "sign", "--help"], "--key"),
        (&["policy", "check", "--help"], "Exit status 12"),
    ] {
        let (arguments, taught) = arguments;
        let out = desk.run(arguments, "");
        assert_eq!(out.status.code(), Some(0));
        let out = text(&out.stdout);
        assert!(out.contains("Usage:") && out.contains(taught), "{arguments:?}: {out}");
    }
    let long = desk.run(&["--help"], "");
    for promised in [
        "Exit statuses:",
        "10 wrong PIN",
        "11 recovery is locked",
        "12 policy check",
        "keyfold doctor",
        "keyfold enroll --deployment",
        "keyfold recover --deployment",
        "keyfold pin change",
    ] {
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
        &["pin", "change", "--pin-file", "pin"],
        &["account", "delete", "--yes"],
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

    let says = |command: &str, options: &str| {
        let arguments = ["passkeys", command, "--origin", "https://example.org"];
        let (exit, error) = desk.fails(&arguments, options);
        assert_eq!((exit, &error["code"]), (2, &json!("options-malformed")), "{options}");
        error["message"].as_str().unwrap().to_owned()
    };
    let request = json!({"challenge": "AAECAwQFBgcICQoLDA0ODw"}).to_string();
    for (command, options, said) in [
        ("create", "", "no options on stdin"),
        ("sign-in", " \n", "no options on stdin"),
        ("create", "[]", "expected a JSON object"),
        ("create", &request, "found those of a sign-in"),
        ("sign-in", &good, "found those of a registration"),
    ] {
        let message = says(command, options);
        assert!(message.contains(said), "{command} {options:?}: {message}");
    }
}

#[cfg(unix)]
#[test]
fn a_deployment_that_does_not_answer_leaves_nothing_behind() {
    let desk = Desk::new();
    desk.trust_root();
    // Nobody listens on the discard port.
    let enroll = ["enroll", "--deployment", "https://127.0.0.1:9", "--trust-root", "root"];
    let secrets = ["--passphrase-file", "passphrase", "--pin-file", "pin"];
    let (exit, error) = desk.fails(&[&enroll[..], &secrets].concat(), "");
    assert_eq!((exit, &error["code"]), (5, &json!("unreachable")));

    let home = desk.path("home");
    assert_eq!(mode(&home), 0o700);
    // What was never verified is not remembered.
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
}

#[test]
fn a_name_that_does_not_fit_is_refused_before_anything_else() {
    let desk = Desk::new();
    let long = "n".repeat(65);
    for command in [&["enroll"][..], &["recover"], &["devices", "join"]] {
        for (name, said) in [(long.as_str(), "longer than 64 bytes"), ("", "a device needs a name")]
        {
            let (exit, error) = desk.fails(&[command, &["--name", name]].concat(), "");
            assert_eq!((exit, &error["code"]), (2, &json!("usage")), "{command:?}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(said), "{command:?}: {message}");
        }
    }
}

#[test]
fn help_fits_the_terminal_and_tells_options_of_every_command_apart() {
    let desk = Desk::new();
    let help = |columns: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyfold"));
        let out = command.args(["recover", "--help"]).env("COLUMNS", columns).output().unwrap();
        text(&out.stdout).to_owned()
    };
    let (narrow, wide) = (help("60"), help("100"));
    let (own, every) = narrow.split_once("Options of every command:").unwrap();
    assert!(own.contains("--pin-file") && !own.contains("--no-input"), "{narrow}");
    assert!(every.contains("--no-input") && every.contains("--home"), "{narrow}");
    assert!(narrow.lines().count() > wide.lines().count());
    // Nor are they in the way of a command's own.
    assert!(text(&desk.run(&["--help"], "").stdout).contains("Options of every command:"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyfold"))
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), ""));
}

#[test]
fn secrets_that_nobody_can_be_asked_for_are_a_failure() {
    let desk = Desk::new();
    desk.trust_root();
    for command in ["enroll", "recover"] {
        let new = [command, "--deployment", "https://127.0.0.1:9", "--trust-root", "root"];
        let (exit, error) = desk.fails(&new, "");
        assert_eq!((exit, &error["code"]), (4, &json!("no-passphrase")), "{command}");
        let (exit, error) = desk.fails(&[command], "");
        assert_eq!((exit, &error["code"]), (2, &json!("usage")), "{command}");
    }
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
    assert!(table.starts_with("CHECK") && table.contains("keyfold devices join"), "{table}");
    assert!(!table.contains('\x1b'), "colours outside a terminal");
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
