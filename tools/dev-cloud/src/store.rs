//! Small files of the dev directory: written whole or not at all, readable by their owner only.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, create_dir_all, rename};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes the directory and its parents, mode 0700.
pub(crate) fn directory(path: &Path) -> Result<()> {
    let cannot = |what: &'static str| {
        move || format!("cannot {what} {}: name a directory of your own", path.display())
    };
    create_dir_all(path).with_context(cannot("make"))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700))
        .with_context(cannot("close to others"))
}

/// Replaces the file's content atomically and durably, mode 0600.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().context("a file needs a directory")?;
    let name = path.file_name().context("a file needs a name")?.to_string_lossy();
    // Named after the process: two that write the same file do not mix.
    let temporary = parent.join(format!(".{name}.{}.new", std::process::id()));
    let store = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        rename(&temporary, path)?;
        File::open(parent)?.sync_all()
    };
    store().with_context(|| format!("write {}", path.display()))
}

/// The file's content, or None if it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
