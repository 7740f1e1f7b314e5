//! Storage in one SQLite file.
//!
//! WAL with `synchronous=FULL`: a commit is on the disk before it is answered. One thread writes and
//! takes everything that waits into one transaction, a savepoint each, so that one fsync serves many
//! requests. Reads run where they are asked for, on connections of their own: a read that finds its
//! pages in memory takes microseconds, less than handing it to another thread would.

use super::{
    Answer, CommitOutcome, CommitWrite, Guard, Heads, Loaded, PutOutcome, PutWrite, StagedGuard,
    StagedKey, Storage, StorageError, StoredEvent, Versioned, Want,
};
use keyfold_protocol::client::Action;
use keyfold_protocol::host::Event;
use keyfold_protocol::ids::{Account, AccountId, Digest, LedgerTag, SlotId};
use keyfold_protocol::limits;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

mod schema;
mod writer;

pub use writer::WriterStats;
use writer::{Operation, Writer};

/// How long a connection waits for another process that writes.
const BUSY: Duration = Duration::from_secs(5);
/// Read connections: more than this many reads at one instant wait for each other.
const READERS: usize = 8;

/// See the module.
pub struct Sqlite {
    readers: Vec<Mutex<Connection>>,
    next: AtomicUsize,
    writer: Writer,
}

/// How to open a database.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; made when absent, readable by its owner only.
    pub path: PathBuf,
    /// Page cache of each connection, in MiB.
    pub cache_mib: u32,
    /// Largest size in pages of 4 KiB; beyond it writing fails like on a full disk.
    pub max_pages: Option<u32>,
}

impl Options {
    /// The defaults for `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), cache_mib: 64, max_pages: None }
    }
}

impl Sqlite {
    /// Opens or creates the file and brings its schema up to date.
    pub fn open(options: &Options) -> Result<Self, StorageError> {
        private_file(&options.path)?;
        let mut connection = connect(options)?;
        schema::migrate(&mut connection)?;
        let readers = (0..READERS)
            .map(|_| {
                let reader = connect(options)?;
                reader.execute_batch("PRAGMA query_only=ON")?;
                Ok(Mutex::new(reader))
            })
            .collect::<Result<_, StorageError>>()?;
        Ok(Self { readers, next: AtomicUsize::new(0), writer: Writer::start(connection)? })
    }

    /// Reads every page and says what is wrong with them; empty when all is well.
    pub fn integrity(&self) -> Result<Vec<String>, StorageError> {
        let reader = self.reader();
        let mut check = reader.prepare("PRAGMA integrity_check")?;
        let found: Vec<String> =
            check.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(if found == ["ok"] { Vec::new() } else { found })
    }

    /// What the writer has done so far.
    pub fn stats(&self) -> Arc<WriterStats> {
        self.writer.stats()
    }

    /// A connection that is free now, or else one that will be soon.
    fn reader(&self) -> MutexGuard<'_, Connection> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let order = (0..READERS).map(|step| &self.readers[(first + step) % READERS]);
        order.filter_map(|reader| reader.try_lock().ok()).next().unwrap_or_else(|| {
            self.readers[first % READERS].lock().unwrap_or_else(PoisonError::into_inner)
        })
    }

    fn read<'a, T: Send + 'a>(
        &self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Answer<'a, T> {
        let result = read(&self.reader()).map_err(StorageError::from);
        Box::pin(ready(result))
    }
}

impl Storage for Sqlite {
    fn load<'a>(&'a self, account: &'a Account, want: Want) -> Answer<'a, Loaded> {
        self.read(|connection| load(connection, account, want))
    }

    fn put(&self, put: PutWrite) -> Answer<'_, PutOutcome> {
        self.writer.send(|reply| Operation::Put(put, reply))
    }

    fn stage(&self, staged: StagedGuard) -> Answer<'_, ()> {
        self.writer.send(|reply| Operation::Stage(staged, reply))
    }

    fn commit(&self, commit: CommitWrite) -> Answer<'_, CommitOutcome> {
        self.writer.send(|reply| Operation::Commit(commit, reply))
    }

    fn drop_staged(&self, key: StagedKey) -> Answer<'_, ()> {
        self.writer.send(|reply| Operation::DropStaged(key, reply))
    }

    fn staged(&self, limit: usize) -> Answer<'_, Vec<StagedGuard>> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT tag, version, digest, account, generation, sealed, staged_at FROM staged
                     ORDER BY tag, version, staged_at DESC, rowid DESC LIMIT ?1",
                )?
                .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], staged_row)?
                .collect()
        })
    }

    fn heads(&self, person: AccountId) -> Answer<'_, Option<Heads>> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT g.generation, g.closed, g.version, coalesce(v.version, 0) FROM guards g
                     LEFT JOIN vaults v ON v.guard = g.id
                     WHERE g.account = ?1 ORDER BY g.generation DESC LIMIT 1",
                )?
                .query_row([&person.0], |row| {
                    Ok(Heads {
                        generation: row.get(0)?,
                        closed: row.get(1)?,
                        guard: row.get(2)?,
                        vault: row.get(3)?,
                    })
                })
                .optional()
        })
    }
}

