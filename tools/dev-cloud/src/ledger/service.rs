//! The ledger's state, and how its routes reach it: writes through the one writer, reads directly.

use super::journal::{APPEND, Body, Journal, Record, TransactionId};
use super::receipt::{self, Leaf, ServiceKey, Signature};
use super::tree::{Digest, Tree};
use super::writer::Writer;
use crate::digest::sha256;
use crate::store;
use anyhow::{Context, Result, ensure};
use aws_lc_rs::{hmac, rand};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Label of the 121 bytes whose SHA-256 the application sets as claims digest.
const CLAIM_LABEL: &[u8; 16] = b"keyfold-ledger/1";
/// `sub` of every receipt.
pub(crate) const SUBJECT: &str = "keyfold";
/// CCF opens its first service in view 2.
const FIRST_VIEW: u64 = 2;

/// What is on disk, and nothing that is not.
pub(super) struct Durable {
    pub(super) tags: HashMap<Digest, Tag>,
    /// Entry n is transaction n + 1.
    pub(super) transactions: Vec<Transaction>,
    pub(super) signatures: Vec<Signed>,
    pub(super) tree: Tree,
    pub(super) view: u64,
    pub(super) opened: TransactionId,
    pub(super) recoveries: u64,
}

/// The application's state for one tag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tag {
    pub(crate) version: u64,
    pub(crate) digest: Digest,
    pub(crate) transaction: TransactionId,
}

pub(super) struct Transaction {
    pub(super) view: u64,
    pub(super) write_set: Digest,
    /// None: a transaction of the service itself, for which there is no receipt.
    pub(super) claims: Option<Digest>,
}

pub(super) struct Signed {
    pub(super) seqno: u64,
    pub(super) signature: Signature,
}

/// How an append or a read ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Written now.
    Done(Tag),
    /// It was the tag's entry already.
    Repeated(Tag),
    Conflict(Option<Tag>),
}

/// What a receipt request finds.
pub(crate) enum ReceiptState {
    Ready(Vec<u8>),
    /// Known, not yet under a signature.
    Pending,
    /// A transaction of the service, or an id of another view.
    None,
    /// Beyond the ledger's end.
    Unknown,
}

pub(super) enum Command {
    Append { tag: Digest, version: u64, digest: Digest, reply: oneshot::Sender<Outcome> },
    Read { tag: Digest, nonce: Digest, reply: oneshot::Sender<Outcome> },
    NewIdentity { reply: oneshot::Sender<()> },
    Stop,
}

/// How the service presents itself now.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) key: Arc<ServiceKey>,
    pub(crate) certificate_pem: String,
}

/// The ledger, shared by its routes.
pub(crate) struct Ledger {
    durable: Arc<RwLock<Durable>>,
    identity: Arc<RwLock<Identity>>,
    evidence_key: hmac::Key,
    commands: Sender<Command>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// The writer is gone: the disk failed or the dev cloud is stopping.
#[derive(Debug)]
pub(crate) struct Unavailable;

impl Ledger {
    /// Opens `dir`, replays what is there, starts the writer.
    pub(crate) fn open(dir: &Path, issuer: &str, latency: Duration) -> Result<Arc<Self>> {
        store::directory(dir)?;
        let evidence_key = evidence_key(dir)?;
        let (journal, records) = Journal::open(&dir.join("ledger.bin"))?;
        let mut durable = Durable::new();
        let mut key = None;
        for record in &records {
            key = durable.replay(record, dir).context("replay the ledger")?.or(key);
        }
        let fresh = key.is_none();
        let key = match key {
            Some(key) => key,
            None => new_key(dir)?,
        };
        let identity = Arc::new(RwLock::new(Identity::new(key)?));
        durable.leaves(&records, &evidence_key)?;
        let durable = Arc::new(RwLock::new(durable));

        let (commands, queue) = channel();
        let mut writer = Writer {
            dir: dir.to_owned(),
            journal,
            durable: durable.clone(),
            identity: identity.clone(),
            evidence_key: evidence_key.clone(),
            issuer: issuer.to_owned(),
            latency,
            unsigned_since: None,
        };
        if fresh {
            writer.open_service()?;
        }
        writer.note_unsigned();
        let thread = std::thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || writer.run(&queue))?;
        let writer = Mutex::new(Some(thread));
        Ok(Arc::new(Self { durable, identity, evidence_key, commands, writer }))
    }

