//! `deployment.json` in the store directory: which deployment this device talks to, and whom it
//! believes about it. Everything else follows from these.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use keyfold_attestation_policy::trust_root::TrustRoot;
use keyfold_client::deployment::Settings;
use serde::{Deserialize, Serialize};

use crate::args::DeploymentArguments;
use crate::failure::{Exit, Failure};

const FILE: &str = "deployment.json";
/// The newest format known.
const FORMAT: u32 = 1;

/// What `enroll`, `recover` and `devices join` were told, and later commands remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    format: u32,
    url: String,
    trust_root: TrustRoot,
    minimum_serial: u64,
    /// Whom to sign in as at a dev cloud.
    sign_in_as: Option<String>,
}

impl Config {
    /// From the arguments; where they say nothing, from the file.
    pub(crate) fn new(home: &Path, arguments: &DeploymentArguments) -> Result<Self, Failure> {
        let incomplete = || {
            let message = "--deployment and --trust-root are needed, both: the deployment's \
                           address, and the file with the keys that sign its statements";
            Failure::usage(message)
        };
        let (url, trust_root) = match (&arguments.deployment, &arguments.trust_root) {
            (None, None) => return Self::load(home)?.ok_or_else(incomplete),
            (Some(url), Some(file)) => (url.clone(), read_trust_root(file)?),
            _ => return Err(incomplete()),
        };
        let minimum_serial = arguments.minimum_serial;
        let remembered = Self::load(home)?;
        let sign_in_as = remembered.as_ref().and_then(|known| known.sign_in_as.clone());
        let config = Self { format: FORMAT, url, trust_root, minimum_serial, sign_in_as };
        match remembered {
            Some(known) if !known.is_same_deployment(&config) => {
                Err(other_deployment(home, &known))
            }
            _ => Ok(config),
        }
    }

    /// The file's content; `None` where there is none yet.
    pub(crate) fn load(home: &Path) -> Result<Option<Self>, Failure> {
        let path = home.join(FILE);
        let damaged = |reason: String| {
            let message = format!("{} is damaged ({reason}); restore it", path.display());
            Failure::new(Exit::Device, "damaged", message)
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file(&path, &error)),
        };
        let config: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        match config.format {
            FORMAT => Ok(Some(config)),
            other => Err(damaged(format!("format {other}"))),
        }
    }

    /// Writes the file: the old one or the new one, whatever happens; for its owner only.
    pub(crate) fn save(&self, home: &Path) -> Result<(), Failure> {
        let path = home.join(FILE);
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(home)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            fs::File::open(home)?.sync_all()
        };
        write().map_err(|error| Failure::file(&path, &error))
    }

    /// Remembers whom to sign in as at a dev cloud, where that was said. One device is one person's.
    #[cfg(feature = "development")]
    pub(crate) fn signing_in_as(mut self, name: Option<&str>) -> Result<Self, Failure> {
        let Some(name) = name else { return Ok(self) };
        match self.sign_in_as.replace(name.into()) {
            Some(known) if known != name => {
                let message = format!(
                    "this device signs in as {known}, not as {name}; use another directory for \
                     another person: --home DIR"
                );
                Err(Failure::new(Exit::SignIn, "other-account", message))
            }
            _ => Ok(self),
        }
    }

    /// Whether both are one deployment, believed for the same reason.
    fn is_same_deployment(&self, other: &Self) -> bool {
        let url = |config: &Self| config.url.trim_end_matches('/').to_owned();
        url(self) == url(other) && self.trust_root == other.trust_root
    }

    /// Whom to sign in as at a dev cloud.
    pub(crate) fn sign_in_as(&self) -> Option<&str> {
        self.sign_in_as.as_deref()
    }

    /// What the client library is told.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            url: self.url.clone(),
            trust_root: self.trust_root.clone(),
            minimum_serial: self.minimum_serial,
        }
    }
}

