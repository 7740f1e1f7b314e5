//! A deployment of the programs as they were built: dev cloud, host and enclaves, each a process.

use std::path::{Path, PathBuf};

use keyfold_local::{Binaries, Deployment, Options};

/// A folder of a test's own under the target folder, empty.
pub(crate) fn fresh_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("a folder left by an earlier run can be removed");
    }
    std::fs::create_dir_all(&folder).expect("a folder under the target folder");
    folder
}

/// The folder of the programs under test. Tests are built where they are: in the profile's folder.
pub(crate) fn programs() -> PathBuf {
    let here = std::env::current_exe().expect("a test knows its program");
    here.ancestors().nth(2).expect("<profile>/deps/<test>").to_owned()
}

/// Starts a deployment in a fresh folder of this name.
pub(crate) async fn deployment(name: &str) -> Deployment {
    deployment_with(name, Options::default()).await
}

/// The same, otherwise than most.
pub(crate) async fn deployment_with(name: &str, options: Options) -> Deployment {
    let folder = fresh_folder(name);
    let binaries = Binaries::in_folder(&programs()).unwrap_or_else(|missing| panic!("{missing:#}"));
    let keys = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dev-cloud-keys");
    let options = Options { key_cache: Some(keys), ..options };
    let started = Deployment::start(&folder, binaries, options).await;
    started.unwrap_or_else(|error| panic!("{error:#}; logs are in {}", folder.display()))
}
