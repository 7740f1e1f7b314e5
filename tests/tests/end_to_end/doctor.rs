//! `keyfold-host doctor`, as an operator runs it beside a host that serves.

use std::process::Command;

use keyfold_local::Deployment;
use serde_json::Value;

/// What it found.
pub(crate) struct Diagnosis {
    pub(crate) exit: i32,
    pub(crate) json: Value,
}

impl Diagnosis {
    /// The step that failed, and why.
    pub(crate) fn failed(&self) -> Option<(&str, &str)> {
        let failed = &self.json["failed"];
        Some((failed["step"].as_str()?, failed["what"].as_str()?))
    }

    /// The last entry of a step.
    pub(crate) fn step(&self, name: &str) -> &Value {
        let steps = self.json["steps"].as_array().expect("steps");
        steps.iter().rfind(|step| step["step"] == name).unwrap_or(&Value::Null)
    }

    /// Whether the certificates came from there, once at least.
    pub(crate) fn is_endorsed_by(&self, source: &str) -> bool {
        let steps = self.json["steps"].as_array().expect("steps");
        steps.iter().any(|step| step["step"] == "TCB" && step["endpoint"] == source)
    }

    /// Whether the root key came as far as the enclave.
    pub(crate) fn is_keyed(&self) -> bool {
        self.step("Unlock")["outcome"] == "ok"
    }
}

/// Runs it with these overrides of the configuration, and what the platform would set.
pub(crate) fn run(
    deployment: &Deployment, environment: &[(&str, &str)], arguments: &[&str],
) -> Diagnosis {
    let config = deployment.folder.join("host.toml");
    let mut command = Command::new(&deployment.binaries.host);
    command.arg("doctor").arg("--config").arg(config).args(arguments).arg("--json");
    let output = command.envs(environment.iter().copied()).output().expect("the doctor runs");
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert_no_secret(&said);
    let exit = output.status.code().expect("it ends by itself");
    let json =
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("no JSON: {said}{complained}"));
    Diagnosis { exit, json }
}

/// The same for a person.
pub(crate) fn screen(deployment: &Deployment, arguments: &[&str]) -> String {
    let config = deployment.folder.join("host.toml");
    let mut command = Command::new(&deployment.binaries.host);
    command.arg("doctor").arg("--config").arg(config).args(arguments);
    let said = text(&command.output().expect("the doctor runs").stdout);
    assert_no_secret(&said);
    said
}

/// Tokens are JSON in base64url, and signatures, keys and ciphertexts are long: no word may be either.
fn assert_no_secret(said: &str) {
    let in_words = |c: char| c.is_ascii_alphanumeric() || "-_+=".contains(c);
    for word in said.split(|c| !in_words(c)) {
        assert!(!word.starts_with("eyJ") && word.len() < 200, "{word} is in {said}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
