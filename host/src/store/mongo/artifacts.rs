//! Artifacts in MongoDB.

use std::ops::Range;

use async_trait::async_trait;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};

use super::decode::{self, Decoded, Problem};
use super::error::meaning;
use super::group::{Writes, upsert};
use super::{MongoStore, date, int, json, text};
use crate::metrics::Metrics;
use crate::store::{
    ArtifactStore, Claim, Cursor, Fenced, FinishedBatch, NewComplete, NewPartial, Page, Partial,
    StoreError,
};
use crate::types::{Epoch, Fence, NodeId, RunKey, TaskId};

/// Tries of a write that meets others' writes of the same documents.
pub(super) const TRIES: usize = 5;

#[async_trait]
impl ArtifactStore for MongoStore {
    async fn write_partials(
        &self,
        fence: &Fence,
        partials: &[NewPartial],
    ) -> Result<Fenced, StoreError> {
        self.prepared().await?;
        let documents = partials.iter().map(|partial| document(fence, partial));
        let documents: Vec<Document> = documents.collect::<Result<_, _>>()?;
        // Most are new: an insert costs the server less than an upsert.
        let taken = self.write_all("artifacts", Writes::Inserts(documents)).await?;
        let mut again: Vec<&NewPartial> = taken.into_iter().map(|at| &partials[at]).collect();
        for _ in 0..TRIES {
            if again.is_empty() {
                return Ok(Fenced::Written);
            }
            let changes = again.iter().map(|partial| change(fence, partial));
            let changes: Vec<Document> = changes.collect::<Result<_, _>>()?;
            let taken = self.write_all("artifacts", Writes::Upserts(changes)).await?;
            again = taken.into_iter().map(|at| again[at]).collect();
            // Either a newer one is there, or another's insert was a moment faster.
            if self.has_newer(fence, &again).await? {
                return Ok(Fenced::Lost);
            }
        }
        Err(StoreError::Unavailable("writing artifacts: others write the same ones".into()))
    }

    async fn write_complete(
        &self,
        fence: &Fence,
        complete: &NewComplete,
    ) -> Result<Fenced, StoreError> {
        self.prepared().await?;
        self.complete(fence, complete).await
    }

    async fn complete_nodes(
        &self,
        task_id: &TaskId,
        nodes: &[NodeId],
    ) -> Result<Vec<NodeId>, StoreError> {
        let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
        let complete = doc! {
            "task_id": task_id.as_str(), "node_id": {"$in": names}, "status": "complete",
        };
        let find = self.artifacts.find(complete).projection(doc! {"node_id": 1});
        let found = self.all(find).await;
        let found = found.map_err(|error| meaning("looking for complete artifacts", &error))?;
        let is_complete = |node: &&NodeId| {
            found.iter().any(|document| document.get_str("node_id").ok() == Some(node.as_str()))
        };
        Ok(nodes.iter().filter(is_complete).cloned().collect())
    }

    async fn partials(
        &self,
        key: &RunKey,
        from: &Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut filter = of_node(key);
        filter.insert("status", "partial");
        if let Some(place) = &from.0 {
            filter.insert("_id", doc! {"$gt": place_of(place)?});
        }
        let find = self
            .artifacts
            .find(filter)
            .projection(doc! {"batch_uid": 1, "meta": 1, "meta_json": 1})
            .sort(doc! {"_id": 1})
            .limit(i64::try_from(limit).unwrap_or(i64::MAX));
        let found = self.all(find).await;
        let found = found.map_err(|error| meaning("reading artifacts", &error))?;
        let mut page = Page { partials: Vec::with_capacity(found.len()), next: from.clone() };
        for document in found {
            if let Some(id) = document.get("_id") {
                page.next = Cursor(Some(cursor_at(id)?));
            }
            let read = partial(&document).map_err(|problem| problem.of(name(key, &document)))?;
            page.partials.push(read);
        }
        Ok(page)
    }

