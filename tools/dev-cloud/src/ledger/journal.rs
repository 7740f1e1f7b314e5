//! The ledger on disk: one append-only file of framed records, synced before anything is answered.
//!
//! Frame = length (u32 LE) | CRC-32 of the payload (u32 LE) | payload. A process killed in the middle of a
//! write leaves a torn last batch, which nobody was told about: opening cuts it off. Damage further
//! up is never cut away; opening refuses it.

use super::tree::Digest;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// No single write is larger, so no torn tail is.
pub(crate) const MAX_BATCH_BYTES: usize = 1 << 20;
const FRAME_HEAD: usize = 8;

/// "view.seqno", CCF's name of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TransactionId {
    /// Raised at every change of the service.
    pub(crate) view: u64,
    /// Position in the ledger, from 1.
    pub(crate) seqno: u64,
}

impl std::fmt::Display for TransactionId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.view, self.seqno)
    }
}

impl std::str::FromStr for TransactionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (view, seqno) = text.split_once('.').ok_or(())?;
        let id =
            Self { view: view.parse().map_err(|_| ())?, seqno: seqno.parse().map_err(|_| ())? };
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its name.
    pub(crate) id: TransactionId,
    /// What it wrote.
    pub(crate) body: Body,
}

/// What a transaction writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// The application's: an append, or a nonce-stamped read.
    Application {
        /// 1 append, 2 read, as the claim says it.
        kind: u8,
        /// Which account.
        tag: Digest,
        /// The version written or read.
        version: u64,
        /// The digest written or read.
        digest: Digest,
        /// The reader's nonce; zeros in an append.
        nonce: Digest,
    },
    /// The service signs the root over everything before.
    Signature {
        /// The root signed.
        root: Digest,
        /// The COSE protected header.
        protected: Vec<u8>,
        /// r || s.
        signature: [u8; 96],
    },
    /// The service opens, or recovers under another key.
    Identity {
        /// DER SubjectPublicKeyInfo of the key that signs from here on.
        spki: Vec<u8>,
    },
}

/// Kind of an append, in records and claims.
pub(crate) const APPEND: u8 = 1;
/// Kind of a read.
pub(crate) const READ: u8 = 2;
const SIGNATURE: u8 = 3;
const IDENTITY: u8 = 4;

impl Record {
    /// The write set's bytes, whose SHA-256 stands in the leaf.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        let kind = match &self.body {
            Body::Application { kind, .. } => *kind,
            Body::Signature { .. } => SIGNATURE,
            Body::Identity { .. } => IDENTITY,
        };
        out.push(kind);
        out.extend(self.id.view.to_be_bytes());
        out.extend(self.id.seqno.to_be_bytes());
        match &self.body {
            Body::Application { tag, version, digest, nonce, .. } => {
                out.extend(tag);
                out.extend(version.to_be_bytes());
                out.extend(digest);
                out.extend(nonce);
            }
            Body::Signature { root, protected, signature } => {
                out.extend(root);
                out.extend(signature);
                out.extend(protected);
            }
            Body::Identity { spki } => out.extend(spki),
        }
        out
    }

    fn parse(payload: &[u8]) -> Result<Self> {
        let mut input = Input(payload);
        let kind = input.take::<1>()?[0];
        let view = u64::from_be_bytes(input.take()?);
        let seqno = u64::from_be_bytes(input.take()?);
        let body = match kind {
            APPEND | READ => Body::Application {
                kind,
                tag: input.take()?,
                version: u64::from_be_bytes(input.take()?),
                digest: input.take()?,
                nonce: input.take()?,
            },
            SIGNATURE => Body::Signature {
                root: input.take()?,
                signature: input.take()?,
                protected: std::mem::take(&mut input.0).to_vec(),
            },
            IDENTITY => Body::Identity { spki: std::mem::take(&mut input.0).to_vec() },
            other => bail!("unknown record kind {other}"),
        };
        ensure!(input.0.is_empty(), "bytes after the record");
        Ok(Self { id: TransactionId { view, seqno }, body })
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().context("the record is too short")?;
        self.0 = rest;
        Ok(*head)
    }
}

