//! The guest's whole file system: the enclave and the kernel's modules; nothing else is in the machine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::{Archive, Device};
use crate::kernel::Module;

/// The enclave, which the kernel starts as its first and only program.
pub const ENCLAVE: &str = "keyfold-enclave";
/// Where modules are, named so that their order as text is the order to load them in.
pub const MODULES: &str = "modules";
/// Where a development machine looks for its software chip.
pub const CHIP: &str = "chip";

/// What init mounts the kernel's own file systems on.
const MOUNT_POINTS: [&str; 3] = ["proc", "sys", "dev"];
/// What the enclave writes to before init has mounted anything.
const CONSOLE: Device = Device { major: 5, minor: 1 };

/// The initial file system.
pub fn archive(enclave: Vec<u8>, modules: &[Module]) -> Archive {
    let archive = MOUNT_POINTS.iter().fold(Archive::new(), |archive, path| archive.folder(path));
    let archive =
        archive.character_device("dev/console", 0o600, CONSOLE).file(ENCLAVE, 0o500, enclave);
    (0..).zip(modules).fold(archive, |archive, (number, module)| {
        let path = format!("{MODULES}/{number:02}-{}.ko", module.name);
        archive.file(&path, 0o400, module.content.clone())
    })
}

/// The chip that a development machine attests with, from the folder where the dev cloud keeps it: to be appended to
/// the initial file system by whoever starts the machine. It is not part of the image.
///
/// # Errors
/// `vcek.pem` or `vcek.key.pk8` cannot be read.
pub fn chip_archive(folder: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for name in ["vcek.pem", "vcek.key.pk8"] {
        let path = folder.join(name);
        let content = fs::read(&path).with_context(|| path.display().to_string())?;
        archive = archive.file(&format!("{CHIP}/{name}"), 0o400, content);
    }
    archive.to_bytes()
}
