//! Archives as the kernel unpacks its initial file system from: cpio's "newc" form
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same content gives the same bytes, whatever the order it is added in: entries are sorted, inode numbers count
//! up, everything belongs to root and is as old as the epoch. Archives can be concatenated; of two files of one name,
//! the later one stays.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// A file system to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive(BTreeMap<String, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Type and permissions.
    mode: u32,
    device: Device,
    content: Vec<u8>,
}

/// A device's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Device {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A folder, and those it is in. Paths have no slash in front: `sys/kernel`.
    #[must_use]
    pub fn folder(mut self, path: &str) -> Self {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            let entry = Entry { mode: FOLDER, device: Device::default(), content: Vec::new() };
            self.0.entry(path[..end].to_owned()).or_insert(entry);
        }
        self
    }

    /// A file with these permissions, in its folder.
    #[must_use]
    pub fn file(self, path: &str, permissions: u32, content: Vec<u8>) -> Self {
        self.entry(path, Entry { mode: FILE | permissions, device: Device::default(), content })
    }

    /// A character device with these permissions, in its folder.
    #[must_use]
    pub fn character_device(self, path: &str, permissions: u32, device: Device) -> Self {
        let mode = CHARACTER_DEVICE | permissions;
        self.entry(path, Entry { mode, device, content: Vec::new() })
    }

    fn entry(self, path: &str, entry: Entry) -> Self {
        let mut archive = match path.rsplit_once('/') {
            Some((folder, _)) => self.folder(folder),
            None => self,
        };
        archive.0.insert(path.to_owned(), entry);
        archive
    }

    /// The archive, a multiple of 512 bytes long.
    ///
    /// # Errors
    /// A file of 4 GiB or more.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.0) {
            put(&mut bytes, inode, path, entry).with_context(|| path.clone())?;
        }
        let end = Entry { mode: 0, device: Device::default(), content: Vec::new() };
        put(&mut bytes, 0, "TRAILER!!!", &end)?;
        pad(&mut bytes, 512);
        Ok(bytes)
    }
}

fn put(bytes: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) -> Result<()> {
    let links = if entry.mode == FOLDER { 2 } else { 1 };
    let [owner, group, time, checksum] = [0; 4];
    let [major, minor] = [0; 2];
    let fields = [
        inode,
        entry.mode,
        owner,
        group,
        links,
        time,
        u32::try_from(entry.content.len())?,
        major,
        minor,
        entry.device.major,
        entry.device.minor,
        u32::try_from(path.len() + 1)?,
        checksum,
    ];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(path.as_bytes());
    bytes.push(0);
    pad(bytes, 4);
    bytes.extend_from_slice(&entry.content);
    pad(bytes, 4);
    Ok(())
}

fn pad(bytes: &mut Vec<u8>, unit: usize) {
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
}
