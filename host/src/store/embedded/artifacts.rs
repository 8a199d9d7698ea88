//! Artifacts in SQLite.

use std::ops::Range;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::decode::{self, Decoded};
use super::{EmbeddedStore, changed_one, fenced, int, json, names, refuse_superseded};
use crate::clock::UnixMs;
use crate::sqlite::Abort;
use crate::store::{
    ArtifactStore, Claim, Cursor, Fenced, FinishedBatch, NewComplete, NewPartial, Page, Partial,
    StoreError,
};
use crate::types::{Epoch, Fence, NodeId, RunKey, TaskId};

/// A partial artifact as its columns.
struct Columns {
    batch_uid: String,
    ordinal: i64,
    metrics: String,
    meta: String,
    now: UnixMs,
}

#[async_trait]
impl ArtifactStore for EmbeddedStore {
    async fn write_partials(
        &self,
        fence: &Fence,
        partials: &[NewPartial],
    ) -> Result<Fenced, StoreError> {
        let columns = partials.iter().map(|partial| {
            Ok(Columns {
                batch_uid: partial.batch_uid.as_str().to_owned(),
                ordinal: int(partial.ordinal),
                metrics: json("a batch's metrics", &partial.metrics)?,
                meta: json("an artifact's meta", &partial.meta)?,
                now: partial.now,
            })
        });
        let columns: Vec<Columns> = columns.collect::<Result<_, StoreError>>()?;
        let fence = fence.clone();
        let written = self.db.write(move |tx| {
            refuse_superseded(tx, &fence)?;
            let node = ensure_node(tx, &fence.key)?;
            columns.iter().try_for_each(|partial| write_partial(tx, &fence, node, partial))
        });
        fenced(written.await)
    }

    async fn write_complete(
        &self,
        fence: &Fence,
        complete: &NewComplete,
    ) -> Result<Fenced, StoreError> {
        let meta = json("an artifact's meta", &complete.meta)?;
        let payload = json("an artifact's payload", &complete.payload)?;
        let (fence, now) = (fence.clone(), complete.now);
        let written = self.db.write(move |tx| {
            refuse_superseded(tx, &fence)?;
            let node = ensure_node(tx, &fence.key)?;
            let rows = tx
                .prepare_cached(
                    "INSERT INTO completes (node, epoch, lease_no, worker_id, meta, payload,
                         created_at, updated_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
                     ON CONFLICT (node) DO UPDATE SET epoch = ?2, lease_no = ?3, worker_id = ?4,
                         meta = ?5, payload = ?6, updated_at = ?7
                     WHERE (epoch, lease_no) <= (?2, ?3)",
                )?
                .execute(params![
                    node,
                    fence.epoch.0,
                    int(fence.lease_no.0),
                    fence.worker_id.as_str(),
                    meta,
                    payload,
                    now.0
                ])?;
            changed_one(rows)?;
            tx.prepare_cached(
                "DELETE FROM partials WHERE node = ?1 AND epoch < ?2 AND status = 'partial'",
            )?
            .execute(params![node, fence.epoch.0])?;
            Ok(())
        });
        fenced(written.await)
    }

