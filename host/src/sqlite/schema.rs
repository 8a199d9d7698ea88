//! The tables, and what is removed from them when it is old.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{OpenError, Shared};
use crate::clock::UnixMs;
use crate::types::WorkerId;

/// "FLKT": tells our files from those of other programs.
const APPLICATION_ID: i64 = 0x464C_4B54;

/// The format of the tables below.
const FORMAT: i64 = 2;

/// How long messages and ended runs are kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Rows that one transaction of the upkeep removes.
const CHUNK: i64 = 1000;

/// Numbers that others remember (`seq`) are never used again, also when the highest is
/// removed. What is large and never changes (`run_inputs`) is kept apart from what
/// changes with each batch.
pub(super) const TABLES: &str = "
CREATE TABLE topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER NOT NULL,
    key BLOB,
    value BLOB NOT NULL,
    headers TEXT,
    stored_at INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_of_topic ON messages (topic);
CREATE TABLE shares (
    consumers TEXT NOT NULL,
    topic INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    process TEXT,
    member INTEGER,
    PRIMARY KEY (consumers, topic)
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    role TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    lease_no INTEGER NOT NULL,
    worker_id TEXT,
    lease_id TEXT,
    deadline INTEGER,
    finished INTEGER NOT NULL DEFAULT 0,
    reported INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0,
    checkpoint TEXT,
    totals TEXT NOT NULL DEFAULT '{}',
    digest TEXT,
    ending TEXT,
    end_sent INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    check_at INTEGER,
    check_tries INTEGER,
    UNIQUE (task_id, node_id)
) STRICT;
CREATE INDEX runs_checks ON runs (role, check_at) WHERE check_at IS NOT NULL;
CREATE INDEX runs_open ON runs (role, created_at) WHERE end_sent = 0;
CREATE INDEX runs_ended ON runs (updated_at) WHERE ending IS NOT NULL;
CREATE TABLE run_inputs (
    run INTEGER PRIMARY KEY,
    input TEXT NOT NULL
) STRICT;
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    UNIQUE (task_id, node_id)
) STRICT;
CREATE TABLE partials (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    node INTEGER NOT NULL,
    batch_uid TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('partial', 'failed')),
    epoch INTEGER,
    lease_no INTEGER,
    ordinal INTEGER,
    worker_id TEXT,
    metrics TEXT,
    meta TEXT,
    created_at INTEGER,
    updated_at INTEGER NOT NULL,
    UNIQUE (node, batch_uid)
) STRICT;
CREATE INDEX partials_by_ordinal ON partials (node, epoch, ordinal);
CREATE INDEX partials_of_node ON partials (node) WHERE status = 'partial';
CREATE TABLE completes (
    node INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    lease_no INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    meta TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE TABLE claims (
    task_id TEXT NOT NULL,
    consumer_node TEXT NOT NULL,
    from_node TEXT NOT NULL,
    batch_uid TEXT NOT NULL,
    claimed_at INTEGER NOT NULL,
    PRIMARY KEY (task_id, consumer_node, from_node, batch_uid)
) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    ended INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    cancel_reason TEXT,
    graph TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX tasks_by_age ON tasks (ended, created_at, id);
CREATE TABLE coordination (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    worker_id TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT;
CREATE TABLE workers (
    worker_id TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE worker_processes (
    worker_id TEXT PRIMARY KEY,
    process TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What brings a file of the format before to the present one.
const FROM_FORMAT_1: &str = "
ALTER TABLE runs ADD COLUMN check_at INTEGER;
ALTER TABLE runs ADD COLUMN check_tries INTEGER;
CREATE INDEX runs_checks ON runs (role, check_at) WHERE check_at IS NOT NULL;
";

/// Why a file cannot be used.
pub(super) enum Unfit {
    Sql(rusqlite::Error),
    Refused(OpenError),
}

impl From<rusqlite::Error> for Unfit {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    Ours { format: i64 },
}

/// Creates the tables in an empty file, and brings those of an older format to the present
/// one; refuses a file that is not ours.
pub(super) fn ensure(path: &Path, connection: &Connection) -> Result<(), Unfit> {
    // One look at one state of the file: another process may be creating the tables.
    let look = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Deferred)?;
    let found = content(path, &look)?;
    look.finish()?;
    if found == (Content::Ours { format: FORMAT }) {
        return Ok(());
    }
    // Whoever comes second finds the tables.
    let tx = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Exclusive)?;
    match content(path, &tx)? {
        Content::Nothing => {
            tx.execute_batch(TABLES)?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        Content::Ours { format: 1 } => {
            tracing::info!(path = %path.display(), from = 1, to = FORMAT, "the file's format");
            tx.execute_batch(FROM_FORMAT_1)?;
        }
        Content::Ours { .. } => {}
    }
    tx.pragma_update(None, "user_version", FORMAT)?;
    Ok(tx.commit()?)
}

fn content(path: &Path, connection: &Connection) -> Result<Content, Unfit> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, format) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let path = || path.to_owned();
    match (application, format) {
        (0, 0) if tables == 0 => Ok(Content::Nothing),
        (APPLICATION_ID, format @ 1..=FORMAT) => Ok(Content::Ours { format }),
        (APPLICATION_ID, found) if found > FORMAT => {
            Err(Unfit::Refused(OpenError::Newer { path: path(), found, known: FORMAT }))
        }
        _ => Err(Unfit::Refused(OpenError::NotOurs(path()))),
    }
}

/// Removes messages and ended runs that are too old, and the traces of processes that
/// are gone. True when there is more of it.
pub(super) fn prune(
    connection: &Connection,
    shared: &Shared,
    now: UnixMs,
) -> rusqlite::Result<bool> {
    if let Err(error) = shared.processes().clean() {
        tracing::warn!(path = %shared.path.display(), %error, "old lock files were not removed");
    }
    let before = now.0.saturating_sub(i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX));
    if !anything_old(connection, before)? {
        forget_processes(connection, shared)?;
        return Ok(false);
    }
    let tx = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let messages = tx.execute(
        "DELETE FROM messages WHERE stored_at < ?1
         AND seq IN (SELECT seq FROM messages ORDER BY seq LIMIT ?2)",
        params![before, CHUNK],
    )?;
    tx.execute(
        "DELETE FROM run_inputs WHERE run IN
         (SELECT id FROM runs WHERE ending IS NOT NULL AND updated_at < ?1
          ORDER BY updated_at LIMIT ?2)",
        params![before, CHUNK],
    )?;
    let runs = tx.execute(
        "DELETE FROM runs WHERE id IN
         (SELECT id FROM runs WHERE ending IS NOT NULL AND updated_at < ?1
          ORDER BY updated_at LIMIT ?2)",
        params![before, CHUNK],
    )?;
    tx.commit()?;
    Ok(messages + runs > 0)
}

