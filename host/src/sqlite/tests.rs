//! What jobs, chores and the upkeep promise, with the connection at hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::{Abort, Database, Failure, Tx, schema};
use crate::clock::{Clock, UnixMs};
use crate::types::WorkerId;

const BUSY: Duration = Duration::from_millis(200);

fn open() -> (TempDir, Database) {
    let directory = tempfile::tempdir().unwrap();
    let db = Database::open_waiting(directory.path().join("flowkit.db"), BUSY).unwrap();
    (directory, db)
}

fn another(db: &Database) -> Connection {
    Connection::open(db.path()).unwrap()
}

fn insert(tx: &Connection, name: &str) -> rusqlite::Result<()> {
    tx.execute("INSERT INTO topics (name) VALUES (?1)", [name]).map(drop)
}

async fn topics(db: &Database) -> Vec<String> {
    let read = db.read(|tx| {
        let mut statement = tx.prepare("SELECT name FROM topics ORDER BY name")?;
        let names = statement.query_map([], |row| row.get(0))?;
        Ok(names.collect::<rusqlite::Result<_>>()?)
    });
    read.await.unwrap()
}

#[tokio::test]
async fn a_failed_job_undoes_itself_alone() {
    let (_directory, db) = open();
    // While the first one runs, the others come together in the next transaction.
    let slow = db.write(|_| {
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    });
    let job = |name: &'static str, result: fn() -> Result<(), Abort>| {
        db.write(move |tx: &Tx<'_>| {
            insert(tx, name)?;
            result()
        })
    };
    let (_, first, refused, twice, last) = tokio::join!(
        slow,
        job("a", || Ok(())),
        job("b", || Err(Abort::Refused)),
        job("a", || Ok(())),
        job("c", || Ok(())),
    );
    assert!(first.is_ok() && last.is_ok());
    assert!(matches!(refused, Err(Failure::Refused)));
    assert!(matches!(twice, Err(Failure::Fatal(_))), "{twice:?}");
    assert_eq!(topics(&db).await, ["a", "c"]);
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let (_directory, db) = open();
    let limit = |pages: Option<i64>| {
        db.write(move |tx: &Tx<'_>| {
            let now: i64 = tx.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let max = pages.map_or(1 << 30, |pages| now + pages);
            Ok(tx.query_row(&format!("PRAGMA max_page_count = {max}"), [], |_| Ok(()))?)
        })
    };
    let fill = |name: &'static str, bytes: u32| {
        db.write(move |tx: &Tx<'_>| {
            insert(tx, name)?;
            tx.execute(
                "INSERT INTO messages (topic, value, stored_at) VALUES (1, zeroblob(?1), 0)",
                [bytes],
            )?;
            Ok(())
        })
    };
    limit(Some(3)).await.unwrap();
    let refused = fill("large", 100_000).await.unwrap_err();
    assert!(matches!(&refused, Failure::Unavailable(text) if text.contains("is full")));
    fill("small", 10).await.unwrap();
    assert_eq!(topics(&db).await, ["small"]);
    limit(None).await.unwrap();
    fill("large", 100_000).await.unwrap();
    assert_eq!(topics(&db).await, ["large", "small"]);
}

#[tokio::test]
async fn a_lock_is_waited_for_and_then_named() {
    let (_directory, db) = open();
    let other = another(&db);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    let refused = db.write(|tx| Ok(insert(tx, "a")?)).await.unwrap_err();
    assert!(started.elapsed() >= BUSY);
    assert!(matches!(&refused, Failure::Unavailable(text) if text.contains("locked by another")));
    other.execute_batch("ROLLBACK").unwrap();
    db.write(|tx| Ok(insert(tx, "b")?)).await.unwrap();
    assert_eq!(topics(&db).await, ["b"]);
}

#[tokio::test]
async fn nothing_is_written_after_a_deadline() {
    let (_directory, db) = open();
    let other = another(&db);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    let soon = Some(started + Duration::from_millis(30));
    let (late, patient) = tokio::join!(
        db.write_before(soon, |tx| Ok(insert(tx, "late")?)),
        db.write(|tx| Ok(insert(tx, "patient")?)),
    );
    assert!(matches!(late, Err(Failure::Refused)), "{late:?}");
    assert!(matches!(patient, Err(Failure::Unavailable(_))), "{patient:?}");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(topics(&db).await.is_empty());
}

#[tokio::test]
async fn a_chore_is_tried_until_it_is_done() {
    let (_directory, db) = open();
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    db.write_later(move |tx| {
        if counted.fetch_add(1, Ordering::SeqCst) < 2 {
            return Err(rusqlite::Error::InvalidQuery);
        }
        insert(tx, "chore")
    });
    let started = Instant::now();
    while topics(&db).await.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    // A further transaction does not do it again.
    db.write(|tx| Ok(insert(tx, "later")?)).await.unwrap();
    assert_eq!(topics(&db).await, ["chore", "later"]);
    assert_eq!(tries.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_was_sent_is_done_before_the_file_is_closed() {
    let (directory, db) = open();
    db.write_later(|tx| insert(tx, "last"));
    let path = db.path().to_owned();
    drop(db);
    let names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["flowkit.db"]);
    let file = Connection::open(path).unwrap();
    let count: i64 = file.query_row("SELECT count(*) FROM topics", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn two_may_create_the_file_at_once() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flowkit.db");
        let openers: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || Database::open(path))
            })
            .collect();
        for opener in openers {
            let opened = opener.join().unwrap();
            assert!(opened.is_ok(), "{:?}", opened.err());
        }
    }
}

