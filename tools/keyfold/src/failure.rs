//! What went wrong: one code, one exit status, one sentence on what to do.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use keyfold_client::Error;
use keyfold_client::deployment::DeploymentError;
use keyfold_client::error::Problem;
use keyfold_client::identity::IdentityError;
use keyfold_client::pairing::PairingError;
use keyfold_client::store::StoreError;
use keyfold_client::webauthn::WebAuthnError;
use keyfold_protocol::client::Refusal;
use serde_json::{Value, json};

use crate::output::{Output, passkey_json, printable, printable_lines};

/// Exit statuses, as the help lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// None of the others.
    Failed = 1,
    /// The command line, or an input, is not what it should be.
    Usage = 2,
    /// The person said no, or has to choose.
    Person = 3,
    /// This device: files, keys, passphrase, not enrolled.
    Device = 4,
    /// Network or service: later again.
    Unavailable = 5,
    /// Signing in.
    SignIn = 6,
    /// The deployment is not what it should be; nothing was sent.
    Deployment = 7,
    /// The service showed another past, or withheld something.
    Alarm = 8,
    /// Refused by WebAuthn's rules, the enclave or the host.
    Refused = 9,
    /// Not the PIN; tries are left.
    WrongPin = 10,
    /// No tries are left.
    Locked = 11,
    /// A release policy would release the root key to what the deployment does not accept.
    ReleasePolicy = 12,
    /// Two deployments or statements are not the same.
    Different = 13,
}

/// A failure on its way to the person.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    code: String,
    message: String,
    /// Further members of the JSON form.
    details: Value,
    /// The message is about a file of this machine, and its lines stay lines. What a service says
    /// is one.
    has_lines: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.into(),
            message: message.into(),
            details: json!({}),
            has_lines: false,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(path: &Path, error: &io::Error) -> Self {
        let do_this = match error.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::AlreadyExists => "it is not written over; name another",
            io::ErrorKind::PermissionDenied => "check who may read and write it",
            io::ErrorKind::StorageFull => "free some space and try again",
            _ => "check the file and its disk",
        };
        Self::new(Exit::Device, "file", format!("{}: {error}; {do_this}", path.display()))
    }

    /// A file whose content is not what it should be. Parsers point at the place over several lines.
    pub(crate) fn content(code: &str, path: &Path, error: impl fmt::Display) -> Self {
        let error = error.to_string();
        let message = format!("{}: {}", path.display(), error.trim_end());
        Self { has_lines: true, ..Self::new(Exit::Usage, code, message) }
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details[name] = value.into();
        self
    }

    /// What the host's operator asks for.
    fn of_request(self, problem: &Problem) -> Self {
        match &problem.request_id {
            Some(id) => self.with("request_id", id.as_str()),
            None => self,
        }
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// Prints to stderr and gives the exit status.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        Output::new(json).failure(&self.to_json(), &self.to_text());
        ExitCode::from(self.exit as u8)
    }

    fn to_text(&self) -> String {
        let printable_message = if self.has_lines { printable_lines } else { printable };
        let mut text = printable_message(&self.message);
        for candidate in self.details["candidates"].as_array().into_iter().flatten() {
            let member = |name: &str| printable(candidate[name].as_str().unwrap_or_default());
            text += &format!("\n  --credential {}  {}", member("credential"), member("name"));
        }
        text
    }

    fn to_json(&self) -> Value {
        let mut error = self.details.clone();
        error["code"] = self.code.clone().into();
        error["message"] = self.message.clone().into();
        error["exit"] = (self.exit as u8).into();
        json!({"error": error})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, code) = classify(&error);
        let failure = Self::new(exit, &code, error.to_string());
        match &error {
            Error::NotRegistered => Self { message: NOT_REGISTERED.into(), ..failure },
            Error::Host(problem) => failure.of_request(problem),
            Error::Refused(Refusal::WrongPin(left)) => failure.with("tries_left", *left),
            Error::Refused(Refusal::Locked) => failure.with("tries_left", 0),
            Error::TryUnanswered(cause) => {
                let failure = failure.with("may_have_counted", true);
                match &**cause {
                    Error::Host(problem) => failure.of_request(problem),
                    _ => failure,
                }
            }
            _ => failure,
        }
    }
}

