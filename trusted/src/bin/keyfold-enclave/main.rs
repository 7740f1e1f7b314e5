//! `keyfold-enclave`: the trusted core behind a pipe or a vsock port.
//!
//! Thin on purpose: it locks its memory, picks a platform, and moves frames. One process serves one
//! link and holds at most one root key; when the link ends, so does the process, and with it every
//! secret. Standard error carries log lines; nothing secret is ever formatted.
#![forbid(unsafe_code)]

mod hardening;
mod machine;
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
  keyfold-enclave socket PATH   serve the first host that connects to this Unix socket
  keyfold-enclave vsock PORT    serve the first host that connects to this vsock port
  keyfold-enclave machine PORT  be a machine's first process: serve this port and those after it,
                                one for each processor
  keyfold-enclave --version     version, and which platform this build attests with

The host configures and unlocks it; it reads no configuration of its own.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let served = match arguments.as_slice() {
        ["pipe"] => serve(transport::pipe()),
        ["socket", path] => transport::socket(path).and_then(serve),
        ["vsock", port] => number(port).and_then(transport::vsock).and_then(serve),
        ["machine", port] => number(port).and_then(machine::run),
        ["--version" | "-V"] => {
            println!("keyfold-enclave {} ({})", env!("CARGO_PKG_VERSION"), platform::NAME);
            return ExitCode::SUCCESS;
        }
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("keyfold-enclave: say how the host reaches me\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyfold-enclave: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(port: &str) -> io::Result<u32> {
    let no_port = |_| io::Error::other(format!("{port} is not a vsock port (0 to 4294967295)"));
    port.parse().map_err(no_port)
}

fn serve(link: transport::Link) -> io::Result<()> {
    hardening::apply();
    let platform = platform::System::open()?;
    eprintln!("keyfold-enclave: serving, platform {}", platform::NAME);
    // Boxed, because the session table is too large for a stack.
    transport::run(link, &mut Box::new(Core::new(platform)))
}
