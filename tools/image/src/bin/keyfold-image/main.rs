//! `keyfold-image`: builds the confidential VM's image, and lets anyone check it. Run as `cargo xtask image`.

use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use keyfold_image::command_line::words;
use keyfold_image::{Kind, Workspace, build, hash, measurements, policy, verify};

/// The confidential VM's image.
#[derive(Parser)]
#[command(name = "cargo xtask image", bin_name = "cargo xtask image", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the image, and all that lets others check it.
    Build {
        /// With a software chip instead of the processor's: IT PROTECTS NOTHING
        #[arg(long)]
        development: bool,
        /// Only what boots: without firmware, measurements, container and provenance, which a development
        /// image never has
        #[arg(long)]
        bare: bool,
        /// Where to; otherwise target/image/release, target/image/bare or target/image/development. What an
        /// earlier image was described with is removed there
        #[arg(long)]
        out: Option<PathBuf>,
        /// OVMF with SEV-SNP and kernel hashes, instead of the pinned one
        #[arg(long, conflicts_with_all = ["bare", "development"])]
        firmware: Option<PathBuf>,
    },
    /// Build the committed source twice, as differently as this machine allows, and compare.
    ///
    /// It is all that an auditor needs: the same source, the same bytes, the published measurements.
    Verify {
        /// What was published: a built folder, or its measurements.json
        published: Option<PathBuf>,
        /// OVMF with SEV-SNP and kernel hashes, instead of the pinned one
        #[arg(long)]
        firmware: Option<PathBuf>,
    },
    /// Print the kernel's command line, word by word, each with its reason.
    CommandLine {
        /// The development image's
        #[arg(long)]
        development: bool,
    },
    /// Write the confidential-container policy for Azure, and print its host_data.
    Policy {
        /// The dm-verity root hash of the container image's layer, as Azure mounts it
        layer: String,
        /// Where to
        #[arg(long, default_value = "policy.rego")]
        out: PathBuf,
    },
    /// Print the launch measurements of a built image.
    Measure {
        /// The image's folder; target/image/release otherwise
        #[arg(long)]
        image: Option<PathBuf>,
        /// OVMF with SEV-SNP and kernel hashes; the image's firmware.fd otherwise
        #[arg(long)]
        firmware: Option<PathBuf>,
        /// Numbers of vCPUs, separated by commas
        #[arg(long, value_delimiter = ',', value_parser = vcpus)]
        vcpus: Vec<NonZeroU32>,
    },
}

/// As many as QEMU's q35 takes.
const MOST_VCPUS: u32 = 4096;

fn vcpus(text: &str) -> Result<NonZeroU32, String> {
    let number = text.parse().ok().filter(|number: &NonZeroU32| number.get() <= MOST_VCPUS);
    number.ok_or_else(|| format!("a number from 1 to {MOST_VCPUS}"))
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::own();
    match task {
        Task::Build { development, bare, out, firmware } => {
            let workspace = Workspace { firmware, ..workspace };
            build(&workspace, kind(development), bare, out)
        }
        Task::CommandLine { development } => {
            let line = |(word, reason)| format!("{word:<44} {reason}\n");
            print(&words(kind(development)).into_iter().map(line).collect::<String>())
        }
        Task::Verify { published, firmware } => {
            let workspace = Workspace { firmware, ..workspace };
            let image = verify::verify(&workspace, published.as_deref(), &say)?;
            print(&format!("{}\n", image.join("measurements.json").display()))
        }
        Task::Policy { layer, out } => {
            let policy = policy::policy(&layer)?;
            fs::write(&out, &policy).with_context(|| out.display().to_string())?;
            print(&format!("{}\n", hash::of(policy.as_bytes())))
        }
        Task::Measure { image, firmware, vcpus } => {
            let image = image.unwrap_or_else(|| workspace.output(Kind::Release));
            let firmware = firmware.unwrap_or_else(|| image.join("firmware.fd"));
            let vcpus = if vcpus.is_empty() { measurements::published() } else { vcpus };
            let needed = "`cargo xtask image build` makes it; --image and --firmware name others";
            for path in [&image.join("cmdline"), &firmware] {
                ensure!(path.is_file(), "{} is missing: {needed}", path.display());
            }
            print(&format!("{:#}\n", measurements::of(&image, &firmware, &vcpus)?))
        }
    }
}

fn kind(development: bool) -> Kind {
    if development { Kind::Development } else { Kind::Release }
}

/// To standard output; it is nobody's failure when nobody reads any more.
fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output")
        }
        _ => Ok(()),
    }
}

fn say(what: &str) {
    eprintln!("== {what}");
}

fn build(workspace: &Workspace, kind: Kind, bare: bool, out: Option<PathBuf>) -> Result<()> {
    if kind == Kind::Development {
        eprintln!(
            "THIS IS A DEVELOPMENT IMAGE. IT ATTESTS WITH A SOFTWARE CHIP AND PROTECTS NOTHING."
        );
    }
    if let Some(firmware) = &workspace.firmware {
        // Before the work, not after it.
        ensure!(firmware.is_file(), "{} is missing", firmware.display());
    }
    let is_bare = bare && kind == Kind::Release;
    let own = if is_bare { workspace.bare() } else { workspace.output(kind) };
    let out = out.unwrap_or(own);
    let sizes = build::build(workspace, kind, &out, &say)?;
    // A development image is nobody's to accept: nothing is stated about it.
    if kind == Kind::Release && !is_bare {
        build::describe(workspace, &out, &say)?;
    }
    let mut text = format!("{}\n", out.display());
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    for (what, size, limit) in [
        ("enclave", sizes.enclave, build::ENCLAVE_LIMIT),
        ("image with kernel", sizes.image(), build::IMAGE_LIMIT),
    ] {
        let (size, limit) = (mebibytes(size), mebibytes(limit));
        text += &format!("{what:<18} {size:>6.2} MiB of {limit:.0}\n");
    }
    print(&text)
}
