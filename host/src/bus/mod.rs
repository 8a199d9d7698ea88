//! Messages between coordinators and workers: topics with offsets and consumer groups.
//!
//! [`Bus`] is what every backend offers; one contract suite tests them all
//! (`tests/contract`).

pub mod embedded;
pub mod kafka;
pub mod memory;

use async_trait::async_trait;
use tokio::time::Instant;

/// The largest value the built-in backends take, in bytes; what a broker that nobody
/// configured takes, too.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// A broker, as far as FlowKit needs one.
///
/// Contract:
/// - A topic is a sequence of messages; those with the same key keep their order, also when
///   a process publishes the next before the one before is durable.
/// - What [`publish`](Bus::publish) acknowledged is never lost and is seen by every group
///   and by every tail that was open before.
/// - Publishing the same message twice may store it twice.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Creates the topics that do not exist yet.
    async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), BusError>;

    /// Stores the messages in their order and returns once all are durable. On an error
    /// any number of them may have been stored. Gives up with [`BusError::Expired`] when
    /// `deadline` passes first: nothing is stored after that.
    async fn publish(
        &self,
        messages: &[OutMessage],
        deadline: Option<Instant>,
    ) -> Result<(), BusError>;

    /// Joins a consumer group. A topic the group has never committed is read from its
    /// beginning. Each message goes to one member; one that is not committed when its
    /// member leaves, or dies, is delivered again to another.
    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn GroupConsumer>, BusError>;

    /// Reads all messages published after this call returns, without a group.
    async fn tail(&self, topics: &[Topic]) -> Result<Box<dyn Tail>, BusError>;

    /// Reads what is in a topic when this is called, without a group.
    async fn history(&self, topic: &Topic) -> Result<Box<dyn History>, BusError>;
}

/// A member of a consumer group. Dropping it leaves the group.
#[async_trait]
pub trait GroupConsumer: Send {
    /// The next message. Waits for one. Cancel-safe: a message is lost to nobody when the
    /// future is dropped.
    async fn next(&mut self) -> Result<InMessage, BusError>;

    /// Commits everything up to and including `message` within its partition. Once this
    /// returned, the group sees none of it again; unless the partition was given to another
    /// member after the message had been handed out, which then reads it as well.
    async fn commit(&mut self, message: &InMessage) -> Result<(), BusError>;

    /// Stops (true) or resumes (false) fetching from a topic while staying a member: the
    /// topic's messages are left to other members or wait.
    async fn pause(&mut self, topic: &Topic, paused: bool) -> Result<(), BusError>;
}

/// A reader outside any group.
#[async_trait]
pub trait Tail: Send {
    /// The next message. Waits for one. Cancel-safe.
    async fn next(&mut self) -> Result<InMessage, BusError>;
}

/// A reader of what was in a topic.
#[async_trait]
pub trait History: Send {
    /// The next message; those of a partition in their order. `None` at the end.
    async fn next(&mut self) -> Result<Option<InMessage>, BusError>;
}

/// A topic's name: 1 to 249 letters, digits, `.`, `_` and `-`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Box<str>);

impl Topic {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, crate::types::Invalid> {
        let name = name.into();
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() > 249 {
            "is longer than 249 bytes"
        } else if name == "." || name == ".." {
            "may not be '.' or '..'"
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            "may contain only letters, digits, '.', '_' and '-'"
        } else {
            return Ok(Self(name.into_boxed_str()));
        };
        Err(crate::types::Invalid { what: "topic", problem })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Topic {
    type Error = crate::types::Invalid;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> String {
        topic.0.into_string()
    }
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutMessage {
    /// Where to.
    pub topic: Topic,
    /// What keeps its order: messages with the same key are read as they were published.
    pub key: Option<String>,
    /// At most the broker's limit ([`BusError::TooLarge`]).
    pub value: Vec<u8>,
    /// Names and values beside the value.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl OutMessage {
    /// [`BusError::TooLarge`] for the first value above `limit` bytes, so that a batch is
    /// refused before any of it is stored.
    pub(crate) fn check_sizes(messages: &[Self], limit: usize) -> Result<(), BusError> {
        match messages.iter().map(|message| message.value.len()).find(|size| *size > limit) {
            Some(size) => Err(BusError::TooLarge { size, limit }),
            None => Ok(()),
        }
    }
}

/// A message that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InMessage {
    /// Where from.
    pub topic: Topic,
    /// Its partition; 0 where a backend has one.
    pub partition: i32,
    /// Its place in the partition, rising.
    pub offset: i64,
    /// As published; anybody may have written it.
    pub key: Option<Vec<u8>>,
    /// As published; anybody may have written it.
    pub value: Vec<u8>,
    /// As published.
    pub headers: Vec<(String, Vec<u8>)>,
    /// When it was stored, Unix ms.
    pub timestamp: crate::clock::UnixMs,
}

/// Why the bus did not do it: whether to wait, to give up on this message, or to stop.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// Out of reach or busy; the same call may go through later.
    #[error("the message bus is unavailable: {0}")]
    Unavailable(String),
    /// The deadline passed before the messages were durable.
    #[error("the messages could not be delivered in time")]
    Expired,
    /// Larger than the broker takes; final for this message.
    #[error("a message of {size} bytes is larger than the bus accepts ({limit} bytes)")]
    TooLarge {
        /// The message's value, in bytes.
        size: usize,
        /// The most that is accepted, in bytes.
        limit: usize,
    },
    /// Not to be had without somebody changing something; the text says what.
    #[error("{0}")]
    Fatal(String),
}
