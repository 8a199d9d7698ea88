//! A store in memory, for simulation and tests.

mod artifacts;
mod runs;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Claim, RunRecord, StoreError, TaskDoc, WorkerRecord, WorkerStore};
use crate::clock::{Clock, UnixMs};
use crate::types::{BatchUid, Fence, NodeId, RunKey, TaskId, WorkerId};

/// A store in this process. Clones share it. Nothing in it waits, so it works under
/// paused tokio time.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

#[derive(Default)]
struct State {
    runs: BTreeMap<RunKey, RunRecord>,
    artifacts: artifacts::Artifacts,
    claims: BTreeMap<(TaskId, NodeId, NodeId, BatchUid), Claim>,
    tasks: BTreeMap<TaskId, TaskDoc>,
    coordination: Option<(WorkerId, UnixMs)>,
    workers: BTreeMap<WorkerId, WorkerRecord>,
    gone: BTreeSet<WorkerId>,
}

impl MemoryStore {
    /// An empty store; `clock` stamps the changes.
    pub fn new(clock: Clock) -> Self {
        Self { state: Arc::default(), clock }
    }

    /// Says that a worker's process is gone (true) or is back (false), which a backend on
    /// one machine finds out by itself.
    pub fn set_gone(&self, worker_id: &WorkerId, gone: bool) {
        let mut state = self.state();
        if gone {
            state.gone.insert(worker_id.clone());
        } else {
            state.gone.remove(worker_id);
        }
    }

    /// Leaves the document that a coordinator writes for a failed batch.
    pub fn leave_failed_batch(&self, key: &RunKey, batch_uid: &BatchUid) {
        self.state().artifacts.leave_failed_batch(key, batch_uid);
    }

    /// Every claim that was recorded; for assertions.
    pub fn recorded_claims(&self) -> Vec<Claim> {
        self.state().claims.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; a poisoned one is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The run that `fence` still holds.
    fn held(&mut self, fence: &Fence) -> Option<&mut RunRecord> {
        self.runs.get_mut(&fence.key).filter(|run| run.fence().as_ref() == Some(fence))
    }
}

#[async_trait]
impl WorkerStore for MemoryStore {
    async fn put_worker(&self, record: &WorkerRecord) -> Result<(), StoreError> {
        self.state().workers.insert(record.worker_id.clone(), record.clone());
        Ok(())
    }

    async fn remove_worker(&self, worker_id: &WorkerId) -> Result<(), StoreError> {
        self.state().workers.remove(worker_id);
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let state = self.state();
        Ok(state
            .workers
            .values()
            .filter(|record| !state.gone.contains(&record.worker_id))
            .cloned()
            .collect())
    }
}
