//! A member of a consumer group.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::assignment::{Assignment, Partition};
use super::client::Log;
use super::error::{lost_membership, meaning, of_code};
use super::message;
use super::properties::{Properties, Use};
use crate::bus::{BusError, GroupConsumer, InMessage, Topic};
use crate::tasks::{self, TaskHandle};

/// How long one poll waits; what the committing side asks of the thread waits as long.
const POLL: Duration = Duration::from_millis(100);

/// Messages that may wait for `next`. When they are more, fetching pauses.
const WAITING: usize = 256;

/// The waits between two tries of a commit that a rebalance keeps from going through, and
/// how many there are.
const COMMIT_AGAIN: (Duration, u32) = (Duration::from_millis(100), 100);

/// A member, joining or joined.
pub(super) struct Member {
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Result<Fetched, BusError>>,
    /// Of topics that were paused after they had been fetched.
    stash: VecDeque<Fetched>,
    _polling: TaskHandle<()>,
}

struct Shared {
    consumer: BaseConsumer<Rebalances>,
    left: AtomicBool,
}

/// What librdkafka's callbacks write to.
struct Rebalances {
    log: Log,
    assignment: Mutex<Assignment>,
    /// The reader is behind: nothing is to be fetched for now.
    held_back: AtomicBool,
}

struct Fetched {
    message: InMessage,
    term: u64,
}

/// Begins to join. The first messages come once the group has been balanced.
pub(super) fn join(
    properties: &Properties,
    group: &str,
    topics: &[Topic],
) -> Result<Member, BusError> {
    let context = Rebalances {
        log: Log::default(),
        assignment: Mutex::default(),
        held_back: AtomicBool::new(false),
    };
    let consumer: BaseConsumer<Rebalances> = properties
        .of(Use::Member { group })
        .create_with_context(context)
        .map_err(|error| meaning("joining a consumer group", &error))?;
    let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    consumer
        .subscribe(&names)
        .map_err(|error| meaning(&format!("joining the group {group}"), &error))?;
    let shared = Arc::new(Shared { consumer, left: AtomicBool::new(false) });
    let (sender, messages) = mpsc::channel(WAITING);
    let (polled, group) = (shared.clone(), group.to_owned());
    let polling = tasks::spawn_blocking("poll-kafka", move || poll(&polled, &group, &sender));
    Ok(Member { shared, messages, stash: VecDeque::new(), _polling: polling })
}

/// Polls until the member leaves, however long nobody wants a message: a member that does
/// not poll is expelled. The consumer is closed here, where that may block.
fn poll(shared: &Shared, group: &str, sender: &mpsc::Sender<Result<Fetched, BusError>>) {
    let context = shared.consumer.context();
    let mut behind: VecDeque<Result<Fetched, BusError>> = VecDeque::new();
    while !shared.left.load(Ordering::Acquire) {
        while let Some(item) = behind.pop_front() {
            if let Err(error) = sender.try_send(item) {
                behind.push_front(error.into_inner());
                break;
            }
        }
        if behind.is_empty() && context.held_back.swap(false, Ordering::AcqRel) {
            shared.fetch(true);
        }
        let item = match shared.consumer.poll(POLL) {
            None => continue,
            Some(Ok(message)) => shared.fetched(&message),
            Some(Err(error)) => of_poll(group, &error).map(Err),
        };
        let Some(item) = item else { continue };
        if behind.is_empty() {
            match sender.try_send(item) {
                Ok(()) => continue,
                Err(refused) => behind.push_back(refused.into_inner()),
            }
        } else {
            behind.push_back(item);
        }
        if !context.held_back.swap(true, Ordering::AcqRel) {
            shared.fetch(false);
        }
    }
    shared.consumer.unsubscribe();
}

