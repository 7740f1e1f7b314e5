//! The program as operators run it: what is wrong is told on the right stream, in the right form and
//! with the exit code that the guide lists, before anything is started.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A folder with the example's configuration and a broken one.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        std::fs::write(desk.path("host.toml"), keyfold_host::config::EXAMPLE).unwrap();
        std::fs::write(desk.path("broken.toml"), "[deployment]\nname = \n").unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyfold-host"));
        command.args(arguments).current_dir(self.0.path()).output().unwrap()
    }

    /// The doctor, which fails: exit code, what it says to a person, what it says to a program.
    fn doctor(&self, arguments: &[&str]) -> (i32, String, Value) {
        let plain = self.run(&[&["doctor"], arguments].concat());
        let json = self.run(&[&["doctor", "--json"], arguments].concat());
        assert_eq!(plain.status.code(), json.status.code(), "{arguments:?}");
        let object = serde_json::from_slice::<Value>(&json.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", text(&json.stdout)));
        let exit = json.status.code().unwrap();
        assert_eq!(object["exit_code"], exit, "{arguments:?}");
        assert!(plain.stdout.is_empty() && json.stderr.is_empty(), "{arguments:?}");
        (exit, text(&plain.stderr), object)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_doctor_says_what_it_was_asked_wrongly() {
    let desk = Desk::new();
    std::fs::write(desk.path("policy.json"), "no policy").unwrap();
    let config = ["--config", "host.toml"];
    for (arguments, said) in [
        (&["--enclave", "7"][..], "--enclave 7: the only [[enclave]] is number 0"),
        (&["--without-enclave", "--release-policy", "missing.json"], "missing.json"),
        (&["--without-enclave", "--release-policy", "policy.json"], "not JSON"),
    ] {
        let (exit, plain, json) = desk.doctor(&[&config[..], arguments].concat());
        assert_eq!(exit, 2, "{plain}");
        let what = json["failed"]["what"].as_str().unwrap();
        assert!(plain.contains(said) && what.contains(said), "{plain}{what}");
    }
}

#[test]
fn a_broken_configuration_is_named_in_both_forms() {
    let desk = Desk::new();
    let (exit, plain, json) = desk.doctor(&["--config", "broken.toml"]);
    assert_eq!((exit, &json["failed"]["step"]), (10, &"configuration".into()));
    let what = json["failed"]["what"].as_str().unwrap();
    assert!(plain.contains("broken.toml") && what.contains("broken.toml"), "{plain}{what}");
    let check = desk.run(&["config", "check", "--config", "broken.toml"]);
    assert!(text(&check.stderr).contains("broken.toml"), "{}", text(&check.stderr));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [&["openapi"][..], &["config", "example"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyfold-host"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    }
}
