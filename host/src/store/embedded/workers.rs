//! Workers in SQLite.

use async_trait::async_trait;

use super::decode::{self, readable};
use super::{EmbeddedStore, json};
use crate::sqlite::gone_workers;
use crate::store::{StoreError, WorkerRecord, WorkerStore};
use crate::types::WorkerId;

#[async_trait]
impl WorkerStore for EmbeddedStore {
    async fn put_worker(&self, record: &WorkerRecord) -> Result<(), StoreError> {
        let id = record.worker_id.as_str().to_owned();
        let record = json("a worker's record", record)?;
        let put = self.db.write(move |tx| {
            tx.prepare_cached("REPLACE INTO workers (worker_id, record) VALUES (?1, ?2)")?
                .execute([id, record])?;
            Ok(())
        });
        Ok(put.await?)
    }

    async fn remove_worker(&self, worker_id: &WorkerId) -> Result<(), StoreError> {
        let id = worker_id.as_str().to_owned();
        let removed = self.db.write(move |tx| {
            tx.prepare_cached("DELETE FROM workers WHERE worker_id = ?1")?.execute([id])?;
            Ok(())
        });
        Ok(removed.await?)
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let shared = self.db.shared();
        let workers = self.db.read(move |tx| {
            let gone = gone_workers(tx, &shared)?;
            let mut statement =
                tx.prepare_cached("SELECT worker_id, record FROM workers ORDER BY worker_id")?;
            let mut rows = statement.query([])?;
            let mut workers: Vec<WorkerRecord> = Vec::new();
            while let Some(row) = rows.next()? {
                let id = decode::label(row, 0);
                let record = decode::from_json(row, 1);
                if !gone.contains(&id) {
                    workers.extend(readable(record.map_err(|p| p.of(format!("worker {id}")))));
                }
            }
            Ok(workers)
        });
        Ok(workers.await?)
    }
}
