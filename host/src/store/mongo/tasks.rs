//! Tasks in MongoDB: those that coordinators wrote, read as they are; and those that
//! `flowkit run` coordinates, in a collection of their own.

use std::cmp::Reverse;
use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};

use super::decode::{self, Decoded, readable};
use super::error::{is_duplicate, meaning};
use super::tasks_view;
use super::{MongoStore, date, int, text};
use crate::clock::UnixMs;
use crate::store::{CancelState, NodeView, StoreError, TaskDoc, TaskStore};
use crate::types::{RunKey, TaskId, WorkerId};

/// Tasks of coordinators that a list shows, at most.
const LISTED: i64 = 200;

#[async_trait]
impl TaskStore for MongoStore {
    async fn views(&self, keys: &[RunKey]) -> Result<Vec<NodeView>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let find = self
            .tasks
            .find(doc! {"id": {"$in": ids(keys.iter())}})
            .projection(tasks_view::projection());
        let found = self.all(find).await.map_err(|error| meaning("reading tasks", &error))?;
        let mut views = tasks_view::of(&found, keys);
        let known = |id: &TaskId| found.iter().any(|d| d.get_str("id").ok() == Some(id.as_str()));
        let ours: Vec<&RunKey> = keys.iter().filter(|key| !known(&key.task_id)).collect();
        if !ours.is_empty() {
            let find = self.own_tasks.find(doc! {"_id": {"$in": ids(ours.iter().copied())}});
            let found =
                self.all(find).await.map_err(|error| meaning("reading our tasks", &error))?;
            for task in found.iter().filter_map(|document| readable(read(document))) {
                let nodes = ours.iter().filter(|key| key.task_id == task.id);
                views.extend(nodes.filter_map(|key| task.view(&key.node_id)));
            }
        }
        Ok(views)
    }

    async fn create_task(&self, task: &TaskDoc) -> Result<bool, StoreError> {
        let mut document = doc! {
            "_id": task.id.as_str(),
            "cancelled": task.coordinator.cancelled,
            "cancel_reason": task.coordinator.cancel_reason.clone(),
            "version": int(task.version),
            "created_at": date(task.created_at),
        };
        document.extend(saved(task)?);
        match self.within(self.own_tasks.insert_one(document)).await {
            Ok(_) => Ok(true),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(meaning("storing a task", &error)),
        }
    }

    async fn task(&self, id: &TaskId) -> Result<Option<TaskDoc>, StoreError> {
        let ours = self.within(self.own_tasks.find_one(doc! {"_id": id.as_str()})).await;
        let ours = ours.map_err(|error| meaning("reading a task", &error))?;
        if let Some(document) = ours {
            return read(&document).map(Some);
        }
        let theirs = self.within(self.tasks.find_one(doc! {"id": id.as_str()})).await;
        let theirs = theirs.map_err(|error| meaning("reading a task", &error))?;
        theirs.as_ref().map(tasks_view::whole).transpose()
    }

    async fn list_tasks(&self, ended: usize) -> Result<Vec<TaskDoc>, StoreError> {
        let mut tasks = self.own(doc! {"ended": false}, None).await?;
        if ended > 0 {
            tasks.extend(self.own(doc! {"ended": true}, Some(ended)).await?);
        }
        let is_final = doc! {"$in": ["finished", "failed"]};
        let mut theirs = vec![(doc! {"status": {"$not": is_final.clone()}}, LISTED)];
        if ended > 0 {
            theirs.push((doc! {"status": is_final}, int(ended as u64).min(LISTED)));
        }
        for (filter, most) in theirs {
            let find = self.tasks.find(filter).sort(doc! {"_id": -1}).limit(most);
            let found = self.all(find).await.map_err(|error| meaning("listing tasks", &error))?;
            tasks.extend(found.iter().filter_map(|d| readable(tasks_view::whole(d))));
        }
        tasks.sort_by_key(|task| Reverse((task.created_at, task.id.clone())));
        let mut left = ended;
        tasks.retain(|task| {
            let kept = !task.status.is_final() || left > 0;
            left -= usize::from(task.status.is_final() && kept);
            kept
        });
        Ok(tasks)
    }

    async fn open_tasks(&self) -> Result<Vec<TaskDoc>, StoreError> {
        let mut tasks = self.own(doc! {"ended": false}, None).await?;
        tasks.sort_by_key(|task| (task.created_at, task.id.clone()));
        Ok(tasks)
    }

    async fn save_task(&self, task: &TaskDoc) -> Result<bool, StoreError> {
        let same = doc! {"_id": task.id.as_str(), "version": int(task.version)};
        let change = doc! {"$set": saved(task)?, "$inc": {"version": 1_i64}};
        let saved = self.within(self.own_tasks.update_one(same, change)).await;
        Ok(saved.map_err(|error| meaning("saving a task", &error))?.matched_count == 1)
    }

    async fn request_cancel(&self, id: &TaskId, reason: &str) -> Result<bool, StoreError> {
        let now = date(self.clock.wall());
        let change = doc! {"cancelled": true, "cancel_reason": reason, "updated_at": now};
        let own = doc! {"_id": id.as_str()};
        let asked = self.within(self.own_tasks.update_one(own, doc! {"$set": change})).await;
        Ok(asked.map_err(|error| meaning("cancelling a task", &error))?.matched_count == 1)
    }

    async fn hold_coordination(
        &self,
        worker_id: &WorkerId,
        now: UnixMs,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let free = doc! {
            "_id": "coordination",
            "$or": [{"worker_id": worker_id.as_str()}, {"until": {"$lte": date(now)}}],
        };
        let fields = doc! {
            "kind": "coordination",
            "worker_id": worker_id.as_str(),
            "until": date(now.plus(ttl)),
        };
        let held = self.worker_states.update_one(free, doc! {"$set": fields}).upsert(true);
        match self.within(held).await {
            Ok(_) => Ok(true),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(meaning("holding the coordination", &error)),
        }
    }
}