const NOT_REGISTERED: &str = "this device belongs to no account yet. To open one: keyfold enroll. To join one \
     with a device that is in: keyfold devices join. When none is left: keyfold recover";

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

impl From<WebAuthnError> for Failure {
    fn from(error: WebAuthnError) -> Self {
        let exception = error.exception();
        let (exit, code) = match &error {
            WebAuthnError::Client(_) => (Exit::Failed, ""),
            WebAuthnError::Options(_) => (Exit::Usage, "options-malformed"),
            WebAuthnError::NotSupported(_) => (Exit::Refused, "options-not-supported"),
            WebAuthnError::PrfCredential(_) => (Exit::Usage, "options-malformed"),
            WebAuthnError::Origin(_) => (Exit::Refused, "origin-refused"),
            WebAuthnError::SecurityKeyWanted => (Exit::Refused, "security-key-wanted"),
            WebAuthnError::Excluded { .. } => (Exit::Refused, "excluded"),
            WebAuthnError::NoPasskey { .. } => (Exit::Refused, "no-passkey"),
            WebAuthnError::Choose(_) => (Exit::Person, "choose"),
            WebAuthnError::VerificationRequired | WebAuthnError::Replaces { .. } => {
                (Exit::Device, "locked")
            }
            _ => (Exit::Refused, "webauthn"),
        };
        let failure = match error {
            WebAuthnError::Client(error) => error.into(),
            WebAuthnError::Choose(several) => {
                let message = "several passkeys fit; choose one with --credential";
                let list = several.iter().map(passkey_json).collect::<Vec<_>>();
                Self::new(exit, code, message).with("candidates", list)
            }
            error => Self::new(exit, code, error.to_string()),
        };
        failure.with("exception", exception)
    }
}

fn classify(error: &Error) -> (Exit, String) {
    let (exit, code) = match error {
        Error::ForkAlarm(_) => (Exit::Alarm, "fork-alarm"),
        Error::Sync(_) => (Exit::Alarm, "sync-withheld"),
        Error::Deployment(error) => (Exit::Deployment, deployment_code(error)),
        Error::Identity(IdentityError::Issuer { .. }) => (Exit::SignIn, "issuer-unusable"),
        Error::Identity(_) => (Exit::SignIn, "sign-in-failed"),
        Error::OtherAccount { .. } => (Exit::SignIn, "other-account"),
        Error::Key(_) => (Exit::Device, "key"),
        Error::Pin(_) => (Exit::Usage, "pin-refused"),
        Error::Store(error) => (Exit::Device, store_code(error)),
        Error::Pairing(error) => pairing_code(error),
        // At zero the account was locked by it.
        Error::Refused(Refusal::WrongPin(1..)) => (Exit::WrongPin, "wrong-pin"),
        Error::Refused(Refusal::WrongPin(0) | Refusal::Locked) => (Exit::Locked, "recovery-locked"),
        Error::TryUnanswered(cause) => match &**cause {
            Error::Host(problem) if problem.name.starts_with("ledger-") => return classify(cause),
            _ => (Exit::Unavailable, "try-unanswered"),
        },
        Error::Refused(refusal) => {
            return (Exit::Refused, format!("refused-{}", kebab(&format!("{refusal:?}"))));
        }
        Error::Host(problem) => {
            let later = problem.status >= 500 || [408, 429].contains(&problem.status);
            let is_sign_in = problem.status == 401 || problem.name == "account-mismatch";
            let exit = match (later, is_sign_in) {
                (true, _) => Exit::Unavailable,
                (_, true) => Exit::SignIn,
                _ => Exit::Refused,
            };
            return (exit, problem.name.clone());
        }
        Error::Unreachable(_) => (Exit::Unavailable, "unreachable"),
        Error::NotRegistered => (Exit::Device, "not-registered"),
        Error::AlreadyRegistered => (Exit::Device, "already-registered"),
        Error::AccountExists => (Exit::Device, "account-exists"),
        Error::NoAccount => (Exit::Device, "no-account"),
        Error::NoSuchPasskey => (Exit::Refused, "no-such-passkey"),
        Error::TooLong { .. } => (Exit::Usage, "too-long"),
        Error::Contended(_) => (Exit::Unavailable, "contended"),
        Error::Channel(_) => (Exit::Failed, "channel"),
        Error::Unexpected(_) => (Exit::Failed, "unexpected-answer"),
        _ => (Exit::Failed, "failed"),
    };
    (exit, code.into())
}

