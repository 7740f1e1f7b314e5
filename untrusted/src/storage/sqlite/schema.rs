//! The tables, and how older files get them.

use super::StorageError;
use rusqlite::{Connection, TransactionBehavior};

/// One step per released schema; a file's `user_version` says how many it has taken. Append-only.
const MIGRATIONS: [&str; 1] = [
    // `sealed` comes last where it is large, so that reading a version touches one page.
    "CREATE TABLE guards (
        id INTEGER PRIMARY KEY,
        account BLOB NOT NULL CHECK (length(account) = 32),
        generation INTEGER NOT NULL,
        version INTEGER NOT NULL,
        tag BLOB NOT NULL CHECK (length(tag) = 32),
        digest BLOB NOT NULL CHECK (length(digest) = 32),
        closed INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        UNIQUE (account, generation)
    ) STRICT;
    CREATE TABLE vaults (
        guard INTEGER PRIMARY KEY REFERENCES guards (id),
        version INTEGER NOT NULL,
        sealed BLOB NOT NULL
    ) STRICT;
    CREATE TABLE records (
        guard INTEGER NOT NULL REFERENCES guards (id),
        slot BLOB NOT NULL CHECK (length(slot) = 32),
        version INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        UNIQUE (guard, slot)
    ) STRICT;
    CREATE TABLE events (
        guard INTEGER NOT NULL REFERENCES guards (id),
        version INTEGER NOT NULL,
        slot BLOB NOT NULL CHECK (length(slot) = 32),
        action INTEGER NOT NULL,
        digest BLOB NOT NULL CHECK (length(digest) = 32),
        PRIMARY KEY (guard, version)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE audit (
        guard INTEGER NOT NULL REFERENCES guards (id),
        version INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (guard, version)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE staged (
        tag BLOB NOT NULL CHECK (length(tag) = 32),
        version INTEGER NOT NULL,
        digest BLOB NOT NULL CHECK (length(digest) = 32),
        account BLOB NOT NULL CHECK (length(account) = 32),
        generation INTEGER NOT NULL,
        staged_at INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        UNIQUE (tag, version, digest)
    ) STRICT;",
];

/// Takes the steps the file has not taken, all or none.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StorageError> {
    let known = MIGRATIONS.len();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let taken = usize::try_from(found).unwrap_or(usize::MAX);
    let Some(steps) = MIGRATIONS.get(taken..) else {
        return Err(StorageError::TooNew {
            found,
            known: u32::try_from(known).unwrap_or(u32::MAX),
        });
    };
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}
