//! Keeps secrets in memory: no core dumps, no swap.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// Applies what the system permits and says what it did not. A confidential VM has neither swap nor
/// another process; elsewhere an unprivileged user may not lock memory, and that must not stop it.
pub(crate) fn apply() {
    let measures = [
        ("core dumps stay possible", setrlimit(Resource::RLIMIT_CORE, 0, 0)),
        ("other processes may trace this one", set_dumpable(false)),
        ("memory may be swapped out", lock_memory()),
    ];
    for (consequence, result) in measures {
        if let Err(error) = result {
            eprintln!("keyfold-enclave: {consequence}: {error}");
        }
    }
}

/// All memory, now and later. Under a limit, locking would only make a later allocation fail.
fn lock_memory() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
}