fn deployment_code(error: &DeploymentError) -> &'static str {
    match error {
        DeploymentError::Url(_) => "deployment-url",
        DeploymentError::Clock => "clock",
        DeploymentError::Document { .. } => "not-a-deployment",
        DeploymentError::Statement(_) => "statement-refused",
        DeploymentError::OtherUrl { .. } => "other-url",
        DeploymentError::NoEnclave(_) => "evidence-refused",
    }
}

fn store_code(error: &StoreError) -> &'static str {
    match error {
        StoreError::Io { .. } => "file",
        StoreError::Permissions { .. } => "permissions",
        StoreError::Damaged { .. } => "damaged",
        StoreError::Newer { .. } => "newer-format",
        StoreError::NoKeys { .. } => "no-keys",
        StoreError::KeysExist { .. } => "keys-exist",
        StoreError::WrongPassphrase => "wrong-passphrase",
        StoreError::Key(_) => "key",
    }
}

fn pairing_code(error: &PairingError) -> (Exit, &'static str) {
    match error {
        PairingError::NotACode | PairingError::Mistyped => (Exit::Usage, "pairing-code"),
        PairingError::TimedOut => (Exit::Unavailable, "pairing-timed-out"),
        PairingError::Declined => (Exit::Refused, "pairing-declined"),
        PairingError::Used => (Exit::Refused, "pairing-used"),
        PairingError::OtherAccount { .. } => (Exit::SignIn, "pairing-other-account"),
        PairingError::Forged => (Exit::Alarm, "pairing-forged"),
        PairingError::OtherDevice => (Exit::Alarm, "pairing-other-device"),
        PairingError::OtherStatement { .. } => (Exit::Alarm, "pairing-other-statement"),
    }
}

