//! A member of a consumer group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::ASK_WITHIN;
use super::assignment::{Commit, Partition};
use super::error::{is_passing, lost_membership, meaning, of_code};
use super::message;
use super::properties::{Properties, Use};
use super::rebalances::{Rebalances, list};
use crate::bus::{BusError, GroupConsumer, InMessage, Topic};
use crate::tasks::{self, TaskHandle};

/// How long one poll waits; a member that leaves is noticed as soon.
const POLL: Duration = Duration::from_millis(100);

/// The waits between two tries of a commit that a rebalance keeps from going through, and
/// how many there are.
const COMMIT_AGAIN: (Duration, u32) = (Duration::from_millis(100), 100);

/// For how long a topic that was made a moment ago may be unknown to some broker.
const TOPIC_SETTLES: Duration = Duration::from_secs(10);

/// A member, joining or joined.
pub(super) struct Member {
    shared: Arc<Shared>,
    /// Unbounded by itself: fetching stops while enough is waiting.
    items: mpsc::UnboundedReceiver<Result<Fetched, BusError>>,
    /// Of topics that were paused after they had been fetched.
    stash: VecDeque<Fetched>,
    _polling: TaskHandle<()>,
}

struct Shared {
    consumer: BaseConsumer<Rebalances>,
    left: AtomicBool,
}

struct Fetched {
    message: InMessage,
    term: u64,
}

impl Fetched {
    fn bytes(&self) -> usize {
        let headers = self.message.headers.iter().map(|(name, value)| name.len() + value.len());
        let key = self.message.key.as_ref().map_or(0, Vec::len);
        self.message.value.len() + key + headers.sum::<usize>()
    }
}

/// Begins to join. The first messages come once the group has been balanced.
pub(super) fn join(
    properties: &Properties,
    group: &str,
    topics: &[Topic],
) -> Result<Member, BusError> {
    let consumer: BaseConsumer<Rebalances> = properties
        .of(Use::Member { group })
        .create_with_context(Rebalances::new(properties.log()))
        .map_err(|error| properties.log().explain(meaning("joining a consumer group", &error)))?;
    let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    consumer
        .subscribe(&names)
        .map_err(|error| meaning(&format!("joining the group {group}"), &error))?;
    let shared = Arc::new(Shared { consumer, left: AtomicBool::new(false) });
    let (sender, items) = mpsc::unbounded_channel();
    let (polled, group) = (shared.clone(), group.to_owned());
    let polling = tasks::spawn_blocking("poll-kafka", move || poll(&polled, &group, &sender));
    Ok(Member { shared, items, stash: VecDeque::new(), _polling: polling })
}

/// Polls until the member leaves, however long nobody wants a message: a member that does
/// not poll is expelled. The consumer is dropped here, or where a last commit ends: that
/// closes it, and may block.
fn poll(shared: &Shared, group: &str, sender: &mpsc::UnboundedSender<Result<Fetched, BusError>>) {
    let context = shared.consumer.context();
    let began = Instant::now();
    while !shared.left.load(Ordering::Acquire) {
        context.keep_pace(&shared.consumer);
        let item = match shared.consumer.poll(POLL) {
            None => continue,
            Some(Ok(message)) => shared.fetched(&message),
            Some(Err(error)) => of_poll(group, &error, began.elapsed()).map(Err),
        };
        match &item {
            Some(Ok(fetched)) => context.put(fetched.bytes()),
            // Nobody reads; the next one will say the same.
            Some(Err(_)) if context.is_held_back() => continue,
            Some(Err(_)) => context.put(0),
            None => continue,
        }
        // An error means that nobody reads any more.
        let _ = item.map(|item| sender.send(item));
    }
}

/// What an error of a poll means to the reader. librdkafka looks for its brokers and its
/// group by itself for as long as it takes, and logs that it does.
fn of_poll(group: &str, error: &KafkaError, since_joining: Duration) -> Option<BusError> {
    let code = error.rdkafka_error_code()?;
    let settles = matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic)
        && since_joining < TOPIC_SETTLES;
    let passes = is_passing(code)
        || settles
        || matches!(
            code,
            Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::CoordinatorLoadInProgress
                | Code::RebalanceInProgress
                | Code::PollExceeded
        );
    (!passes).then(|| of_code(&format!("reading as a member of the group {group}"), code))
}

impl Shared {
    fn fetched(
        &self,
        message: &rdkafka::message::BorrowedMessage<'_>,
    ) -> Option<Result<Fetched, BusError>> {
        let message = match message::read(message) {
            Ok(message) => message,
            Err(error) => return Some(Err(error)),
        };
        let partition = (message.topic.clone(), message.partition);
        // Of a partition that was taken away meanwhile: its new owner reads it.
        let term = self.consumer.context().assignment().term(&partition)?;
        Some(Ok(Fetched { message, term }))
    }