    async fn complete_nodes(
        &self,
        task_id: &TaskId,
        nodes: &[NodeId],
    ) -> Result<Vec<NodeId>, StoreError> {
        let (task_id, mut nodes) = (task_id.clone(), nodes.to_vec());
        let complete = self.db.read(move |tx| {
            let mut found = Vec::new();
            for node_id in nodes.drain(..) {
                let complete: bool = tx
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM nodes JOIN completes ON node = id
                         WHERE task_id = ?1 AND node_id = ?2)",
                    )?
                    .query_row([task_id.as_str(), node_id.as_str()], |row| row.get(0))?;
                if complete {
                    found.push(node_id);
                }
            }
            Ok(found)
        });
        Ok(complete.await?)
    }

    async fn partials(
        &self,
        key: &RunKey,
        from: &Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (after, limit) = (int(from.place()?), int(limit as u64));
        let (key, next) = (key.clone(), from.clone());
        let page = self.db.read(move |tx| {
            let mut page = Page { partials: Vec::new(), next };
            let Some(node) = node(tx, &key)? else { return Ok(page) };
            let mut statement = tx.prepare_cached(
                "SELECT batch_uid, meta, seq FROM partials
                 WHERE node = ?1 AND status = 'partial' AND seq > ?2 ORDER BY seq LIMIT ?3",
            )?;
            let mut rows = statement.query([node, after, limit])?;
            while let Some(row) = rows.next()? {
                let read = || -> Decoded<Partial> {
                    let batch_uid = decode::name(row, 0)?;
                    Ok(Partial { batch_uid, meta: decode::from_json(row, 1)? })
                };
                let what = || format!("artifact {} of {key}", decode::label(row, 0));
                page.partials.push(read().map_err(|problem| problem.of(what()))?);
                page.next = Cursor::at(row.get::<_, i64>(2)?.unsigned_abs());
            }
            Ok(page)
        });
        Ok(page.await?)
    }

    async fn finished(
        &self,
        key: &RunKey,
        epoch: Epoch,
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<FinishedBatch>, StoreError> {
        let key = key.clone();
        let finished = self.db.read(move |tx| {
            let mut finished = Vec::new();
            let Some(node) = node(tx, &key)? else { return Ok(finished) };
            // SQLite takes the other columns from the row that has the maximum.
            let mut statement = tx.prepare_cached(
                "SELECT batch_uid, ordinal, metrics, max(lease_no) FROM partials
                 WHERE node = ?1 AND epoch = ?2 AND ordinal >= ?3 AND ordinal < ?4
                     AND status = 'partial'
                 GROUP BY ordinal ORDER BY ordinal LIMIT ?5",
            )?;
            let mut rows = statement.query(params![
                node,
                epoch.0,
                int(range.start),
                int(range.end),
                int(limit as u64)
            ])?;
            while let Some(row) = rows.next()? {
                let read = || -> Decoded<FinishedBatch> {
                    Ok(FinishedBatch {
                        batch_uid: decode::name(row, 0)?,
                        ordinal: decode::number(row, 1)?,
                        metrics: decode::from_json(row, 2)?,
                    })
                };
                let what = || format!("artifact {} of {key}", decode::label(row, 0));
                finished.push(read().map_err(|problem| problem.of(what()))?);
            }
            Ok(finished)
        });
        Ok(finished.await?)
    }

    async fn record_claims(&self, claims: &[Claim]) -> Result<(), StoreError> {
        let claims = claims.to_vec();
        let recorded = self.db.write(move |tx| {
            let mut statement = tx.prepare_cached(
                "INSERT OR IGNORE INTO claims
                 (task_id, consumer_node, from_node, batch_uid, claimed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for claim in &claims {
                statement.execute(params![
                    claim.task_id.as_str(),
                    claim.consumer_node.as_str(),
                    claim.from_node.as_str(),
                    claim.batch_uid.as_str(),
                    claim.claimed_at.0
                ])?;
            }
            Ok(())
        });
        Ok(recorded.await?)
    }
}

fn node(tx: &Connection, key: &RunKey) -> Result<Option<i64>, Abort> {
    Ok(tx
        .prepare_cached("SELECT id FROM nodes WHERE task_id = ?1 AND node_id = ?2")?
        .query_row(names(key), |row| row.get(0))
        .optional()?)
}

fn ensure_node(tx: &Connection, key: &RunKey) -> Result<i64, Abort> {
    match node(tx, key)? {
        Some(id) => Ok(id),
        None => Ok(tx
            .prepare_cached("INSERT INTO nodes (task_id, node_id) VALUES (?1, ?2)")?
            .insert(names(key))?),
    }
}

fn write_partial(
    tx: &Connection,
    fence: &Fence,
    node: i64,
    partial: &Columns,
) -> Result<(), Abort> {
    let pair = (fence.epoch.0, int(fence.lease_no.0));
    let upsert = || {
        tx.prepare_cached(
            "INSERT INTO partials (node, batch_uid, status, epoch, lease_no, ordinal, worker_id,
                 metrics, meta, created_at, updated_at)
             VALUES (?1, ?2, 'partial', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)
             ON CONFLICT (node, batch_uid) DO UPDATE SET epoch = ?3, lease_no = ?4, ordinal = ?5,
                 worker_id = ?6, metrics = ?7, meta = ?8, updated_at = ?9
             WHERE status = 'partial' AND (epoch, lease_no) <= (?3, ?4)",
        )?
        .execute(params![
            node,
            partial.batch_uid,
            pair.0,
            pair.1,
            partial.ordinal,
            fence.worker_id.as_str(),
            partial.metrics,
            partial.meta,
            partial.now.0
        ])
    };
    if upsert()? == 1 {
        return Ok(());
    }
    // What a coordinator left for a failed batch had no place in a scan; the artifact
    // gets one behind all that were read.
    tx.prepare_cached(
        "DELETE FROM partials WHERE node = ?1 AND batch_uid = ?2 AND status = 'failed'
         AND (epoch IS NULL OR (epoch, lease_no) <= (?3, ?4))",
    )?
    .execute(params![node, partial.batch_uid, pair.0, pair.1])?;
    changed_one(upsert()?)
}
