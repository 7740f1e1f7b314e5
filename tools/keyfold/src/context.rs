//! What a command works with: the store, the keys, the client, the person.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyfold_client::Client;
use keyfold_client::device::SoftwareKeys;
use keyfold_client::identity::{Browser, TokenSource};
use keyfold_client::store::{Passphrase, Store, StoreError};
use keyfold_client::webauthn::Verification;
use keyfold_protocol::client::KeyKind;
use zeroize::Zeroizing;

use crate::args::Globals;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::prompt::{self, Person};

/// How often a passphrase may be mistyped.
const TRIES: usize = 3;

/// One run.
pub(crate) struct Context {
    pub(crate) out: Output,
    pub(crate) person: Person,
    pub(crate) home: PathBuf,
    passphrase_file: Option<PathBuf>,
    no_browser: bool,
    #[cfg(feature = "development")]
    sign_in_as: Option<String>,
}

/// This device, talking to its deployment.
pub(crate) struct Device {
    pub(crate) client: Client,
    pub(crate) keys: Arc<SoftwareKeys>,
}

impl Context {
    pub(crate) fn new(globals: Globals) -> Result<Self, Failure> {
        let home = globals.home.or_else(default_home).ok_or_else(|| {
            Failure::usage("there is no home directory to put a store in; name one with --home")
        })?;
        Ok(Self {
            out: Output::new(globals.json),
            person: Person::new(globals.no_input),
            home,
            passphrase_file: globals.passphrase_file,
            no_browser: globals.no_browser,
            #[cfg(feature = "development")]
            sign_in_as: globals.sign_in_as,
        })
    }

    pub(crate) fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.home)?)
    }

    /// The device of the store directory; its deployment verified. Nothing else has been sent.
    pub(crate) async fn device(&self) -> Result<Device, Failure> {
        let device = self.unverified()?;
        self.verify(&device).await?;
        Ok(device)
    }

    /// As [`Self::device`], before anything was asked of the network.
    pub(crate) fn unverified(&self) -> Result<Device, Failure> {
        let config = Config::load(&self.home)?.ok_or(keyfold_client::Error::NotRegistered)?;
        self.with_keys(&self.signing_in(config)?, self.store()?.load_keys()?)
    }

    /// A device that `enroll`, `recover` or `join` sets up: verifies the deployment, makes its keys where
    /// there are none yet, and remembers which deployment it was.
    pub(crate) async fn new_device(&self, config: Config) -> Result<Device, Failure> {
        let store = self.store()?;
        if store.load()?.account.is_some_and(|account| account.registered) {
            return Err(keyfold_client::Error::AlreadyRegistered.into());
        }
        let config = self.signing_in(config)?;
        let (keys, are_new) = match store.load_keys() {
            Err(StoreError::NoKeys { .. }) => (SoftwareKeys::generate(), true),
            loaded => (loaded?, false),
        };
        let from_file = match &self.passphrase_file {
            Some(file) if are_new => Some(self.secret_file(file)?),
            None if are_new && !self.person.is_present() => return Err(no_passphrase()),
            _ => None,
        };
        let device = self.with_keys(&config, keys)?;
        self.verify(&device).await?;
        if are_new {
            // Nobody is asked for one by a deployment that is none.
            let typed = match from_file {
                Some(typed) => Some(typed),
                None => self.person.new_secret("New passphrase for this device")?,
            };
            let passphrase = passphrase(&typed.ok_or_else(no_passphrase)?)?;
            store.save_keys(&device.keys, &passphrase)?;
        }
        config.save(&self.home)?;
        Ok(device)
    }

    #[cfg(feature = "development")]
    fn signing_in(&self, config: Config) -> Result<Config, Failure> {
        config.signing_in_as(self.sign_in_as.as_deref())
    }

    #[cfg(not(feature = "development"))]
    fn signing_in(&self, config: Config) -> Result<Config, Failure> {
        Ok(config)
    }

    fn with_keys(&self, config: &Config, keys: SoftwareKeys) -> Result<Device, Failure> {
        let keys = Arc::new(keys);
        let source = self.token_source(config)?;
        let client = Client::new(config.settings(), self.store()?, keys.clone(), source)?;
        Ok(Device { client, keys })
    }

    async fn verify(&self, device: &Device) -> Result<(), Failure> {
        let deployment = device.client.deployment().await?;
        self.out.simulated(deployment.is_simulated());
        Ok(())
    }

    fn token_source(&self, config: &Config) -> Result<Arc<dyn TokenSource>, Failure> {
        #[cfg(feature = "development")]
        if let Some(name) = config.sign_in_as() {
            let source = keyfold_client::identity::DevSignIn::new(name);
            return Ok(Arc::new(source.map_err(keyfold_client::Error::from)?));
        }
        #[cfg(not(feature = "development"))]
        if let Some(name) = config.sign_in_as() {
            let message = format!(
                "this device signs in as {name} at a dev cloud; use a \
                                   development build of this program"
            );
            return Err(Failure::new(Exit::SignIn, "sign-in-failed", message));
        }
        let (json, launch) = (self.out.is_json(), !self.no_browser);
        let browser = Browser::new(move |url| show(url, json, launch));
        Ok(Arc::new(browser.map_err(keyfold_client::Error::from)?))
    }

    /// Gets the user-verification key ready as far as `verification` wants it; says which key will
    /// sign.
    pub(crate) fn unlock(
        &self, device: &Device, verification: Verification,
    ) -> Result<KeyKind, Failure> {
        if verification == Verification::Discouraged {
            return Ok(KeyKind::Presence);
        }
        if device.keys.is_unlocked() {
            return Ok(KeyKind::UserVerification);
        }
        let store = self.store()?;
        if let Some(file) = &self.passphrase_file {
            store.unlock(&device.keys, &passphrase(&self.secret_file(file)?)?)?;
            return Ok(KeyKind::UserVerification);
        }
        let is_required = verification == Verification::Required;
        let question = match is_required {
            true => "Passphrase of this device",
            false => "Passphrase of this device (empty: without user verification)",
        };
        for attempt in 1..=TRIES {
            let typed = match self.person.secret(question)? {
                None if is_required => return Err(no_passphrase()),
                None => return Ok(KeyKind::Presence),
                Some(typed) if typed.is_empty() && !is_required => return Ok(KeyKind::Presence),
                Some(typed) => typed,
            };
            match store.unlock(&device.keys, &passphrase(&typed)?) {
                Ok(()) => return Ok(KeyKind::UserVerification),
                Err(StoreError::WrongPassphrase) if attempt < TRIES => {
                    self.out.note("wrong passphrase; try again");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::WrongPassphrase.into())
    }

    /// A new PIN, from `file` or typed twice.
    pub(crate) fn new_pin(&self, file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
        let typed = match file {
            Some(file) => Some(self.secret_file(file)?),
            None => self.person.new_secret("New recovery PIN")?,
        };
        typed.ok_or_else(no_pin)
    }

    /// The PIN that the account has, from `file` or typed.
    pub(crate) fn pin(&self, file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
        let typed = match file {
            Some(file) => Some(self.secret_file(file)?),
            None => self.person.secret("Recovery PIN of the account")?,
        };
        typed.ok_or_else(no_pin)
    }

    /// Says why nothing happens for a moment.
    pub(crate) fn stretching(&self) {
        let text = "Stretching the PIN on this device, which makes it slow to guess ...";
        self.out.event(&serde_json::json!({"event": "stretching-pin"}), text);
    }

    fn secret_file(&self, file: &Path) -> Result<Zeroizing<String>, Failure> {
        if prompt::is_open_to_others(file) {
            let shown = file.display();
            let text = format!("{shown} can be read by others on this machine: chmod 600 {shown}");
            self.out.note(&text);
        }
        prompt::secret_file(file)
    }

    /// Whether the person agrees; with `yes` they have.
    pub(crate) fn agree(&self, yes: bool, question: &str) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        match self.person.confirm(question)? {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::new(Exit::Person, "declined", "you said no; nothing done")),
            None => {
                let message = "this needs your agreement and nobody can be asked; use --yes";
                Err(Failure::new(Exit::Person, "not-confirmed", message))
            }
        }
    }
}

