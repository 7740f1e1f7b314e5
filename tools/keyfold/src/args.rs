//! The command line, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Passkeys from a shell: made and used in an attested enclave, synced between your devices.
///
/// The service that keeps them cannot use, read or guess them. This program talks only to an
/// enclave whose evidence it has verified against the deployment's signed statement.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Start:
  keyfold enroll --deployment https://keyfold.example --trust-root root.json
  keyfold passkeys create  --origin https://example.org < options.json > response.json
  keyfold passkeys sign-in --origin https://example.org < options.json > response.json
  keyfold devices approve        # here; on the new device: keyfold devices join
  keyfold doctor                 # when something does not work

More, and the exit statuses: keyfold --help";

const LONG_HELP: &str = "\
Examples:
  Open an account with this machine as its first device:
    keyfold enroll --deployment https://keyfold.example --trust-root root.json
  Register at a site, and sign in there; options and responses are the JSON of WebAuthn level 3
  that every server library reads and writes, bare or inside {\"publicKey\": ...}:
    keyfold passkeys create  --origin https://example.org < options.json > response.json
    keyfold passkeys sign-in --origin https://example.org < options.json > response.json
  Approve a second device (one command on each):
    keyfold devices approve
    keyfold devices join --deployment https://keyfold.example --trust-root root.json
  Without a terminal, the passphrase comes from a file or a pipe:
    keyfold --passphrase-file /dev/fd/3 passkeys create --origin https://example.org 3< secret
  See whether anybody else touched the account, and whether the service shows the same past:
    keyfold audit --verify
  When something does not work:
    keyfold doctor
  Two accounts, or two devices on one machine: one directory each.
    keyfold --home ~/.keyfold-work status

Exit statuses:
  0  done
  1  failed for none of the reasons below; doctor found something
  2  the command line or an input is not what it should be
  3  you said no, or have to choose
  4  this device: not enrolled, keys, passphrase, files
  5  network or service: try again later
  6  signing in
  7  the deployment is not what it should be; nothing was sent to it
  8  ALARM: the service shows another past, or withholds something; also audit --verify
  9  refused by WebAuthn's rules, the enclave or the host

With --json, results are one JSON object on stdout, and failures one on stderr:
  {\"error\":{\"code\":\"wrong-passphrase\",\"message\":\"...\",\"exit\":4}}

Environment: KEYFOLD_HOME (as --home), KEYFOLD_LOG (as warn, info, debug), NO_COLOR.";

/// Options of every command.
#[derive(Args)]
pub(crate) struct Globals {
    /// Directory of this device's keys and state [default: keyfold in the user's data directory]
    #[arg(long, global = true, env = "KEYFOLD_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Read the passphrase of the user-verification key from the first line of this file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Never ask; fail instead
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
    /// Print the sign-in's address instead of opening a browser
    #[arg(long, global = true)]
    pub(crate) no_browser: bool,
    /// Sign in as this name at a dev cloud, without a browser
    #[cfg(feature = "development")]
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub(crate) sign_in_as: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Open an account with this machine as its first device
    #[command(after_help = ENROLL)]
    Enroll(EnrollArguments),
    /// Sign in now, rather than when a command needs it
    Login {
        /// Also if there is a sign-in that still serves
        #[arg(long)]
        fresh: bool,
    },
    /// The account's devices
    #[command(subcommand)]
    Devices(DevicesCommand),
    /// Passkeys: make, use, name and delete them
    #[command(subcommand)]
    Passkeys(PasskeysCommand),
    /// Bring the list of passkeys up to date
    Sync,
    /// Where the account stands, confirmed by the ledger, and what happened to it
    Status,
    /// The account's history: every change of its devices, confirmed by the ledger
    #[command(after_help = AUDIT)]
    Audit {
        /// Check the history against the devices registered now, and say what was checked
        #[arg(long)]
        verify: bool,
    },
    /// Write where the vault stands into the ledger; otherwise done once a day
    Anchor,
    /// Check, step by step, everything this device can see, and say what to do
    Doctor,
    /// Play the whole story of a passkey on this machine, explaining each step
    ///
    /// It protects nothing: the outside world is played by the dev cloud. Needs the programs that
    /// `cargo xtask demo` builds beside this one.
    Demo {
        /// What the story takes: --keep leaves everything running, --dir DIR says where
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// For operators: what the offline keys sign
    #[command(subcommand)]
    Policy(PolicyCommand),
}

const ENROLL: &str = "\
Asks for a passphrase, which unlocks this device's user-verification key, and for a PIN of 6 to 64
characters, with which you get back in when all devices are lost. Nobody gets more than ten guesses
at the PIN.

Can be repeated after a failure of any kind.";

/// See [`Command::Enroll`].
#[derive(Args)]
pub(crate) struct EnrollArguments {
    #[command(flatten)]
    pub(crate) deployment: DeploymentArguments,
    /// This device's name [default: the machine's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Read the PIN from the first line of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
}

/// Which deployment, and whom to believe about it. Needed once.
#[derive(Args)]
pub(crate) struct DeploymentArguments {
    /// The deployment's address
    #[arg(long, value_name = "URL")]
    pub(crate) deployment: Option<String>,
    /// The keys that sign the deployment's statements, as JSON; get it from somebody you trust
    #[arg(long, value_name = "FILE")]
    pub(crate) trust_root: Option<PathBuf>,
    /// The lowest serial of a statement to accept, where you know one
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) minimum_serial: u64,
}

/// See [`Command::Devices`].
#[derive(Subcommand)]
pub(crate) enum DevicesCommand {
    /// List the registered devices, confirmed by the ledger
    List,
    /// Register another device: shows a code and a QR to enter there
    #[command(after_help = APPROVE)]
    Approve {
        /// Approve whoever enters the code, without asking; prints who it was
        #[arg(long)]
        yes: bool,
    },
    /// Make this machine a device of an existing account: asks for the code that `approve` shows
    #[command(after_help = JOIN)]
    Join(JoinArguments),
    /// Strike a device off. Asks for a fresh sign-in
    Revoke {
        /// Its name, or the first digits of its fingerprint
        device: String,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

const APPROVE: &str = "\
The code is a secret between the two devices: the service relays their messages but can neither read
nor forge them. Compare the fingerprint here with the one the new device shows before you say yes.

With --json, the code is printed on stderr as soon as it exists:
  {\"event\":\"pairing-code\",\"code\":\"...\",\"qr\":\"KEYFOLD:PAIR:1:...\"}";

const JOIN: &str = "\
The code is read from stdin if that is not a terminal:
  keyfold devices join --deployment https://keyfold.example --trust-root root.json < code";

/// See [`DevicesCommand::Join`].
#[derive(Args)]
pub(crate) struct JoinArguments {
    #[command(flatten)]
    pub(crate) deployment: DeploymentArguments,
    /// This device's name [default: the machine's]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// See [`Command::Passkeys`].
#[derive(Subcommand)]
pub(crate) enum PasskeysCommand {
    /// Register at a site: creation options on stdin, registration response on stdout
    #[command(after_help = CREATE)]
    Create {
        /// Where the options came from: https://host, or http://localhost
        #[arg(long)]
        origin: String,
    },
    /// Sign in at a site: request options on stdin, authentication response on stdout
    #[command(after_help = SIGN_IN)]
    SignIn {
        /// Where the options came from: https://host, or http://localhost
        #[arg(long)]
        origin: String,
        /// Which passkey, where several fit: its credential id
        #[arg(long, value_name = "ID", allow_hyphen_values = true)]
        credential: Option<String>,
    },
    /// List the passkeys
    List {
        /// Only of this site
        #[arg(long, value_name = "ID")]
        rp_id: Option<String>,
        /// As of the last sync, without asking the service
        #[arg(long)]
        offline: bool,
    },
    /// Change the names of a passkey
    Rename {
        /// Its credential id, or the beginning of it
        #[arg(allow_hyphen_values = true)]
        credential: String,
        /// The user's name at the site
        #[arg(long)]
        name: String,
        /// The user's name for people to read [default: as it is]
        #[arg(long)]
        display_name: Option<String>,
    },
    /// Delete a passkey on all devices, for good
    Delete {
        /// Its credential id, or the beginning of it
        #[arg(allow_hyphen_values = true)]
        credential: String,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

const CREATE: &str = "\
  curl -s https://example.org/webauthn/register/begin |
    keyfold passkeys create --origin https://example.org |
    curl -s -d @- https://example.org/webauthn/register/finish

A passkey for the same user of the same site is replaced, unless the options exclude it.
User verification is the passphrase: asked for when the site requires it, or evaluates PRF inputs;
when it prefers it, an empty answer goes on without.";

const SIGN_IN: &str = "\
  curl -s https://example.org/webauthn/login/begin |
    keyfold passkeys sign-in --origin https://example.org |
    curl -s -d @- https://example.org/webauthn/login/finish

Where several passkeys fit, they are listed and one is chosen with --credential.";

const AUDIT: &str = "\
The service cannot leave anything out: each event is one version of the account in the ledger, the
events are hashed into a chain, and its head is confirmed by the ledger at this moment.";

/// See [`Command::Policy`].
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Make an offline signing key in a new file, and print its public half
    Key {
        /// Where to put the private key
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make the trust root that clients pin
    TrustRoot {
        /// A public key, as `policy key` prints it; once for each key
        #[arg(long = "key", value_name = "HEX", required = true)]
        keys: Vec<String>,
        /// How many of them must sign
        #[arg(long, value_name = "N")]
        threshold: usize,
        /// Where to put it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make the deployment's statement from its description, and sign it
    Statement {
        /// The description of the deployment
        #[arg(long, value_name = "FILE")]
        deployment: PathBuf,
        /// A private key to sign with; once for each
        #[arg(long = "key", value_name = "FILE", required = true)]
        keys: Vec<PathBuf>,
        /// The trust root that clients pin; the result is checked against it
        #[arg(long, value_name = "FILE")]
        trust_root: PathBuf,
        /// Where to put the signed statement
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn credential_ids_may_begin_with_a_hyphen() {
        for arguments in [
            &["keyfold", "passkeys", "delete", "-abc", "--yes"][..],
            &["keyfold", "passkeys", "rename", "-abc", "--name", "x"],
            &["keyfold", "passkeys", "sign-in", "--origin", "o", "--credential", "-abc"],
        ] {
            let parsed = Arguments::try_parse_from(arguments).unwrap();
            let Command::Passkeys(command) = parsed.command else { panic!("{arguments:?}") };
            let credential = match command {
                PasskeysCommand::Delete { credential, yes: true } => credential,
                PasskeysCommand::Rename { credential, .. } => credential,
                PasskeysCommand::SignIn { credential, .. } => credential.unwrap(),
                _ => panic!("{arguments:?}"),
            };
            assert_eq!(credential, "-abc");
        }
    }

    #[test]
    fn no_option_takes_a_secret() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let is_secret = ["passphrase", "pin", "code", "token"].contains(&name);
                assert!(!is_secret, "{} {name}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }
}
