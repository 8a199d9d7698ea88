//! Discovery: a coordinator asks who runs a node, and is answered.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Envelope, Malformed, MsgType, RunAddress, Sender, command::payload, content_hash};
use crate::clock::UnixMs;
use crate::types::{Epoch, LeaseId, WorkerId};

/// TASK_DISCOVER as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Discover {
    /// The run asked for. Its epoch is the question's (`want_epoch`), which is the node's
    /// plus one: the run is found by task and node.
    pub address: RunAddress,
    /// Repeated in the answer.
    pub corr_id: String,
}

#[derive(Deserialize)]
struct QueryPayload {
    query: String,
}

impl Discover {
    /// Reads a message of the query topic.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let envelope = Envelope::decode(bytes)?;
        envelope.expect(MsgType::Query, Sender::Coordinator)?;
        let address = RunAddress::of(&envelope)?;
        let query: QueryPayload = payload("a query", &envelope.payload)?;
        if query.query != "TASK_DISCOVER" {
            return Err(Malformed::WrongKind(format!("unknown query `{:.64}`", query.query)));
        }
        Ok(Self { address, corr_id: envelope.corr_id })
    }

    /// The answer, from `worker_id`.
    pub fn reply(&self, worker_id: &WorkerId, snapshot: &Snapshot, now: UnixMs) -> Envelope {
        let key = &self.address.key;
        let dedup_id = content_hash(&json!({
            "snap": key.task_id, "n": key.node_id, "e": self.address.epoch, "w": worker_id,
        }));
        let payload = match snapshot {
            Snapshot::Owned { state, epoch, lease, finished } => json!({
                "reply": "TASK_SNAPSHOT",
                "worker_id": worker_id,
                "run_state": state,
                "attempt_epoch": epoch,
                "lease": lease,
                "progress": {"batches": finished},
                "artifacts": null,
            }),
            Snapshot::Idle { complete } => json!({
                "reply": "TASK_SNAPSHOT",
                "worker_id": null,
                "run_state": "idle",
                "attempt_epoch": 0,
                "lease": null,
                "progress": null,
                "artifacts": if *complete { json!({"complete": true}) } else { Value::Null },
            }),
        };
        let mut envelope =
            self.address.envelope((MsgType::Reply, Sender::Worker), now, dedup_id, payload);
        envelope.corr_id.clone_from(&self.corr_id);
        envelope
    }
}

/// TASK_SNAPSHOT: what a worker answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Snapshot {
    /// The worker owns the run.
    Owned {
        /// What it is doing.
        state: RunState,
        /// The run's attempt.
        epoch: Epoch,
        /// Its lease.
        lease: SnapshotLease,
        /// Batches finished so far.
        finished: u64,
    },
    /// The worker has the role but not the run, and nobody else has it.
    Idle {
        /// The store holds a complete artifact for the node.
        complete: bool,
    },
}

/// What an owned run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Taking batches.
    Running,
    /// Taking no more batches; writing its end.
    Finishing,
    /// Being stopped.
    Cancelling,
}

/// A lease as a snapshot shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotLease {
    /// The owner.
    pub worker_id: WorkerId,
    /// This acquisition's name.
    pub lease_id: LeaseId,
    /// When it ends unless renewed.
    pub deadline_ts_ms: UnixMs,
}
