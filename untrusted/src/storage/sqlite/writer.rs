//! The one thread that writes: many compare-and-sets in one transaction, one fsync for all of them.

use super::{action_code, bounded};
use crate::storage::{
    Answer, CommitOutcome, CommitWrite, PutOutcome, PutWrite, StagedGuard, StagedKey, StorageError,
    Then,
};
use keyfold_protocol::client::Action;
use keyfold_protocol::ids::{Account, Digest};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Operations that may share one transaction.
const BATCH: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

/// What the writer is asked to do, and where the answer goes.
pub(super) enum Operation {
    Put(PutWrite, Reply<PutOutcome>),
    Stage(StagedGuard, Reply<()>),
    Commit(CommitWrite, Reply<CommitOutcome>),
    DropStaged(StagedKey, Reply<()>),
}

/// Counts of what the writer did.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Transactions committed.
    pub transactions: AtomicU64,
    /// Operations in them.
    pub operations: AtomicU64,
    /// Operations that failed.
    pub failures: AtomicU64,
}

/// Handle to the thread; dropping it finishes what is queued and waits.
pub(super) struct Writer {
    queue: Mutex<Option<Sender<Operation>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stats: Arc<WriterStats>,
}

impl Writer {
    pub(super) fn start(mut connection: Connection) -> Result<Self, StorageError> {
        let (queue, operations) = channel();
        let stats = Arc::new(WriterStats::default());
        let counted = stats.clone();
        let thread = std::thread::Builder::new()
            .name("storage-writer".into())
            .spawn(move || run(&mut connection, &operations, &counted))
            .map_err(|error| StorageError::Other(error.to_string()))?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)), stats })
    }

    pub(super) fn stats(&self) -> Arc<WriterStats> {
        self.stats.clone()
    }

    /// Queues an operation now; the answer resolves once it is durable, or was refused.
    pub(super) fn send<'a, T: Send + 'static>(
        &self, operation: impl FnOnce(Reply<T>) -> Operation,
    ) -> Answer<'a, T> {
        let (reply, answer) = oneshot::channel();
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            // A writer that is gone drops the reply, which the answer reports.
            let _ = queue.send(operation(reply));
        }
        Box::pin(async { answer.await.unwrap_or(Err(StorageError::Closed)) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the storage writer panicked; restart the host");
        }
    }
}

