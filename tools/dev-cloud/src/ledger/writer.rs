//! The ledger's one writer: a thread that decides, stores, publishes and answers, batch after batch.
//!
//! Many clients, one fsync: it takes everything that has queued up, decides it in order, writes it in one go,
//! syncs, and only then makes it visible and answers. A signature transaction follows once the oldest unsigned
//! transaction has waited for the receipt latency, so one signature serves many receipts.

use super::journal::{APPEND, Body, Journal, READ, Record, TransactionId};
use super::receipt::ProtectedHeader;
use super::service::{Command, Durable, Identity, Outcome, SUBJECT, Tag, new_key, read, write};
use super::tree::Digest;
use crate::clock;
use anyhow::{Context, Result};
use aws_lc_rs::hmac;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Keeps a batch far below the journal's largest write.
const MAX_BATCH: usize = 4096;

pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) journal: Journal,
    pub(super) durable: Arc<RwLock<Durable>>,
    pub(super) identity: Arc<RwLock<Identity>>,
    pub(super) evidence_key: hmac::Key,
    pub(super) issuer: String,
    pub(super) latency: Duration,
    /// When the oldest unsigned application transaction was answered.
    pub(super) unsigned_since: Option<Instant>,
}

impl Writer {
    pub(super) fn run(&mut self, queue: &Receiver<Command>) {
        loop {
            let first = match self.wait(queue) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut batch: Vec<_> = first.into_iter().collect();
            batch.extend(queue.try_iter().take(MAX_BATCH - batch.len()));
            match self.turn(batch) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::error!("the ledger stops, nothing after this is kept: {error:#}");
                    return;
                }
            }
        }
    }

    /// The next command; a timeout when a signature is due first.
    fn wait(&self, queue: &Receiver<Command>) -> Result<Option<Command>, RecvTimeoutError> {
        match self.unsigned_since {
            Some(since) => {
                queue.recv_timeout(self.latency.saturating_sub(since.elapsed())).map(Some)
            }
            None => queue.recv().map(Some).map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// One batch, then a signature if one is due. False: stop.
    fn turn(&mut self, batch: Vec<Command>) -> Result<bool> {
        let mut pending = Pending::default();
        let mut go_on = true;
        let mut recovered = Vec::new();
        {
            let durable = read(&self.durable);
            for command in batch {
                match command {
                    Command::Append { tag, version, digest, reply } => {
                        pending.append(&durable, tag, version, digest, reply);
                    }
                    Command::Read { tag, nonce, reply } => {
                        pending.read(&durable, tag, nonce, reply);
                    }
                    Command::NewIdentity { reply } => recovered.push(reply),
                    Command::Stop => go_on = false,
                }
            }
        }
        self.commit(&pending.records)?;
        for (reply, outcome) in pending.replies {
            // A client that went away needs no answer.
            let _ = reply.send(outcome);
        }
        self.note_unsigned();
        let due = self.unsigned_since.is_some_and(|since| since.elapsed() >= self.latency);
        if due || (self.unsigned_since.is_some() && (!go_on || !recovered.is_empty())) {
            self.sign()?;
        }
        for reply in recovered {
            self.recover()?;
            let _ = reply.send(());
        }
        Ok(go_on)
    }

    /// On disk first, then visible.
    fn commit(&mut self, records: &[Record]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.journal.append(records)?;
        let mut durable = write(&self.durable);
        for record in records {
            durable.apply(record);
            durable.push_leaf(record.id, &self.evidence_key);
        }
        Ok(())
    }

    pub(super) fn note_unsigned(&mut self) {
        let durable = read(&self.durable);
        let signed = durable.signatures.last().map_or(0, |signed| signed.seqno);
        let waiting = durable.transactions.iter().skip(signed as usize).any(|t| t.claims.is_some());
        match (waiting, self.unsigned_since) {
            (true, None) => self.unsigned_since = Some(Instant::now()),
            (false, _) => self.unsigned_since = None,
            (true, Some(_)) => {}
        }
    }

    fn sign(&mut self) -> Result<()> {
        let (id, root) = {
            let durable = read(&self.durable);
            let id = durable.next_id();
            (id, durable.tree.root(id.seqno))
        };
        let header = ProtectedHeader {
            issuer: &self.issuer,
            subject: SUBJECT,
            transaction: &id.to_string(),
            issued_at: clock::now(),
        };
        let signed = read(&self.identity).key.sign_root(&header, &root)?;
        let signature = signed.signature.as_slice().try_into().context("a P-384 signature")?;
        let body = Body::Signature { root, protected: signed.protected, signature };
        self.commit(&[Record { id, body }])?;
        self.unsigned_since = None;
        Ok(())
    }

    /// The first transaction of a new ledger names its key.
    pub(super) fn open_service(&mut self) -> Result<()> {
        let spki = read(&self.identity).key.spki();
        let id = read(&self.durable).next_id();
        self.commit(&[Record { id, body: Body::Identity { spki } }])
    }

    /// CCF's disaster recovery: the ledger goes on under another key, two views later.
    fn recover(&mut self) -> Result<()> {
        let key = new_key(&self.dir)?;
        let mut id = read(&self.durable).next_id();
        id.view += 2;
        self.commit(&[Record { id, body: Body::Identity { spki: key.spki() } }])?;
        *write(&self.identity) = Identity::new(key)?;
        Ok(())
    }
}

/// A batch being decided: each command sees the ones before it.
#[derive(Default)]
struct Pending {
    records: Vec<Record>,
    tags: HashMap<Digest, Tag>,
    replies: Vec<(oneshot::Sender<Outcome>, Outcome)>,
}

impl Pending {
    fn append(
        &mut self, durable: &Durable, tag: Digest, version: u64, digest: Digest,
        reply: oneshot::Sender<Outcome>,
    ) {
        let current = self.current(durable, &tag);
        let at = current.map_or(0, |current| current.version);
        let outcome = match current {
            Some(current) if current.version == version && current.digest == digest => {
                Outcome::Repeated(current)
            }
            _ if at.checked_add(1) == Some(version) => {
                let nonce = [0; 32];
                let body = Body::Application { kind: APPEND, tag, version, digest, nonce };
                let transaction = self.push(durable, body);
                let state = Tag { version, digest, transaction };
                self.tags.insert(tag, state);
                Outcome::Done(state)
            }
            _ => Outcome::Conflict(current),
        };
        self.replies.push((reply, outcome));
    }

    fn read(
        &mut self, durable: &Durable, tag: Digest, nonce: Digest, reply: oneshot::Sender<Outcome>,
    ) {
        let current = self.current(durable, &tag);
        let (version, digest) = current.map_or((0, [0; 32]), |tag| (tag.version, tag.digest));
        let body = Body::Application { kind: READ, tag, version, digest, nonce };
        let transaction = self.push(durable, body);
        self.replies.push((reply, Outcome::Done(Tag { version, digest, transaction })));
    }

    fn current(&self, durable: &Durable, tag: &Digest) -> Option<Tag> {
        self.tags.get(tag).or_else(|| durable.tags.get(tag)).copied()
    }

    fn push(&mut self, durable: &Durable, body: Body) -> TransactionId {
        let mut id = durable.next_id();
        id.seqno += self.records.len() as u64;
        self.records.push(Record { id, body });
        id
    }
}
