//! A node's complete artifact.

use mongodb::bson::{Bson, Document, doc};

use super::artifacts::{TRIES, newer, of_node};
use super::error::{is_duplicate, meaning};
use super::group::fitting;
use super::{MongoStore, date, int, json, text};
use crate::store::{Fenced, NewComplete, StoreError};
use crate::types::Fence;

/// Before the first attempt there is none that could have left anything.
const FIRST_EPOCH: u32 = 1;

const WRITING: &str = "writing a complete artifact";

impl MongoStore {
    /// Looks whether a newer one is there, removes what older attempts left, and writes it:
    /// whoever sees it sees no older partial one any more.
    pub(super) async fn complete(
        &self,
        fence: &Fence,
        complete: &NewComplete,
    ) -> Result<Fenced, StoreError> {
        let mut filter = of_node(&fence.key);
        filter.insert("status", "complete");
        let change = change(fence, complete)?;
        fitting(WRITING, &change)?;
        for _ in 0..TRIES {
            let mut is_newer = filter.clone();
            is_newer.insert("$or", newer(fence));
            if self.found(is_newer).await?.is_some() {
                return Ok(Fenced::Lost);
            }
            self.remove_older(fence).await?;
            let found = self.found(filter.clone()).await?;
            // A new one has a name of its own, so that of two that are made at once one
            // finds it taken.
            let id = found.and_then(|found| found.get("_id").cloned());
            let id = id.unwrap_or_else(|| Bson::String(format!("complete:{}", name(fence))));
            let mut own = filter.clone();
            own.insert("_id", id);
            own.insert("$nor", newer(fence));
            let written = self.artifacts.update_one(own, change.clone()).upsert(true);
            match self.within(written).await {
                Ok(_) => return Ok(Fenced::Written),
                Err(error) if is_duplicate(&error) => {}
                Err(error) => return Err(meaning(WRITING, &error)),
            }
        }
        Err(StoreError::Unavailable(format!("{WRITING}: others write the same one")))
    }

    async fn found(&self, filter: Document) -> Result<Option<Document>, StoreError> {
        let find = self.artifacts.find_one(filter).projection(doc! {"_id": 1});
        self.within(find).await.map_err(|error| meaning(WRITING, &error))
    }

    async fn remove_older(&self, fence: &Fence) -> Result<(), StoreError> {
        if fence.epoch.0 <= FIRST_EPOCH {
            return Ok(());
        }
        let mut older = of_node(&fence.key);
        older.insert("status", "partial");
        older.insert("attempt_epoch", doc! {"$lt": i64::from(fence.epoch.0)});
        let removed = self.within(self.artifacts.delete_many(older)).await;
        removed.map(drop).map_err(|error| meaning("removing older artifacts", &error))
    }
}

fn name(fence: &Fence) -> String {
    let (task, node) = (fence.key.task_id.as_str(), fence.key.node_id.as_str());
    format!("{}:{task}:{node}", task.len())
}

fn change(fence: &Fence, complete: &NewComplete) -> Result<Document, StoreError> {
    let (meta, exact_meta) = json::to_document(&complete.meta);
    let (payload, exact_payload) = json::to_bson(&complete.payload);
    let mut fields = doc! {
        "attempt_epoch": i64::from(fence.epoch.0),
        "lease_no": int(fence.lease_no.0),
        "worker_id": fence.worker_id.as_str(),
        "meta": meta,
        "payload": payload,
        "updated_at": date(complete.now),
    };
    let mut unset = doc! {"error": ""};
    for (exact, key, value) in [
        (exact_meta, "meta_json", text("an artifact's meta", &complete.meta)?),
        (exact_payload, "payload_json", text("an artifact's payload", &complete.payload)?),
    ] {
        if exact {
            unset.insert(key, "");
        } else {
            fields.insert(key, value);
        }
    }
    let created = doc! {"created_at": date(complete.now)};
    Ok(doc! {"$set": fields, "$unset": unset, "$min": created})
}
