//! The image, booted: under QEMU's emulation, with its vsock as a Unix socket.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::{demo, image, shell};

/// Plays the demo's story with the enclave in a machine, or shows what the release image says.
pub(crate) fn run(arguments: demo::Arguments, release: bool) -> Result<()> {
    let missing =
        ["qemu-system-x86_64", "vhost-device-vsock"].into_iter().find(|it| !shell::has(it));
    ensure!(
        missing.is_none(),
        "{} is missing: cargo xtask test tools",
        missing.unwrap_or_default()
    );
    let kind = if release { "--bare" } else { "--development" };
    image::build(kind)?;
    let images = shell::target().join("image");
    if !release {
        let image = arguments.image.or(Some(images.join("development")));
        return demo::run(&demo::Arguments { image, ..arguments });
    }
    eprintln!("Building keyfold-vm for release; the first time takes some minutes.");
    build::local(Profile::Release)?;
    let program = Profile::Release.folder().join("keyfold-vm");
    let mut vm = shell::command(&program.display().to_string());
    vm.arg("--once").arg("--image").arg(images.join("bare"));
    vm.arg("--dir").arg(images.join("machine"));
    Err(vm.exec()).context("cannot start keyfold-vm")
}
