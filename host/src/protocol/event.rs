//! Status events: what a worker tells the coordinator about a run.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::{Envelope, Malformed, MsgType, RunAddress, Sender, command::payload, content_hash};
use crate::clock::UnixMs;
use crate::metrics::Metrics;
use crate::types::{BatchUid, LeaseId, WorkerId};

/// The `final_uid` of TASK_DONE.
pub const FINAL_UID: &str = "__final__";

/// A run's event: the payload of a status message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunEvent {
    /// The first event of every attempt.
    TaskAccepted(LeaseInfo),
    /// The lease was renewed.
    TaskHeartbeat(LeaseInfo),
    /// A new owner goes on with the attempt.
    TaskResumed(LeaseInfo),
    /// A batch is finished and recorded.
    BatchOk {
        /// The run's owner.
        worker_id: WorkerId,
        /// The batch.
        batch_uid: BatchUid,
        /// Its metrics; never null.
        metrics: Metrics,
        /// Always null (`protocol.md`: a value here stops a coordinator).
        artifacts_ref: Null,
    },
    /// A batch failed; TASK_FAILED follows.
    BatchFailed {
        /// The run's owner.
        worker_id: WorkerId,
        /// The batch.
        batch_uid: BatchUid,
        /// Why, for machines.
        reason_code: String,
        /// No retry can help.
        permanent: bool,
        /// Why, for people.
        error: Option<String>,
        /// Always null.
        artifacts_ref: Null,
    },
    /// The run is done.
    TaskDone {
        /// The run's owner.
        worker_id: WorkerId,
        /// Totals, with `finalize`'s laid over them.
        metrics: Metrics,
        /// Always null.
        artifacts_ref: Null,
        /// [`FINAL_UID`].
        final_uid: String,
    },
    /// The attempt failed.
    TaskFailed {
        /// The run's owner.
        worker_id: WorkerId,
        /// Why, for machines.
        reason_code: String,
        /// No retry can help.
        permanent: bool,
        /// Why, for people.
        error: Option<String>,
    },
    /// The run was cancelled.
    Cancelled {
        /// The run's owner.
        worker_id: WorkerId,
        /// As the cancel gave it.
        reason: String,
    },
}

/// Who holds a run, and until when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// The owner.
    pub worker_id: WorkerId,
    /// This acquisition's name.
    pub lease_id: LeaseId,
    /// When it ends unless renewed.
    pub lease_deadline_ts_ms: UnixMs,
}

/// Which version of its plugin serves a run. Its events carry that in fields of our own,
/// which are harmless to coordinators (`protocol.md`, "Messages that stop a coordinator").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServedBy {
    /// The version's digest, in every event as `plugin_digest`; none where no plugin serves
    /// the role.
    pub digest: Option<String>,
    /// Another version that the attempt began with and that is not kept here; in
    /// TASK_RESUMED as `plugin_digest_before`.
    pub before: Option<String>,
}

/// Null when sent; whatever another worker put there is dropped when read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Null;

impl Serialize for Null {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_none()
    }
}

impl<'de> Deserialize<'de> for Null {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl RunEvent {
    /// The wire's name of the event.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TaskAccepted(_) => "TASK_ACCEPTED",
            Self::TaskHeartbeat(_) => "TASK_HEARTBEAT",
            Self::TaskResumed(_) => "TASK_RESUMED",
            Self::BatchOk { .. } => "BATCH_OK",
            Self::BatchFailed { .. } => "BATCH_FAILED",
            Self::TaskDone { .. } => "TASK_DONE",
            Self::TaskFailed { .. } => "TASK_FAILED",
            Self::Cancelled { .. } => "CANCELLED",
        }
    }

    /// The event as a message; `hb_interval` numbers the heartbeats.
    pub fn envelope(
        &self,
        address: &RunAddress,
        served_by: &ServedBy,
        now: UnixMs,
        hb_interval: Duration,
    ) -> Envelope {
        let mut payload = serde_json::to_value(self).expect("an event holds only JSON values");
        if let Some(digest) = &served_by.digest {
            payload["plugin_digest"] = json!(digest);
        }
        if let (Self::TaskResumed(_), Some(before)) = (self, &served_by.before) {
            payload["plugin_digest_before"] = json!(before);
        }
        let dedup_id = self.dedup_id(address, now, hb_interval);
        address.envelope((MsgType::Event, Sender::Worker), now, dedup_id, payload)
    }

    /// The table in `protocol.md`, "Deduplication ids".
    fn dedup_id(&self, address: &RunAddress, now: UnixMs, hb_interval: Duration) -> String {
        let (t, n, e) = (&address.key.task_id, &address.key.node_id, address.epoch);
        content_hash(&match self {
            Self::TaskAccepted(l) => json!({"acc": t, "n": n, "e": e, "lease": l.lease_id}),
            Self::TaskResumed(l) => json!({"res": t, "n": n, "e": e, "lease": l.lease_id}),
            Self::TaskHeartbeat(_) => {
                let interval = i64::try_from(hb_interval.as_millis()).unwrap_or(i64::MAX).max(1);
                json!({"hb": t, "n": n, "e": e, "t": now.0.div_euclid(interval)})
            }
            Self::BatchOk { batch_uid, .. } => {
                json!({"bok": t, "n": n, "e": e, "uid": batch_uid})
            }
            Self::BatchFailed { batch_uid, .. } => {
                json!({"bf": t, "n": n, "e": e, "uid": batch_uid})
            }
            Self::TaskDone { .. } => json!({"td": t, "n": n, "e": e}),
            Self::TaskFailed { reason_code, permanent, .. } => {
                json!({"tf": t, "n": n, "e": e, "r": reason_code, "p": permanent})
            }
            Self::Cancelled { .. } => json!({"c": t, "n": n, "e": e}),
        })
    }
}

/// A status message that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Which attempt of which run.
    pub address: RunAddress,
    /// The same for the same event sent again.
    pub dedup_id: String,
    /// What happened.
    pub event: RunEvent,
}

impl Status {
    /// Reads a message of a status topic.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let envelope = Envelope::decode(bytes)?;
        envelope.expect(MsgType::Event, Sender::Worker)?;
        Ok(Self {
            address: RunAddress::of(&envelope)?,
            event: payload("a status event", &envelope.payload)?,
            dedup_id: envelope.dedup_id,
        })
    }
}
