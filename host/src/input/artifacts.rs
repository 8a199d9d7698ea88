//! Reads upstream artifacts as batches, each exactly once per attempt.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Duration;

use super::{Pull, rechunk};
use crate::clock::Clock;
use crate::handler::YieldedBatch;
use crate::store::{Claim, Cursor, Partial, Store, StoreError};
use crate::types::{BatchUid, RunKey};
use crate::uids::UidSet;

/// Artifacts read at a time from one upstream node.
const PAGE: usize = 128;

/// A reader of upstream artifacts. What the attempt finished before is left out; claims
/// are written for people and never read.
pub struct ArtifactSource {
    store: Arc<dyn Store>,
    clock: Clock,
    consumer: RunKey,
    pull: Pull,
    finished: Arc<UidSet>,
    upstreams: Vec<Upstream>,
    ready: VecDeque<YieldedBatch>,
    wait: Duration,
}

struct Upstream {
    key: RunKey,
    cursor: Cursor,
    delivered: UidSet,
}

/// What a look at the upstream nodes found.
#[derive(Debug)]
pub enum Polled {
    /// A batch.
    Batch(YieldedBatch),
    /// Nothing now; look again after this long.
    Later(Duration),
    /// Nothing now and nothing to come.
    End,
}

impl ArtifactSource {
    /// A reader for the run `consumer` that leaves out the batches in `finished`.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        consumer: RunKey,
        pull: Pull,
        finished: Arc<UidSet>,
    ) -> Self {
        let upstreams = pull
            .from_nodes
            .iter()
            .map(|node| Upstream {
                key: RunKey { task_id: consumer.task_id.clone(), node_id: node.clone() },
                cursor: Cursor::start(),
                delivered: UidSet::default(),
            })
            .collect();
        let wait = pull.poll;
        Self { store, clock, consumer, pull, finished, upstreams, ready: VecDeque::new(), wait }
    }

    /// One look: a batch that is ready, or as many reads as it takes to know.
    pub async fn poll(&mut self) -> Result<Polled, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.wait = self.pull.poll;
                return Ok(Polled::Batch(batch));
            }
            // Read before the scan that finds nothing: what an upstream node wrote before
            // its complete mark is then in that scan.
            let complete = self.upstreams_complete().await?;
            let mut found = false;
            for index in 0..self.upstreams.len() {
                found |= self.read_page(index).await?;
            }
            if found {
                continue;
            }
            if !complete && self.wait < self.pull.backoff_max {
                return Ok(self.later());
            }
            // A continued scan may miss what was written late: look at everything once
            // before the end, and whenever the waits have become long.
            if self.rescan().await? {
                continue;
            }
            return Ok(if complete { Polled::End } else { self.later() });
        }
    }

    fn later(&mut self) -> Polled {
        let wait = self.wait.min(self.pull.backoff_max);
        self.wait = (self.wait * 2).min(self.pull.backoff_max);
        Polled::Later(wait)
    }

    async fn upstreams_complete(&self) -> Result<bool, StoreError> {
        if !self.pull.eof_on_task_done {
            return Ok(false);
        }
        let complete =
            self.store.complete_nodes(&self.consumer.task_id, &self.pull.from_nodes).await?;
        Ok(self.pull.from_nodes.iter().all(|node| complete.contains(node)))
    }

    /// Reads on in one upstream node; true when there was anything to read.
    async fn read_page(&mut self, index: usize) -> Result<bool, StoreError> {
        let upstream = &self.upstreams[index];
        let page = self.store.partials(&upstream.key, &upstream.cursor, PAGE).await?;
        let any = !page.partials.is_empty();
        self.take(index, page.partials).await?;
        self.upstreams[index].cursor = page.next;
        Ok(any)
    }

    /// Reads everything again from the start; true when there was something new.
    async fn rescan(&mut self) -> Result<bool, StoreError> {
        for index in 0..self.upstreams.len() {
            self.upstreams[index].cursor = Cursor::start();
            while self.read_page(index).await? {
                // What is new is delivered before more is read: memory stays bounded.
                if !self.ready.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn take(&mut self, index: usize, partials: Vec<Partial>) -> Result<(), StoreError> {
        let only_one = self.upstreams.len() == 1;
        let mut claims = Vec::new();
        let mut ready = Vec::new();
        for partial in partials {
            let upstream = &self.upstreams[index];
            if upstream.delivered.contains(&partial.batch_uid) {
                continue;
            }
            let uid = partial.batch_uid.clone();
            let batches = match &self.pull.rechunk {
                None => vec![rechunk::whole(&upstream.key, only_one, partial)],
                Some(rule) => rechunk::chunks(&upstream.key.node_id, rule, partial),
            };
            claims.push(self.claim(index, uid.clone()));
            ready.push((uid, batches));
        }
        if !claims.is_empty() {
            self.store.record_claims(&claims).await?;
        }
        for (uid, batches) in ready {
            self.upstreams[index].delivered.insert(&uid);
            let unfinished = batches
                .into_iter()
                .filter(|batch| !batch.uid.as_ref().is_some_and(|u| self.finished.contains(u)));
            self.ready.extend(unfinished);
        }
        Ok(())
    }

    fn claim(&self, index: usize, batch_uid: BatchUid) -> Claim {
        Claim {
            task_id: self.consumer.task_id.clone(),
            consumer_node: self.consumer.node_id.clone(),
            from_node: self.upstreams[index].key.node_id.clone(),
            batch_uid,
            claimed_at: self.clock.wall(),
        }
    }
}
