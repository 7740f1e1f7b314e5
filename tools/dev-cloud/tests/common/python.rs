//! The tests' second opinions are Python packages, in a virtual environment made once under the target directory.

use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A virtual environment with these packages and what they need.
pub struct Environment {
    /// Its directory's name.
    pub name: &'static str,
    pub packages: &'static [&'static str],
}

/// Runs a script of the tests' folder: JSON in, JSON out.
pub fn ask(environment: &Environment, script: &str, request: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let mut python = Command::new(environment.open().join("bin/python"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let request = serde_json::to_vec(request).unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&request).unwrap());
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "the script failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

impl Environment {
    /// Made by whichever test comes first; the others wait.
    fn open(&self) -> PathBuf {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let lock = File::create(target.join(format!("{}-venv.lock", self.name))).unwrap();
        lock.lock().unwrap();
        let venv = target.join(format!("{}-venv", self.name));
        let complete = venv.join("complete");
        if !complete.exists() {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
            let mut pip = Command::new(venv.join("bin/pip"));
            run(pip
                .args(["install", "--quiet", "--disable-pip-version-check"])
                .args(self.packages));
            std::fs::write(complete, self.packages.join("\n")).unwrap();
        }
        venv
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?} ended with {status}");
}
