//! What the demo takes. `cargo xtask demo` reads this file too: it refuses what the demo would, before
//! it builds anything.

use std::path::PathBuf;

/// The demo's options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything running afterwards, and say how to go on by hand
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print one JSON object with each step's time instead of the story
    #[arg(long)]
    pub(crate) json: bool,
    /// Where to keep keys, databases and logs; emptied first
    #[arg(long, default_value = ".keyfold/demo")]
    pub(crate) dir: PathBuf,
    /// Run the enclave in a virtual machine of this development image, reached over vsock
    #[arg(long, value_name = "FOLDER")]
    pub(crate) image: Option<PathBuf>,
    /// Where RSA keys of earlier runs may be taken from
    #[arg(long, hide = true)]
    pub(crate) key_cache: Option<PathBuf>,
}
