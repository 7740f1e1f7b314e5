//! `keyfold-enclave`: the trusted core behind a pipe or a vsock port.
//!
//! Thin on purpose: it locks its memory, picks a platform, and moves frames. One process serves one
//! link and holds at most one root key; when the link ends, so does the process, and with it every
//! secret. Standard error carries log lines; nothing secret is ever formatted.
#![forbid(unsafe_code)]

mod hardening;
mod platform;
mod transport;
mod unlock;

use std::io;
use std::process::ExitCode;

use keyfold_trusted::Core;

const USAGE: &str = "\
keyfold-enclave: the trusted core of Keyfold

Usage:
  keyfold-enclave pipe          serve one host on standard input and output
  keyfold-enclave vsock PORT    serve the first host that connects to this vsock port
  keyfold-enclave --version     version, and which platform this build attests with

The host configures and unlocks it; it reads no configuration of its own.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let served = match arguments.as_slice() {
        ["pipe"] => serve(transport::pipe()),
        ["vsock", port] => match port.parse() {
            Ok(port) => transport::vsock(port).and_then(serve),
            Err(_) => return usage(&format!("{port} is not a vsock port (0 to 4294967295)")),
        },
        ["--version" | "-V"] => {
            println!("keyfold-enclave {} ({})", env!("CARGO_PKG_VERSION"), platform::NAME);
            return ExitCode::SUCCESS;
        }
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [] => return usage("say how the host reaches me"),
        _ => return usage("unknown arguments"),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyfold-enclave: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("keyfold-enclave: {problem}\n\n{USAGE}");
    ExitCode::from(2)
}

fn serve(link: transport::Link) -> io::Result<()> {
    hardening::apply();
    let platform = platform::System::open()?;
    eprintln!("keyfold-enclave: serving, platform {}", platform::NAME);
    // Boxed, because the session table is too large for a stack.
    transport::run(link, &mut Box::new(Core::new(platform)))
}
