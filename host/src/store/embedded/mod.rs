//! The store in the embedded backend's SQLite file.

mod artifacts;
mod decode;
mod documents;
mod runs;
mod tasks;
mod workers;

use rusqlite::{Connection, OptionalExtension};

use super::{Fenced, StoreError};
use crate::clock::Clock;
use crate::sqlite::{Abort, Database, Failure};
use crate::types::{Fence, RunKey};

/// The store of one database. An owner or a coordinator whose process registered itself
/// ([`Database::register_worker`]) and has ended since is known to be gone.
#[derive(Clone)]
pub struct EmbeddedStore {
    db: Database,
    clock: Clock,
}

impl EmbeddedStore {
    /// A view of an open database; `clock` stamps the changes.
    pub fn new(db: Database, clock: Clock) -> Self {
        Self { db, clock }
    }
}

/// Tells a write that its fence refused from one that failed.
fn fenced(result: Result<(), Failure>) -> Result<Fenced, StoreError> {
    match result {
        Ok(()) => Ok(Fenced::Written),
        Err(Failure::Refused) => Ok(Fenced::Lost),
        Err(failure) => Err(failure.into()),
    }
}

/// Undoes the write unless it changed the row it was meant for.
fn changed_one(rows: usize) -> Result<(), Abort> {
    if rows == 1 { Ok(()) } else { Err(Abort::Refused) }
}

/// Refuses an artifact of an attempt or a lease that the run's record has left behind.
fn refuse_superseded(tx: &Connection, fence: &Fence) -> Result<(), Abort> {
    let newest: Option<(i64, i64)> = tx
        .prepare_cached("SELECT epoch, lease_no FROM runs WHERE task_id = ?1 AND node_id = ?2")?
        .query_row(names(&fence.key), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match newest {
        Some(newest) if newest > (i64::from(fence.epoch.0), int(fence.lease_no.0)) => {
            Err(Abort::Refused)
        }
        _ => Ok(()),
    }
}

fn names(key: &RunKey) -> [&str; 2] {
    [key.task_id.as_str(), key.node_id.as_str()]
}

/// SQLite's integers have a sign. What counts up from zero never gets that far.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// JSON text for a column.
fn json<T: serde::Serialize>(what: &str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Fatal(format!("{what} cannot be stored as JSON: {error}")))
}