    /// Compare-and-set; returns once it is on disk.
    pub(crate) async fn append(
        &self, tag: Digest, version: u64, digest: Digest,
    ) -> Result<Outcome, Unavailable> {
        self.ask(|reply| Command::Append { tag, version, digest, reply }).await
    }

    /// Writes the nonce with what it read; returns once it is on disk.
    pub(crate) async fn read(&self, tag: Digest, nonce: Digest) -> Result<Outcome, Unavailable> {
        self.ask(|reply| Command::Read { tag, nonce, reply }).await
    }

    /// The next service: a new key, a higher view.
    pub(crate) async fn new_identity(&self) -> Result<(), Unavailable> {
        self.ask(|reply| Command::NewIdentity { reply }).await
    }

    async fn ask<T>(
        &self, command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| Unavailable)?;
        answer.await.map_err(|_| Unavailable)
    }

    /// The tag's state, without a receipt.
    pub(crate) fn current(&self, tag: &Digest) -> Option<Tag> {
        read(&self.durable).tags.get(tag).copied()
    }

    /// The receipt of one of the application's transactions.
    pub(crate) fn receipt(&self, id: TransactionId) -> ReceiptState {
        let durable = read(&self.durable);
        let Some(index) = id.seqno.checked_sub(1) else { return ReceiptState::None };
        let Some(transaction) = durable.transactions.get(index as usize) else {
            return ReceiptState::Unknown;
        };
        let Some(claims) = transaction.claims.filter(|_| transaction.view == id.view) else {
            return ReceiptState::None;
        };
        let after = durable.signatures.partition_point(|signed| signed.seqno <= id.seqno);
        let Some(signed) = durable.signatures.get(after) else { return ReceiptState::Pending };
        let commit_evidence = commit_evidence(&self.evidence_key, id);
        let leaf = Leaf { write_set: transaction.write_set, commit_evidence, claims };
        let path = durable.tree.path(id.seqno, signed.seqno);
        ReceiptState::Ready(receipt::encode(&leaf, &path, &signed.signature))
    }

    /// What GET /node/network says.
    pub(crate) fn network(&self) -> (Identity, u64, TransactionId, u64) {
        let durable = read(&self.durable);
        (self.identity(), durable.view, durable.opened, durable.recoveries)
    }

    /// The service's key and certificate.
    pub(crate) fn identity(&self) -> Identity {
        read(&self.identity).clone()
    }

    /// Finishes what is queued and closes the file.
    pub(crate) fn close(&self) {
        let _ = self.commands.send(Command::Stop);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the ledger's writer panicked");
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}