fn run(connection: &mut Connection, queue: &Receiver<Operation>, stats: &WriterStats) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(BATCH - 1));
        let answers = apply(connection, batch);
        stats.transactions.fetch_add(1, Ordering::Relaxed);
        for answer in answers {
            stats.operations.fetch_add(1, Ordering::Relaxed);
            if !answer.send() {
                stats.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// An operation's result with its way back.
enum Answered {
    Put(Result<PutOutcome, StorageError>, Reply<PutOutcome>),
    Unit(Result<(), StorageError>, Reply<()>),
    Commit(Result<CommitOutcome, StorageError>, Reply<CommitOutcome>),
}

impl Answered {
    /// Sends it; false when the operation failed. Nobody waiting is nobody's harm.
    fn send(self) -> bool {
        match self {
            Self::Put(result, reply) => deliver(result, reply),
            Self::Unit(result, reply) => deliver(result, reply),
            Self::Commit(result, reply) => deliver(result, reply),
        }
    }

    fn error(&self) -> Option<&StorageError> {
        match self {
            Self::Put(result, _) => result.as_ref().err(),
            Self::Unit(result, _) => result.as_ref().err(),
            Self::Commit(result, _) => result.as_ref().err(),
        }
    }

    /// The transaction failed as a whole: so did this.
    fn failed(self, error: &StorageError) -> Self {
        match self {
            Self::Put(_, reply) => Self::Put(Err(error.clone()), reply),
            Self::Unit(_, reply) => Self::Unit(Err(error.clone()), reply),
            Self::Commit(_, reply) => Self::Commit(Err(error.clone()), reply),
        }
    }
}

fn deliver<T>(result: Result<T, StorageError>, reply: Reply<T>) -> bool {
    let succeeded = result.is_ok();
    if let Err(error) = &result {
        tracing::error!(%error, "a write failed");
    }
    let _ = reply.send(result);
    succeeded
}

/// All operations in one transaction. An answer given here is durable.
fn apply(connection: &mut Connection, batch: Vec<Operation>) -> Vec<Answered> {
    let mut transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate)
    {
        Ok(transaction) => transaction,
        Err(error) => return refuse(batch, &error.into()),
    };
    let answers: Vec<_> =
        batch.into_iter().map(|operation| one(&mut transaction, operation)).collect();
    let ended = transaction.is_autocommit();
    let error = match transaction.commit() {
        Ok(()) => return answers,
        // The write that ended it knows why; the commit only knows that.
        Err(error) => match answers.iter().find_map(Answered::error) {
            Some(cause) if ended => cause.clone(),
            _ => error.into(),
        },
    };
    answers.into_iter().map(|answer| answer.failed(&error)).collect()
}

fn refuse(batch: Vec<Operation>, error: &StorageError) -> Vec<Answered> {
    let answer = |operation| match operation {
        Operation::Put(_, reply) => Answered::Put(Err(error.clone()), reply),
        Operation::Stage(_, reply) | Operation::DropStaged(_, reply) => {
            Answered::Unit(Err(error.clone()), reply)
        }
        Operation::Commit(_, reply) => Answered::Commit(Err(error.clone()), reply),
    };
    batch.into_iter().map(answer).collect()
}

fn one(transaction: &mut Transaction, operation: Operation) -> Answered {
    match operation {
        Operation::Put(write, reply) => {
            Answered::Put(isolated(transaction, |sql| put(sql, &write)), reply)
        }
        Operation::Stage(staged, reply) => {
            Answered::Unit(isolated(transaction, |sql| stage(sql, &staged)), reply)
        }
        Operation::Commit(write, reply) => {
            Answered::Commit(isolated(transaction, |sql| commit(sql, &write)), reply)
        }
        Operation::DropStaged(key, reply) => {
            Answered::Unit(isolated(transaction, |sql| drop_staged(sql, &key)), reply)
        }
    }
}

/// Runs one operation behind a savepoint, so that its failure undoes it and nothing else. A full
/// disk can end the whole transaction instead; then the final COMMIT fails, and all fail with it.
fn isolated<T>(
    transaction: &mut Transaction, operation: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, StorageError> {
    if transaction.is_autocommit() {
        // Outside a transaction a savepoint would be one of its own, and commit.
        return Err(StorageError::Other("an earlier write ended the transaction".into()));
    }
    let savepoint = transaction.savepoint()?;
    let done = operation(&savepoint)?;
    savepoint.commit()?;
    Ok(done)
}

fn put(sql: &Connection, put: &PutWrite) -> rusqlite::Result<PutOutcome> {
    let standing = sql
        .prepare_cached(
            "SELECT g.id, g.version, coalesce(v.version, 0) FROM guards g LEFT JOIN vaults v ON v.guard = g.id
             WHERE g.account = ?1 AND g.generation = ?2",
        )?
        .query_row(params![put.account.id.0, put.account.generation], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?, row.get::<_, u64>(2)?))
        })
        .optional()?;
    let Some((id, _, vault)) = standing.filter(|(_, guard, _)| *guard == put.guard) else {
        return Ok(PutOutcome::GuardMoved);
    };
    let event = &put.event;
    let (Some(expected), Some(action)) = (event.version.checked_sub(1), action_code(event.action))
    else {
        return Ok(PutOutcome::VaultMoved);
    };
    if vault != expected {
        return Ok(PutOutcome::VaultMoved);
    }
    let is_taken = || {
        sql.prepare_cached("SELECT 1 FROM records WHERE guard = ?1 AND slot = ?2")?
            .exists(params![id, event.slot.0])
    };
    if put.only_if_empty && is_taken()? {
        return Ok(PutOutcome::SlotTaken);
    }
    let version = bounded(event.version);
    sql.prepare_cached(
        "INSERT INTO vaults (guard, version, sealed) VALUES (?1, ?2, ?3)
         ON CONFLICT (guard) DO UPDATE SET version = excluded.version, sealed = excluded.sealed",
    )?
    .execute(params![id, version, &put.vault[..]])?;
    sql.prepare_cached(
        "INSERT INTO events (guard, version, slot, action, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![id, version, event.slot.0, action, event.digest.0])?;
    match &put.record {
        Some(record) => sql
            .prepare_cached(
                "INSERT INTO records (guard, slot, version, sealed) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (guard, slot) DO UPDATE SET version = excluded.version, sealed = excluded.sealed",
            )?
            .execute(params![id, event.slot.0, version, &record[..]])?,
        None if event.action == Action::Touch => 0,
        None => sql
            .prepare_cached("DELETE FROM records WHERE guard = ?1 AND slot = ?2")?
            .execute(params![id, event.slot.0])?,
    };
    Ok(PutOutcome::Done)
}

