//! Announces: what a worker tells everybody about itself.

use serde_json::{Map, Value, json};

use super::{Envelope, MsgType, Sender, VERSION, content_hash};
use crate::clock::UnixMs;
use crate::types::{Role, WorkerId};

/// WORKER_ONLINE's contents.
#[derive(Debug, Clone, PartialEq)]
pub struct Online {
    /// The roles it serves now.
    pub roles: Vec<Role>,
    /// Its version.
    pub version: String,
    /// How many runs it takes at once.
    pub capacity: usize,
    /// Fields of our own, such as the plugins' digests.
    pub extra: Map<String, Value>,
}

/// WORKER_ONLINE.
pub fn online(worker_id: &WorkerId, online: &Online, now: UnixMs) -> Envelope {
    let roles: Vec<&str> = online.roles.iter().map(Role::as_str).collect();
    let mut payload = online.extra.clone();
    let fixed = json!({
        "kind": "WORKER_ONLINE",
        "worker_id": worker_id,
        "type": roles.join(","),
        "capabilities": {"roles": roles},
        "version": online.version,
        "capacity": {"tasks": online.capacity},
        "status": "online",
        "resume": null,
    });
    if let Value::Object(fixed) = fixed {
        payload.extend(fixed);
    }
    announce(worker_id, "WORKER_ONLINE", payload, now)
}

/// WORKER_OFFLINE: the last thing on a clean stop.
pub fn offline(worker_id: &WorkerId, now: UnixMs) -> Envelope {
    let mut payload = Map::new();
    payload.insert("kind".into(), "WORKER_OFFLINE".into());
    payload.insert("worker_id".into(), worker_id.as_str().into());
    announce(worker_id, "WORKER_OFFLINE", payload, now)
}

fn announce(
    worker_id: &WorkerId,
    kind: &str,
    payload: Map<String, Value>,
    now: UnixMs,
) -> Envelope {
    let dedup_id = content_hash(&json!({"announce": kind, "worker": worker_id, "ts_ms": now}));
    Envelope {
        v: VERSION,
        msg_type: MsgType::Event,
        role: Sender::Worker,
        corr_id: uuid::Uuid::new_v4().to_string(),
        dedup_id,
        task_id: "*".into(),
        node_id: "*".into(),
        step_type: "*".into(),
        attempt_epoch: 0,
        ts_ms: now.0,
        payload: Value::Object(payload),
        target_worker_id: None,
    }
}
