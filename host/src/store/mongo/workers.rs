//! Workers' own records in MongoDB.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};

use super::decode::{self, readable};
use super::error::meaning;
use super::{MongoStore, date, text};
use crate::store::{StoreError, WorkerRecord, WorkerStore};
use crate::types::WorkerId;

#[async_trait]
impl WorkerStore for MongoStore {
    async fn put_worker(&self, record: &WorkerRecord) -> Result<(), StoreError> {
        let fields = fields(record)?;
        let own = doc! {"_id": id(&record.worker_id)};
        let put = self.worker_states.update_one(own, doc! {"$set": fields}).upsert(true);
        self.within(put)
            .await
            .map(drop)
            .map_err(|error| meaning("writing this worker's record", &error))
    }

    async fn remove_worker(&self, worker_id: &WorkerId) -> Result<(), StoreError> {
        let removed = self.within(self.worker_states.delete_one(doc! {"_id": id(worker_id)})).await;
        removed.map(drop).map_err(|error| meaning("removing this worker's record", &error))
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let find = self.worker_states.find(doc! {"kind": "worker"}).sort(doc! {"worker_id": 1});
        let found = self.all(find).await.map_err(|error| meaning("reading the workers", &error))?;
        Ok(found.iter().filter_map(|document| readable(read(document))).collect())
    }
}

/// What is written of a worker, without its name.
fn fields(record: &WorkerRecord) -> Result<Document, StoreError> {
    Ok(doc! {
        "kind": "worker",
        "worker_id": record.worker_id.as_str(),
        "record": text("a worker's record", record)?,
        "updated_at": date(record.updated_at),
    })
}

/// A worker's record as others find it in `worker_states`.
pub(in crate::store) fn document(record: &WorkerRecord) -> Result<Document, StoreError> {
    let mut document = doc! {"_id": id(&record.worker_id)};
    document.extend(fields(record)?);
    Ok(document)
}

fn id(worker_id: &WorkerId) -> String {
    format!("worker:{worker_id}")
}

fn read(document: &Document) -> Result<WorkerRecord, StoreError> {
    let name = || format!("worker {}", decode::label(document, "worker_id"));
    decode::json(document, "record").map_err(|problem| problem.of(name()))
}
