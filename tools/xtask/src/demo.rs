//! The demo: built, then told by `keyfold-demo`.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::shell;

/// Builds release programs and plays the story.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    eprintln!("Building release programs; the first time takes some minutes.");
    build::development(Profile::Release)?;
    build::demo(Profile::Release)?;
    let program = Profile::Release.folder().join("keyfold-demo");
    shell::run(shell::command(&program.display().to_string()).args(arguments))
}