pub(super) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Durable {
    fn new() -> Self {
        let opened = TransactionId { view: FIRST_VIEW, seqno: 1 };
        Self {
            tags: HashMap::new(),
            transactions: Vec::new(),
            signatures: Vec::new(),
            tree: Tree::new(),
            view: FIRST_VIEW,
            opened,
            recoveries: 0,
        }
    }

    pub(super) fn next_id(&self) -> TransactionId {
        TransactionId { view: self.view, seqno: self.transactions.len() as u64 + 1 }
    }

    /// Applies a record to everything but the tree.
    pub(super) fn apply(&mut self, record: &Record) {
        let mut claims = None;
        match &record.body {
            Body::Application { kind, tag, version, digest, nonce } => {
                claims = Some(claim(*kind, tag, *version, digest, nonce));
                if *kind == APPEND {
                    let state = Tag { version: *version, digest: *digest, transaction: record.id };
                    self.tags.insert(*tag, state);
                }
            }
            Body::Signature { protected, signature, .. } => {
                let signature =
                    Signature { protected: protected.clone(), signature: signature.to_vec() };
                self.signatures.push(Signed { seqno: record.id.seqno, signature });
            }
            Body::Identity { .. } => {
                self.recoveries += u64::from(record.id.seqno > 1);
                self.view = record.id.view;
                self.opened = record.id;
            }
        }
        let write_set = sha256(&record.payload());
        self.transactions.push(Transaction { view: record.id.view, write_set, claims });
    }

    pub(super) fn push_leaf(&mut self, id: TransactionId, evidence_key: &hmac::Key) {
        let transaction = &self.transactions[id.seqno as usize - 1];
        let write_set = transaction.write_set;
        let leaf = match transaction.claims {
            Some(claims) => {
                let commit_evidence = commit_evidence(evidence_key, id);
                Leaf { write_set, commit_evidence, claims }.hash()
            }
            None => write_set,
        };
        self.tree.push(leaf);
    }

    /// Applies a record read from disk; gives the service key if the record names one.
    fn replay(&mut self, record: &Record, dir: &Path) -> Result<Option<ServiceKey>> {
        let expected = self.next_id().seqno;
        ensure!(record.id.seqno == expected, "transaction {expected} is missing");
        self.apply(record);
        match &record.body {
            Body::Identity { spki } => Ok(Some(load_key(dir, spki)?)),
            _ => Ok(None),
        }
    }

    /// Builds the tree anew and compares it with every root that was signed.
    fn leaves(&mut self, records: &[Record], evidence_key: &hmac::Key) -> Result<()> {
        for record in records {
            if let Body::Signature { root, .. } = &record.body {
                ensure!(
                    *root == self.tree.root(record.id.seqno),
                    "the root signed by transaction {} is not the ledger's: the file or its secret was changed",
                    record.id
                );
            }
            self.push_leaf(record.id, evidence_key);
        }
        Ok(())
    }
}

/// SHA-256 of the claim's 121 bytes.
fn claim(kind: u8, tag: &Digest, version: u64, digest: &Digest, nonce: &Digest) -> Digest {
    let version = version.to_be_bytes();
    sha256(&[&CLAIM_LABEL[..], &[kind], tag, &version, digest, nonce].concat())
}

/// "ce:view.seqno:secret", the secret derived so that a restart tells the same one.
fn commit_evidence(key: &hmac::Key, id: TransactionId) -> String {
    let secret = hmac::sign(key, id.to_string().as_bytes());
    format!("ce:{id}:{}", hex::encode(secret.as_ref()))
}

fn evidence_key(dir: &Path) -> Result<hmac::Key> {
    let path = dir.join("evidence.key");
    let secret = match store::read(&path)? {
        Some(secret) => secret,
        None => {
            let mut secret = [0; 32];
            rand::fill(&mut secret)?;
            store::write(&path, &secret)?;
            secret.to_vec()
        }
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret))
}

/// A service key is on disk, named by its own digest, before any record names it.
pub(super) fn new_key(dir: &Path) -> Result<ServiceKey> {
    let (key, pkcs8) = ServiceKey::generate()?;
    store::write(&key_path(dir, &key.spki()), &pkcs8)?;
    Ok(key)
}

fn load_key(dir: &Path, spki: &[u8]) -> Result<ServiceKey> {
    let path = key_path(dir, spki);
    let pkcs8 = store::read(&path)?
        .with_context(|| format!("the ledger's service key {} is missing", path.display()))?;
    let key = ServiceKey::from_pkcs8(&pkcs8)?;
    ensure!(key.spki() == spki, "{} holds another key", path.display());
    Ok(key)
}

fn key_path(dir: &Path, spki: &[u8]) -> PathBuf {
    dir.join(format!("service-{}.key.pk8", hex::encode(&sha256(spki)[..8])))
}

impl Identity {
    pub(super) fn new(key: ServiceKey) -> Result<Self> {
        let certificate_pem = super::service_certificate(&key)?;
        Ok(Self { key: Arc::new(key), certificate_pem })
    }
}
