//! What a client keeps between runs: where its account stood when last seen, and its keys.
//!
//! One directory per account and device, mode 0700, files 0600:
//!
//! | file | holds |
//! |---|---|
//! | `state.json` | [`State`]: deployment pin, account, versions and heads, the synced passkey list |
//! | `presence.key` | the presence key |
//! | `uv.key` | the user-verification key, sealed under a passphrase |
//! | `sign-in.json` | the last ID token, until it expires |
//! | `lock` | nothing; held while `state.json` changes |
//!
//! The state is what a rollback is noticed by, so it is written to a new file, synced and renamed:
//! after a crash it is the old one or the new one. Two processes of one account never lose each
//! other's updates: [`Store::update`] reads, changes and writes under one lock. Restoring an old
//! copy of this directory loses what it knew since; it does no other harm.

mod keys;
mod state;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

pub use keys::Passphrase;
pub use state::{AccountState, Ended, Passkey, State};

use crate::device::KeyError;

/// Why local state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: "read", "write", "lock", "create".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others on this machine can read or change the file.
    #[error("{path} is open to other users of this machine; run: chmod {mode} {path}")]
    Permissions {
        /// Which file or directory.
        path: PathBuf,
        /// What it should be, for `chmod`.
        mode: &'static str,
    },
    /// The file is no file of this format.
    #[error("{path} is damaged ({reason}); restore it from a backup, or register this device anew")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written by a newer version of this library.
    #[error("{path} has format {found}, this program knows {known}; update this program")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// There are no keys yet.
    #[error("{path} does not exist: this device has no keys yet; enroll it, or join an account")]
    NoKeys {
        /// Which file.
        path: PathBuf,
    },
    /// There are keys already.
    #[error("{path} exists: this device has keys already; use another directory for another one")]
    KeysExist {
        /// Which file.
        path: PathBuf,
    },
    /// The passphrase does not open the user-verification key.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// A key file opens but holds no usable key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A directory of local state.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

const STATE: &str = "state.json";
const SIGN_IN: &str = "sign-in.json";
const LOCK: &str = "lock";

impl Store {
    /// Opens `directory`, making it where it does not exist.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Permissions`] when others can look into it.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        create_private(&directory).map_err(io_error("create", &directory))?;
        check_private(&directory, "700")?;
        Ok(Self { directory })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The state as last written; an empty one where none was.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Newer`], [`StoreError::Permissions`],
    /// [`StoreError::Io`].
    pub fn load(&self) -> Result<State, StoreError> {
        Ok(self.read_json(STATE, state::FORMAT)?.unwrap_or_default())
    }

    /// Reads the state, lets `change` change it and writes it, with no other process in between.
    /// When `change` fails, or changes nothing, nothing is written. Blocks for as long as another
    /// process does the same: milliseconds.
    ///
    /// # Errors
    /// What `change` returned, or a [`StoreError`].
    pub fn update<T, E: From<StoreError>>(
        &self, change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let _locked = self.lock()?;
        let before = self.load()?;
        let mut state = before.clone();
        let result = change(&mut state)?;
        if state != before {
            self.write_json(STATE, &state)?;
        }
        Ok(result)
    }

    /// Held until dropped; the operating system lets go of it when the process ends.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.path(LOCK);
        let file = private_options().create(true).truncate(false).open(&path);
        let file = file.map_err(io_error("create", &path))?;
        file.lock().map_err(io_error("lock", &path))?;
        Ok(file)
    }

    /// The cached sign-in, if there is one that can be read; it can always be made again.
    pub(crate) fn load_sign_in<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.read(SIGN_IN).ok()??).ok()
    }

    pub(crate) fn save_sign_in<T: Serialize>(&self, sign_in: &T) -> Result<(), StoreError> {
        self.write_json(SIGN_IN, sign_in)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file's content; `None` when there is no such file.
    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let bytes = Zeroizing::new(bytes);
                check_private(&path, "600")?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// A JSON file that says its own format.
    fn read_json<T: DeserializeOwned>(
        &self, name: &str, known: u32,
    ) -> Result<Option<T>, StoreError> {
        #[derive(serde::Deserialize)]
        struct Format {
            format: u32,
        }
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| self.damaged(name, error.to_string());
        let Format { format: found } = serde_json::from_slice(&bytes).map_err(damaged)?;
        match found.cmp(&known) {
            std::cmp::Ordering::Greater => {
                Err(StoreError::Newer { path: self.path(name), found, known })
            }
            std::cmp::Ordering::Less => Err(self.damaged(name, format!("format {found}"))),
            std::cmp::Ordering::Equal => serde_json::from_slice(&bytes).map(Some).map_err(damaged),
        }
    }

    fn damaged(&self, name: &str, reason: String) -> StoreError {
        StoreError::Damaged { path: self.path(name), reason }
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(value);
        let json = json.map_err(|error| self.damaged(name, error.to_string()))?;
        self.write(name, &Zeroizing::new(json))
    }

    /// Replaces a file as a whole, durably.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name);
        self.try_write(name, bytes).map_err(io_error("write", &path))
    }

    fn try_write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let suffix = hex::encode(crate::crypto::random::<8>());
        let temporary = self.path(&format!(".{name}.{suffix}"));
        let written = (|| {
            let mut file = private_options().create_new(true).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, self.path(name))
        })();
        if written.is_err() {
            // The error that matters is the first one.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        File::open(&self.directory)?.sync_all()
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}

fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn create_private(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

#[cfg(unix)]
fn check_private(path: &Path, mode: &'static str) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    let found = fs::metadata(path).map_err(io_error("read", path))?.permissions().mode();
    if found & 0o077 == 0 {
        Ok(())
    } else {
        Err(StoreError::Permissions { path: path.to_owned(), mode })
    }
}

/// Elsewhere the directory's access list decides, which it inherits from the user's profile.
#[cfg(not(unix))]
fn check_private(_: &Path, _: &'static str) -> Result<(), StoreError> {
    Ok(())
}

#[cfg(test)]
mod tests;