/// What an error of a poll means to the reader. librdkafka looks for its brokers by itself
/// for as long as it takes, and logs that it does.
fn of_poll(group: &str, error: &KafkaError) -> Option<BusError> {
    let code = error.rdkafka_error_code()?;
    match code {
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::CoordinatorLoadInProgress
        | Code::RebalanceInProgress => None,
        _ => Some(of_code(&format!("reading as a member of the group {group}"), code)),
    }
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

    /// Begins or stops to fetch everything that is not paused.
    fn fetch(&self, on: bool) {
        let assignment = self.consumer.context().assignment();
        let partitions = assignment.partitions().filter(|(topic, _)| !assignment.is_paused(topic));
        self.switch(&list(partitions), on);
    }

    fn switch(&self, partitions: &TopicPartitionList, on: bool) {
        if partitions.count() == 0 {
            return;
        }
        let switched =
            if on { self.consumer.resume(partitions) } else { self.consumer.pause(partitions) };
        // A partition that has just been taken away cannot be switched, and need not be.
        if let Err(error) = switched {
            tracing::debug!(target: "kafka", %error, on, "partitions were not switched");
        }
    }

    fn pause(&self, topic: &Topic, paused: bool) {
        let context = self.consumer.context();
        let mut assignment = context.assignment();
        if assignment.pause(topic, paused) && !context.held_back.load(Ordering::Acquire) {
            let of_topic = assignment.partitions().filter(|(name, _)| name == topic);
            self.switch(&list(of_topic), !paused);
        }
    }

    /// Commits unless the partition is another member's by now.
    fn commit(&self, partition: &Partition, offset: i64) -> Result<(), BusError> {
        for _ in 0..COMMIT_AGAIN.1 {
            {
                // Under the lock: a revocation waits for the commit, which comes before the
                // new owner's first look.
                let mut assignment = self.consumer.context().assignment();
                let Some(next) = assignment.next_commit(partition, offset) else {
                    return Ok(());
                };
                let error = match self.try_commit(partition, next) {
                    Ok(()) => {
                        assignment.committed(partition, next);
                        return Ok(());
                    }
                    Err(error) => error,
                };
                match error.rdkafka_error_code() {
                    Some(code) if lost_membership(code) => return Ok(()),
                    Some(Code::RebalanceInProgress) => {}
                    _ => return Err(meaning("committing a command", &error)),
                }
            }
            std::thread::sleep(COMMIT_AGAIN.0);
        }
        Err(BusError::Unavailable("committing a command: the group does not settle".into()))
    }

    fn try_commit(&self, (topic, number): &Partition, next: i64) -> Result<(), KafkaError> {
        let mut offsets = TopicPartitionList::with_capacity(1);
        offsets.add_partition_offset(topic.as_str(), *number, Offset::Offset(next))?;
        self.consumer.commit(&offsets, CommitMode::Sync)
    }
}

impl Rebalances {
    fn assignment(&self) -> MutexGuard<'_, Assignment> {
        // No code panics while it holds the lock; a poisoned one is as good as any.
        self.assignment.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Rebalances {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, kind: &str, text: &str) {
        self.log.log(level, kind, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            let mut assignment = self.assignment();
            for partition in names(partitions) {
                tracing::debug!(target: "kafka", ?partition, "partition taken away");
                assignment.revoke(&partition);
            }
        } else if let Rebalance::Error(_) = rebalance {
            self.assignment().revoke_all();
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(partitions) = rebalance else { return };
        let mut assignment = self.assignment();
        let mut still = Vec::new();
        for partition in names(partitions) {
            tracing::debug!(target: "kafka", ?partition, "partition given");
            if assignment.is_paused(&partition.0) || self.held_back.load(Ordering::Acquire) {
                still.push(partition.clone());
            }
            assignment.assign(partition);
        }
        if let Err(error) = consumer.pause(&list(still.iter())) {
            tracing::debug!(target: "kafka", %error, "new partitions were not paused");
        }
    }
}

fn names(partitions: &TopicPartitionList) -> Vec<Partition> {
    let elements = partitions.elements().into_iter();
    elements.filter_map(|e| Some((Topic::new(e.topic()).ok()?, e.partition()))).collect()
}

fn list<'a>(partitions: impl Iterator<Item = &'a Partition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, number) in partitions {
        list.add_partition(topic.as_str(), *number);
    }
    list
}

impl Member {
    /// Whether a message that was fetched may be handed out; `None` when it is stale.
    fn is_paused(&self, fetched: &Fetched) -> Option<bool> {
        let assignment = self.shared.consumer.context().assignment();
        let partition = (fetched.message.topic.clone(), fetched.message.partition);
        let current = assignment.term(&partition) == Some(fetched.term);
        current.then(|| assignment.is_paused(&partition.0))
    }

    fn from_stash(&mut self) -> Option<InMessage> {
        let mut at = 0;
        while at < self.stash.len() {
            match self.is_paused(&self.stash[at]) {
                Some(true) => at += 1,
                Some(false) => return self.stash.remove(at).map(|fetched| fetched.message),
                None => drop(self.stash.remove(at)),
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
            if let Some(message) = self.from_stash() {
                return Ok(message);
            }
            let gone = || BusError::Unavailable("the consumer's thread has ended".into());
            let fetched = self.messages.recv().await.ok_or_else(gone)??;
            match self.is_paused(&fetched) {
                Some(false) => return Ok(fetched.message),
                Some(true) => self.stash.push_back(fetched),
                None => {}
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
        let switched =
            tasks::spawn_blocking("pause-kafka", move || shared.pause(&topic, paused)).await;
        switched.ok_or_else(|| BusError::Unavailable("the pause was interrupted".into()))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The polling thread sees it within `POLL`, and closes the consumer there.
        self.shared.left.store(true, Ordering::Release);
    }
}
