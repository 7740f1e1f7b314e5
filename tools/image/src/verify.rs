//! Building twice, as differently as one machine allows, and comparing: what is published can be made again by anyone.

mod compare;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::measure::{Features, VcpuType};
use crate::{Builder, Kind, Revision, Workspace, build, compile, measurements, run};

use compare::files_below;

/// Builds the committed source twice and compares: with each other, and with what was published, a folder or its
/// `measurements.json`. Returns the folder of the image that was built.
///
/// The second build is in a folder of another name and length, with its own copy of all crates, another number of
/// jobs, and as another user where the caller is root.
///
/// # Errors
/// A build fails, or two files differ. The message names the first and shows where.
pub fn verify(
    workspace: &Workspace, published: Option<&Path>, say: &dyn Fn(&str),
) -> Result<PathBuf> {
    let revision = workspace.revision.as_ref().context("the source is not in git")?;
    if !revision.clean {
        say("what is not committed is NOT verified");
    }
    published.map_or(Ok(()), check_published)?;
    let folder = workspace.target.join("image/verify");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    run::run(compile::cargo(workspace)?.args(["fetch", "--locked", "--target", compile::TARGET]))?;
    let first = copy(workspace, revision, &folder.join("1"), Builder::default())?;
    let is_root = run::read(Command::new("id").arg("--user"))?.trim() == "0";
    let second_folder = folder.join("second-build-in-a-longer-path");
    let builder =
        Builder { jobs: Some(1), home: Some(second_folder.join("home")), nobody: is_root };
    let second = copy(workspace, revision, &second_folder, builder)?;
    copy_crates(&compile::cargo_home(workspace)?, &compile::cargo_home(&second)?)?;
    if is_root {
        run::run(Command::new("chown").args(["-R", compile::NOBODY]).arg(&second_folder))?;
    }
    let mut images = Vec::new();
    for (which, workspace) in [("first", &first), ("second", &second)] {
        let image = workspace.output(Kind::Release);
        let say = |what: &str| say(&format!("{which} build: {what}"));
        build::build(workspace, Kind::Release, &image, &say)?;
        build::describe(workspace, &image, &say)?;
        images.push(image);
    }
    let [one, other] = &images[..] else { bail!("two images were to be compared") };
    compare::folders(one, other)?;
    say("both builds are the same, byte for byte");
    if let Some(published) = published {
        if published.is_dir() {
            compare::folders(published, one)?;
        } else {
            compare::files(published, &one.join("measurements.json"))?;
        }
        say(&format!("and so is {}", published.display()));
    }
    // What agrees need not be kept twice.
    for done in [second_folder, first.target.join("image/cargo")] {
        fs::remove_dir_all(&done).with_context(|| done.display().to_string())?;
    }
    Ok(one.clone())
}

/// Refuses what no build could be the same as, before minutes of work and not after.
fn check_published(published: &Path) -> Result<()> {
    let all = VcpuType::ALL.len() * measurements::VCPUS.len() * Features::ALL.len();
    let path =
        if published.is_dir() { published.join("measurements.json") } else { published.to_owned() };
    let content = fs::read(&path).with_context(|| path.display().to_string())?;
    let content = serde_json::from_slice::<serde_json::Value>(&content)
        .with_context(|| format!("{} is no measurements.json", path.display()))?;
    let listed = content["measurements"].as_array().map_or(0, Vec::len);
    ensure!(
        listed == all,
        "{} lists {listed} measurements, a build {all}: what is compared is the measurements.json that \
         `image build` leaves, not a selection of `image measure`",
        path.display()
    );
    Ok(())
}

/// A copy of the committed source, to be built there.
fn copy(
    workspace: &Workspace, revision: &Revision, folder: &Path, builder: Builder,
) -> Result<Workspace> {
    let root = folder.join("source");
    fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let mut git = Command::new("git");
    git.args(["archive", "--format=tar", &revision.commit]).current_dir(&workspace.root);
    let mut archive = git.stdout(Stdio::piped()).spawn().context("cannot start git")?;
    let content = archive.stdout.take().context("git archive has no output")?;
    tar::Archive::new(content).unpack(&root)?;
    ensure!(archive.wait()?.success(), "git archive failed");
    let revision = Some(Revision { commit: revision.commit.clone(), clean: true });
    let target = folder.join("target");
    fs::create_dir_all(&target)?;
    Ok(Workspace { root, target, revision, builder, ..workspace.clone() })
}

/// What cargo has downloaded, and where it was told to download from. It unpacks the crates again, and checks them.
fn copy_crates(from: &Path, to: &Path) -> Result<()> {
    for name in ["registry/index", "registry/cache"] {
        copy_folder(&from.join(name), &to.join(name))?;
    }
    let configuration = from.join("config.toml");
    if configuration.exists() {
        fs::copy(&configuration, to.join("config.toml"))?;
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for name in files_below(from)? {
        let file = to.join(&name);
        fs::create_dir_all(file.parent().unwrap_or(to))?;
        fs::copy(from.join(&name), &file).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