    /// Commits unless the partition is another member's by now. The broker is asked without
    /// the assignment's lock: `next` and the polling thread must not wait for it.
    fn commit(&self, partition: &Partition, offset: i64) -> Result<(), BusError> {
        for _ in 0..COMMIT_AGAIN.1 {
            let tried = {
                let _gate = self.consumer.context().gate();
                self.try_commit(partition, offset)
            };
            let Err(error) = tried else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(code) if lost_membership(code) => return Ok(()),
                Some(Code::RebalanceInProgress) if !self.left.load(Ordering::Acquire) => {}
                _ => return Err(meaning("committing a command", &error)),
            }
            std::thread::sleep(COMMIT_AGAIN.0);
        }
        Err(BusError::Unavailable("committing a command: the group does not settle".into()))
    }

    /// One try, at the gate.
    fn try_commit(&self, partition: &Partition, offset: i64) -> Result<(), KafkaError> {
        let context = self.consumer.context();
        let mut todo = context.assignment().commit(partition, offset);
        if todo == Commit::AskFirst {
            let committed = self.ask_committed(partition)?;
            let mut assignment = context.assignment();
            assignment.committed(partition, committed);
            todo = assignment.commit(partition, offset);
        }
        let Commit::Offset(next) = todo else { return Ok(()) };
        let mut offsets = TopicPartitionList::with_capacity(1);
        offsets.add_partition_offset(partition.0.as_str(), partition.1, Offset::Offset(next))?;
        self.consumer.commit(&offsets, CommitMode::Sync)?;
        context.assignment().committed(partition, next);
        Ok(())
    }

    /// The next offset the group is to read; 0 where it has committed nothing.
    fn ask_committed(&self, partition: &Partition) -> Result<i64, KafkaError> {
        let asked = list(std::iter::once(partition));
        let told = self.consumer.committed_offsets(asked, ASK_WITHIN)?;
        let offset = told.elements().first().map(|element| element.offset());
        Ok(offset.and_then(|offset| offset.to_raw()).map_or(0, |offset| offset.max(0)))
    }
}

impl Member {
    /// Whether a message that was fetched may be handed out; `None` when it is stale.
    fn is_paused(&self, fetched: &Fetched) -> Option<bool> {
        let assignment = self.shared.consumer.context().assignment();
        let partition = (fetched.message.topic.clone(), fetched.message.partition);
        let current = assignment.term(&partition) == Some(fetched.term);
        current.then(|| assignment.is_paused(&partition.0))
    }

    fn taken(&self, fetched: Fetched) -> InMessage {
        self.shared.consumer.context().taken(fetched.bytes());
        fetched.message
    }

    fn unstash(&mut self) -> Option<InMessage> {
        let mut at = 0;
        while at < self.stash.len() {
            let paused = self.is_paused(&self.stash[at]);
            if paused == Some(true) {
                at += 1;
                continue;
            }
            let message = self.stash.remove(at).map(|fetched| self.taken(fetched));
            if paused == Some(false) {
                return message;
            }
        }
        None
    }
}

#[async_trait]
impl GroupConsumer for Member {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        loop {
            // A message is taken and returned, or stashed, without an await in between:
            // dropping the future loses none.
            if let Some(message) = self.unstash() {
                return Ok(message);
            }
            let ended = || BusError::Unavailable("the consumer's thread has ended".into());
            let fetched = match self.items.recv().await.ok_or_else(ended)? {
                Ok(fetched) => fetched,
                Err(error) => {
                    self.shared.consumer.context().taken(0);
                    return Err(error);
                }
            };
            match self.is_paused(&fetched) {
                Some(false) => return Ok(self.taken(fetched)),
                Some(true) => self.stash.push_back(fetched),
                None => drop(self.taken(fetched)),
            }
        }
    }

    async fn commit(&mut self, message: &InMessage) -> Result<(), BusError> {
        let shared = self.shared.clone();
        let (partition, offset) = ((message.topic.clone(), message.partition), message.offset);
        tasks::spawn_blocking("commit-kafka", move || shared.commit(&partition, offset))
            .await
            .unwrap_or_else(|| Err(BusError::Unavailable("the commit was interrupted".into())))
    }

    async fn pause(&mut self, topic: &Topic, paused: bool) -> Result<(), BusError> {
        let (shared, topic) = (self.shared.clone(), topic.clone());
        let switched = tasks::spawn_blocking("pause-kafka", move || {
            shared.consumer.context().pause(&shared.consumer, &topic, paused);
        });
        let interrupted = || BusError::Unavailable("the pause was interrupted".into());
        switched.await.ok_or_else(interrupted)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The polling thread sees it within `POLL`, and closes the consumer there. It does
        // not unsubscribe: a static member that unsubscribes leaves its partitions.
        self.shared.left.store(true, Ordering::Release);
    }
}
