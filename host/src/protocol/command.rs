//! Commands: what a coordinator tells the workers of a role.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Envelope, Malformed, MsgType, RunAddress, Sender, content_hash};
use crate::clock::UnixMs;
use crate::store::RunInput;

/// A command that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Which attempt of which run.
    pub address: RunAddress,
    /// The coordinator's id for it; redeliveries repeat it.
    pub dedup_id: String,
    /// What to do.
    pub body: CommandBody,
}

/// What a command asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum CommandBody {
    /// Run the node.
    Start(RunInput),
    /// Stop it.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Named by the protocol; no coordinator sends it yet, and nothing is done.
    Pause,
    /// As `Pause`.
    Resume,
}

#[derive(Serialize, Deserialize)]
struct StartPayload {
    #[serde(default)]
    input_ref: Option<Map<String, Value>>,
    #[serde(default)]
    input_inline: Option<Map<String, Value>>,
    #[serde(default)]
    batching: Option<Map<String, Value>>,
    #[serde(default)]
    cancel_token: Option<String>,
}

#[derive(Deserialize)]
struct CancelPayload {
    #[serde(default)]
    reason: Option<String>,
}

impl Command {
    /// Reads a message of a command topic.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let envelope = Envelope::decode(bytes)?;
        envelope.expect(MsgType::Cmd, Sender::Coordinator)?;
        let address = RunAddress::of(&envelope)?;
        let kind = envelope.payload.get("cmd").and_then(Value::as_str).unwrap_or_default();
        let body = match kind {
            "TASK_START" => {
                let start: StartPayload = payload("TASK_START", &envelope.payload)?;
                CommandBody::Start(RunInput {
                    input_ref: start.input_ref,
                    input_inline: start.input_inline,
                    batching: start.batching,
                })
            }
            "TASK_CANCEL" => {
                let cancel: CancelPayload = payload("TASK_CANCEL", &envelope.payload)?;
                CommandBody::Cancel { reason: cancel.reason.unwrap_or_default() }
            }
            "TASK_PAUSE" => CommandBody::Pause,
            "TASK_RESUME" => CommandBody::Resume,
            "" => return Err(Malformed::WrongKind("the payload names no `cmd`".into())),
            other => return Err(Malformed::WrongKind(format!("unknown command `{other:.64}`"))),
        };
        Ok(Self { address, dedup_id: envelope.dedup_id, body })
    }
}

/// TASK_START as our own coordinator sends it.
pub fn start_command(address: &RunAddress, input: &RunInput, now: UnixMs) -> Envelope {
    let dedup_id = content_hash(&json!({
        "cmd": "TASK_START", "n": address.key.node_id, "e": address.epoch,
        "t": address.key.task_id,
    }));
    let payload = json!({
        "cmd": "TASK_START",
        "input_ref": input.input_ref,
        "input_inline": input.input_inline,
        "batching": input.batching,
        "cancel_token": uuid::Uuid::new_v4().to_string(),
    });
    address.envelope((MsgType::Cmd, Sender::Coordinator), now, dedup_id, payload)
}

pub(super) fn payload<T: serde::de::DeserializeOwned>(
    kind: &'static str,
    value: &Value,
) -> Result<T, Malformed> {
    T::deserialize(value).map_err(|e| Malformed::Payload { kind, problem: e.to_string() })
}
