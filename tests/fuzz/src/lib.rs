//! What the fuzz targets share: seeds without files, and a source of edits.

pub mod histories;
pub mod model;
pub mod what;

use std::path::PathBuf;

use keyfold_tests::generate::Source;

/// Writes a target's seeds and ends the process, if it was started for that.
pub fn write_seeds(seeds: impl IntoIterator<Item = Vec<u8>>) {
    let Some(folder) = std::env::var_os("KEYFOLD_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (number, seed) in seeds.into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:03}")), seed).expect("a corpus to write");
    }
    std::process::exit(0);
}

/// A number below `bound`, at most 256: always one byte of the source, so that seeds can be written
/// by hand.
pub fn below(source: &mut Source, bound: usize) -> usize {
    usize::from(source.arbitrary::<u8>().unwrap_or(0)) % bound
}

/// Bytes with some of them changed, a few inserted or removed.
pub fn edited(original: &[u8], source: &mut Source) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let edits = source.int_in_range(0..=4).unwrap_or(0);
    for _ in 0..edits {
        let at = source.int_in_range(0..=bytes.len()).unwrap_or(0);
        let value: u8 = source.arbitrary().unwrap_or(0);
        match source.int_in_range(0..=3).unwrap_or(0) {
            0 => bytes.insert(at, value),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            _ if at < bytes.len() => bytes[at] ^= value,
            _ => {}
        }
    }
    bytes
}
