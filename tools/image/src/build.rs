//! Building an image: what SEV-SNP direct boot takes, and what of it can be checked.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command_line::command_line;
use crate::kernel::Kernel;
use crate::pins::Pins;
use crate::{Kind, Workspace, compile, debian, initrd, measurements, oci, provenance, sbom};

/// The firmware in its package.
const FIRMWARE: &str = "usr/share/ovmf/OVMF.amdsev.fd";

/// The enclave's program, in bytes, at most.
pub const ENCLAVE_LIMIT: usize = 3 << 20;
/// Kernel and initial file system together, in bytes, at most.
pub const IMAGE_LIMIT: usize = 20 << 20;

/// What is stated about what boots: [`describe`] writes it, and no other image's stays beside a new one.
const DESCRIPTION: [&str; 5] =
    ["firmware.fd", "measurements.json", "oci", "sbom.cdx.json", "provenance.json"];

/// The sizes of what was built, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The enclave's program.
    pub enclave: usize,
    /// The kernel.
    pub kernel: usize,
    /// The initial file system, the enclave in it.
    pub initrd: usize,
}

/// Builds what boots into a folder, and says on the way what it does.
///
/// # Errors
/// A package cannot be had or is not the pinned one, the enclave does not compile, a file cannot be written, or
/// something is larger than it may be.
pub fn build(workspace: &Workspace, kind: Kind, out: &Path, say: &dyn Fn(&str)) -> Result<Sizes> {
    say("fetching the kernel that tools/image/packages.toml pins");
    let pins = Pins::read(&workspace.root)?;
    let package = debian::fetch(&pins.kernel, &workspace.packages)?;
    say(&format!("unpacking {} {}", pins.kernel.package, pins.kernel.version));
    let kernel = Kernel::read(&package)?;
    say("compiling keyfold-enclave; the first time takes some minutes");
    let enclave = compile::enclave(workspace, kind)?;
    let initrd = initrd::archive(enclave.clone(), &kernel.modules).to_bytes()?;
    let sizes = Sizes { enclave: enclave.len(), kernel: kernel.image.len(), initrd: initrd.len() };
    sizes.check()?;
    let out = Folder::new(out)?;
    out.forget()?;
    out.write(initrd::ENCLAVE, &enclave)?;
    fs::set_permissions(out.0.join(initrd::ENCLAVE), Permissions::from_mode(0o755))?;
    out.write("vmlinuz", &kernel.image)?;
    out.write("initrd", &initrd)?;
    out.write("cmdline", command_line(kind).as_bytes())?;
    Ok(sizes)
}

/// Adds to a release image's folder what lets others check it: firmware and measurements, container, bill of materials,
/// and last, since it names all of them, the provenance.
///
/// # Errors
/// The firmware cannot be had or is not the pinned one, or a file cannot be read or written.
pub fn describe(workspace: &Workspace, out: &Path, say: &dyn Fn(&str)) -> Result<()> {
    say("measuring");
    let pins = &Pins::read(&workspace.root)?;
    let out = Folder::new(out)?;
    let firmware = firmware(workspace, pins)?;
    let [firmware_name, measurements_name, container, bill, provenance_name] = DESCRIPTION;
    out.write(firmware_name, &firmware)?;
    let firmware = out.0.join(firmware_name);
    let measured = measurements::of(out.0, &firmware, &measurements::published())?;
    out.write_json(measurements_name, &measured)?;
    say("describing it");
    oci::write(&out.0.join(container), &fs::read(out.0.join(initrd::ENCLAVE))?)?;
    out.write_json(bill, &sbom::bill(workspace, pins)?)?;
    out.write_json(provenance_name, &provenance::statement(workspace, pins, out.0)?)
}

/// The named firmware, or the pinned one.
fn firmware(workspace: &Workspace, pins: &Pins) -> Result<Vec<u8>> {
    if let Some(path) = &workspace.firmware {
        return fs::read(path).with_context(|| path.display().to_string());
    }
    let package = debian::fetch(&pins.firmware, &workspace.packages)
        .context("or name another firmware with --firmware, which is measured then")?;
    let mut files = debian::unpack(&package, |path| path == FIRMWARE)?;
    files.remove(FIRMWARE).with_context(|| format!("{} has no {FIRMWARE}", package.display()))
}

/// A folder that is written into.
struct Folder<'a>(&'a Path);

impl<'a> Folder<'a> {
    fn new(path: &'a Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Removes what an earlier image was described with.
    fn forget(&self) -> Result<()> {
        for path in DESCRIPTION.map(|name| self.0.join(name)) {
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| path.display().to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())
    }

    fn write_json(&self, name: &str, content: &Value) -> Result<()> {
        self.write(name, format!("{content:#}\n").as_bytes())
    }
}

impl Sizes {
    /// Kernel and initial file system together.
    pub fn image(&self) -> usize {
        self.kernel + self.initrd
    }

    fn check(&self) -> Result<()> {
        for (what, size, limit) in [
            ("keyfold-enclave", self.enclave, ENCLAVE_LIMIT),
            ("the image with its kernel", self.image(), IMAGE_LIMIT),
        ] {
            ensure!(
                size <= limit,
                "{what} has {size} bytes, {limit} at most: look for what came in (cargo tree --package \
                 keyfold-trusted, cargo xtask budget)"
            );
        }
        Ok(())
    }
}
