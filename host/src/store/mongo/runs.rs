//! Runs in MongoDB: every change is one conditional update of the run's document.

use async_trait::async_trait;
use mongodb::action::Find;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use super::decode::readable;
use super::error::{is_duplicate, meaning};
use super::group::fitting;
use super::run_doc::{self, as_seen, held, id};
use super::{MongoStore, date, text};
use crate::clock::UnixMs;
use crate::store::{
    Admitted, ClaimQuery, EndCheck, Fenced, NewRun, Owner, Progress, RunEnd, RunRecord, RunStore,
    StoreError,
};
use crate::types::{Fence, Role, RunKey, TaskId};

/// Conditions of one renewal; more leases take more than one command.
const RENEWED_AT_ONCE: usize = 1_000;

#[async_trait]
impl RunStore for MongoStore {
    async fn admit(&self, new: &NewRun, owner: Option<&Owner>) -> Result<Admitted, StoreError> {
        self.prepared().await?;
        let older = doc! {
            "_id": id(&new.key),
            "attempt_epoch": {"$lt": i64::from(new.epoch.0)},
        };
        let change = doc! {
            "$set": run_doc::begun(new, owner, self.clock.wall())?,
            "$inc": {"lease_no": i64::from(owner.is_some())},
            "$unset": {"updated_at": "", "check": ""},
        };
        fitting("recording a run", &change)?;
        loop {
            // Where the same or a newer attempt is recorded, the condition fails, and the
            // insert that follows from it finds the `_id` taken.
            let admitted = self.within(
                self.worker_states
                    .find_one_and_update(older.clone(), change.clone())
                    .upsert(true)
                    .return_document(ReturnDocument::After),
            );
            match admitted.await {
                Ok(Some(document)) => return Ok(Admitted::Recorded(run_doc::read(&document)?)),
                Ok(None) => {}
                Err(error) if is_duplicate(&error) => {}
                Err(error) => return Err(meaning("recording a run", &error)),
            }
            // An older one, or none any more: somebody was faster, and it is tried again.
            let Some(stored) = self.run(&new.key).await? else { continue };
            if stored.new.epoch == new.epoch {
                return Ok(Admitted::Duplicate(stored));
            }
            if stored.new.epoch > new.epoch {
                return Ok(Admitted::Stale(stored));
            }
        }
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        let found = self.within(self.worker_states.find_one(doc! {"_id": id(key)})).await;
        let found = found.map_err(|error| meaning("reading a run", &error))?;
        found.as_ref().map(run_doc::read).transpose()
    }

    async fn runs_of_task(&self, task_id: &TaskId) -> Result<Vec<RunRecord>, StoreError> {
        let of_task = doc! {"kind": "run", "task_id": task_id.as_str()};
        let found = self.all(self.worker_states.find(of_task).sort(doc! {"node_id": 1})).await;
        let found = found.map_err(|error| meaning("reading a task's runs", &error))?;
        found.iter().map(run_doc::read).collect()
    }

    async fn claimable(&self, query: &ClaimQuery) -> Result<Vec<RunRecord>, StoreError> {
        self.prepared().await?;
        let roles: Vec<&str> = query.roles.iter().map(Role::as_str).collect();
        let held: Vec<String> = query.held.iter().map(id).collect();
        let expired =
            UnixMs(query.now.0.saturating_sub(
                i64::try_from(query.max_clock_skew.as_millis()).unwrap_or(i64::MAX),
            ));
        let free = doc! {
            "role": {"$in": roles},
            "end_sent": false,
            "$or": [
                {"owner": Bson::Null},
                {"owner.deadline": {"$lt": date(expired)}, "owner.worker_id": {
                    "$ne": query.worker_id.as_str(),
                }},
                {"owner.worker_id": query.worker_id.as_str(), "_id": {"$nin": held}},
            ],
        };
        let find = self.worker_states.find(free).sort(doc! {"created_at": 1});
        let wanted = |run: &RunRecord| query.admits(&run.new.key, run.owner.as_ref(), |_| false);
        let found = self.first_runs(find, query.limit, wanted).await;
        found.map_err(|error| meaning("looking for runs to take over", &error))
    }

    async fn claim(
        &self,
        seen: &RunRecord,
        owner: &Owner,
    ) -> Result<Option<RunRecord>, StoreError> {
        let mut filter = as_seen(seen);
        filter.insert("end_sent", false);
        match &seen.owner {
            None => {
                filter.insert("owner", Bson::Null);
            }
            Some(before) => {
                filter.insert("owner.worker_id", before.worker_id.as_str());
                filter.insert("owner.lease_id", before.lease_id.as_str());
                filter.insert("owner.deadline", date(before.deadline));
            }
        }
        let change = doc! {
            "$set": {"owner": run_doc::of_owner(owner), "changed_at": date(self.clock.wall())},
            "$inc": {"lease_no": 1_i64},
        };
        let claimed = self.within(
            self.worker_states
                .find_one_and_update(filter, change)
                .return_document(ReturnDocument::After),
        );
        let claimed = claimed.await.map_err(|error| meaning("claiming a run", &error))?;
        claimed.as_ref().map(run_doc::read).transpose()
    }

    async fn renew(&self, fences: &[Fence], deadline: UnixMs) -> Result<Vec<Fence>, StoreError> {
        let mut lost = Vec::new();
        for fences in fences.chunks(RENEWED_AT_ONCE) {
            lost.extend(self.renew_some(fences, deadline).await?);
        }
        Ok(lost)
    }

    async fn save_progress(
        &self,
        fence: &Fence,
        progress: &Progress,
    ) -> Result<Fenced, StoreError> {
        let fields = run_doc::of_progress(progress)?;
        self.change("saving a run's progress", held(fence), fields, doc! {}).await
    }

