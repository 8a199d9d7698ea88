//! Where one node of a task stands, and what can happen to it.

use serde::{Deserialize, Serialize};

use crate::clock::UnixMs;
use crate::store::{CancelState, NodeStatus, RunEnd};
use crate::types::{Epoch, LeaseId, WorkerId};

/// A node's state, as it is kept in the task's document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// Where it stands.
    pub stage: Stage,
    /// It has left an artifact, in whichever attempt.
    #[serde(default)]
    pub artifact: bool,
    /// Why its last attempt failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Where a node stands, with what only matters there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Stage {
    /// Waits for its parents.
    Waiting,
    /// An attempt was ordered and has not ended.
    Running {
        /// The attempt.
        epoch: Epoch,
        /// Who has accepted it, once somebody has.
        owner: Option<NodeOwner>,
    },
    /// An attempt failed; the next one waits.
    Backoff {
        /// The attempt that failed.
        epoch: Epoch,
        /// When the next one starts.
        until: UnixMs,
    },
    /// An attempt was told to stop and has not ended.
    Cancelling {
        /// The attempt.
        epoch: Epoch,
        /// Who has accepted it, once somebody has.
        owner: Option<NodeOwner>,
        /// Why it is to stop.
        reason: String,
        /// When it counts as stopped even if nobody says so.
        until: UnixMs,
    },
    /// Done.
    Finished {
        /// The attempt that did it.
        epoch: Epoch,
    },
    /// Failed for good.
    Failed {
        /// The last attempt.
        epoch: Epoch,
    },
    /// Stopped, or never started, on request.
    Cancelled {
        /// The last attempt; 0 when there was none.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// Another node's failure ended the task first.
    Skipped {
        /// The last attempt; 0 when there was none.
        epoch: Epoch,
    },
}

/// The worker that has a node's run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOwner {
    /// The worker.
    pub worker_id: WorkerId,
    /// Its acquisition of the run.
    pub lease_id: LeaseId,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For machines.
    pub reason_code: String,
    /// No retry can help.
    pub permanent: bool,
    /// For people.
    pub error: Option<String>,
}

/// What happened to an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeEvent {
    /// A worker has it.
    Owned(NodeOwner),
    /// It left an artifact.
    Artifact,
    /// It is done.
    Done,
    /// It failed.
    Failed(Failure),
    /// It stopped on request.
    Cancelled {
        /// Why.
        reason: String,
    },
}

impl NodeState {
    /// Before anything happened.
    pub(super) fn new() -> Self {
        Self { stage: Stage::Waiting, artifact: false, failure: None }
    }
}

impl Stage {
    /// The present or last attempt; 0 before the first.
    pub fn epoch(&self) -> Epoch {
        match *self {
            Self::Waiting => Epoch(0),
            Self::Running { epoch, .. }
            | Self::Backoff { epoch, .. }
            | Self::Cancelling { epoch, .. }
            | Self::Finished { epoch }
            | Self::Failed { epoch }
            | Self::Cancelled { epoch, .. }
            | Self::Skipped { epoch } => epoch,
        }
    }

    /// As the document shows it.
    pub fn status(&self) -> NodeStatus {
        match self {
            Self::Waiting => NodeStatus::Queued,
            Self::Running { .. } => NodeStatus::Running,
            Self::Backoff { .. } => NodeStatus::Deferred,
            Self::Cancelling { .. } => NodeStatus::Cancelling,
            Self::Finished { .. } => NodeStatus::Finished,
            Self::Failed { .. } => NodeStatus::Failed,
            Self::Cancelled { .. } => NodeStatus::Cancelled,
            Self::Skipped { .. } => NodeStatus::Skipped,
        }
    }

    /// Who has the present attempt.
    pub fn owner(&self) -> Option<&NodeOwner> {
        match self {
            Self::Running { owner, .. } | Self::Cancelling { owner, .. } => owner.as_ref(),
            _ => None,
        }
    }

    /// The flag that workers look at: what they have not accepted yet they refuse by it.
    pub(super) fn cancel_flag(&self) -> CancelState {
        match self {
            Self::Cancelling { reason, .. } | Self::Cancelled { reason, .. } => {
                CancelState { cancelled: true, cancel_reason: Some(reason.clone()) }
            }
            _ => CancelState::default(),
        }
    }

    /// The task is on its way to its end once a node is here.
    pub(super) fn stops_task(&self) -> bool {
        match self {
            Self::Cancelling { .. }
            | Self::Failed { .. }
            | Self::Cancelled { .. }
            | Self::Skipped { .. } => true,
            Self::Waiting | Self::Running { .. } | Self::Backoff { .. } | Self::Finished { .. } => {
                false
            }
        }
    }
}

impl From<&RunEnd> for NodeEvent {
    fn from(end: &RunEnd) -> Self {
        match end {
            RunEnd::Done { .. } => Self::Done,
            RunEnd::Failed { reason_code, permanent, error, .. } => Self::Failed(Failure {
                reason_code: reason_code.clone(),
                permanent: *permanent,
                error: error.clone(),
            }),
            RunEnd::Cancelled { reason } => Self::Cancelled { reason: reason.clone() },
        }
    }
}