fn stage(sql: &Connection, staged: &StagedGuard) -> rusqlite::Result<()> {
    sql.prepare_cached(
        "INSERT INTO staged (tag, version, digest, account, generation, staged_at, sealed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (tag, version, digest) DO NOTHING",
    )?
    .execute(params![
        staged.key.tag.0,
        bounded(staged.key.version),
        staged.key.digest.0,
        staged.account.id.0,
        staged.account.generation,
        bounded(staged.staged_at),
        &staged.sealed[..],
    ])?;
    Ok(())
}

fn commit(sql: &Connection, commit: &CommitWrite) -> rusqlite::Result<CommitOutcome> {
    let (account, key) = (&commit.account, &commit.key);
    let live = sql
        .prepare_cached(
            "SELECT version, digest FROM guards WHERE account = ?1 AND generation = ?2",
        )?
        .query_row(params![account.id.0, account.generation], |row| {
            Ok((row.get::<_, u64>(0)?, Digest(row.get(1)?)))
        })
        .optional()?;
    let outcome = match live {
        Some((version, digest)) if version == key.version && digest != key.digest => {
            return Ok(CommitOutcome::Diverged);
        }
        Some((version, _)) if version >= key.version => CommitOutcome::Already,
        live if live.map_or(0, |(version, _)| version).checked_add(1) == Some(key.version) => {
            let Some(id) = make_live(sql, account, commit)? else {
                return Ok(CommitOutcome::Diverged);
            };
            match &commit.then {
                Then::Rest => {}
                Then::Stage(next) => stage(sql, next)?,
                Then::Close => forget(sql, id)?,
            }
            CommitOutcome::Done
        }
        _ => return Ok(CommitOutcome::Diverged),
    };
    sql.prepare_cached("DELETE FROM staged WHERE tag = ?1 AND version <= ?2")?
        .execute(params![key.tag.0, bounded(key.version)])?;
    Ok(outcome)
}

/// Writes guard and audit event: the guard's row; none, and nothing to keep, when the staged row is
/// not there.
fn make_live(
    sql: &Connection, account: &Account, commit: &CommitWrite,
) -> rusqlite::Result<Option<i64>> {
    let key = &commit.key;
    let version = bounded(key.version);
    let is_staged = sql
        .prepare_cached("SELECT 1 FROM staged WHERE tag = ?1 AND version = ?2 AND digest = ?3")?
        .exists(params![key.tag.0, version, key.digest.0])?;
    if !is_staged {
        return Ok(None);
    }
    let id: i64 = sql
        .prepare_cached(
            "INSERT INTO guards (account, generation, version, tag, digest, closed, sealed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (account, generation) DO UPDATE SET version = excluded.version, tag = excluded.tag,
             digest = excluded.digest, closed = excluded.closed, sealed = excluded.sealed RETURNING id",
        )?
        .query_row(
            params![
                account.id.0,
                account.generation,
                version,
                key.tag.0,
                key.digest.0,
                matches!(commit.then, Then::Close),
                &commit.sealed[..]
            ],
            |row| row.get(0),
        )?;
    sql.prepare_cached("INSERT INTO audit (guard, version, sealed) VALUES (?1, ?2, ?3)")?
        .execute(params![id, version, &commit.audit[..]])?;
    Ok(Some(id))
}

fn forget(sql: &Connection, guard: i64) -> rusqlite::Result<()> {
    for table in ["vaults", "records", "events", "audit"] {
        sql.execute(&format!("DELETE FROM {table} WHERE guard = ?1"), [guard])?;
    }
    Ok(())
}

fn drop_staged(sql: &Connection, key: &StagedKey) -> rusqlite::Result<()> {
    sql.prepare_cached("DELETE FROM staged WHERE tag = ?1 AND version = ?2 AND digest = ?3")?
        .execute(params![key.tag.0, bounded(key.version), key.digest.0])?;
    Ok(())
}
