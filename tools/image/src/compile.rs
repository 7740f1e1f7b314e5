//! Compiling the enclave so that the same source gives the same bytes: in whatever folder, by whomever, with however
//! many jobs.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{Builder, Kind, Workspace, hash, run};

/// The only platform that attests.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The user that owns nothing, in decimal.
pub(crate) const NOBODY: &str = "65534";

/// What the C compiler adds to a static program.
const C_LIBRARIES: [&str; 7] =
    ["libc.a", "libgcc.a", "libgcc_eh.a", "rcrt1.o", "crti.o", "crtn.o", "crtbeginS.o"];

/// What cargo and the compilers see of the caller's environment: where things are, and nothing that changes what is
/// built.
const ENVIRONMENT: [&str; 13] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_AUTO_INSTALL",
    "CARGO_NET_OFFLINE",
    "CARGO_BUILD_JOBS",
    "CARGO_TERM_COLOR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "SSL_CERT_FILE",
];

/// Packages whose size counts for more than their speed: none of them is on the way of a sign-in.
const OPTIMISED_OTHERWISE: [(&str, &str); 4] =
    [("aws-lc-sys", "'s'"), ("libcrux-ml-kem", "2"), ("nix", "'s'"), ("sev", "'s'")];

/// What a program with the software chip says when asked its version.
const SIMULATED: &[u8] = b"SIMULATED: protects nothing";

/// Compiles the enclave: static, without symbols, without the paths of this machine. Returns the program's bytes.
///
/// # Errors
/// The compiler is not the pinned one, or does not compile it.
pub fn enclave(workspace: &Workspace, kind: Kind) -> Result<Vec<u8>> {
    check_compiler(workspace)?;
    let folder = workspace.target.join("image/cargo");
    // Both kinds are compiled to one file: nobody else's is read for this one's. Not in the folder itself,
    // which is whoever compiles's.
    let lock = workspace.target.join("image.lock");
    let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
    lock.lock()?;
    let mut cargo = cargo(workspace)?;
    cargo.args(["build", "--locked", "--release", "--target", TARGET]);
    cargo.args(["--package", "keyfold-trusted", "--bin", "keyfold-enclave"]);
    for (package, level) in OPTIMISED_OTHERWISE {
        cargo.args(["--config", &format!("profile.release.package.{package}.opt-level={level}")]);
    }
    if kind == Kind::Development {
        cargo.args(["--features", "keyfold-trusted/simulated"]);
    }
    let prefixes = prefixes(workspace, &folder)?;
    cargo.env("CARGO_TARGET_DIR", &folder);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&prefixes));
    cargo.env(format!("CFLAGS_{TARGET}"), c_flags(&prefixes));
    run::run(&mut cargo)?;
    let program = folder.join(TARGET).join("release/keyfold-enclave");
    let content = fs::read(&program).with_context(|| program.display().to_string())?;
    check_paths(&content, &prefixes)?;
    check_kind(&content, kind)?;
    Ok(content)
}

/// Only a development image holds a program with the software chip.
fn check_kind(program: &[u8], kind: Kind) -> Result<()> {
    let is_simulated = program.windows(SIMULATED.len()).any(|part| part == SIMULATED);
    ensure!(
        is_simulated == (kind == Kind::Development),
        "keyfold-enclave was compiled for the other kind of image"
    );
    Ok(())
}

/// A folder's name in the program would make it another program in another folder.
fn check_paths(program: &[u8], prefixes: &[Prefix]) -> Result<()> {
    // A folder at the very top, such as /src, is a part of other names as well.
    for (path, _) in prefixes.iter().filter(|(path, _)| path.components().count() > 2) {
        let path = path.as_os_str().as_bytes();
        let found = program.windows(path.len()).any(|part| part == path);
        ensure!(
            !found,
            "keyfold-enclave names {}: it was compiled past the renaming",
            path.escape_ascii()
        );
    }
    Ok(())
}