fn passphrase(typed: &str) -> Result<Passphrase, Failure> {
    Passphrase::new(typed).ok_or_else(|| {
        Failure::new(Exit::Device, "wrong-passphrase", "an empty passphrase opens nothing")
    })
}

fn no_passphrase() -> Failure {
    let message = "the passphrase is needed and nobody can be asked; use --passphrase-file";
    Failure::new(Exit::Device, "no-passphrase", message)
}

fn no_pin() -> Failure {
    let message = "a PIN is needed and nobody can be asked; use --pin-file";
    Failure::new(Exit::Device, "no-pin", message)
}

/// `keyfold` in the user's data directory.
fn default_home() -> Option<PathBuf> {
    let directory =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if cfg!(windows) {
        return Some(directory("LOCALAPPDATA")?.join("Keyfold"));
    }
    if cfg!(target_os = "macos") {
        return Some(directory("HOME")?.join("Library/Application Support/keyfold"));
    }
    let data = directory("XDG_DATA_HOME").or_else(|| Some(directory("HOME")?.join(".local/share")));
    Some(data?.join("keyfold"))
}

/// Shows the person where to sign in, and starts a browser there.
fn show(url: &str, json: bool, launch: bool) {
    let event = serde_json::json!({"event": "sign-in", "url": url});
    Output::new(json).event(&event, &format!("Sign in here: {url}"));
    let has_display = |name| std::env::var_os(name).is_some();
    let program = if cfg!(target_os = "macos") {
        Some("open")
    } else if cfg!(windows) {
        Some("explorer")
    } else if has_display("DISPLAY") || has_display("WAYLAND_DISPLAY") {
        Some("xdg-open")
    } else {
        None
    };
    if let Some(program) = program.filter(|_| launch) {
        use std::process::{Command, Stdio};
        // The address is on the screen, whether or not a browser comes up.
        let _ = Command::new(program)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
    }
}
