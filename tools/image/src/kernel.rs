//! The guest's kernel: the image that is started, and the modules in the order in which init loads them.

mod modules;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::debian;
pub use modules::Module;
use modules::Modules;

/// What the guest needs beyond the kernel itself: the host's link, and the processor's attester. The rest of virtio is
/// in the kernel.
const NEEDED: [&str; 3] = ["vmw_vsock_virtio_transport", "tsm", "sev-guest"];

/// The kernel of a package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The bootable image.
    pub image: Vec<u8>,
    /// The modules, in load order.
    pub modules: Vec<Module>,
}

impl Kernel {
    /// Reads Debian's package of a kernel.
    ///
    /// # Errors
    /// The package has no kernel, or lacks a module that the guest needs.
    pub fn read(package: &Path) -> Result<Self> {
        let is_image = |path: &str| path.starts_with("boot/vmlinuz-");
        let is_module = |path: &str| path.ends_with(".ko.xz");
        let is_builtin = |path: &str| path.ends_with("/modules.builtin");
        let files =
            debian::unpack(package, |path| is_image(path) || is_module(path) || is_builtin(path))?;
        let mut images = files.iter().filter(|(path, _)| is_image(path));
        let (_, image) = images.next().context("the package has no boot/vmlinuz-*")?;
        ensure!(images.next().is_none(), "the package has more than one kernel");
        let builtin = files.iter().find(|(path, _)| is_builtin(path));
        let (_, builtin) = builtin.context("the package has no modules.builtin")?;
        let modules = files.iter().filter(|(path, _)| is_module(path));
        let modules = modules.map(|(path, content)| (path.as_str(), content.as_slice()));
        let modules = Modules::new(modules, &String::from_utf8_lossy(builtin));
        Ok(Self { image: image.clone(), modules: modules.in_load_order(&NEEDED)? })
    }
}
