//! The trusted binary's dependency graph, against the checked-in list that gives each crate a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell;

/// A crate by name and version.
pub(crate) type Package = (String, String);

const LIST: &str = "trusted/DEPENDENCIES.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(rename = "crate", default)]
    crates: Vec<Entry>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    version: String,
    checksum: String,
    part: String,
    why: String,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Crates linked into the trusted package with these features, itself included.
pub(crate) fn linked(features: &[&str]) -> Result<BTreeSet<Package>> {
    tree("normal", features, |line| !line.ends_with("(proc-macro)"))
}

fn tree(edges: &str, features: &[&str], keep: impl Fn(&str) -> bool) -> Result<BTreeSet<Package>> {
    let mut cargo = shell::cargo();
    cargo.args(["tree", "--locked", "--package", "keyfold-trusted", "--prefix", "none"]);
    cargo.args(["--edges", edges, "--target", "x86_64-unknown-linux-gnu"]).args(features);
    let text = shell::read(&mut cargo)?;
    let lines = text.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| keep(line));
    let package = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        Some((name, words.next()?.trim_start_matches('v').to_owned()))
    };
    lines.map(|line| package(line).with_context(|| format!("cargo tree said: {line}"))).collect()
}

/// Compares the list with the graph.
pub(crate) fn check(
    library: &BTreeSet<Package>, binary: &BTreeSet<Package>, update: bool,
) -> Result<()> {
    let everything = tree("normal,build", &["--features", "enclave"], |_| true)?;
    let real = entries(&everything, library, binary)?;
    let path = shell::root().join(LIST);
    let listed: List = match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).context(LIST)?,
        Err(_) if update => List { crates: Vec::new() },
        Err(error) => return Err(error).context(LIST),
    };
    let mut reasons = BTreeMap::new();
    for entry in &listed.crates {
        reasons.insert(entry.name.clone(), entry.why.clone());
    }
    if update {
        return fs::write(&path, render(&real, &reasons)).context(LIST);
    }
    let mut problems = Vec::new();
    let key = |entry: &Entry| (entry.name.clone(), entry.version.clone());
    let listed: BTreeMap<_, _> = listed.crates.iter().map(|entry| (key(entry), entry)).collect();
    for entry in &real {
        match listed.get(&key(entry)) {
            None => problems.push(format!("{} {} is not listed", entry.name, entry.version)),
            Some(known) if known.why.is_empty() => {
                problems.push(format!("{} has no reason", entry.name));
            }
            Some(known) if known.checksum != entry.checksum || known.part != entry.part => {
                problems
                    .push(format!("{} {}: checksum or part differs", entry.name, entry.version));
            }
            Some(_) => {}
        }
    }
    let real: BTreeSet<_> = real.iter().map(key).collect();
    let gone = listed.keys().filter(|package| !real.contains(*package));
    problems.extend(gone.map(|(name, version)| format!("{name} {version} is no longer used")));
    if problems.is_empty() {
        println!("{LIST}: all {} crates as listed", real.len());
        return Ok(());
    }
    bail!(
        "{LIST} is not the real graph:\n  {}\nReview, then: cargo xtask budget --update",
        problems.join("\n  ")
    )
}

fn entries(
    everything: &BTreeSet<Package>, library: &BTreeSet<Package>, binary: &BTreeSet<Package>,
) -> Result<Vec<Entry>> {
    let lock = fs::read_to_string(shell::root().join("Cargo.lock")).context("Cargo.lock")?;
    let lock: Lock = toml::from_str(&lock).context("Cargo.lock")?;
    let entry = |package: &Package| {
        let (name, version) = package.clone();
        let locked =
            lock.package.iter().find(|known| known.name == name && known.version == version);
        let checksum = locked.and_then(|known| known.checksum.clone()).unwrap_or_default();
        let part = if library.contains(package) {
            "library"
        } else if binary.contains(package) {
            "binary"
        } else {
            "build"
        };
        Entry { name, version, checksum, part: part.to_owned(), why: String::new() }
    };
    let ours = |package: &&Package| !package.0.starts_with("keyfold-");
    Ok(everything.iter().filter(ours).map(entry).collect())
}

fn render(entries: &[Entry], reasons: &BTreeMap<String, String>) -> String {
    let mut text = String::from(
        "# Every crate in the trusted binary: what it is, and why it is trusted with passkeys.\n\
         # library: linked into the no_std core; binary: linked into keyfold-enclave only;\n\
         # build: runs at build time (procedural macros, build scripts) and is not linked.\n\
         # `cargo xtask budget` compares this list with the real graph and fails on any difference.\n",
    );
    for Entry { name, version, checksum, part, .. } in entries {
        let why = reasons.get(name).cloned().unwrap_or_default();
        let _ = write!(
            text,
            "\n[[crate]]\nname = \"{name}\"\nversion = \"{version}\"\nchecksum = \"{checksum}\"\n\
             part = \"{part}\"\nwhy = \"{why}\"\n"
        );
    }
    text
}
