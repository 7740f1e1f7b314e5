//! A device: a folder, and the `keyfold` command line run for it.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use keyfold_local::Deployment;
use serde_json::Value;

/// The PIN that the account is opened with.
pub(crate) const PIN: &str = "correct horse 7391";

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

    /// Runs a command that must fail; the error: "code", "message" and what more it tells.
    pub(crate) fn refused(&self, arguments: &[&str], stdin: Option<&Value>) -> Result<Value> {
        let output = self.output(arguments, stdin)?;
        if output.status.success() {
            bail!("keyfold {} on the {} succeeded", arguments.join(" "), self.name);
        }
        // What happened on the way comes before the failure, one object per line.
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        let error: Value =
            serde_json::from_str(last).with_context(|| format!("not JSON: {said}"))?;
        Ok(error["error"].clone())
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
        let arguments = self.with_pin("enroll", PIN)?;
        self.run(&words(&arguments), None)
    }

    /// Gets into the account with its PIN.
    pub(crate) fn recover(&self, pin: &str) -> Result<Value> {
        let arguments = self.with_pin("recover", pin)?;
        self.run(&words(&arguments), None)
    }

    /// A recovery that must fail; as [`Self::refused`].
    pub(crate) fn recovery_refused(&self, pin: &str) -> Result<Value> {
        let arguments = self.with_pin("recover", pin)?;
        self.refused(&words(&arguments), None)
    }

    /// Sets a new PIN.
    pub(crate) fn change_pin(&self, pin: &str) -> Result<Value> {
        let file = self.typed(pin)?;
        self.run(&["pin", "change", "--pin-file", &file], None)
    }

    fn with_pin(&self, command: &str, pin: &str) -> Result<Vec<String>> {
        let file = self.typed(pin)?;
        let words = [command, "--name", self.name, "--pin-file", &file].map(str::to_owned);
        Ok([&words[..], &self.deployment].concat())
    }

    /// A file with the PIN, as a person would type it.
    fn typed(&self, pin: &str) -> Result<String> {
        let file = self.secrets.join("pin");
        std::fs::write(&file, format!("{pin}\n"))?;
        Ok(file.display().to_string())
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

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn read(output: &Output) -> Result<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| format!("not one JSON object: {text}"))
}
