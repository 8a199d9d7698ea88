//! Tasks in SQLite.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;

use super::decode::{self, Decoded, readable};
use super::{EmbeddedStore, json};
use crate::clock::UnixMs;
use crate::sqlite::{Abort, Tx, gone_workers};
use crate::store::{CancelState, NodeView, StoreError, TaskDoc, TaskStore};
use crate::types::{RunKey, TaskId, WorkerId};

pub(super) const SELECT: &str =
    "SELECT id, status, cancelled, cancel_reason, graph, version, created_at,
    updated_at FROM tasks ";

#[async_trait]
impl TaskStore for EmbeddedStore {
    async fn views(&self, keys: &[RunKey]) -> Result<Vec<NodeView>, StoreError> {
        let keys = keys.to_vec();
        let views = self.db.read(move |tx| {
            let mut tasks: BTreeMap<&TaskId, Option<TaskDoc>> = BTreeMap::new();
            let mut views = Vec::new();
            for key in &keys {
                if !tasks.contains_key(&key.task_id) {
                    let task = find(tx, &key.task_id);
                    tasks.insert(&key.task_id, readable(task).flatten());
                }
                let task = tasks.get(&key.task_id).and_then(Option::as_ref);
                views.extend(task.and_then(|task| task.view(&key.node_id)));
            }
            Ok(views)
        });
        Ok(views.await?)
    }

    async fn create_task(&self, task: &TaskDoc) -> Result<bool, StoreError> {
        let (task, graph) = (task.clone(), json("a task's graph", &task.graph)?);
        let created = self.db.write(move |tx| {
            let rows = tx
                .prepare_cached(
                    "INSERT OR IGNORE INTO tasks (id, status, ended, cancelled, cancel_reason,
                         graph, version, created_at, updated_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![
                    task.id.as_str(),
                    task.status.as_str(),
                    task.status.is_final(),
                    task.coordinator.cancelled,
                    task.coordinator.cancel_reason,
                    graph,
                    super::int(task.version),
                    task.created_at.0,
                    task.updated_at.0
                ])?;
            Ok(rows == 1)
        });
        Ok(created.await?)
    }

    async fn task(&self, id: &TaskId) -> Result<Option<TaskDoc>, StoreError> {
        let id = id.clone();
        Ok(self.db.read(move |tx| find(tx, &id)).await?)
    }

    async fn list_tasks(&self, ended: usize) -> Result<Vec<TaskDoc>, StoreError> {
        let tasks = self.db.read(move |tx| {
            let mut tasks = list(tx, "WHERE ended = 0 LIMIT ?1", i64::MAX)?;
            let last = "WHERE ended = 1 ORDER BY created_at DESC, id DESC LIMIT ?1";
            tasks.extend(list(tx, last, super::int(ended as u64))?);
            tasks.sort_by_key(|task| Reverse((task.created_at, task.id.clone())));
            Ok(tasks)
        });
        Ok(tasks.await?)
    }

    async fn open_tasks(&self) -> Result<Vec<TaskDoc>, StoreError> {
        let oldest_first = "WHERE ended = 0 ORDER BY created_at, id LIMIT ?1";
        Ok(self.db.read(move |tx| list(tx, oldest_first, i64::MAX)).await?)
    }

    async fn save_task(&self, task: &TaskDoc) -> Result<bool, StoreError> {
        let (task, graph) = (task.clone(), json("a task's graph", &task.graph)?);
        let saved = self.db.write(move |tx| {
            let rows = tx
                .prepare_cached(
                    "UPDATE tasks SET status = ?3, ended = ?4, graph = ?5, updated_at = ?6,
                         version = version + 1
                     WHERE id = ?1 AND version = ?2",
                )?
                .execute(params![
                    task.id.as_str(),
                    super::int(task.version),
                    task.status.as_str(),
                    task.status.is_final(),
                    graph,
                    task.updated_at.0
                ])?;
            Ok(rows == 1)
        });
        Ok(saved.await?)
    }

    async fn request_cancel(&self, id: &TaskId, reason: &str) -> Result<bool, StoreError> {
        let (id, reason, now) = (id.clone(), reason.to_owned(), self.clock.wall());
        let cancelled = self.db.write(move |tx| {
            let rows = tx
                .prepare_cached(
                    "UPDATE tasks SET cancelled = 1, cancel_reason = ?2, updated_at = ?3
                     WHERE id = ?1",
                )?
                .execute(params![id.as_str(), reason, now.0])?;
            Ok(rows == 1)
        });
        Ok(cancelled.await?)
    }

    async fn hold_coordination(
        &self,
        worker_id: &WorkerId,
        now: UnixMs,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let (worker_id, until) = (worker_id.as_str().to_owned(), now.plus(ttl));
        let shared = self.db.shared();
        let held = self.db.write(move |tx| {
            let holder: Option<(String, i64)> = tx
                .prepare_cached("SELECT worker_id, until FROM coordination")?
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            if let Some((holder, until)) = holder
                && holder != worker_id
                && until > now.0
                && !gone_workers(tx, &shared)?.contains(&holder)
            {
                return Ok(false);
            }
            tx.prepare_cached(
                "REPLACE INTO coordination (one, worker_id, until) VALUES (1, ?1, ?2)",
            )?
            .execute(params![worker_id, until.0])?;
            Ok(true)
        });
        Ok(held.await?)
    }
}

fn find(tx: &Tx<'_>, id: &TaskId) -> Result<Option<TaskDoc>, Abort> {
    let mut statement = tx.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    rows.next()?.map(decode).transpose()
}

/// The readable ones among the tasks that `clause` with its one parameter selects.
fn list(tx: &Tx<'_>, clause: &str, parameter: i64) -> Result<Vec<TaskDoc>, Abort> {
    let mut statement = tx.prepare_cached(&format!("{SELECT} {clause}"))?;
    let mut rows = statement.query([parameter])?;
    let mut tasks = Vec::new();
    while let Some(row) = rows.next()? {
        tasks.extend(readable(decode(row)));
    }
    Ok(tasks)
}

pub(super) fn decode(row: &Row<'_>) -> Result<TaskDoc, Abort> {
    let read = || -> Decoded<TaskDoc> {
        let status = Value::String(row.get(1)?);
        Ok(TaskDoc {
            id: decode::name(row, 0)?,
            status: serde_json::from_value(status)?,
            coordinator: CancelState { cancelled: row.get(2)?, cancel_reason: row.get(3)? },
            graph: decode::from_json(row, 4)?,
            version: decode::number(row, 5)?,
            created_at: UnixMs(row.get(6)?),
            updated_at: UnixMs(row.get(7)?),
        })
    };
    read().map_err(|problem| problem.of(format!("task {}", decode::label(row, 0))))
}
