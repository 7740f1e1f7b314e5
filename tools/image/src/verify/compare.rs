//! Comparing what was built, and showing where it differs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The paths of all files below a folder, sorted.
pub(super) fn files_below(folder: &Path) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(folder)?.to_string_lossy().into_owned());
            }
        }
    }
    Ok(files)
}

/// Fails at the first file that is in one folder only, or differs.
pub(super) fn folders(one: &Path, other: &Path) -> Result<()> {
    let (names, others) = (files_below(one)?, files_below(other)?);
    if let Some(name) = names.symmetric_difference(&others).next() {
        let (with, without) = if names.contains(name) { (one, other) } else { (other, one) };
        bail!("{} has {name}, {} has not", with.display(), without.display());
    }
    ensure!(!names.is_empty(), "{} is empty", one.display());
    names.iter().try_for_each(|name| files(&one.join(name), &other.join(name)))
}

/// Bytes that are shown on either side of where a difference begins.
const SHOWN: usize = 32;

/// Fails where two files differ, with their bytes there.
pub(super) fn files(one: &Path, other: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let (left, right) = (read(one)?, read(other)?);
    if left == right {
        return Ok(());
    }
    let differing = left.iter().zip(&right).filter(|(left, right)| left != right).count();
    let at = left.iter().zip(&right).position(|(left, right)| left != right);
    let at = at.unwrap_or(left.len().min(right.len()));
    let shown = |bytes: &[u8]| {
        let around = at.saturating_sub(SHOWN)..bytes.len().min(at + SHOWN);
        bytes[around].escape_ascii().to_string()
    };
    bail!(
        "two builds differ, first at byte {at}, {differing} bytes in all:\n  {} ({} bytes): {}\n  {} ({} bytes): {}\n\
         Are both made with the same tools? provenance.json names them",
        one.display(),
        left.len(),
        shown(&left),
        other.display(),
        right.len(),
        shown(&right),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_and_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, content) in [("a/x/y", "same"), ("b/x/y", "same")] {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), content).unwrap();
        }
        folders(&path("a"), &path("b")).unwrap();
        fs::write(path("b/x/y"), "sane and longer").unwrap();
        let error = folders(&path("a"), &path("b")).unwrap_err().to_string();
        assert!(error.contains("first at byte 2, 1 bytes in all"), "{error}");
        assert!(
            error.contains("(4 bytes): same") && error.contains("(15 bytes): sane and"),
            "{error}"
        );
        fs::write(path("b/x/y"), "same").unwrap();
        fs::write(path("b/z"), "").unwrap();
        for (one, other) in [("a", "b"), ("b", "a")] {
            let error = folders(&path(one), &path(other)).unwrap_err().to_string();
            assert!(error.contains("b has z, ") && error.ends_with("a has not"), "{error}");
        }
    }
}
