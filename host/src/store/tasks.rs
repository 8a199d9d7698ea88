//! Tasks: graphs under way (`tasks`). Coordinators write them, workers only read.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::StoreError;
use crate::clock::UnixMs;
use crate::types::{Epoch, NodeId, Role, RunKey, TaskId, WorkerId};

/// Tasks, as the coordinators' document in `protocol.md` describes them.
#[async_trait]
pub trait TaskStore: Send + Sync + 'static {
    /// What `tasks` says now about each of these runs; a run whose task or node it does
    /// not hold is left out. One query, however many runs.
    async fn views(&self, keys: &[RunKey]) -> Result<Vec<NodeView>, StoreError>;

    /// Adds a task. False when its id exists.
    async fn create_task(&self, task: &TaskDoc) -> Result<bool, StoreError>;

    /// One task.
    async fn task(&self, id: &TaskId) -> Result<Option<TaskDoc>, StoreError>;

    /// The tasks that have not ended, and the last `ended` that have, newest first.
    async fn list_tasks(&self, ended: usize) -> Result<Vec<TaskDoc>, StoreError>;

    /// Tasks of ours that have not ended, oldest first, for the worker that coordinates.
    async fn open_tasks(&self) -> Result<Vec<TaskDoc>, StoreError>;

    /// Replaces a task's status and graph if the stored `version` is still
    /// `task.version`, and raises it. False: somebody else coordinates it. The cancel
    /// flag of the task is never touched by this.
    async fn save_task(&self, task: &TaskDoc) -> Result<bool, StoreError>;

    /// Sets a task's cancel flag. False when there is no such task.
    async fn request_cancel(&self, id: &TaskId, reason: &str) -> Result<bool, StoreError>;

    /// Takes or keeps the right to coordinate what was submitted, until `now + ttl`.
    /// False while another worker, not known to be gone, holds it.
    async fn hold_coordination(
        &self,
        worker_id: &WorkerId,
        now: UnixMs,
        ttl: Duration,
    ) -> Result<bool, StoreError>;
}

/// What a worker needs to know of a node it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// Which.
    pub key: RunKey,
    /// The node's attempt: a higher one than a run's supersedes it.
    pub epoch: Epoch,
    /// The node's status.
    pub status: NodeStatus,
    /// The task's or the node's cancel flag, with its reason.
    pub cancelled: Option<String>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskDoc {
    /// Its id.
    pub id: TaskId,
    /// Where it stands.
    pub status: TaskStatus,
    /// Flags that a person or a coordinator sets.
    #[serde(default)]
    pub coordinator: CancelState,
    /// Its nodes.
    pub graph: GraphDoc,
    /// Raised at each save, ours.
    #[serde(default)]
    pub version: u64,
    /// Created at, ours.
    #[serde(default)]
    pub created_at: UnixMs,
    /// Last change, ours.
    #[serde(default)]
    pub updated_at: UnixMs,
}

impl TaskDoc {
    /// What a worker that runs one of its nodes needs to know; `None` without such a node.
    pub fn view(&self, node_id: &NodeId) -> Option<NodeView> {
        let node = self.graph.nodes.iter().find(|node| node.node_id == *node_id)?;
        let flags = [&node.coordinator, &self.coordinator];
        let cancelled = flags.iter().any(|flag| flag.cancelled).then(|| {
            // Coordinators write the reason for a node into its task.
            let reason = flags.iter().find_map(|flag| flag.cancel_reason.clone());
            reason.unwrap_or_default()
        });
        let key = RunKey { task_id: self.id.clone(), node_id: node_id.clone() };
        Some(NodeView { key, epoch: node.attempt_epoch, status: node.status, cancelled })
    }
}

/// A task's or a node's cancel flag.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CancelState {
    /// Stop it.
    #[serde(default)]
    pub cancelled: bool,
    /// Why; empty when nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
}

/// A task's graph with the state of its nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GraphDoc {
    /// In the order of the graph file.
    pub nodes: Vec<NodeDoc>,
    /// The worker process that coordinates this task by itself (`flowkit run`), ours:
    /// while it lives, the worker that coordinates what was submitted leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_by: Option<WorkerId>,
}

/// A node with its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDoc {
    /// Its id.
    pub node_id: NodeId,
    /// Its role.
    #[serde(rename = "type")]
    pub role: Role,
    /// Where it stands.
    pub status: NodeStatus,
    /// The present attempt; 0 before the first.
    pub attempt_epoch: Epoch,
    /// The recorded owner, if any: as the coordinator wrote it.
    #[serde(default)]
    pub lease: Option<Value>,
    /// The node's cancel flag.
    #[serde(default)]
    pub coordinator: CancelState,
    /// Everything else the graph said of it and the coordinator notes (ours).
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Nothing started.
    Queued,
    /// Under way.
    Running,
    /// Put off by a coordinator.
    Deferred,
    /// Being stopped.
    Cancelling,
    /// All nodes finished.
    Finished,
    /// Ended otherwise.
    Failed,
}

impl TaskStatus {
    /// As every backend writes it, and people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Deferred => "deferred",
            Self::Cancelling => "cancelling",
            Self::Finished => "finished",
            Self::Failed => "failed",
        }
    }

    /// No further change will come.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Failed)
    }
}

/// Where a node stands. Coordinators in the field use the first six; `skipped` and
/// `cancelled` are our own coordinator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Not started.
    Queued,
    /// An attempt is under way.
    Running,
    /// Waiting for its next attempt.
    Deferred,
    /// Being stopped.
    Cancelling,
    /// Done.
    Finished,
    /// No further attempt will come.
    Failed,
    /// Stopped, or never started, on request.
    Cancelled,
    /// Never started because the task ended before.
    Skipped,
}

impl NodeStatus {
    /// No further change will come.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled | Self::Skipped)
    }
}
