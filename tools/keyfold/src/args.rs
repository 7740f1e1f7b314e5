//! The command line, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use keyfold_protocol::limits;

/// Passkeys from a shell: made and used in an attested enclave, synced between your devices.
///
/// The service that keeps them cannot use, read or guess them. This program talks only to an
/// enclave whose evidence it has verified against the deployment's signed statement.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES, after_long_help = LONG_HELP)]
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
  keyfold recover --deployment https://keyfold.example --trust-root root.json   # all devices lost
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
  Get back in with the PIN when all devices are lost; set a new PIN on a device that is in:
    keyfold recover --deployment https://keyfold.example --trust-root root.json
    keyfold pin change
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
  10 wrong PIN; the error says how many tries are left
  11 recovery is locked until a device of the account sets a new PIN
  12 policy check: the release policy releases more than the deployment accepts
  13 policy diff: the two are not the same

With --json, results are one JSON object on stdout, and failures one on stderr:
  {\"error\":{\"code\":\"wrong-passphrase\",\"message\":\"...\",\"exit\":4}}

Environment: KEYFOLD_HOME (as --home), KEYFOLD_LOG (as warn, info, debug), NO_COLOR.";

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
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
    /// Make this machine a device of an existing account by its PIN, where no device can approve it
    #[command(after_help = RECOVER)]
    Recover(EnrollArguments),
    /// The recovery PIN
    #[command(subcommand)]
    Pin(PinCommand),
    /// The account as a whole
    #[command(subcommand)]
    Account(AccountCommand),
    /// Sign in now, rather than when a command needs it
    Login {
        /// One of the last minutes, rather than one that still serves
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
    /// Where the account stands, confirmed by the ledger: devices, tries of the PIN that are left, and
    /// what happened since you last looked
    Status,
    /// The account's history: every registration, recovery and change, confirmed by the ledger
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
    /// For operators and auditors: what a deployment accepts, and who signs for it
    #[command(subcommand, after_help = POLICY)]
    Policy(PolicyCommand),
}

const ENROLL: &str = "\
Asks for a passphrase, which unlocks this device's user-verification key, and for a PIN of 6 to 64 \
characters, with which you get back in when all devices are lost. Nobody gets more than ten guesses \
at the PIN.

Can be repeated after a failure of any kind.";

const RECOVER: &str = "\
Asks for a passphrase, which unlocks the new device's user-verification key, and for the account's \
PIN. A wrong PIN costs one of ten tries: exit status 10, and \"tries_left\" in the JSON error. At the \
tenth, recovery is locked: exit status 11, until a device of the account runs: keyfold pin change

While the ledger is down, nobody recovers: exit status 5, error code ledger-unreachable. Signing in \
goes on. A try that was sent may still count, and may still succeed: run recover again later; before \
it tries the PIN it looks whether this device got in.";

const CHANGE_PIN: &str = "\
Asks for the new PIN twice, and for this device's passphrase. Lifts a lockout: the count of wrong tries \
starts again. Asks for a fresh sign-in.";

const DELETE: &str = "\
All of its passkeys are gone, on all devices, for good: nobody can bring them back, with or without the \
PIN. Asks for this device's passphrase and a fresh sign-in. Afterwards `keyfold enroll` opens a new \
account for the same person.";

/// See [`Command::Pin`].
#[derive(Subcommand)]
pub(crate) enum PinCommand {
    /// Set a new PIN; lifts a lockout
    #[command(after_help = CHANGE_PIN)]
    Change {
        /// Read the new PIN from the first line of this file
        #[arg(long, value_name = "FILE")]
        pin_file: Option<PathBuf>,
    },
}

/// See [`Command::Account`].
#[derive(Subcommand)]
pub(crate) enum AccountCommand {
    /// End the account for good, with all its passkeys
    #[command(after_help = DELETE)]
    Delete {
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

/// See [`Command::Enroll`] and [`Command::Recover`].
#[derive(Args)]
pub(crate) struct EnrollArguments {
    #[command(flatten)]
    pub(crate) deployment: DeploymentArguments,
    /// This device's name [default: the machine's]
    #[arg(long, value_parser = device_name)]
    pub(crate) name: Option<String>,
    /// Read the PIN from the first line of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
}

/// A name that the account takes; before anything is asked or sent.
fn device_name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a device needs a name".into()),
        length if length > limits::NAME => {
            Err(format!("longer than {} bytes; shorten it", limits::NAME))
        }
        _ => Ok(text.into()),
    }
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
The code is a secret between the two devices: the service relays their messages but can neither read \
nor forge them. Compare the fingerprint here with the one the new device shows before you say yes.

With --json, the code is printed on stderr as soon as it exists:
  {\"event\":\"pairing-code\",\"code\":\"...\",\"qr\":\"KEYFOLD:PAIR:1:...\",\"deployment\":\"...\"}";

const JOIN: &str = "\
The code is read from stdin if that is not a terminal:
  keyfold devices join --deployment https://keyfold.example --trust-root root.json < code";

/// See [`DevicesCommand::Join`].
#[derive(Args)]
pub(crate) struct JoinArguments {
    #[command(flatten)]
    pub(crate) deployment: DeploymentArguments,
    /// This device's name [default: the machine's]
    #[arg(long, value_parser = device_name)]
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

A passkey for the same user of the same site is replaced, unless the options exclude it. \
User verification is the passphrase: asked for when the site requires it, or evaluates PRF inputs; \
when it prefers it, an empty answer goes on without.";

const SIGN_IN: &str = "\
  curl -s https://example.org/webauthn/login/begin |
    keyfold passkeys sign-in --origin https://example.org |
    curl -s -d @- https://example.org/webauthn/login/finish

Where several passkeys fit, they are listed and one is chosen with --credential.";

const AUDIT: &str = "\
The service cannot leave anything out: each event is one version of the account in the ledger, the \
events are hashed into a chain, and its head is confirmed by the ledger at this moment.

Of a try of the PIN, pin-tried is the charge, before anything was compared; pin-wrong or recovered is \
what came of it. A charge without either was overtaken by another change, and counts.";

const POLICY: &str = "\
From a first description to a signed statement, and what to do when it changes:
  keyfold policy init --profile snp-direct --out deployment.toml    # then fill it in
  keyfold policy show deployment.toml                               # what a signature would mean
  keyfold policy emit deployment.toml --out texts                   # for HSM and attestation
  keyfold policy key --out alice.key                                # each holder, offline
  keyfold policy trust-root --threshold 2 --key HEX --key HEX --out root.json
  keyfold policy sign --deployment deployment.toml --trust-root root.json \\
      --key alice.key --partial --out alice.json                    # first holder
  keyfold policy sign --deployment deployment.toml --trust-root root.json \\
      --key bob.key --signed alice.json --out statement.json        # second holder
  keyfold policy check --deployment deployment.toml --policy key.json
  keyfold policy diff old/deployment.toml deployment.toml";

const SIGN: &str = "\
Look at what you sign first: keyfold policy show deployment.toml

The statement is made from the description on this machine. When you add to a file that other holders \
have signed (--signed), it must hold exactly that statement, byte by byte; else nothing is signed.

Without --partial, nothing is written unless enough keys have signed for clients to accept it.";

const CHECK: &str = "\
The policy is the file that `policy emit` wrote, or what Managed HSM answers for the key:
  az rest --resource https://managedhsm.azure.net \\
      --url 'https://HSM.managedhsm.azure.net/keys/KEY?api-version=7.4' > key.json
or the release_policy object in that: {\"contentType\": ..., \"data\": ..., \"immutable\": true}.

Exit status 12 and the reasons, if any way to get the key is open to a guest that the host can debug \
or take elsewhere, to code or a configuration that the deployment does not list, to a container of \
any policy, under tokens of another attestation service, or if the policy can be replaced. The check \
errs on one side: a policy that means the same in other words may be refused.";

/// See [`Command::Policy`].
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Write a description of a deployment to fill in, with what each entry means
    Init {
        /// How the code is attested
        #[arg(long, value_enum)]
        profile: ProfileName,
        /// Where to put it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show what a description or a statement accepts: the page that an auditor signs off
    Show {
        /// A deployment.toml, or a statement
        file: PathBuf,
        /// Check the statement's signatures, serial and time against this trust root
        #[arg(long, value_name = "FILE")]
        trust_root: Option<PathBuf>,
    },
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
    #[command(after_help = SIGN)]
    Sign {
        /// The description of the deployment
        #[arg(long, value_name = "FILE")]
        deployment: PathBuf,
        /// A private key to sign with; once for each
        #[arg(long = "key", value_name = "FILE", required = true)]
        keys: Vec<PathBuf>,
        /// The trust root that clients pin; the result is checked against it
        #[arg(long, value_name = "FILE")]
        trust_root: PathBuf,
        /// A file that other holders have signed, to add to
        #[arg(long, value_name = "FILE")]
        signed: Option<PathBuf>,
        /// Write the file although more holders have to sign it
        #[arg(long)]
        partial: bool,
        /// Where to put the signed statement
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write what is made from a description: release policy, attestation policy, statement, page
    Emit {
        /// The description of the deployment
        deployment: PathBuf,
        /// The folder to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Check that a release policy releases the root key to nothing but what a description accepts
    #[command(after_help = CHECK)]
    Check {
        /// The description of the deployment
        #[arg(long, value_name = "FILE")]
        deployment: PathBuf,
        /// The release policy, or Managed HSM's answer with it
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// Pass a policy that whoever manages the key can replace, and so take the key
        #[arg(long)]
        accept_a_policy_that_can_be_replaced: bool,
    },
    /// Say what changed between two descriptions or statements, and whether more is accepted
    Diff {
        /// The one in force
        older: PathBuf,
        /// The one that is to follow
        newer: PathBuf,
    },
}

/// A workload profile.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    /// An image booted directly as an SNP guest
    SnpDirect,
    /// A confidential container on Azure
    Aci,
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
