//! A device: a folder, and the `keyfold` command line run for it as a person or a script would.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use keyfold_local::Deployment;
use serde_json::Value;

use crate::relying_party::ORIGIN;

/// What everybody enrolls with.
pub(crate) const PIN: &str = "correct horse 7391";

/// One of a person's devices.
#[derive(Clone)]
pub(crate) struct Device {
    /// What it is called.
    pub(crate) name: &'static str,
    person: &'static str,
    cli: PathBuf,
    home: PathBuf,
    passphrase: Option<PathBuf>,
    pin: PathBuf,
    deployment: [String; 4],
}

impl Device {
    /// A device that knows nothing but where the deployment is and whom to believe.
    pub(crate) fn new(
        person: &'static str, name: &'static str, deployment: &Deployment, trust_root: &Path,
    ) -> Self {
        let folder = deployment.folder.join(format!("{person}-{name}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let passphrase = secret(&folder.join("passphrase"), "opens this device only");
        let pin = secret(&folder.join("pin"), PIN);
        let trust_root = trust_root.display().to_string();
        let url = deployment.url.clone();
        Self {
            name,
            person,
            cli: deployment.binaries.cli.clone(),
            home: folder.join("home"),
            passphrase: Some(passphrase),
            pin,
            deployment: ["--deployment".into(), url, "--trust-root".into(), trust_root],
        }
    }

    /// The same device while nobody is there who knows its passphrase.
    pub(crate) fn unattended(&self) -> Self {
        Self { passphrase: None, ..self.clone() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        command.arg("--home").arg(&self.home).args(["--json", "--no-input"]);
        command.args(["--as", self.person]).args(arguments);
        if let Some(passphrase) = &self.passphrase {
            command.arg("--passphrase-file").arg(passphrase);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, arguments: &[&str], stdin: &str) -> Child {
        let mut child = self.command(arguments).spawn().expect("keyfold starts");
        let mut pipe = child.stdin.take().expect("a pipe");
        // A command that fails before it reads is told apart by its exit status.
        let _ = pipe.write_all(stdin.as_bytes());
        child
    }

    /// Runs a command to its end: exit status, standard output, standard error.
    pub(crate) fn run(&self, arguments: &[&str], stdin: &str) -> Output {
        self.start(arguments, stdin).wait_with_output().expect("keyfold ends")
    }

    /// Runs a command that must succeed; its result.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Value {
        self.feed(arguments, "")
    }

    fn feed(&self, arguments: &[&str], stdin: &str) -> Value {
        let output = self.run(arguments, stdin);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {arguments:?}: {error}", self.name);
        json(&output.stdout)
    }

    /// Runs a command that must fail in exactly this way; what it says.
    pub(crate) fn fails(&self, arguments: &[&str], exit: i32, code: &str) -> String {
        failure(&self.run(arguments, ""), &format!("{} {arguments:?}", self.name), exit, code)
    }

    /// Opens the account with this device as its first.
    pub(crate) fn enroll(&self) -> Value {
        self.ok(&self.enrolling().each_ref().map(String::as_str))
    }

    /// What [`Self::enroll`] runs.
    pub(crate) fn enrolling(&self) -> [String; 9] {
        let [url_flag, url, root_flag, root] = self.deployment.clone();
        let pin = self.pin.display().to_string();
        let words = ["enroll", "--name", self.name, "--pin-file", &pin].map(str::to_owned);
        let [enroll, name_flag, name, pin_flag, pin] = words;
        [enroll, name_flag, name, pin_flag, pin, url_flag, url, root_flag, root]
    }

    /// What recovering this device with `pin` runs.
    pub(crate) fn recovering(&self, pin: &str) -> Vec<String> {
        let file = self.pin_file(pin);
        let mut words =
            ["recover", "--name", self.name, "--pin-file", &file].map(str::to_owned).to_vec();
        words.extend(self.deployment.clone());
        words
    }

    /// Makes this device one of the account with its PIN.
    pub(crate) fn recover(&self, pin: &str) -> Value {
        self.ok(&words(&self.recovering(pin)))
    }

    /// A recovery that must fail in exactly this way; what it says.
    pub(crate) fn fails_to_recover(&self, pin: &str, exit: i32, code: &str) -> String {
        self.fails(&words(&self.recovering(pin)), exit, code)
    }

    /// Starts recovering.
    pub(crate) fn start_recovering(&self, pin: &str) -> Child {
        self.start(&words(&self.recovering(pin)), "")
    }

    /// A file with this PIN in it.
    pub(crate) fn pin_file(&self, pin: &str) -> String {
        secret(&self.pin.with_file_name("typed-pin"), pin).display().to_string()
    }

    /// Answers a relying party's creation options.
    pub(crate) fn create(&self, options: &Value) -> Value {
        self.feed(&["passkeys", "create", "--origin", ORIGIN], &options.to_string())
    }

    /// Answers a relying party's request options.
    pub(crate) fn sign_in(&self, options: &Value) -> Value {
        self.feed(&["passkeys", "sign-in", "--origin", ORIGIN], &options.to_string())
    }

    /// Runs `create` or `sign-in` from this origin.
    pub(crate) fn ceremony(&self, what: &str, origin: &str, options: &Value) -> Output {
        self.run(&["passkeys", what, "--origin", origin], &options.to_string())
    }

    /// Somebody else at this device.
    pub(crate) fn in_hands_of(&self, person: &'static str) -> Self {
        Self { person, ..self.clone() }
    }

    /// Starts approving whoever enters the code that comes back.
    pub(crate) fn approve(&self) -> Approval {
        self.approving(&["devices", "approve", "--yes"])
    }

    /// The same where nobody agrees.
    pub(crate) fn decline(&self) -> Approval {
        self.approving(&["devices", "approve"])
    }

    fn approving(&self, arguments: &[&str]) -> Approval {
        let mut child = self.start(arguments, "");
        let mut told = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        told.read_line(&mut line).expect("a line");
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        let code = event["code"].as_str().unwrap_or_else(|| panic!("no code: {line}")).to_owned();
        Approval { code, child, told }
    }

    /// Starts joining with a code.
    pub(crate) fn join(&self, code: &str) -> Child {
        let mut arguments = vec!["devices", "join", "--name", self.name];
        arguments.extend(self.deployment.iter().map(String::as_str));
        self.start(&arguments, code)
    }

    /// Has `trusted` approve this device.
    pub(crate) fn join_through(&self, trusted: &Self) -> Value {
        let approval = trusted.approve();
        let joined = self.join(&approval.code).wait_with_output().expect("keyfold ends");
        let error = String::from_utf8_lossy(&joined.stderr);
        assert!(joined.status.success(), "{} joining: {error}", self.name);
        approval.done();
        json(&joined.stdout)
    }
}

/// A trusted device that waits for the one to approve; killed when dropped.
pub(crate) struct Approval {
    /// What the new device enters.
    pub(crate) code: String,
    child: Child,
    told: BufReader<ChildStderr>,
}

impl Approval {
    /// Whether nobody has come yet.
    pub(crate) fn is_waiting(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }

    /// Waits until it is done; the account's devices.
    pub(crate) fn done(mut self) -> Value {
        let mut rest = String::new();
        while self.told.read_line(&mut rest).expect("a line") > 0 {}
        let mut result = String::new();
        let mut out = self.child.stdout.take().expect("a pipe");
        std::io::Read::read_to_string(&mut out, &mut result).expect("its result");
        let status = self.child.wait().expect("a status");
        assert!(status.success(), "approving: {rest}");
        json(result.as_bytes())
    }
}

impl Drop for Approval {
    fn drop(&mut self) {
        // Gone already, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// That a command failed in exactly this way; what it says.
pub(crate) fn failure(output: &Output, what: &str, exit: i32, code: &str) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{what}: {error}");
    // Events may come before the failure, one object per line.
    let error = json(error.lines().last().unwrap_or_default().as_bytes());
    assert_eq!(error["error"]["code"], code, "{what}: {error}");
    error["error"]["message"].as_str().unwrap_or_default().to_owned()
}

/// Arguments as commands take them.
pub(crate) fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// The one JSON object that was printed.
pub(crate) fn json(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("not one JSON object: {text}"))
}

fn secret(path: &Path, content: &str) -> PathBuf {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| writeln!(file, "{content}")).expect("a file for the owner alone");
    path.to_owned()
}