fn anything_old(connection: &Connection, before: i64) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT (SELECT stored_at < ?1 FROM messages ORDER BY seq LIMIT 1)
             OR EXISTS (SELECT 1 FROM runs WHERE ending IS NOT NULL AND updated_at < ?1)",
        [before],
        |row| Ok(row.get::<_, Option<bool>>(0)?.unwrap_or(false)),
    )
}

/// A worker whose process is gone is shown no more, and forgotten once it owns nothing.
fn forget_processes(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let gone = gone_workers(connection, shared)?;
    if gone.is_empty() {
        return Ok(());
    }
    let tx = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    // Looked up again: a worker may have come back since.
    for worker_id in gone_workers(&tx, shared)? {
        tx.execute("DELETE FROM workers WHERE worker_id = ?1", [&worker_id])?;
        tx.execute(
            "DELETE FROM worker_processes WHERE worker_id = ?1
             AND NOT EXISTS (SELECT 1 FROM runs WHERE worker_id = ?1 AND end_sent = 0)
             AND NOT EXISTS (SELECT 1 FROM coordination WHERE worker_id = ?1)",
            [&worker_id],
        )?;
    }
    tx.commit()
}

/// The workers that were registered by processes which are gone.
pub(crate) fn gone_workers(
    connection: &Connection,
    shared: &Shared,
) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare_cached("SELECT worker_id, process FROM worker_processes")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    let mut gone = Vec::new();
    for row in rows {
        let (worker_id, process) = row?;
        if shared.processes().gone(&process) {
            gone.push(worker_id);
        }
    }
    Ok(gone)
}

/// The process that is, or last was, a worker.
pub(super) fn process_of(
    connection: &Connection,
    worker_id: &WorkerId,
) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT process FROM worker_processes WHERE worker_id = ?1")?
        .query_row([worker_id.as_str()], |row| row.get(0))
        .optional()
}

pub(super) fn set_process_of(
    connection: &Connection,
    worker_id: &WorkerId,
    process: &str,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("REPLACE INTO worker_processes (worker_id, process) VALUES (?1, ?2)")?
        .execute([worker_id.as_str(), process])
        .map(drop)
}
