//! AMD SEV-SNP: reports through the kernel's configfs-tsm interface (Linux 6.7 and later), or, where
//! that is missing, through the device of the sev-guest driver.

mod entropy;

use std::fs;
use std::io;
use std::path::Path;

use keyfold_protocol::limits::REPORT;
use sev::firmware::guest::Firmware;

const REPORTS: &str = "/sys/kernel/config/tsm/report";
const DEVICE: &str = "/dev/sev-guest";
/// The most privileged level: what a report of a less privileged one says is not about the whole guest.
const VMPL: u32 = 0;

/// The processor's attester, by the way to it.
pub(crate) enum Snp {
    ConfigFs,
    Device(Firmware),
}

impl Snp {
    /// Fails where there is no SEV-SNP, or no randomness but the host's.
    pub(crate) fn open() -> io::Result<Self> {
        let device = || Firmware::open().map_err(|error| format!("{DEVICE}: {error}"));
        let is_mounted = Path::new(REPORTS).is_dir();
        let way = if is_mounted { Ok(Self::ConfigFs) } else { device().map(Self::Device) };
        // Either way can be there and lead nowhere: a first report tells.
        let attester = way.and_then(|mut way| way.report(&[0; 64]).map(|_| way));
        let attester = attester.map_err(|error| {
            let needed = "the modules tsm and sev-guest, or configfs";
            io::Error::other(format!("{error}: this is no SEV-SNP guest, or lacks {needed}"))
        })?;
        let sources = entropy::require_hardware_source(&fs::read_to_string("/proc/cpuinfo")?);
        sources.map(|()| attester).map_err(io::Error::other)
    }

    /// A fresh report at VMPL 0.
    pub(crate) fn report(&mut self, report_data: &[u8; 64]) -> Result<[u8; REPORT], String> {
        let report = match self {
            Self::ConfigFs => report_of_entry(report_data)?,
            Self::Device(device) => {
                let report = device.get_report(None, Some(*report_data), Some(VMPL));
                report.map_err(|error| format!("{DEVICE}: {error}"))?
            }
        };
        report.as_slice().try_into().map_err(|_| format!("a report of {} bytes", report.len()))
    }
}

fn report_of_entry(report_data: &[u8; 64]) -> Result<Vec<u8>, String> {
    let entry = Path::new(REPORTS).join(format!("keyfold-{}", std::process::id()));
    // One that an earlier report could not remove must not stop this one.
    let _ = fs::remove_dir(&entry);
    fs::create_dir(&entry).map_err(|error| format!("{}: {error}", entry.display()))?;
    let report = report_in(&entry, report_data);
    // The kernel forgets the report when its directory goes.
    if let Err(error) = fs::remove_dir(&entry) {
        eprintln!("keyfold-enclave: {}: {error}", entry.display());
    }
    report
}

fn report_in(entry: &Path, report_data: &[u8; 64]) -> Result<Vec<u8>, String> {
    let told = |name| move |error| format!("{name}: {error}");
    let read = |name| fs::read(entry.join(name)).map_err(told(name));
    fs::write(entry.join("privlevel"), VMPL.to_string()).map_err(told("privlevel"))?;
    fs::write(entry.join("inblob"), report_data).map_err(told("inblob"))?;
    let provider = String::from_utf8_lossy(&read("provider")?).trim().to_owned();
    if provider != "sev_guest" {
        return Err(format!("the report's provider is {provider}, expected sev_guest"));
    }
    read("outblob")
}
