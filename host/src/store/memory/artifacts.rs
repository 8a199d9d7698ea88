//! Artifacts in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use async_trait::async_trait;

use super::{MemoryStore, State};
use crate::metrics::Metrics;
use crate::store::{
    ArtifactStore, Claim, Cursor, Fenced, FinishedBatch, NewComplete, NewPartial, Page, Partial,
    StoreError,
};
use crate::types::{BatchUid, Epoch, Fence, LeaseNo, NodeId, RunKey, TaskId};

/// The attempt and the lease under which an artifact was written.
type Pair = (Epoch, LeaseNo);

#[derive(Default)]
pub(super) struct Artifacts {
    nodes: BTreeMap<RunKey, Node>,
    /// The place of the artifact that is written next.
    next: u64,
}

#[derive(Default)]
struct Node {
    partials: BTreeMap<u64, (Partial, Written)>,
    places: BTreeMap<BatchUid, u64>,
    /// Batches of which only a coordinator's note of a failure exists.
    failed: BTreeSet<BatchUid>,
    complete: Option<Pair>,
}

struct Written {
    by: Pair,
    ordinal: u64,
    metrics: Metrics,
}

impl Artifacts {
    pub(super) fn leave_failed_batch(&mut self, key: &RunKey, batch_uid: &BatchUid) {
        let node = self.nodes.entry(key.clone()).or_default();
        if !node.places.contains_key(batch_uid) {
            node.failed.insert(batch_uid.clone());
        }
    }
}

impl Node {
    fn remove_older(&mut self, than: Epoch) {
        self.partials.retain(|_, (_, written)| written.by.0 >= than);
        self.places.retain(|_, place| self.partials.contains_key(place));
    }
}

impl State {
    fn superseded(&self, fence: &Fence) -> bool {
        let newest = self.runs.get(&fence.key).map(|run| (run.new.epoch, run.lease_no));
        newest.is_some_and(|newest| newest > pair(fence))
    }
}

fn pair(fence: &Fence) -> Pair {
    (fence.epoch, fence.lease_no)
}

#[async_trait]
impl ArtifactStore for MemoryStore {
    async fn write_partials(
        &self,
        fence: &Fence,
        partials: &[NewPartial],
    ) -> Result<Fenced, StoreError> {
        let mut state = self.state();
        if state.superseded(fence) {
            return Ok(Fenced::Lost);
        }
        let Artifacts { nodes, next } = &mut state.artifacts;
        let node = nodes.entry(fence.key.clone()).or_default();
        let newer = |partial: &NewPartial| {
            let place = node.places.get(&partial.batch_uid);
            let stored = place.and_then(|place| node.partials.get(place));
            stored.is_some_and(|(_, written)| written.by > pair(fence))
        };
        if partials.iter().any(newer) {
            return Ok(Fenced::Lost);
        }
        for new in partials {
            node.failed.remove(&new.batch_uid);
            let place = *node.places.entry(new.batch_uid.clone()).or_insert_with(|| {
                *next += 1;
                *next
            });
            let partial = Partial { batch_uid: new.batch_uid.clone(), meta: new.meta.clone() };
            let (ordinal, metrics) = (new.ordinal, new.metrics.clone());
            node.partials.insert(place, (partial, Written { by: pair(fence), ordinal, metrics }));
        }
        Ok(Fenced::Written)
    }

    async fn write_complete(
        &self,
        fence: &Fence,
        _complete: &NewComplete,
    ) -> Result<Fenced, StoreError> {
        let mut state = self.state();
        if state.superseded(fence) {
            return Ok(Fenced::Lost);
        }
        let node = state.artifacts.nodes.entry(fence.key.clone()).or_default();
        if node.complete.is_some_and(|stored| stored > pair(fence)) {
            return Ok(Fenced::Lost);
        }
        node.remove_older(fence.epoch);
        node.complete = Some(pair(fence));
        Ok(Fenced::Written)
    }

    async fn complete_nodes(
        &self,
        task_id: &TaskId,
        nodes: &[NodeId],
    ) -> Result<Vec<NodeId>, StoreError> {
        let state = self.state();
        let complete = |node_id: &&NodeId| {
            let key = RunKey { task_id: task_id.clone(), node_id: (*node_id).clone() };
            state.artifacts.nodes.get(&key).is_some_and(|node| node.complete.is_some())
        };
        Ok(nodes.iter().filter(complete).cloned().collect())
    }

    async fn partials(
        &self,
        key: &RunKey,
        from: &Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let after = from.place()?;
        let state = self.state();
        let mut page = Page { partials: Vec::new(), next: from.clone() };
        let Some(node) = state.artifacts.nodes.get(key) else { return Ok(page) };
        let rest = (Bound::Excluded(after), Bound::Unbounded);
        for (place, (partial, _)) in node.partials.range(rest).take(limit) {
            page.partials.push(partial.clone());
            page.next = Cursor::at(*place);
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
        let state = self.state();
        let Some(node) = state.artifacts.nodes.get(key) else { return Ok(Vec::new()) };
        let mut latest: BTreeMap<u64, &(Partial, Written)> = BTreeMap::new();
        for artifact in node.partials.values() {
            let written = &artifact.1;
            if written.by.0 == epoch && range.contains(&written.ordinal) {
                let known = latest.entry(written.ordinal).or_insert(artifact);
                if known.1.by < written.by {
                    *known = artifact;
                }
            }
        }
        let finished = latest.into_iter().map(|(ordinal, (partial, written))| FinishedBatch {
            batch_uid: partial.batch_uid.clone(),
            ordinal,
            metrics: written.metrics.clone(),
        });
        Ok(finished.take(limit).collect())
    }

    async fn record_claims(&self, claims: &[Claim]) -> Result<(), StoreError> {
        let mut state = self.state();
        for claim in claims {
            let Claim { task_id, consumer_node, from_node, batch_uid, .. } = claim.clone();
            let name = (task_id, consumer_node, from_node, batch_uid);
            state.claims.entry(name).or_insert_with(|| claim.clone());
        }
        Ok(())
    }
}
