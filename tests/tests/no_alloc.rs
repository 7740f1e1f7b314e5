//! The proof by linking: `tests/no-alloc` links, and with one `Vec` in it, it does not.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Builds the package with the versions the workspace is locked to; without the network.
fn build(features: &[&str]) -> (Output, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let package = root.join("tests/no-alloc");
    std::fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).expect("the lock file");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let target = target.join("no-alloc");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--offline", "--target-dir"]).arg(&target);
    cargo.args(features).current_dir(&package);
    // Flags meant for the workspace's own build (sanitizers, coverage) would bring their runtimes.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let output = cargo.output().expect("cargo runs");
    (output, target.join("release/libkeyfold_no_alloc.so"))
}

#[test]
fn the_core_reaches_no_allocator() {
    let (output, library) = build(&[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the core reaches the allocator, or did not build:\n{errors}");
    assert!(library.exists());

    // The control: one reachable Vec, and the undefined allocator is missed.
    let (output, _) = build(&["--features", "one-vec"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "a Vec went unnoticed");
    assert!(errors.contains("keyfold_the_core_reached_the_allocator"), "{errors}");
}
