//! The frame around every message.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::UnixMs;
use crate::types::{Epoch, Invalid, NodeId, Role, RunKey, TaskId};

/// The version this host speaks.
pub const VERSION: u64 = 1;

/// Longest message that is read at all, in bytes; a broker's own limit is usually lower.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Every message on every topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`].
    pub v: u64,
    /// What sort of message.
    pub msg_type: MsgType,
    /// Who sends it.
    pub role: Sender,
    /// Fresh, except in a reply, which repeats the query's.
    #[serde(default)]
    pub corr_id: String,
    /// The same for the same message sent again.
    #[serde(default)]
    pub dedup_id: String,
    /// The task, or `*`.
    pub task_id: String,
    /// The node, or `*`.
    pub node_id: String,
    /// The role that runs the node, or `*`.
    pub step_type: String,
    /// The attempt.
    pub attempt_epoch: i64,
    /// When it was sent, Unix ms.
    pub ts_ms: i64,
    /// Depends on the kind of message.
    pub payload: Value,
    /// The one worker a signal is meant for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_worker_id: Option<String>,
}

/// What sort of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MsgType {
    /// A command to the workers of a role.
    Cmd,
    /// Status, announces and signals.
    Event,
    /// Named by the protocol; nobody sends it.
    Heartbeat,
    /// A question to all workers.
    Query,
    /// Its answer.
    Reply,
}

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sender {
    /// A coordinator.
    Coordinator,
    /// A worker.
    Worker,
}

/// Why a message is not one of the protocol's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// More than [`MAX_MESSAGE_BYTES`].
    #[error("the message has {0} bytes; at most {MAX_MESSAGE_BYTES} are read")]
    TooLarge(usize),
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("not an envelope: {0}")]
    Envelope(String),
    /// Another version.
    #[error("version {0} is not spoken here; this is version {VERSION}")]
    Version(u64),
    /// An envelope of another sort than the topic carries.
    #[error("{0}")]
    WrongKind(String),
    /// An identifier that is none.
    #[error(transparent)]
    Name(#[from] Invalid),
    /// An attempt's number that is none.
    #[error("attempt_epoch {0} is not between 0 and 4294967295")]
    Epoch(i64),
    /// The payload is not what its kind demands.
    #[error("payload of {kind}: {problem}")]
    Payload {
        /// Which kind.
        kind: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Envelope {
    /// Reads a message, whoever wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed::TooLarge(bytes.len()));
        }
        let envelope: Self =
            serde_json::from_slice(bytes).map_err(|e| Malformed::Envelope(e.to_string()))?;
        if envelope.v != VERSION {
            return Err(Malformed::Version(envelope.v));
        }
        Ok(envelope)
    }

    /// As compact JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope holds only JSON values")
    }

    /// The run it speaks of.
    pub fn run_key(&self) -> Result<RunKey, Malformed> {
        Ok(RunKey {
            task_id: TaskId::new(self.task_id.as_str())?,
            node_id: NodeId::new(self.node_id.as_str())?,
        })
    }

    /// The role that runs the node.
    pub fn step_role(&self) -> Result<Role, Malformed> {
        Ok(Role::new(self.step_type.as_str())?)
    }

    /// The attempt.
    pub fn epoch(&self) -> Result<Epoch, Malformed> {
        u32::try_from(self.attempt_epoch)
            .map(Epoch)
            .map_err(|_| Malformed::Epoch(self.attempt_epoch))
    }

    /// Refuses an envelope of another sort or sender.
    pub(super) fn expect(&self, msg_type: MsgType, sender: Sender) -> Result<(), Malformed> {
        if self.msg_type == msg_type && self.role == sender {
            return Ok(());
        }
        Err(Malformed::WrongKind(format!(
            "expected {msg_type:?} from a {sender:?}, found {:?} from a {:?}",
            self.msg_type, self.role
        )))
    }
}

/// What is common to all messages about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAddress {
    /// The run.
    pub key: RunKey,
    /// The role that runs it.
    pub role: Role,
    /// The attempt.
    pub epoch: Epoch,
}

impl RunAddress {
    /// An envelope about this run.
    pub(super) fn envelope(
        &self,
        (msg_type, role): (MsgType, Sender),
        now: UnixMs,
        dedup_id: String,
        payload: Value,
    ) -> Envelope {
        Envelope {
            v: VERSION,
            msg_type,
            role,
            corr_id: uuid::Uuid::new_v4().to_string(),
            dedup_id,
            task_id: self.key.task_id.to_string(),
            node_id: self.key.node_id.to_string(),
            step_type: self.role.to_string(),
            attempt_epoch: i64::from(self.epoch.0),
            ts_ms: now.0,
            payload,
            target_worker_id: None,
        }
    }

    /// Reads the address of an envelope.
    pub(super) fn of(envelope: &Envelope) -> Result<Self, Malformed> {
        Ok(Self { key: envelope.run_key()?, role: envelope.step_role()?, epoch: envelope.epoch()? })
    }
}
