//! Reading files out of a package: an ar archive that holds a compressed tar archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use lzma_rust2::XzReader;

/// The files whose paths are wanted, by path without `./` in front.
///
/// # Errors
/// The file is not a package whose data are a tar archive compressed with xz.
pub fn unpack(package: &Path, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = || -> Result<BTreeMap<String, Vec<u8>>> {
        let mut members = ar::Archive::new(BufReader::new(File::open(package)?));
        while let Some(member) = members.next_entry() {
            let member = member?;
            let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
            if name == "data.tar.xz" {
                return files(XzReader::new(member, true), &wanted);
            }
            if name.starts_with("data.tar") {
                bail!("its data are {name}; only data.tar.xz can be read");
            }
        }
        bail!("it has no data.tar.xz")
    };
    read().with_context(|| package.display().to_string())
}

fn files(tar: impl Read, wanted: &impl Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if entry.header().entry_type().is_file() && wanted(&path) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(path, content);
        }
    }
    Ok(files)
}

/// What these bytes, compressed with xz, hold.
///
/// # Errors
/// They are not whole.
pub fn decompress(xz: &[u8]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    XzReader::new(xz, true).read_to_end(&mut content)?;
    Ok(content)
}
