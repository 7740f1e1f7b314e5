//! The demo is a program of its own, beside this one: it brings a cloud that protects nothing, which
//! has no place in here.

use std::process::Command;

use crate::failure::{Exit, Failure};

/// Runs it to its end.
pub(crate) fn run(json: bool, arguments: &[String]) -> Result<(), Failure> {
    let here =
        std::env::current_exe().map_err(|error| Failure::file("keyfold".as_ref(), &error))?;
    let program = here.with_file_name("keyfold-demo");
    let flag = json.then_some("--json");
    let status = Command::new(&program).args(flag).args(arguments).status().map_err(|error| {
        let message = format!(
            "{}: {error}; the demo comes with the source: `cargo xtask demo` builds and plays it",
            program.display()
        );
        Failure::new(Exit::Device, "demo-missing", message)
    })?;
    match status.success() {
        true => Ok(()),
        false => {
            Err(Failure::new(Exit::Failed, "demo-failed", format!("the demo ended with {status}")))
        }
    }
}
