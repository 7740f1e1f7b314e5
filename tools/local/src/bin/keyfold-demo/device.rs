//! A device: a folder, and the `keyfold` command line run for it.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use keyfold_local::Deployment;
use serde_json::Value;

/// One of the person's devices.
pub(crate) struct Device {
    name: &'static str,
    cli: PathBuf,
    home: PathBuf,
    secrets: PathBuf,
    deployment: [String; 4],
}

impl Device {
    /// A device that knows nothing but where the deployment is and whom to believe.
    pub(crate) fn new(name: &'static str, deployment: &Deployment) -> Result<Self> {
        let secrets = deployment.folder.join(format!("{name}-secrets"));
        std::fs::create_dir_all(&secrets)?;
        std::fs::write(secrets.join("passphrase"), format!("{name} unlocks with this\n"))?;
        std::fs::write(secrets.join("pin"), "correct horse 7391\n")?;
        Ok(Self {
            name,
            cli: deployment.binaries.cli.clone(),
            home: deployment.folder.join(name),
            secrets,
            deployment: [
                "--deployment".into(),
                deployment.url.clone(),
                "--trust-root".into(),
                deployment.trust_root.display().to_string(),
            ],
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        command.arg("--home").arg(&self.home).args(["--as", "alice", "--json", "--no-input"]);
        command.arg("--passphrase-file").arg(self.secrets.join("passphrase"));
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command that must succeed; what it printed.
    pub(crate) fn run(&self, arguments: &[&str], stdin: Option<&Value>) -> Result<Value> {
        let output = self.output(arguments, stdin)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("keyfold {} on the {}: {}", arguments.join(" "), self.name, error.trim());
        }
        read(&output)
    }

    /// Runs a command that must fail; why it did.
    pub(crate) fn refused(&self, arguments: &[&str], stdin: Option<&Value>) -> Result<String> {
        let output = self.output(arguments, stdin)?;
        if output.status.success() {
            bail!("keyfold {} on the {} succeeded", arguments.join(" "), self.name);
        }
        let error: Value = serde_json::from_slice(&output.stderr)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(error["error"]["message"].as_str().unwrap_or_default().to_owned())
    }

    fn output(&self, arguments: &[&str], stdin: Option<&Value>) -> Result<Output> {
        let mut child = self.command(arguments).spawn().context("cannot start keyfold")?;
        let mut pipe = child.stdin.take().context("no standard input")?;
        if let Some(stdin) = stdin {
            pipe.write_all(stdin.to_string().as_bytes())?;
        }
        drop(pipe);
        Ok(child.wait_with_output()?)
    }

    /// Opens the account with this device as its first.
    pub(crate) fn enroll(&self) -> Result<Value> {
        let pin = self.secrets.join("pin");
        let pin = pin.display().to_string();
        let mut arguments = vec!["enroll", "--name", self.name, "--pin-file", &pin];
        arguments.extend(self.deployment.iter().map(String::as_str));
        self.run(&arguments, None)
    }

    /// Lets `new` in: shows it a code, and approves whoever entered it.
    pub(crate) fn approve(&self, new: &Self) -> Result<Value> {
        let mut approving = self.command(&["devices", "approve", "--yes"]).spawn()?;
        drop(approving.stdin.take());
        let told = BufReader::new(approving.stderr.take().context("no standard error")?);
        let mut code = None;
        let mut said = String::new();
        for line in told.lines() {
            let line = line?;
            said.push_str(&line);
            if let Ok(event) = serde_json::from_str::<Value>(&line)
                && let Some(found) = event["code"].as_str()
            {
                code = Some(found.to_owned());
                break;
            }
        }
        let code = code.with_context(|| format!("no code from devices approve: {said}"))?;
        let mut arguments = vec!["devices", "join", "--name", new.name];
        arguments.extend(new.deployment.iter().map(String::as_str));
        let mut joining = new.command(&arguments).spawn()?;
        joining.stdin.take().context("no standard input")?.write_all(code.as_bytes())?;
        let joined = joining.wait_with_output()?;
        let approved = approving.wait_with_output()?;
        if !joined.status.success() || !approved.status.success() {
            bail!(
                "approving the {}: {} {}",
                new.name,
                String::from_utf8_lossy(&joined.stderr),
                String::from_utf8_lossy(&approved.stderr)
            );
        }
        read(&joined)
    }
}

fn read(output: &Output) -> Result<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| format!("not one JSON object: {text}"))
}