/// A directory is one deployment's: what was seen of it says nothing of another.
fn other_deployment(home: &Path, known: &Config) -> Failure {
    let message = format!(
        "{} belongs to the deployment at {}, under the trust root of that time; for another \
         deployment or trust root use another directory: --home DIR",
        home.display(),
        known.url
    );
    Failure::new(Exit::Device, "other-deployment", message)
}

/// A file with the keys that sign a deployment's statements.
pub(crate) fn read_trust_root(file: &Path) -> Result<TrustRoot, Failure> {
    let bytes = fs::read(file).map_err(|error| Failure::file(file, &error))?;
    TrustRoot::from_json(&bytes).map_err(|error| Failure::content("usage", file, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = r#"{"version":1,"threshold":2,"keys":[
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"]}"#;

    fn arguments(home: &Path) -> DeploymentArguments {
        let file = home.join("root.json");
        fs::write(&file, ROOT).unwrap();
        DeploymentArguments {
            deployment: Some("https://keyfold.example".into()),
            trust_root: Some(file),
            minimum_serial: 7,
        }
    }

    #[test]
    fn what_was_told_once_is_remembered() {
        let home = tempfile::tempdir().unwrap();
        let nothing = DeploymentArguments { deployment: None, trust_root: None, minimum_serial: 0 };
        assert_eq!(Config::new(home.path(), &nothing).unwrap_err().code(), "usage");
        let mut config = Config::new(home.path(), &arguments(home.path())).unwrap();
        config.sign_in_as = Some("ana".into());
        config.save(home.path()).unwrap();
        assert_eq!(Config::new(home.path(), &nothing).unwrap(), config);
        assert_eq!(config.settings().minimum_serial, 7);
        // Somebody else, at the same deployment or another, needs another directory.
        #[cfg(feature = "development")]
        {
            let as_whom = |name| config.clone().signing_in_as(name).map(|it| it.sign_in_as);
            assert_eq!(as_whom(None).unwrap(), as_whom(Some("ana")).unwrap());
            assert_eq!(as_whom(Some("bob")).unwrap_err().code(), "other-account");
        }
        let again = Config::new(home.path(), &arguments(home.path())).unwrap();
        assert_eq!(again, config);
        let elsewhere = Some("https://keyfold.test".into());
        let other = DeploymentArguments { deployment: elsewhere, ..arguments(home.path()) };
        assert_eq!(Config::new(home.path(), &other).unwrap_err().code(), "other-deployment");
        let other = arguments(home.path());
        fs::write(home.path().join("root.json"), ROOT.replace("3d40", "3d41")).unwrap();
        let refused = Config::new(home.path(), &other).unwrap_err();
        assert_eq!(refused.code(), "other-deployment");
        assert!(refused.to_string().contains("--home DIR"), "{refused}");
        // Half of it is no other deployment.
        let half = DeploymentArguments { trust_root: None, ..arguments(home.path()) };
        assert_eq!(Config::new(home.path(), &half).unwrap_err().code(), "usage");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        Config::new(home.path(), &arguments(home.path())).unwrap().save(home.path()).unwrap();
        let mode = fs::metadata(home.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_configuration_is_refused() {
        let home = tempfile::tempdir().unwrap();
        for content in ["", "{}", r#"{"format":2}"#] {
            fs::write(home.path().join(FILE), content).unwrap();
            assert_eq!(Config::load(home.path()).unwrap_err().code(), "damaged", "{content}");
        }
        fs::remove_file(home.path().join(FILE)).unwrap();
        let mut config = Config::new(home.path(), &arguments(home.path())).unwrap();
        config.format = 2;
        config.save(home.path()).unwrap();
        assert_eq!(Config::load(home.path()).unwrap_err().code(), "damaged");
        let broken = home.path().join("broken.json");
        fs::write(&broken, r#"{"version":1,"threshold":1,"keys":[]}"#).unwrap();
        let arguments = DeploymentArguments { trust_root: Some(broken), ..arguments(home.path()) };
        assert_eq!(Config::new(home.path(), &arguments).unwrap_err().code(), "usage");
    }
}
