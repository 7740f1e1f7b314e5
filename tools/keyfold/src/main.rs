//! `keyfold`: passkeys from a shell.
//!
//! A thin shell around `keyfold_client`: it parses, asks, calls the library and prints. What it
//! promises by itself: results on stdout, everything else on stderr; with `--json` one object on
//! each; secrets come from the terminal or a file, never from an argument or the environment; text
//! of others is printed without what could steer a terminal; every failure has a code, an exit
//! status and something to do about it.

mod args;
mod commands;
mod config;
mod context;
mod failure;
mod output;
mod prompt;

use std::process::ExitCode;

use clap::Parser;

use args::Arguments;
use failure::Failure;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let json = arguments.globals.json;
    log(json);
    match commands::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

/// Help and version are no failures; what is wrong with the arguments is reported as any other
/// failure is.
fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && json {
        let message = error.render().to_string();
        let message = message.trim_start_matches("error: ").trim_end();
        return Failure::usage(message).report(true);
    }
    // Printing fails when nobody reads any more.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The library's warnings go to stderr; `KEYFOLD_LOG=debug` shows more. With `--json`, stderr is for
/// events and the one error object, unless `KEYFOLD_LOG` asks for more.
fn log(json: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::builder()
        .with_env_var("KEYFOLD_LOG")
        .try_from_env()
        .unwrap_or_else(|_| EnvFilter::new(if json { "off" } else { "warn" }));
    let colour = output::colour(&std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(colour);
    if json { log.json().init() } else { log.without_time().init() }
}
