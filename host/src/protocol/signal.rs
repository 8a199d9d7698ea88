//! Signals: what a coordinator tells whichever worker owns a run.

use serde::Deserialize;
use serde_json::json;

use super::{Envelope, Malformed, MsgType, RunAddress, Sender, command::payload, content_hash};
use crate::clock::UnixMs;

/// A signal that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// The attempt it applies to, and no other.
    pub address: RunAddress,
    /// The one worker it is meant for, if not for all.
    pub target_worker_id: Option<String>,
    /// Stop the run: why.
    pub reason: String,
    /// Until when it should have stopped.
    pub deadline: Option<UnixMs>,
}

#[derive(Deserialize)]
struct SignalPayload {
    sig: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    deadline_ts_ms: Option<i64>,
}

impl Signal {
    /// Reads a message of the signals topic. The only signal is CANCEL, in any case.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let envelope = Envelope::decode(bytes)?;
        envelope.expect(MsgType::Event, Sender::Coordinator)?;
        let address = RunAddress::of(&envelope)?;
        let signal: SignalPayload = payload("a signal", &envelope.payload)?;
        if !signal.sig.eq_ignore_ascii_case("CANCEL") {
            return Err(Malformed::WrongKind(format!("unknown signal `{:.64}`", signal.sig)));
        }
        Ok(Self {
            address,
            target_worker_id: envelope.target_worker_id,
            reason: signal.reason.unwrap_or_default(),
            deadline: signal.deadline_ts_ms.map(UnixMs),
        })
    }
}

/// CANCEL as our own coordinator sends it.
pub fn cancel_signal(
    address: &RunAddress,
    reason: &str,
    target_worker_id: Option<&str>,
    deadline: UnixMs,
    now: UnixMs,
) -> Envelope {
    let dedup_id = content_hash(&json!({
        "sig": "CANCEL", "t": address.key.task_id, "n": address.key.node_id,
        "e": address.epoch, "w": target_worker_id,
    }));
    let payload = json!({
        "sig": "CANCEL", "reason": reason, "cancel_token": null, "deadline_ts_ms": deadline,
    });
    let mut envelope =
        address.envelope((MsgType::Event, Sender::Coordinator), now, dedup_id, payload);
    envelope.target_worker_id = target_worker_id.map(str::to_owned);
    envelope
}