    async fn finished(
        &self,
        key: &RunKey,
        epoch: Epoch,
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<FinishedBatch>, StoreError> {
        let mut filter = of_node(key);
        filter.insert("attempt_epoch", i64::from(epoch.0));
        filter.insert("status", "partial");
        let (mut found, mut next) = (Vec::<FinishedBatch>::new(), range.start);
        // Of one place there may be several, of different leases: a page may hold fewer
        // places than documents.
        while found.len() < limit && next < range.end {
            let mut page = filter.clone();
            page.insert("ordinal", doc! {"$gte": int(next), "$lt": int(range.end)});
            let asked = limit - found.len();
            let find = self
                .artifacts
                .find(page)
                .projection(doc! {"batch_uid": 1, "ordinal": 1, "metrics": 1})
                .sort(doc! {"ordinal": 1, "lease_no": -1})
                .limit(i64::try_from(asked).unwrap_or(i64::MAX));
            let documents = self.all(find).await;
            let documents = documents.map_err(|e| meaning("reading finished batches", &e))?;
            let last_page = documents.len() < asked;
            for document in documents {
                let batch =
                    finished(&document).map_err(|problem| problem.of(name(key, &document)))?;
                if found.last().is_none_or(|last| last.ordinal < batch.ordinal) {
                    found.push(batch);
                }
            }
            if last_page {
                break;
            }
            next = found.last().map_or(range.end, |last| last.ordinal.saturating_add(1));
        }
        Ok(found)
    }

    async fn record_claims(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.prepared().await?;
        let recorded = claims.iter().map(|claim| {
            let name = doc! {
                "task_id": claim.task_id.as_str(),
                "consumer_node": claim.consumer_node.as_str(),
                "from_node": claim.from_node.as_str(),
                "batch_uid": claim.batch_uid.as_str(),
            };
            upsert(name, doc! {"$setOnInsert": {"claimed_at": date(claim.claimed_at)}})
        });
        let recorded = Writes::Upserts(recorded.collect());
        // One that another has just recorded is recorded.
        self.write_all("stream_progress", recorded).await.map(drop)
    }
}

impl MongoStore {
    /// Whether any of the documents that these writes are for is newer than the writer.
    async fn has_newer(&self, fence: &Fence, partials: &[&NewPartial]) -> Result<bool, StoreError> {
        if partials.is_empty() {
            return Ok(false);
        }
        let uids: Vec<&str> = partials.iter().map(|partial| partial.batch_uid.as_str()).collect();
        let mut filter = of_node(&fence.key);
        filter.insert("batch_uid", doc! {"$in": uids});
        filter.insert("$or", newer(fence));
        let find = self.artifacts.find(filter).projection(doc! {"_id": 1}).limit(1);
        let found = self.all(find).await;
        let found = found.map_err(|error| meaning("looking for newer artifacts", &error))?;
        Ok(!found.is_empty())
    }
}

/// The artifacts of a node.
pub(super) fn of_node(key: &RunKey) -> Document {
    doc! {"task_id": key.task_id.as_str(), "node_id": key.node_id.as_str()}
}

/// Conditions, any of which says that a document is newer than the writer. One that meets
/// none gives way: what a coordinator left for a failed batch has neither number, workers
/// of other kinds write no `lease_no`, and a damaged pair is no pair.
pub(super) fn newer(fence: &Fence) -> Vec<Document> {
    let (epoch, lease_no) = (i64::from(fence.epoch.0), int(fence.lease_no.0));
    vec![
        doc! {"attempt_epoch": {"$gt": epoch}},
        doc! {"attempt_epoch": epoch, "lease_no": {"$gt": lease_no}},
    ]
}

/// What is written of an artifact, without its name.
fn fields(fence: &Fence, partial: &NewPartial) -> Result<Document, StoreError> {
    let (meta, exact) = json::to_document(&partial.meta);
    // Plain names and numbers of 64 bits: always exact.
    let (metrics, _) = json::to_document(partial.metrics.as_object());
    let mut fields = doc! {
        "attempt_epoch": i64::from(fence.epoch.0),
        "lease_no": int(fence.lease_no.0),
        "ordinal": int(partial.ordinal),
        "status": "partial",
        "worker_id": fence.worker_id.as_str(),
        "metrics": metrics,
        "meta": meta,
        "payload": Bson::Null,
        "updated_at": date(partial.now),
    };
    if !exact {
        fields.insert("meta_json", text("an artifact's meta", &partial.meta)?);
    }
    Ok(fields)
}

/// A new artifact.
fn document(fence: &Fence, partial: &NewPartial) -> Result<Document, StoreError> {
    let mut document = doc! {"_id": ObjectId::new()};
    document.extend(of_node(&fence.key));
    document.insert("batch_uid", partial.batch_uid.as_str());
    document.extend(fields(fence, partial)?);
    document.insert("created_at", date(partial.now));
    Ok(document)
}

/// An artifact in place of one that is not newer.
fn change(fence: &Fence, partial: &NewPartial) -> Result<Document, StoreError> {
    let fields = fields(fence, partial)?;
    let mut unset = doc! {"error": ""};
    if !fields.contains_key("meta_json") {
        unset.insert("meta_json", "");
    }
    let mut filter = of_node(&fence.key);
    filter.insert("batch_uid", partial.batch_uid.as_str());
    filter.insert("$nor", newer(fence));
    // Sets what is not there yet, also in a document that a coordinator began.
    let created = doc! {"created_at": date(partial.now)};
    Ok(upsert(filter, doc! {"$set": fields, "$unset": unset, "$min": created}))
}

/// An `_id` of whatever type, as text: the bytes of a document that holds it.
fn cursor_at(id: &Bson) -> Result<String, StoreError> {
    let bytes = mongodb::bson::serialize_to_vec(&doc! {"_id": id.clone()});
    let bytes = bytes.map_err(|error| StoreError::Fatal(format!("an artifact's _id: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn place_of(cursor: &str) -> Result<Bson, StoreError> {
    let byte = |at: usize| u8::from_str_radix(cursor.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..cursor.len()).step_by(2).map(byte).collect();
    let id = bytes.and_then(|bytes| {
        let document: Document = mongodb::bson::deserialize_from_slice(&bytes).ok()?;
        document.get("_id").cloned()
    });
    id.ok_or_else(|| StoreError::Damaged {
        what: "a cursor of partial artifacts".into(),
        problem: format!("`{}` is no place", cursor.escape_debug()),
    })
}

fn name(key: &RunKey, document: &Document) -> String {
    format!("artifact {} of {key}", decode::label(document, "batch_uid"))
}

fn partial(document: &Document) -> Decoded<Partial> {
    let meta = match decode::optional(document, "meta_json") {
        Some(_) => decode::json(document, "meta_json")?,
        None => decode::document(document, "meta")?
            .map(|meta| json::from_document(meta.clone()))
            .unwrap_or_default(),
    };
    Ok(Partial { batch_uid: decode::name(document, "batch_uid")?, meta })
}

fn finished(document: &Document) -> Decoded<FinishedBatch> {
    let metrics = decode::document(document, "metrics")?.cloned().unwrap_or_default();
    let metrics = Metrics::new(json::from_document(metrics));
    Ok(FinishedBatch {
        batch_uid: decode::name(document, "batch_uid")?,
        ordinal: decode::number(document, "ordinal")?,
        metrics: metrics.map_err(|error| Problem::new(error.to_string()))?,
    })
}
