//! The names everything else is built of: identifiers, attempts, keys.
//!
//! A value of these types has been checked once, at the edge where it came in
//! ([`Invalid`] says what was wrong), and is trusted from there on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest identifier accepted from a message, a config or a plugin, in bytes.
pub const MAX_NAME_BYTES: usize = 512;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct Invalid {
    /// Which identifier was expected, such as `task_id`.
    pub what: &'static str,
    /// What is wrong with the text; never the text itself.
    pub problem: &'static str,
}

fn check_name(what: &'static str, text: &str) -> Result<(), Invalid> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_NAME_BYTES {
        "is longer than 512 bytes"
    } else if text.chars().any(char::is_control) {
        "contains a control character"
    } else {
        return Ok(());
    };
    Err(Invalid { what, problem })
}

/// A role becomes part of topic names, so it is held to what Kafka allows there.
fn check_role(what: &'static str, text: &str) -> Result<(), Invalid> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > 200 {
        "is longer than 200 bytes"
    } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        "may contain only letters, digits, '.', '_' and '-'"
    } else {
        return Ok(());
    };
    Err(Invalid { what, problem })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Box<str>);

        impl $type {
            /// Checks `text` and wraps it.
            pub fn new(text: impl Into<String>) -> Result<Self, Invalid> {
                let text = text.into();
                $check($what, &text)?;
                Ok(Self(text.into_boxed_str()))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.into_string()
            }
        }
    };
}

name!(
    /// A task: one execution of a graph.
    TaskId, "task_id", check_name
);
name!(
    /// A node of a task's graph.
    NodeId, "node_id", check_name
);
name!(
    /// What a node does and which handler does it; `step_type` on the wire.
    Role, "role", check_role
);
name!(
    /// One worker process.
    WorkerId, "worker_id", check_name
);
name!(
    /// The wire's name of one acquisition of a run's lease.
    LeaseId, "lease_id", check_name
);
name!(
    /// A batch's name, unique within one attempt of a run.
    BatchUid, "batch_uid", check_name
);

impl LeaseId {
    /// A name nobody has used.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into_boxed_str())
    }
}

impl TaskId {
    /// A name nobody has used.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into_boxed_str())
    }
}

/// The attempt's number and its fencing token on the wire: 1 for a node's first attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many times a run's lease was acquired. Each acquisition raises it by one, so an
/// owner whose number is not the stored one has lost the run. Zero: never owned.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LeaseNo(pub u64);

impl fmt::Display for LeaseNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a lease is on: one node of one task, whatever the attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunKey {
    /// The task.
    pub task_id: TaskId,
    /// The node within it.
    pub node_id: NodeId,
}

impl RunKey {
    /// The message key of the run's topics, `task_id:node_id`.
    pub fn message_key(&self) -> String {
        format!("{}:{}", self.task_id, self.node_id)
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.task_id, self.node_id)
    }
}

/// Who may write for a run: the attempt and the lease under which it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The run.
    pub key: RunKey,
    /// Its attempt.
    pub epoch: Epoch,
    /// The acquisition the writer holds.
    pub lease_no: LeaseNo,
    /// The writer.
    pub worker_id: WorkerId,
}
