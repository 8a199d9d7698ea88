//! A bus and a store that are out of reach every now and then: some calls fail before they
//! have taken effect, some after.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flowkit::bus::memory::MemoryBus;
use flowkit::bus::{Bus, BusError, GroupConsumer, History, InMessage, OutMessage, Tail, Topic};
use flowkit::clock::UnixMs;
use flowkit::store::memory::MemoryStore;
use flowkit::store::*;
use flowkit::types::{Epoch, Fence, NodeId, Role, RunKey, TaskId, WorkerId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

/// Decides which calls fail.
#[derive(Clone)]
pub struct Luck(Arc<Mutex<StdRng>>);

enum Fate {
    Fine,
    Before,
    After,
}

impl Luck {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn fate(&self) -> Fate {
        match self.0.lock().unwrap().random_range(0..10) {
            0 | 1 => Fate::Before,
            2 => Fate::After,
            _ => Fate::Fine,
        }
    }
}

pub struct FlakyBus {
    pub inner: Arc<MemoryBus>,
    pub luck: Luck,
}

fn bus_down() -> BusError {
    BusError::Unavailable("the test says so".into())
}

fn store_down() -> StoreError {
    StoreError::Unavailable("the test says so".into())
}

#[async_trait]
impl Bus for FlakyBus {
    async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        self.inner.ensure_topics(topics).await
    }

    async fn publish(
        &self,
        messages: &[OutMessage],
        deadline: Option<Instant>,
    ) -> Result<(), BusError> {
        match self.luck.fate() {
            Fate::Before => Err(bus_down()),
            Fate::Fine => self.inner.publish(messages, deadline).await,
            Fate::After => {
                self.inner.publish(messages, deadline).await?;
                Err(bus_down())
            }
        }
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn GroupConsumer>, BusError> {
        if let Fate::Before = self.luck.fate() {
            return Err(bus_down());
        }
        let member = self.inner.subscribe(group, topics).await?;
        Ok(Box::new(FlakyMember { member, luck: self.luck.clone() }))
    }

    async fn tail(&self, topics: &[Topic]) -> Result<Box<dyn Tail>, BusError> {
        self.inner.tail(topics).await
    }

    async fn history(&self, topic: &Topic) -> Result<Box<dyn History>, BusError> {
        self.inner.history(topic).await
    }
}

struct FlakyMember {
    member: Box<dyn GroupConsumer>,
    luck: Luck,
}

#[async_trait]
impl GroupConsumer for FlakyMember {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        let message = self.member.next().await?;
        // Read, and lost with the connection: it is not committed.
        if let Fate::Before = self.luck.fate() { Err(bus_down()) } else { Ok(message) }
    }

    async fn commit(&mut self, message: &InMessage) -> Result<(), BusError> {
        match self.luck.fate() {
            Fate::Before => Err(bus_down()),
            _ => self.member.commit(message).await,
        }
    }

    async fn pause(&mut self, topic: &Topic, paused: bool) -> Result<(), BusError> {
        self.member.pause(topic, paused).await
    }
}

pub struct FlakyStore {
    pub inner: Arc<MemoryStore>,
    pub luck: Luck,
}

macro_rules! flaky {
    ($self:ident, $call:expr) => {
        match $self.luck.fate() {
            Fate::Before => Err(store_down()),
            Fate::Fine => $call.await,
            Fate::After => $call.await.and_then(|_| Err(store_down())),
        }
    };
}

#[async_trait]
impl RunStore for FlakyStore {
    async fn admit(&self, run: &NewRun, owner: Option<&Owner>) -> Result<Admitted, StoreError> {
        flaky!(self, self.inner.admit(run, owner))
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        flaky!(self, self.inner.run(key))
    }

    async fn runs_of_task(
        &self,
        task_id: &flowkit::types::TaskId,
    ) -> Result<Vec<RunRecord>, StoreError> {
        flaky!(self, self.inner.runs_of_task(task_id))
    }

    async fn claimable(&self, query: &ClaimQuery) -> Result<Vec<RunRecord>, StoreError> {
        flaky!(self, self.inner.claimable(query))
    }

    async fn claim(
        &self,
        seen: &RunRecord,
        owner: &Owner,
    ) -> Result<Option<RunRecord>, StoreError> {
        flaky!(self, self.inner.claim(seen, owner))
    }

    async fn renew(&self, fences: &[Fence], deadline: UnixMs) -> Result<Vec<Fence>, StoreError> {
        flaky!(self, self.inner.renew(fences, deadline))
    }

