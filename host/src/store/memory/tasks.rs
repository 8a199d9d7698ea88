//! Tasks in memory.

use std::cmp::Reverse;
use std::time::Duration;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::UnixMs;
use crate::store::{CancelState, NodeView, StoreError, TaskDoc, TaskStore};
use crate::types::{RunKey, TaskId, WorkerId};

#[async_trait]
impl TaskStore for MemoryStore {
    async fn views(&self, keys: &[RunKey]) -> Result<Vec<NodeView>, StoreError> {
        let state = self.state();
        let view = |key: &RunKey| state.tasks.get(&key.task_id)?.view(&key.node_id);
        Ok(keys.iter().filter_map(view).collect())
    }

    async fn create_task(&self, task: &TaskDoc) -> Result<bool, StoreError> {
        let mut state = self.state();
        let new = !state.tasks.contains_key(&task.id);
        if new {
            state.tasks.insert(task.id.clone(), task.clone());
        }
        Ok(new)
    }

    async fn task(&self, id: &TaskId) -> Result<Option<TaskDoc>, StoreError> {
        Ok(self.state().tasks.get(id).cloned())
    }

    async fn list_tasks(&self, ended: usize) -> Result<Vec<TaskDoc>, StoreError> {
        let mut tasks: Vec<_> = self.state().tasks.values().cloned().collect();
        tasks.sort_by_key(|task| Reverse((task.created_at, task.id.clone())));
        let mut left = ended;
        tasks.retain(|task| {
            let kept = !task.status.is_final() || left > 0;
            if task.status.is_final() {
                left = left.saturating_sub(1);
            }
            kept
        });
        Ok(tasks)
    }

    async fn open_tasks(&self) -> Result<Vec<TaskDoc>, StoreError> {
        let mut tasks = self.list_tasks(0).await?;
        tasks.reverse();
        Ok(tasks)
    }

    async fn save_task(&self, task: &TaskDoc) -> Result<bool, StoreError> {
        let mut state = self.state();
        let stored = state.tasks.get_mut(&task.id).filter(|t| t.version == task.version);
        let Some(stored) = stored else { return Ok(false) };
        stored.status = task.status;
        stored.graph = task.graph.clone();
        stored.updated_at = task.updated_at;
        stored.version += 1;
        Ok(true)
    }

    async fn request_cancel(&self, id: &TaskId, reason: &str) -> Result<bool, StoreError> {
        let now = self.clock.wall();
        let mut state = self.state();
        let Some(task) = state.tasks.get_mut(id) else { return Ok(false) };
        let reason = Some(reason.to_owned());
        task.coordinator = CancelState { cancelled: true, cancel_reason: reason };
        task.updated_at = now;
        Ok(true)
    }

    async fn hold_coordination(
        &self,
        worker_id: &WorkerId,
        now: UnixMs,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let taken = state.coordination.as_ref().is_some_and(|(holder, until)| {
            holder != worker_id && *until > now && !state.gone.contains(holder)
        });
        if !taken {
            state.coordination = Some((worker_id.clone(), now.plus(ttl)));
        }
        Ok(!taken)
    }
}