/// cargo in the workspace, in an environment of its own.
pub(crate) fn cargo(workspace: &Workspace) -> Result<Command> {
    let mut cargo = match &workspace.builder {
        Builder { nobody: true, .. } => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
            // The toolchain may lie in a folder of root's, where others cannot look.
            command.args(["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]);
            // And when a program asks whether it may, it is told that it may.
            command.arg("--securebits=+no_setuid_fixup");
            command.arg(&workspace.cargo);
            command
        }
        _ => Command::new(&workspace.cargo),
    };
    cargo.current_dir(&workspace.root).env_clear();
    cargo.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    cargo.envs([("LC_ALL", "C"), ("SOURCE_DATE_EPOCH", "0"), ("CARGO_INCREMENTAL", "0")]);
    cargo.env("RUSTC", sysroot(workspace)?.join("bin/rustc"));
    // aws-lc unwraps one RSA key at boot: a megabyte of curves and of wide AES for speed is left out.
    cargo.env("AWS_LC_SYS_SMALL", "1");
    if let Some(jobs) = workspace.builder.jobs {
        cargo.env("CARGO_BUILD_JOBS", jobs.to_string());
    }
    if let Some(home) = &workspace.builder.home {
        cargo.env("HOME", home).env("CARGO_HOME", cargo_home(workspace)?);
        cargo.env("CARGO_NET_OFFLINE", "true");
    }
    Ok(cargo)
}

/// The folder where cargo keeps what it downloads.
pub(crate) fn cargo_home(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(home) = &workspace.builder.home {
        return Ok(home.join("cargo"));
    }
    let user = std::env::home_dir().map(|home| home.join(".cargo"));
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    named.or(user).context("there is no home folder, and CARGO_HOME is not set")
}

fn rustc(workspace: &Workspace, arguments: &[&str]) -> Result<String> {
    run::read(Command::new("rustc").args(arguments).current_dir(&workspace.root))
}

fn sysroot(workspace: &Workspace) -> Result<PathBuf> {
    Ok(rustc(workspace, &["--print", "sysroot"])?.trim().into())
}

/// The compilers, as they name themselves.
pub(crate) struct Tools {
    /// `rustc --version`.
    pub(crate) rustc: String,
    /// The commit it was built from, in hex.
    pub(crate) rustc_commit: String,
    /// The first line of `cc --version`.
    pub(crate) cc: String,
}

pub(crate) fn tools(workspace: &Workspace) -> Result<Tools> {
    let verbose = rustc(workspace, &["--version", "--verbose"])?;
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let commit = verbose.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    let commit = commit.context("rustc does not say which commit it is")?.to_owned();
    let cc = run::read(Command::new("cc").arg("--version"))?;
    Ok(Tools { rustc: first(&verbose), rustc_commit: commit, cc: first(&cc) })
}

/// The C libraries that a static program is linked with, and their SHA-256: parts of the image that no lock file names.
pub(crate) fn c_libraries(workspace: &Workspace) -> Result<Vec<(String, String)>> {
    let hashed = |name: &str| {
        let mut cc = Command::new("cc");
        cc.arg(format!("-print-file-name={name}")).current_dir(&workspace.root);
        Ok((name.to_owned(), hash::of_file(Path::new(run::read(&mut cc)?.trim()))?))
    };
    C_LIBRARIES.iter().map(|name| hashed(name)).collect()
}

/// A folder of this machine, and what it is called in the program. Of two that fit, the later one counts.
type Prefix = (PathBuf, &'static str);

fn prefixes(workspace: &Workspace, folder: &Path) -> Result<Vec<Prefix>> {
    Ok(vec![
        (workspace.root.clone(), "/keyfold"),
        (folder.to_owned(), "/target"),
        (cargo_home(workspace)?, "/cargo"),
        (sysroot(workspace)?, "/rust"),
    ])
}

fn rust_flags(prefixes: &[Prefix]) -> String {
    let fixed = [
        "-Ctarget-feature=+crt-static",
        "-Clink-arg=-Wl,--build-id=none",
        // A program that may lie anywhere lists its addresses: here as a bitmap, a thirtieth of the size.
        "-Clink-arg=-Wl,-z,pack-relative-relocs",
        // Functions of the same instructions are one.
        "-Clink-arg=-Wl,--icf=all",
        // Nothing is unwound: a panic ends the machine.
        "-Cforce-unwind-tables=no",
    ];
    let remapped = prefixes
        .iter()
        .map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
    fixed.iter().map(ToString::to_string).chain(remapped).collect::<Vec<_>>().join("\x1f")
}

fn c_flags(prefixes: &[Prefix]) -> String {
    let remapped =
        prefixes.iter().map(|(path, name)| format!("-ffile-prefix-map={}={name}", path.display()));
    remapped.chain(["-fno-asynchronous-unwind-tables".to_owned()]).collect::<Vec<_>>().join(" ")
}

#[derive(Deserialize)]
struct ToolchainFile {
    toolchain: Toolchain,
}

#[derive(Deserialize)]
struct Toolchain {
    channel: String,
}

fn check_compiler(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("rust-toolchain.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let pinned = toml::from_str::<ToolchainFile>(&text)?.toolchain.channel;
    let version = rustc(workspace, &["--version"])
        .with_context(|| format!("Rust {pinned} is needed: rustup toolchain install {pinned}"))?;
    ensure!(
        version.split(' ').nth(1) == Some(pinned.as_str()),
        "rustc here is {}, rust-toolchain.toml pins {pinned}; another compiler makes other bytes: rustup toolchain \
         install {pinned}",
        version.trim(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_other_kind_is_refused() {
        let simulated = [b"keyfold-enclave 1 (", SIMULATED, b")"].concat();
        check_kind(b"keyfold-enclave 1 (snp)", Kind::Release).unwrap();
        check_kind(&simulated, Kind::Development).unwrap();
        check_kind(b"keyfold-enclave 1 (snp)", Kind::Development).unwrap_err();
        check_kind(&simulated, Kind::Release).unwrap_err();
    }

    #[test]
    fn a_program_that_names_a_folder_of_this_machine_is_refused() {
        let prefixes = [("/home/somebody/source".into(), "/keyfold"), ("/src".into(), "/cargo")];
        check_paths(b"panicked at /keyfold/src/main.rs", &prefixes).unwrap();
        let error = check_paths(b"..at /home/somebody/source/a.c", &prefixes).unwrap_err();
        assert!(error.to_string().contains("names /home/somebody/source"), "{error}");
    }
}
