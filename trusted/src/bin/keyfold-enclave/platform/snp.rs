//! AMD SEV-SNP, through the kernel's configfs-tsm interface (Linux 6.7 and later).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keyfold_protocol::limits::REPORT;

const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// The processor's attester.
pub(crate) struct Snp;

impl Snp {
    /// Fails where there is no SEV-SNP.
    pub(crate) fn open() -> io::Result<Self> {
        if Path::new(REPORTS).is_dir() {
            return Ok(Self);
        }
        Err(io::Error::other(format!(
            "{REPORTS} is missing: this is no SEV-SNP guest, or its kernel lacks the modules tsm and \
             sev-guest, or configfs is not mounted"
        )))
    }

    /// A fresh report at VMPL 0.
    pub(crate) fn report(&self, report_data: &[u8; 64]) -> Result<[u8; REPORT], String> {
        let entry = Entry::create().map_err(|error| format!("{REPORTS}: {error}"))?;
        entry.write("privlevel", b"0")?;
        entry.write("inblob", report_data)?;
        let provider = entry.read("provider")?;
        if provider.trim_ascii() != b"sev_guest" {
            let provider = String::from_utf8_lossy(&provider);
            return Err(format!("the report's provider is {provider}, expected sev_guest"));
        }
        let report = entry.read("outblob")?;
        report.as_slice().try_into().map_err(|_| format!("a report of {} bytes", report.len()))
    }
}

/// One report being made; the kernel forgets it when its directory goes.
struct Entry(PathBuf);

impl Entry {
    fn create() -> io::Result<Self> {
        let path = Path::new(REPORTS).join(format!("keyfold-{}", std::process::id()));
        // One that an earlier report could not remove must not stop this one.
        let _ = fs::remove_dir(&path);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, value: &[u8]) -> Result<(), String> {
        fs::write(self.0.join(name), value).map_err(|error| format!("{name}: {error}"))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        fs::read(self.0.join(name)).map_err(|error| format!("{name}: {error}"))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("keyfold-enclave: {}: {error}", self.0.display());
        }
    }
}
