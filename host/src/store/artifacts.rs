//! What runs leave for the nodes after them (`artifacts`, `stream_progress`).

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Fenced, StoreError};
use crate::clock::UnixMs;
use crate::metrics::Metrics;
use crate::types::{BatchUid, Epoch, Fence, NodeId, RunKey, TaskId};

/// Artifacts: a partial one for each finished batch, a complete one for each finished node.
///
/// A fenced write replaces an artifact only where the stored `(attempt_epoch, lease_no)`
/// is lower, equal or absent: an older attempt or a fenced owner never overwrites newer
/// data. A backend may also refuse it because the run's own record shows a newer attempt
/// or lease.
#[async_trait]
pub trait ArtifactStore: Send + Sync + 'static {
    /// Writes partial artifacts, as one grouped write. A document that a coordinator left
    /// for a failed batch is completed. [`Fenced::Lost`] when any was refused.
    async fn write_partials(
        &self,
        fence: &Fence,
        partials: &[NewPartial],
    ) -> Result<Fenced, StoreError>;

    /// Writes the node's complete artifact, after deleting the partial ones of older
    /// attempts.
    async fn write_complete(
        &self,
        fence: &Fence,
        complete: &NewComplete,
    ) -> Result<Fenced, StoreError>;

    /// The nodes among `nodes` that have a complete artifact.
    async fn complete_nodes(
        &self,
        task_id: &TaskId,
        nodes: &[NodeId],
    ) -> Result<Vec<NodeId>, StoreError>;

    /// Up to `limit` partial artifacts of a node, in a fixed order close to the order of
    /// writing, after `from`. A scan that starts at [`Cursor::start`] and follows
    /// [`Page::next`] to an empty page sees every artifact that was durable when the scan
    /// began; one that goes on later may miss what arrived out of order.
    async fn partials(&self, key: &RunKey, from: &Cursor, limit: usize)
    -> Result<Page, StoreError>;

    /// The finished batches of one attempt, ordered by ordinal: those with ordinals in
    /// `range`, at most `limit`. Of two with the same ordinal only the one of the latest
    /// lease is among them.
    async fn finished(
        &self,
        key: &RunKey,
        epoch: Epoch,
        range: std::ops::Range<u64>,
        limit: usize,
    ) -> Result<Vec<FinishedBatch>, StoreError>;

    /// Records what a node consumed; for people, never read back. Claims that exist
    /// already are left as they are.
    async fn record_claims(&self, claims: &[Claim]) -> Result<(), StoreError>;
}

/// A finished batch's artifact, to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPartial {
    /// The batch.
    pub batch_uid: BatchUid,
    /// Its place in the attempt, from 0.
    pub ordinal: u64,
    /// Reported in BATCH_OK; kept beside `meta` so that the event can be sent again.
    pub metrics: Metrics,
    /// What downstream sees: `upsert-partial`'s object laid over the metrics.
    pub meta: Map<String, Value>,
    /// When the batch finished.
    pub now: UnixMs,
}

/// A finished node's artifact, to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewComplete {
    /// What `finalize` returned as metrics.
    pub meta: Map<String, Value>,
    /// What `finalize` returned as payload, or null.
    pub payload: Value,
    /// When the node finished.
    pub now: UnixMs,
}

/// A partial artifact as a downstream node reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    /// The upstream batch.
    pub batch_uid: BatchUid,
    /// What it tells.
    pub meta: Map<String, Value>,
}

/// A place in a node's partial artifacts; each backend has its own text for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor(pub Option<String>);

impl Cursor {
    /// Before the first.
    pub fn start() -> Self {
        Self(None)
    }

    /// A place in a backend that numbers its artifacts from 1.
    pub(super) fn at(place: u64) -> Self {
        Self(Some(place.to_string()))
    }

    /// The number given to [`at`](Self::at); 0 before the first.
    pub(super) fn place(&self) -> Result<u64, StoreError> {
        match &self.0 {
            None => Ok(0),
            Some(text) => text.parse().map_err(|_| StoreError::Damaged {
                what: "a cursor of partial artifacts".into(),
                problem: format!("`{}` is not a number", text.escape_debug()),
            }),
        }
    }
}

/// Part of a scan.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In scan order; empty at the end.
    pub partials: Vec<Partial>,
    /// Where to go on.
    pub next: Cursor,
}

/// A finished batch, as much as its owner needs after a crash.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedBatch {
    /// Its name.
    pub batch_uid: BatchUid,
    /// Its place.
    pub ordinal: u64,
    /// As reported.
    pub metrics: Metrics,
}

/// A note that a node consumed an upstream batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The consuming node's task.
    pub task_id: TaskId,
    /// The consumer.
    pub consumer_node: NodeId,
    /// The producer.
    pub from_node: NodeId,
    /// What was consumed.
    pub batch_uid: BatchUid,
    /// When.
    pub claimed_at: UnixMs,
}
