//! The demo is a program of its own, beside this one: it brings a cloud that protects nothing, which
//! has no place in here.

use std::io;
use std::process::Command;

use crate::failure::{Exit, Failure};

/// Becomes it: what it says, its exit status and the signals that stop it are its own.
pub(crate) fn run(json: bool, arguments: &[String]) -> Result<(), Failure> {
    let here =
        std::env::current_exe().map_err(|error| Failure::file("keyfold".as_ref(), &error))?;
    let program = here.with_file_name("keyfold-demo");
    let flag = json.then_some("--json");
    let error = replace(Command::new(&program).args(flag).args(arguments));
    let message = format!(
        "{}: {error}; the demo comes with the source: `cargo xtask demo` builds and plays it",
        program.display()
    );
    Err(Failure::new(Exit::Device, "demo-missing", message))
}

/// Comes back only when it cannot.
#[cfg(unix)]
fn replace(command: &mut Command) -> io::Error {
    std::os::unix::process::CommandExt::exec(command)
}

#[cfg(not(unix))]
fn replace(_: &mut Command) -> io::Error {
    io::ErrorKind::Unsupported.into()
}