    async fn save_progress(
        &self,
        fence: &Fence,
        progress: &Progress,
    ) -> Result<Fenced, StoreError> {
        flaky!(self, self.inner.save_progress(fence, progress))
    }

    async fn end(&self, fence: &Fence, end: &RunEnd) -> Result<Fenced, StoreError> {
        flaky!(self, self.inner.end(fence, end))
    }

    async fn end_sent(
        &self,
        fence: &Fence,
        check: Option<&EndCheck>,
    ) -> Result<Fenced, StoreError> {
        flaky!(self, self.inner.end_sent(fence, check))
    }

    async fn due_checks(
        &self,
        roles: &[Role],
        now: UnixMs,
        limit: usize,
    ) -> Result<Vec<RunRecord>, StoreError> {
        flaky!(self, self.inner.due_checks(roles, now, limit))
    }

    async fn move_check(
        &self,
        seen: &RunRecord,
        next: Option<&EndCheck>,
    ) -> Result<bool, StoreError> {
        flaky!(self, self.inner.move_check(seen, next))
    }

    async fn release(&self, fence: &Fence) -> Result<Fenced, StoreError> {
        flaky!(self, self.inner.release(fence))
    }

    async fn queued(&self, role: &Role) -> Result<u64, StoreError> {
        flaky!(self, self.inner.queued(role))
    }
}

#[async_trait]
impl ArtifactStore for FlakyStore {
    async fn write_partials(
        &self,
        fence: &Fence,
        partials: &[NewPartial],
    ) -> Result<Fenced, StoreError> {
        flaky!(self, self.inner.write_partials(fence, partials))
    }

    async fn write_complete(
        &self,
        fence: &Fence,
        complete: &NewComplete,
    ) -> Result<Fenced, StoreError> {
        flaky!(self, self.inner.write_complete(fence, complete))
    }

    async fn complete_nodes(
        &self,
        task_id: &TaskId,
        nodes: &[NodeId],
    ) -> Result<Vec<NodeId>, StoreError> {
        flaky!(self, self.inner.complete_nodes(task_id, nodes))
    }

    async fn partials(
        &self,
        key: &RunKey,
        from: &Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        flaky!(self, self.inner.partials(key, from, limit))
    }

    async fn finished(
        &self,
        key: &RunKey,
        epoch: Epoch,
        range: std::ops::Range<u64>,
        limit: usize,
    ) -> Result<Vec<FinishedBatch>, StoreError> {
        flaky!(self, self.inner.finished(key, epoch, range, limit))
    }

    async fn record_claims(&self, claims: &[Claim]) -> Result<(), StoreError> {
        flaky!(self, self.inner.record_claims(claims))
    }
}

#[async_trait]
impl TaskStore for FlakyStore {
    async fn views(&self, keys: &[RunKey]) -> Result<Vec<NodeView>, StoreError> {
        flaky!(self, self.inner.views(keys))
    }

    async fn create_task(&self, task: &TaskDoc) -> Result<bool, StoreError> {
        flaky!(self, self.inner.create_task(task))
    }

    async fn task(&self, id: &TaskId) -> Result<Option<TaskDoc>, StoreError> {
        flaky!(self, self.inner.task(id))
    }

    async fn list_tasks(&self, ended: usize) -> Result<Vec<TaskDoc>, StoreError> {
        flaky!(self, self.inner.list_tasks(ended))
    }

    async fn open_tasks(&self) -> Result<Vec<TaskDoc>, StoreError> {
        flaky!(self, self.inner.open_tasks())
    }

    async fn save_task(&self, task: &TaskDoc) -> Result<bool, StoreError> {
        flaky!(self, self.inner.save_task(task))
    }

    async fn request_cancel(&self, id: &TaskId, reason: &str) -> Result<bool, StoreError> {
        flaky!(self, self.inner.request_cancel(id, reason))
    }

    async fn hold_coordination(
        &self,
        worker_id: &WorkerId,
        now: UnixMs,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        flaky!(self, self.inner.hold_coordination(worker_id, now, ttl))
    }
}

#[async_trait]
impl WorkerStore for FlakyStore {
    async fn put_worker(&self, record: &WorkerRecord) -> Result<(), StoreError> {
        flaky!(self, self.inner.put_worker(record))
    }

    async fn remove_worker(&self, worker_id: &WorkerId) -> Result<(), StoreError> {
        flaky!(self, self.inner.remove_worker(worker_id))
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        flaky!(self, self.inner.workers())
    }
}
