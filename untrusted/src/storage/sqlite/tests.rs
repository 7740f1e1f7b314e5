//! The conformance suite on SQLite, and what only a file can suffer.

use super::*;
use crate::storage::conformance::{self, account, advance, put, staged};

fn open(dir: &tempfile::TempDir) -> Sqlite {
    Sqlite::open(&Options::new(dir.path().join("host.db"))).expect("open")
}

#[tokio::test]
async fn conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::run(Arc::new(open(&dir))).await;
}

fn heads(guard: u64, vault: u64) -> Heads {
    Heads { generation: 1, closed: false, guard, vault }
}

#[tokio::test]
async fn survives_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir);
    advance(&store, account(1), 1).await;
    store.stage(staged(account(1), 2, 1)).await.expect("stage");
    store.put(put(account(1), 1, 1, 1, true)).await.expect("put");
    drop(store);

    let store = open(&dir);
    assert_eq!(store.heads(account(1).id).await.unwrap(), Some(heads(1, 1)));
    assert_eq!(store.staged(10).await.unwrap(), [staged(account(1), 2, 1)]);
    assert_eq!(store.integrity().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn two_processes_share_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let (left, right) = (open(&dir), open(&dir));
    advance(&left, account(1), 1).await;
    let results = futures_util::future::join_all(
        (0..32).map(|n| [&left, &right][n % 2].put(put(account(1), 1, 1, 1, true))),
    )
    .await;
    let won = results.iter().filter(|result| matches!(result, Ok(PutOutcome::Done))).count();
    assert_eq!(won, 1, "{results:?}");
}

#[tokio::test]
async fn a_full_disk_is_said_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("host.db");
    let store = Sqlite::open(&Options { max_pages: Some(60), ..Options::new(&path) }).unwrap();
    advance(&store, account(1), 1).await;
    let mut acknowledged = 0;
    let error = loop {
        let mut write = put(account(1), 1, acknowledged + 1, 1, true);
        write.event.slot = SlotId([u8::try_from(acknowledged % 250).unwrap(); 32]);
        write.record = Some(vec![0; 4000].into());
        match store.put(write).await {
            Ok(outcome) => assert_eq!(outcome, PutOutcome::Done),
            Err(error) => break error,
        }
        acknowledged += 1;
    };
    assert!(matches!(error, StorageError::Full(_)), "{error}");
    assert!(error.to_string().contains("free space"), "{error}");
    let found = store.heads(account(1).id).await.unwrap();
    assert_eq!(found, Some(heads(1, acknowledged)));
    drop(store);

    let store = open(&dir);
    let next = put(account(1), 1, acknowledged + 1, 1, true);
    assert_eq!(store.put(next).await.unwrap(), PutOutcome::Done, "space again: it goes on");
}

#[tokio::test]
async fn one_failing_write_fails_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir);
    advance(&store, account(1), 1).await;
    let mut broken = staged(account(2), 1, 1);
    // Outside what SQLite's integers and the schema's checks allow.
    broken.account.generation = 0;
    store.reader().execute_batch("PRAGMA query_only=OFF; CREATE TRIGGER refuse BEFORE INSERT ON staged WHEN NEW.generation = 0 BEGIN SELECT RAISE(ABORT, 'refused'); END;").unwrap();
    let (good, bad, also_good) = tokio::join!(
        store.put(put(account(1), 1, 1, 1, true)),
        store.stage(broken),
        store.stage(staged(account(3), 1, 1)),
    );
    assert_eq!(good.unwrap(), PutOutcome::Done);
    assert!(bad.is_err());
    also_good.unwrap();
    assert_eq!(store.staged(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn damage_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("host.db");
    std::fs::write(&path, b"this has never been a database, whatever its name says").unwrap();
    let error = Sqlite::open(&Options::new(&path)).err().expect("refused");
    assert!(matches!(error, StorageError::Corrupt(_)), "{error}");
    assert!(error.to_string().contains("restore a backup"), "{error}");

    let error = Sqlite::open(&Options::new(dir.path().join("no/such/directory/db"))).err().unwrap();
    assert!(matches!(error, StorageError::Io(_)), "{error}");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(&dir));
    let connection = Connection::open(dir.path().join("host.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Sqlite::open(&Options::new(dir.path().join("host.db"))).err().expect("refused");
    assert!(matches!(error, StorageError::TooNew { found: 99, known: 1 }), "{error}");
}

#[tokio::test]
async fn many_writes_share_a_transaction() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir);
    let people = 1..=200;
    futures_util::future::join_all(people.map(|n| store.stage(staged(account(n), 1, 1)))).await;
    let stats = store.stats();
    let transactions = stats.transactions.load(Ordering::Relaxed);
    assert_eq!(stats.operations.load(Ordering::Relaxed), 200);
    assert!(transactions < 100, "{transactions} transactions for 200 writes");
}
