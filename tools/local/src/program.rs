//! Programs of the project, started and stopped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the project's programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `keyfold-enclave`, built with the feature `simulated`.
    pub enclave: PathBuf,
    /// `keyfold-host`.
    pub host: PathBuf,
    /// `keyfold-dev-cloud`.
    pub dev_cloud: PathBuf,
    /// `keyfold`, built with the feature `development`.
    pub cli: PathBuf,
    /// `keyfold-vm`.
    pub vm: PathBuf,
}

impl Binaries {
    /// All of them in one folder, as cargo leaves them.
    ///
    /// # Errors
    /// When one is missing; the message says how to build it.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let find = |name: &str| {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
            bail!("{} is missing: `cargo xtask build` makes it", path.display())
        };
        Ok(Self {
            enclave: find("keyfold-enclave")?,
            host: find("keyfold-host")?,
            dev_cloud: find("keyfold-dev-cloud")?,
            cli: find("keyfold")?,
            // Wanted by those alone who want a machine: starting it says so.
            vm: folder.join("keyfold-vm"),
        })
    }
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program; what it prints goes to `log`, behind what is there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let file = open().with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log: log.to_path_buf() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Process ids of the programs that it has started and that run.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn children(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        // Children belong to the thread that made them.
        for task in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|id| id.parse::<i32>().ok()));
        }
        Ok(found)
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).with_context(|| self.name)?;
        Ok(())
    }

    /// SIGTERM, and waits until it is gone; `kill -9` after half a minute.
    ///
    /// # Errors
    /// When the system refuses, or it had to be killed.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill()?;
        bail!("{} did not stop on SIGTERM; its log is {}", self.name, self.log.display())
    }

    /// SIGHUP: a program that knows it reads its configuration again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn reload(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(id), signal).with_context(|| self.name)
    }

    /// An error that says why the program is gone, if it is.
    ///
    /// # Errors
    /// When it is gone.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n  ");
                bail!(
                    "{} ended ({status}); the end of {}:\n  {last}",
                    self.name,
                    self.log.display()
                )
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Gone already, perhaps; nobody is left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
