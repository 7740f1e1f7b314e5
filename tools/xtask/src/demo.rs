//! The demo: built, then told by `keyfold-demo`.

#[path = "../../local/src/bin/keyfold-demo/arguments.rs"]
mod arguments;

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::build::{self, Profile};
use crate::shell;

pub(crate) use arguments::Arguments;

/// Builds release programs and becomes the one that plays the story: a signal to this process is its.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    eprintln!("Building release programs; the first time takes ten minutes and more.");
    build::development(Profile::Release)?;
    let program = Profile::Release.folder().join("keyfold-demo");
    let mut demo = shell::command(&program.display().to_string());
    let Arguments { keep, json, dir, image, key_cache } = arguments;
    demo.args(keep.then_some("--keep")).args(json.then_some("--json")).arg("--dir").arg(dir);
    for (name, value) in [("--image", image), ("--key-cache", key_cache)] {
        if let Some(value) = value {
            demo.arg(name).arg(value);
        }
    }
    // A folder that is named is the caller's.
    Err(demo.current_dir(std::env::current_dir()?).exec()).context("cannot start keyfold-demo")
}