impl MongoStore {
    /// Our tasks that `filter` finds, the newest first.
    async fn own(&self, filter: Document, most: Option<usize>) -> Result<Vec<TaskDoc>, StoreError> {
        let mut find = self.own_tasks.find(filter).sort(doc! {"created_at": -1, "_id": -1});
        if let Some(most) = most {
            find = find.limit(int(most as u64));
        }
        let found = self.all(find).await.map_err(|error| meaning("listing our tasks", &error))?;
        Ok(found.iter().filter_map(|document| readable(read(document))).collect())
    }
}

fn ids<'a>(keys: impl Iterator<Item = &'a RunKey>) -> Vec<&'a str> {
    let mut ids: Vec<&str> = keys.map(|key| key.task_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What a save replaces.
fn saved(task: &TaskDoc) -> Result<Document, StoreError> {
    Ok(doc! {
        "status": text("a task's status", &task.status)?,
        "ended": task.status.is_final(),
        "graph": text("a task's graph", &task.graph)?,
        "updated_at": date(task.updated_at),
    })
}

fn read(document: &Document) -> Result<TaskDoc, StoreError> {
    let decoded = || -> Decoded<TaskDoc> {
        let reason = match decode::optional(document, "cancel_reason") {
            Some(Bson::String(reason)) => Some(reason.clone()),
            _ => None,
        };
        Ok(TaskDoc {
            id: decode::name(document, "_id")?,
            status: decode::json(document, "status")?,
            coordinator: CancelState {
                cancelled: decode::flag(document, "cancelled")?,
                cancel_reason: reason,
            },
            graph: decode::json(document, "graph")?,
            version: decode::number(document, "version")?,
            created_at: decode::time(document, "created_at")?,
            updated_at: decode::time(document, "updated_at")?,
        })
    };
    decoded().map_err(|problem| {
        problem.of(format!("task {} (flowkit_tasks)", decode::label(document, "_id")))
    })
}