    async fn end(&self, fence: &Fence, end: &RunEnd) -> Result<Fenced, StoreError> {
        let mut filter = held(fence);
        filter.insert("end", Bson::Null);
        let fields = doc! {"end": text("a run's end", end)?};
        self.change("writing a run's end", filter, fields, doc! {}).await
    }

    async fn end_sent(
        &self,
        fence: &Fence,
        check: Option<&EndCheck>,
    ) -> Result<Fenced, StoreError> {
        let mut filter = held(fence);
        filter.insert("end", doc! {"$ne": Bson::Null});
        let mut fields = doc! {
            "end_sent": true,
            "owner": Bson::Null,
            "updated_at": date(self.clock.wall()),
        };
        let unset = match check {
            Some(check) => {
                fields.insert("check", run_doc::of_check(check));
                doc! {}
            }
            None => doc! {"check": ""},
        };
        self.change("noting that a run's end was sent", filter, fields, unset).await
    }

    async fn due_checks(
        &self,
        roles: &[Role],
        now: UnixMs,
        limit: usize,
    ) -> Result<Vec<RunRecord>, StoreError> {
        let roles: Vec<&str> = roles.iter().map(Role::as_str).collect();
        let due = doc! {"role": {"$in": roles}, "check.at": {"$lte": date(now)}};
        let find = self.worker_states.find(due).sort(doc! {"check.at": 1});
        let found = self.first_runs(find, limit, |_| true).await;
        found.map_err(|error| meaning("looking for ends to look after", &error))
    }

    async fn move_check(
        &self,
        seen: &RunRecord,
        next: Option<&EndCheck>,
    ) -> Result<bool, StoreError> {
        let Some(before) = &seen.check else { return Ok(false) };
        let mut filter = as_seen(seen);
        filter.insert("check.at", date(before.at));
        filter.insert("check.tries", i64::from(before.tries));
        let (fields, unset) = match next {
            Some(next) => (doc! {"check": run_doc::of_check(next)}, doc! {}),
            None => (doc! {}, doc! {"check": ""}),
        };
        let moved = self.change("moving the look at an end", filter, fields, unset).await?;
        Ok(moved == Fenced::Written)
    }

    async fn release(&self, fence: &Fence) -> Result<Fenced, StoreError> {
        let fields = doc! {"owner": Bson::Null};
        self.change("releasing a run", held(fence), fields, doc! {}).await
    }

    async fn queued(&self, role: &Role) -> Result<u64, StoreError> {
        let waiting = doc! {
            "role": role.as_str(), "end_sent": false, "owner": Bson::Null, "end": Bson::Null,
        };
        let counted = self.within(self.worker_states.count_documents(waiting)).await;
        counted.map_err(|error| meaning("counting the queued runs", &error))
    }
}

impl MongoStore {
    /// The first `limit` runs of a query that are `wanted`. Those that cannot be read do not
    /// count: a few damaged ones would otherwise stand in front of all others for ever.
    async fn first_runs(
        &self,
        find: Find<'_, Document>,
        limit: usize,
        wanted: impl Fn(&RunRecord) -> bool + Send + Sync,
    ) -> mongodb::error::Result<Vec<RunRecord>> {
        let mut runs = Vec::new();
        if limit == 0 {
            return Ok(runs);
        }
        let page = u32::try_from(limit.saturating_add(1)).unwrap_or(u32::MAX).clamp(2, 1_000);
        self.within(async {
            let mut cursor = find.batch_size(page).await?;
            while runs.len() < limit && cursor.advance().await? {
                let run = readable(run_doc::read(&cursor.deserialize_current()?));
                runs.extend(run.filter(&wanted));
            }
            Ok(runs)
        })
        .await
    }

    /// Changes the run that `filter` finds; the time of the change is set with it.
    async fn change(
        &self,
        what: &str,
        filter: Document,
        mut fields: Document,
        unset: Document,
    ) -> Result<Fenced, StoreError> {
        fields.insert("changed_at", date(self.clock.wall()));
        let mut change = doc! {"$set": fields};
        if !unset.is_empty() {
            change.insert("$unset", unset);
        }
        fitting(what, &change)?;
        let changed = self.within(self.worker_states.update_one(filter, change)).await;
        let changed = changed.map_err(|error| meaning(what, &error))?;
        Ok(if changed.matched_count == 1 { Fenced::Written } else { Fenced::Lost })
    }

    /// One write; where it reached fewer runs than asked for, a look at which.
    async fn renew_some(
        &self,
        fences: &[Fence],
        deadline: UnixMs,
    ) -> Result<Vec<Fence>, StoreError> {
        if fences.is_empty() {
            return Ok(Vec::new());
        }
        let any = doc! {"$or": fences.iter().map(held).collect::<Vec<_>>()};
        let now = date(self.clock.wall());
        let change = doc! {"$set": {"owner.deadline": date(deadline), "changed_at": now}};
        let renewed = self.within(self.worker_states.update_many(any.clone(), change)).await;
        let renewed = renewed.map_err(|error| meaning("renewing leases", &error))?;
        if renewed.matched_count == fences.len() as u64 {
            return Ok(Vec::new());
        }
        let find = self.worker_states.find(any).projection(doc! {"_id": 1});
        let kept = self.all(find).await;
        let kept = kept.map_err(|error| meaning("reading which leases were renewed", &error))?;
        let kept: Vec<&str> = kept.iter().filter_map(|kept| kept.get_str("_id").ok()).collect();
        let is_lost = |fence: &&Fence| !kept.contains(&id(&fence.key).as_str());
        Ok(fences.iter().filter(is_lost).cloned().collect())
    }
}
