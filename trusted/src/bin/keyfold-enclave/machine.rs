//! The first process of a confidential VM, which holds this program, the kernel and its modules alone.
//!
//! It serves one link for each processor, each from a process of its own: when a link ends, so does its
//! process, and the kernel wipes what it had (`init_on_free`). When this one ends, the kernel panics
//! and the machine starts again.

use std::fs::{self, File};
use std::process::{self, Command};
use std::time::Duration;
use std::{io, thread};

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

use crate::platform::System;

/// Serves ports from this one on, as many as the machine has processors. Ends only with an error:
/// where the machine cannot attest, it serves nobody.
pub(crate) fn run(first: u32) -> io::Result<()> {
    // Anywhere else it would mount over what is there, and forbid a whole machine its modules.
    if process::id() != 1 {
        return Err(io::Error::other("this is not the first process of a machine"));
    }
    for (file_system, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        reach(file_system, place)?;
    }
    let mut modules = fs::read_dir("/modules")?.collect::<io::Result<Vec<_>>>()?;
    modules.sort_by_key(fs::DirEntry::path);
    for module in modules.iter().map(fs::DirEntry::path) {
        // One whose device is missing refuses to load. Whether it was needed shows below.
        if let Err(error) = finit_module(File::open(&module)?, c"", ModuleInitFlags::empty()) {
            eprintln!("keyfold-enclave: {}: {error}", module.display());
        }
    }
    fs::write("/proc/sys/kernel/modules_disabled", "1")?;
    reach("configfs", "/sys/kernel/config")?;
    drop(System::open()?);
    let links = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        (first..).take(links).for_each(|port| drop(scope.spawn(move || serve(port))))
    });
    Ok(())
}

fn reach(file_system: &str, place: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mounted = mount(Some(file_system), place, Some(file_system), flags, None::<&str>);
    mounted.map_err(|error| io::Error::other(format!("{place}: {error}")))
}

fn serve(port: u32) {
    loop {
        let ended = Command::new("/proc/self/exe").args(["vsock", &port.to_string()]).status();
        eprintln!("keyfold-enclave: port {port}: {ended:?}");
        thread::sleep(Duration::from_millis(50));
    }
}
