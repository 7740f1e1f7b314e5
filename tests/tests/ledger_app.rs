//! The ledger's application, `tools/ledger-app`: its own tests, in Node.js and in a real QuickJS, and the
//! one set of checks that it and the dev cloud's ledger both pass.
//!
//! Needs node, npm and python3; without them this fails, it does not skip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyfold_tests::program::{install, run};

/// What npm and the build leave beside the sources.
const MADE: [&str; 3] = ["node_modules", "dist", "__pycache__"];

#[test]
fn the_application_and_the_dev_cloud_pass_the_same_checks() {
    let application = installed();
    let mut npm = Command::new("npm");
    npm.arg("test").current_dir(application).env("KEYFOLD_DEV_CLOUD", dev_cloud());
    let keys = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dev-cloud-keys");
    let output = npm.env("KEYFOLD_DEV_CLOUD_KEYS", keys).output().expect("npm runs");
    let [said, warned] = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8(bytes).expect("npm speaks UTF-8"));
    assert!(output.status.success(), "npm test failed\n{said}\n{warned}");
    assert!(said.contains("the dev cloud's ledger"), "the dev cloud was not checked\n{said}");
    assert!(!warned.contains("NOT checked"), "{warned}");
}

/// The application, installed under `target/` with the exact packages of its lock file.
fn installed() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let source = workspace.join("tools/ledger-app");
    let mut files = Vec::new();
    collect(&source, &mut files);
    files.sort();
    install(Path::new(env!("CARGO_TARGET_TMPDIR")), "ledger-app", &files, |folder| {
        // What is no longer in the source is no longer tested.
        fs::remove_dir_all(folder).expect("an earlier installation can be removed");
        for file in &files {
            let copy = folder.join(file.strip_prefix(&source).expect("a file of the source"));
            fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder under target");
            fs::copy(file, copy).expect("a file of the application");
        }
        let arguments = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        run(Command::new("npm").args(arguments).current_dir(folder));
    })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the application") {
        let path = entry.expect("an entry of it").path();
        if MADE.iter().any(|made| path.ends_with(made)) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// The dev cloud beside which the tests were built.
fn dev_cloud() -> PathBuf {
    let here = std::env::current_exe().expect("a test knows its program");
    let path = here.ancestors().nth(2).expect("<profile>/deps/<test>").join("keyfold-dev-cloud");
    assert!(path.is_file(), "{} is missing: `cargo xtask build` makes it", path.display());
    path
}