#[tokio::test]
async fn what_is_old_is_removed() {
    let (_directory, db) = open();
    let day: i64 = 24 * 3600 * 1000;
    let now = Clock::system().wall().0;
    let filled = db.write(move |tx| {
        for (seq, age) in [(1, 9), (2, 8), (3, 6)] {
            let row = [seq, now - age * day];
            tx.execute(
                "INSERT INTO messages (seq, topic, value, stored_at) VALUES (?1, 1, x'', ?2)",
                row,
            )?;
        }
        for (id, age, ending) in [(1, 8, Some("{}")), (2, 8, None), (3, 6, Some("{}"))] {
            tx.execute(
                "INSERT INTO runs (id, task_id, node_id, role, epoch, lease_no, created_at,
                     updated_at, ending) VALUES (?1, ?1, 'n', 'r', 1, 1, 0, ?2, ?3)",
                rusqlite::params![id, now - age * day, ending],
            )?;
            tx.execute("INSERT INTO run_inputs VALUES (?1, '{}')", [id])?;
        }
        Ok(())
    });
    filled.await.unwrap();
    let file = another(&db);
    while schema::prune(&file, &db.shared(), UnixMs(now)).unwrap() {}
    let left = |sql: &str| {
        let mut statement = file.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
        rows.collect::<rusqlite::Result<Vec<_>>>().unwrap()
    };
    assert_eq!(left("SELECT seq FROM messages"), [3]);
    assert_eq!(left("SELECT id FROM runs ORDER BY id"), [2, 3]);
    assert_eq!(left("SELECT run FROM run_inputs ORDER BY run"), [2, 3]);
}

#[tokio::test]
async fn opening_removes_what_is_old() {
    let (directory, db) = open();
    let file = another(&db);
    let insert = "INSERT INTO messages (topic, value, stored_at) VALUES (1, x'', ?1)";
    file.execute(insert, [1]).unwrap();
    file.execute(insert, [Clock::system().wall().0]).unwrap();
    drop(db);
    // The thread that writes looks after its first pause, or before it ends.
    let again = Database::open(directory.path().join("flowkit.db")).unwrap();
    again.write(|_| Ok(())).await.unwrap();
    drop(again);
    let left: i64 = file.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn gone_workers_are_forgotten_once_they_own_nothing() {
    let (directory, db) = open();
    let path = directory.path().join("flowkit.db");
    for name in ["idle", "owner"] {
        let process = Database::open(&path).unwrap();
        process.register_worker(&WorkerId::new(name).unwrap()).await.unwrap();
    }
    db.register_worker(&WorkerId::new("alive").unwrap()).await.unwrap();
    let file = another(&db);
    file.execute_batch(
        "INSERT INTO runs (task_id, node_id, role, epoch, lease_no, created_at, updated_at,
             worker_id) VALUES ('t', 'n', 'r', 1, 1, 0, 0, 'owner')",
    )
    .unwrap();
    schema::prune(&file, &db.shared(), UnixMs(0)).unwrap();
    let mut statement = file.prepare("SELECT worker_id FROM worker_processes ORDER BY 1").unwrap();
    let left: Vec<String> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    assert_eq!(left, ["alive", "owner"]);
}

/// The file as the first format left it, with one run.
fn write_format_1(path: &std::path::Path) {
    let file = Connection::open(path).unwrap();
    let tables =
        schema::TABLES.replace("    check_at INTEGER,\n    check_tries INTEGER,\n", "").replace(
            "CREATE INDEX runs_checks ON runs (role, check_at) WHERE check_at IS NOT NULL;\n",
            "",
        );
    assert!(!tables.contains("check_"), "{tables}");
    file.execute_batch(&tables).unwrap();
    file.execute_batch(
        "INSERT INTO runs (task_id, node_id, role, epoch, lease_no, created_at, updated_at)
         VALUES ('t', 'n', 'r', 1, 1, 5, 6);
         PRAGMA application_id = 1179405140; PRAGMA user_version = 1;",
    )
    .unwrap();
}

#[tokio::test]
async fn a_file_of_the_first_format_is_brought_to_the_present_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flowkit.db");
    write_format_1(&path);
    for _ in 0..2 {
        let db = Database::open_waiting(path.clone(), BUSY).unwrap();
        let read = db.read(|tx| {
            let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
            let run =
                tx.query_row("SELECT task_id, check_at, check_tries FROM runs", [], |row| {
                    Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
                })?;
            Ok((version, run))
        });
        let none: Option<i64> = None;
        assert_eq!(read.await.unwrap(), (2, ("t".to_owned(), none, none)));
    }
    // Both ways lead to the same tables.
    let fresh = Connection::open_in_memory().unwrap();
    fresh.execute_batch(schema::TABLES).unwrap();
    let columns = |file: &Connection| {
        let mut statement = file
            .prepare("SELECT name FROM pragma_table_info('runs') UNION SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL ORDER BY 1")
            .unwrap();
        let names = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        names.collect::<rusqlite::Result<Vec<_>>>().unwrap()
    };
    assert_eq!(columns(&Connection::open(&path).unwrap()), columns(&fresh));
}