/// `StaleGuard` as `stale-guard`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use keyfold_client::error::{Fork, Unreachable};
    use keyfold_client::webauthn::Origin;

    use super::*;

    fn problem(name: &str, status: u16) -> Error {
        let (name, detail) = (name.into(), "do".into());
        Error::Host(Problem {
            name,
            status,
            detail,
            request_id: Some("r-1".into()),
            retry_after: None,
        })
    }

    #[test]
    fn every_kind_of_failure_has_its_code_and_exit_status() {
        let unreachable =
            Unreachable { url: "u".into(), reason: "r".into(), may_have_arrived: false };
        let fork = Fork::GuardRolledBack { known: 2, came: 1 };
        for (error, exit, code) in [
            (Error::from(fork), 8, "fork-alarm"),
            (DeploymentError::NoEnclave(vec![]).into(), 7, "evidence-refused"),
            (DeploymentError::Clock.into(), 7, "clock"),
            (IdentityError::TimedOut.into(), 6, "sign-in-failed"),
            (problem("sign-in-required", 401), 6, "sign-in-required"),
            (problem("ledger-unreachable", 503), 5, "ledger-unreachable"),
            (problem("too-many-requests", 429), 5, "too-many-requests"),
            (problem("account-unknown", 404), 9, "account-unknown"),
            (unreachable.into(), 5, "unreachable"),
            (StoreError::WrongPassphrase.into(), 4, "wrong-passphrase"),
            (Error::NotRegistered, 4, "not-registered"),
            (PairingError::Forged.into(), 8, "pairing-forged"),
            (PairingError::Mistyped.into(), 2, "pairing-code"),
            (PairingError::Declined.into(), 9, "pairing-declined"),
            (Error::Refused(Refusal::LastDevice), 9, "refused-last-device"),
            (Error::Refused(Refusal::Closed), 9, "refused-closed"),
            (Error::Refused(Refusal::WrongPin(1)), 10, "wrong-pin"),
            (Error::Refused(Refusal::WrongPin(0)), 11, "recovery-locked"),
            (Error::Refused(Refusal::Locked), 11, "recovery-locked"),
            (Error::NoAccount, 4, "no-account"),
            (unanswered(problem("ledger-unreachable", 503)), 5, "ledger-unreachable"),
            (unanswered(problem("ledger-refused", 503)), 5, "ledger-refused"),
            (unanswered(problem("enclave-starting", 503)), 5, "try-unanswered"),
            (unanswered(Error::Unexpected("x")), 5, "try-unanswered"),
        ] {
            let failure = Failure::from(error);
            assert_eq!((failure.exit as u8, failure.code()), (exit, code));
            assert_eq!(failure.to_json()["error"]["exit"], exit);
        }
    }

    #[test]
    fn a_parsers_lines_stay_and_a_services_do_not() {
        let shown = "line 2\n  |\n2 | x\x1b\n  | ^\nno value\n";
        let own = Failure::content("policy", Path::new("it.toml"), shown);
        assert_eq!(own.to_text(), "it.toml: line 2\n  |\n2 | x\u{fffd}\n  | ^\nno value");
        let Error::Host(mut said) = problem("busy", 503) else { panic!() };
        said.detail = "wait\nerror: all is lost".into();
        assert_eq!(Failure::from(Error::Host(said)).to_text().lines().count(), 1);
    }

    fn unanswered(cause: Error) -> Error {
        Error::TryUnanswered(Box::new(cause))
    }

    #[test]
    fn how_a_try_ended_is_in_the_json() {
        for left in [9, 0] {
            let json = Failure::from(Error::Refused(Refusal::WrongPin(left))).to_json();
            assert_eq!(json["error"]["tries_left"], left);
        }
        assert_eq!(
            Failure::from(Error::Refused(Refusal::Locked)).to_json()["error"]["tries_left"],
            0
        );
        let json = Failure::from(unanswered(problem("ledger-unreachable", 503))).to_json();
        assert_eq!(json["error"]["may_have_counted"], true);
        assert_eq!(json["error"]["request_id"], "r-1");
        let text = json["error"]["message"].as_str().unwrap();
        assert!(text.contains("may have counted") && text.contains("ledger-unreachable"), "{text}");
    }

    #[test]
    fn what_a_browser_would_throw_and_what_the_operator_asks_for_is_in_the_json() {
        let error = WebAuthnError::from(Origin::parse("http://example.org").unwrap_err());
        let json = Failure::from(error).to_json();
        assert_eq!(json["error"]["exception"], "SecurityError");
        assert_eq!(json["error"]["code"], "origin-refused");
        let error = WebAuthnError::Client(Error::Refused(Refusal::UnsupportedAlgorithm));
        let json = Failure::from(error).to_json();
        assert_eq!(json["error"]["exception"], "NotSupportedError");
        assert_eq!(json["error"]["code"], "refused-unsupported-algorithm");
        let json = Failure::from(problem("stored-state-refused", 500)).to_json();
        assert_eq!(json["error"]["request_id"], "r-1");
    }
}