/// The open file, positioned at its end.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens or creates the file and gives every record in it.
    ///
    /// # Errors
    /// The file cannot be read, or it is damaged before its last batch.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Record>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;

        let mut records = Vec::new();
        let mut offset = 0;
        while let Some((payload, length)) = frame(&bytes[offset..]) {
            let record = Record::parse(payload)
                .with_context(|| format!("{} at byte {offset}", path.display()))?;
            records.push(record);
            offset += length;
        }
        let tail = bytes.len() - offset;
        ensure!(
            tail <= MAX_BATCH_BYTES,
            "{} is damaged at byte {offset}, {tail} bytes before its end, which no interrupted write explains. \
             Restore the file, or move the directory away to start an empty ledger.",
            path.display()
        );
        if tail > 0 {
            tracing::warn!(
                tail,
                "an interrupted write was cut off the ledger; it was never answered"
            );
            file.set_len(offset as u64)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(offset as u64))?;
        Ok((Self { file, path: path.to_owned() }, records))
    }

    /// Writes the records in one write and returns when they are on disk.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<()> {
        let mut batch = Vec::with_capacity(records.len() * 160);
        for record in records {
            let payload = record.payload();
            batch.extend((payload.len() as u32).to_le_bytes());
            batch.extend(crc32fast::hash(&payload).to_le_bytes());
            batch.extend(payload);
        }
        ensure!(batch.len() <= MAX_BATCH_BYTES, "a batch of {} bytes", batch.len());
        self.file
            .write_all(&batch)
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("write {}", self.path.display()))
    }
}

/// The first frame's payload and the frame's length, if it is whole.
fn frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    let whole = !payload.is_empty() && crc32fast::hash(payload) == u32::from_le_bytes(*crc);
    whole.then_some((payload, FRAME_HEAD + payload.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seqno: u64) -> Record {
        let body = Body::Application {
            kind: APPEND,
            tag: [seqno as u8; 32],
            version: seqno,
            digest: [7; 32],
            nonce: [0; 32],
        };
        Record { id: TransactionId { view: 2, seqno }, body }
    }

    fn temporary(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("keyfold-journal-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("ledger.bin");
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn every_kind_of_record_survives() {
        let path = temporary("kinds");
        let id = TransactionId { view: 2, seqno: 4 };
        let records = vec![
            record(1),
            Record { id, body: Body::Identity { spki: vec![1, 2, 3] } },
            Record {
                id,
                body: Body::Signature { root: [1; 32], protected: vec![5; 99], signature: [6; 96] },
            },
        ];
        let (mut journal, empty) = Journal::open(&path).unwrap();
        assert!(empty.is_empty());
        journal.append(&records).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, records);
    }

    #[test]
    fn a_write_torn_anywhere_is_cut_off_and_the_rest_kept() {
        let path = temporary("torn");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(&[record(1)]).unwrap();
        let kept = std::fs::metadata(&path).unwrap().len() as usize;
        journal.append(&[record(2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for end in kept..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let (mut journal, records) = Journal::open(&path).unwrap();
            assert_eq!(records, [record(1)], "torn at {end}");
            journal.append(&[record(2)]).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole, "torn at {end}");
        }
    }

    #[test]
    fn a_flipped_bit_in_the_last_record_is_noticed() {
        let path = temporary("flipped");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(&[record(1), record(2)]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, [record(1)]);
    }

    #[test]
    fn damage_further_up_is_refused_not_cut_away() {
        let path = temporary("damaged");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for start in 0..3 {
            let batch: Vec<_> = (1..5000).map(|n| record(start * 5000 + n)).collect();
            journal.append(&batch).unwrap();
        }
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[60] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let refusal = Journal::open(&path).err().unwrap().to_string();
        assert!(refusal.contains("damaged at byte 0"), "{refusal}");
    }

    #[test]
    fn transaction_ids_have_one_spelling() {
        assert_eq!("2.15".parse(), Ok(TransactionId { view: 2, seqno: 15 }));
        for wrong in ["", "2", "2.", ".1", "02.1", "2.01", "+2.1", "2.1.1", "2.-1", " 2.1"] {
            assert_eq!(wrong.parse::<TransactionId>(), Err(()), "{wrong:?}");
        }
    }
}
