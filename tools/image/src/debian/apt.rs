//! Fetching with the machine's own apt: its mirror, proxies and keys, but lists and folders of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::pins::Package;
use crate::run;

/// The release whose configured place is where other suites are looked for too.
const RELEASE: &str = "bookworm";

/// Debian's keys, where its own packages put them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A downloaded file, gone with the folder it is in unless it is moved out.
pub(super) struct Fetched {
    pub(super) file: PathBuf,
    _folder: TempDir,
}

/// Downloads a package into a folder of its own below this one.
pub(super) fn fetch(package: &Package, below: &Path) -> Result<Fetched> {
    let apt = Apt::new(&package.suite, below)?;
    // A mirror that is out of reach is one, and not a suite without packages.
    apt.read("apt-get", &["update", "-o", "APT::Update::Error-Mode=any"])?;
    let wanted = format!("{}={}", package.package, package.version);
    let there = apt.folder.path().join("package");
    fs::create_dir(&there)?;
    let mut download = apt.command("apt-get");
    download.args(["download", &wanted]).current_dir(&there);
    if let Err(error) = run::read(&mut download) {
        let versions = apt.read("apt-cache", &["madison", &package.package])?;
        let versions: Vec<_> = versions.lines().filter_map(|line| line.split('|').nth(1)).collect();
        let versions = versions.iter().map(|version| version.trim()).collect::<Vec<_>>().join(", ");
        let versions = if versions.is_empty() { "none".to_owned() } else { versions };
        return Err(error.context(format!("{} has of it: {versions}", package.suite)));
    }
    let mut files = fs::read_dir(&there)?;
    let file = files.next().context("apt-get downloaded nothing")??.path();
    Ok(Fetched { file, _folder: apt.folder })
}

/// apt with one suite, in a folder of its own.
struct Apt {
    folder: TempDir,
}

impl Apt {
    fn new(suite: &str, below: &Path) -> Result<Self> {
        let place = place()?;
        let folder = TempDir::new_in(below)?;
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        let keys = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let source = format!("deb {keys}{place} {suite} main\n");
        fs::write(folder.path().join("sources.list"), source)?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let option =
            |name: &str, path: &str| format!("{name}={}", self.folder.path().join(path).display());
        let mut command = Command::new(program);
        command.arg("-o").arg(option("Dir::Etc::sourcelist", "sources.list"));
        command.args(["-o", "Dir::Etc::sourceparts=-"]);
        command.arg("-o").arg(option("Dir::State::lists", "lists"));
        command.arg("-o").arg(option("Dir::Cache", "cache"));
        // Only packages are looked for.
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        command
    }

    fn read(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run::read(self.command(program).args(arguments))
    }
}

/// Where this machine's apt gets the release from, whatever form its configuration is written in.
fn place() -> Result<String> {
    let format = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)";
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let targets = run::read(&mut targets)
        .context("this machine's apt does not say where it gets packages from")?;
    for line in targets.lines() {
        if let [place, suite, codename, "main"] = line.split('|').collect::<Vec<_>>()[..]
            && (suite == RELEASE || codename == RELEASE)
        {
            return Ok(place.to_owned());
        }
    }
    bail!(
        "this machine's apt has no source for Debian's {RELEASE} main, from which to derive others"
    )
}
