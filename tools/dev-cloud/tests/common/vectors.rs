//! What real hardware and the real services made, outside the repository.

use std::path::PathBuf;

fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/azure-snp")
}

/// Whether there is something to test against; says loudly that there is not.
pub fn present() -> bool {
    let there = vectors().is_dir();
    if !there {
        eprintln!("SKIPPED, NOT TESTED: no SNP vectors at {}", vectors().display());
    }
    there
}

pub fn vector(name: &str) -> Vec<u8> {
    let path = vectors().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn text(name: &str) -> String {
    String::from_utf8(vector(name)).unwrap()
}
