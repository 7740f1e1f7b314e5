//! How to go on by hand with the deployment that the demo leaves running: lines to paste, and what a
//! site would send, as files.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Result;
use keyfold_local::Deployment;
use serde_json::{Value, json};

/// The site that the options are of, which nobody runs.
const RP_ID: &str = "example.org";

/// What is printed: lines for a shell, whose stores are folders of the demo.
pub(crate) struct ByHand {
    cli: String,
    folder: String,
    url: String,
    admin: String,
    control: String,
    /// What the machine says, where there is one.
    console: Option<String>,
}

impl ByHand {
    /// Writes the options into the deployment's folder.
    pub(crate) fn new(deployment: &Deployment) -> Result<Self> {
        let folder = &deployment.folder;
        fs::write(folder.join("create.json"), creation().to_string())?;
        fs::write(folder.join("sign-in.json"), request().to_string())?;
        Ok(Self {
            cli: quoted(&deployment.binaries.cli),
            folder: quoted(folder),
            url: deployment.url.clone(),
            admin: deployment.admin_url.clone(),
            control: deployment.endpoints.control.url.clone(),
            console: Some(deployment.machine_folder().join("console.log"))
                .filter(|console| console.is_file())
                .map(|console| quoted(&console)),
        })
    }
}

impl fmt::Display for ByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cli, folder, url, admin, control, console } = self;
        let console = console.as_ref().map(|path| format!("The machine's console: {path}\n"));
        let shell = |store: &str| {
            format!(
                "  export KEYFOLD_HOME={folder}/{store}\n  keyfold() {{ {cli} --as bob \"$@\"; }}"
            )
        };
        let deployment =
            format!("--deployment {url} \\\n    --trust-root {folder}/trust-root.json");
        let origin = format!("--origin https://{RP_ID}");
        write!(
            f,
            "Everything is still running. In another terminal, line by line:

{first}
  keyfold enroll {deployment}
  keyfold passkeys create {origin} \\
    < {folder}/create.json
  keyfold passkeys sign-in {origin} \\
    < {folder}/sign-in.json
  keyfold devices approve
  keyfold audit --verify

While `devices approve` waits, in a third terminal, which is another device:

{second}
  keyfold devices join {deployment}

And another one that no device approves, with the PIN:

{third}
  keyfold recover {deployment}

The host: {url}/v1/deployment
          {url}/openapi.json
For its operator: {admin}/readyz
                  {admin}/metrics
Make the outside world fail, and mend it:
  curl {control}/dev/fail -d '{{\"service\":\"ledger\",\"mode\":\"down\"}}'
  curl -X DELETE {control}/dev/fail
{console}Logs, databases and keys: {folder}

Ctrl-c stops everything.",
            console = console.unwrap_or_default(),
            first = shell("bob-laptop"),
            second = shell("bob-phone"),
            third = shell("bob-tablet"),
        )
    }
}

/// Options of a registration, as a site would send them.
fn creation() -> Value {
    json!({
        "rp": {"id": RP_ID, "name": "Example"},
        "user": {"id": "Ym9i", "name": "bob", "displayName": "Bob"},
        "challenge": "YW55IGNoYWxsZW5nZSBkb2Vz",
        "pubKeyCredParams": [
            {"type": "public-key", "alg": -7}, {"type": "public-key", "alg": -8},
        ],
    })
}

/// Options of a sign-in.
fn request() -> Value {
    json!({"rpId": RP_ID, "challenge": "YW5vdGhlciBjaGFsbGVuZ2U"})
}

/// One word for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_takes_the_lines_as_they_are() {
        let folder = "/tmp/it's a demo/$HOME";
        let by_hand = ByHand {
            cli: "printf '%s|'".into(),
            folder: quoted(Path::new(folder)),
            url: "http://127.0.0.1:1".into(),
            admin: "http://127.0.0.1:2".into(),
            control: "http://127.0.0.1:3".into(),
            console: Some(quoted(&Path::new(folder).join("machine/console.log"))),
        };
        let text = by_hand.to_string();
        let lines: Vec<&str> = text.lines().collect();
        let enroll = lines.iter().position(|line| line.contains("keyfold enroll")).unwrap();
        // The store and the command line, then enroll and its second line.
        let script = lines[enroll - 2..=enroll + 1].join("\n") + "\nprintf %s \"$KEYFOLD_HOME\"";
        let said = Command::new("sh").args(["-c", &script]).output().unwrap();
        let expected = format!(
            "--as|bob|enroll|--deployment|http://127.0.0.1:1|--trust-root|{folder}/trust-root.json|\
             {folder}/bob-laptop"
        );
        assert_eq!(String::from_utf8(said.stdout).unwrap(), expected);
        // Only what has a path in it may be longer than a terminal.
        let long = |line: &&&str| line.len() > 79 && !line.contains(folder);
        assert_eq!(lines.iter().find(long), None);
        // Each of the three devices has a store of its own, none the person's.
        assert_eq!(text.matches("export KEYFOLD_HOME=").count(), 3);
    }
}