/// One snapshot. BEGIN and COMMIT are kept prepared: parsing them would cost as much as reading.
fn load(connection: &Connection, account: &Account, want: Want) -> rusqlite::Result<Loaded> {
    connection.prepare_cached("BEGIN")?.execute([])?;
    let loaded = load_in(connection, account, want);
    let ended = connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
    if ended.is_err() {
        connection.execute_batch("ROLLBACK")?;
    }
    loaded
}

fn load_in(snapshot: &Connection, account: &Account, want: Want) -> rusqlite::Result<Loaded> {
    let guard = snapshot
        .prepare_cached(
            "SELECT id, version, tag, digest, sealed FROM guards WHERE account = ?1 AND generation = ?2",
        )?
        .query_row(params![account.id.0, account.generation], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                Guard {
                    version: row.get(1)?,
                    tag: LedgerTag(row.get(2)?),
                    digest: Digest(row.get(3)?),
                    sealed: row.get(4)?,
                },
            ))
        })
        .optional()?;
    let Some((id, guard)) = guard else { return Ok(Loaded::default()) };
    let mut loaded = Loaded { guard: Some(guard), ..Loaded::default() };
    if want.vault {
        loaded.vault = snapshot
            .prepare_cached("SELECT version, sealed FROM vaults WHERE guard = ?1")?
            .query_row([id], versioned)
            .optional()?;
    }
    if let Some(slot) = want.record {
        loaded.record = snapshot
            .prepare_cached("SELECT version, sealed FROM records WHERE guard = ?1 AND slot = ?2")?
            .query_row(params![id, slot.0], versioned)
            .optional()?;
    }
    if let Some(after) = want.events_after {
        loaded.events = snapshot
            .prepare_cached(
                "SELECT e.version, e.slot, e.action, e.digest, r.sealed FROM events e
                 LEFT JOIN records r ON r.guard = e.guard AND r.slot = e.slot AND r.version = e.version
                 WHERE e.guard = ?1 AND e.version > ?2 ORDER BY e.version LIMIT ?3",
            )?
            .query_map(params![id, bounded(after), limits::PAGE as i64], event_row)?
            .collect::<Result<_, _>>()?;
    }
    if let Some(after) = want.audit_after {
        loaded.audit = snapshot
            .prepare_cached(
                "SELECT sealed FROM audit WHERE guard = ?1 AND version > ?2 ORDER BY version LIMIT ?3",
            )?
            .query_map(params![id, bounded(after), limits::PAGE as i64], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
    }
    Ok(loaded)
}

/// A client may name any version; beyond SQLite's integers there is nothing anyway.
fn bounded(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

fn versioned(row: &Row) -> rusqlite::Result<Versioned> {
    Ok(Versioned { version: row.get(0)?, sealed: row.get(1)? })
}

fn event_row(row: &Row) -> rusqlite::Result<StoredEvent> {
    let action = match row.get::<_, u8>(2)? {
        1 => Action::Put,
        2 => Action::Delete,
        3 => Action::Touch,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(2, other.into())),
    };
    let event = Event {
        version: row.get(0)?,
        slot: SlotId(row.get(1)?),
        action,
        digest: Digest(row.get(3)?),
    };
    Ok(StoredEvent { event, record: row.get(4)? })
}

/// The column value of an action; audit events have a table of their own.
fn action_code(action: Action) -> Option<u8> {
    match action {
        Action::Put => Some(1),
        Action::Delete => Some(2),
        Action::Touch => Some(3),
        Action::Audit => None,
    }
}

fn staged_row(row: &Row) -> rusqlite::Result<StagedGuard> {
    let key = StagedKey {
        tag: LedgerTag(row.get(0)?),
        version: row.get(1)?,
        digest: Digest(row.get(2)?),
    };
    Ok(StagedGuard {
        key,
        account: Account { id: AccountId(row.get(3)?), generation: row.get(4)? },
        sealed: row.get::<_, Vec<u8>>(5)?.into(),
        staged_at: row.get(6)?,
    })
}

fn connect(options: &Options) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&options.path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Of a new file: a sealed guard then lies in its row, not in an overflow page read every time.
    connection.pragma_update(None, "page_size", 8192)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -1024 * i64::from(options.cache_mib))?;
    if let Some(pages) = options.max_pages {
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(connection)
}

/// Creates the file for its owner alone before SQLite would for everybody.
fn private_file(path: &Path) -> Result<(), StorageError> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| StorageError::Io(format!("{}: {error}", path.display())))
}

impl From<rusqlite::Error> for StorageError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(Code::DiskFull) => Self::Full(text),
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Self::Corrupt(text),
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Busy(text),
            Some(
                Code::SystemIoFailure | Code::CannotOpen | Code::ReadOnly | Code::PermissionDenied,
            ) => Self::Io(text),
            _ => Self::Other(text),
        }
    }
}

#[cfg(test)]
mod tests;
