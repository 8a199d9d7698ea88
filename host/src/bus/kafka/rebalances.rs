//! What a member and its polling thread share, and the group's word on who reads what.
//!
//! librdkafka calls back on the polling thread, and the group waits for the callback's
//! return: that is the acknowledgement. Who holds the gate keeps a revocation waiting.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::{ClientContext, TopicPartitionList};

use super::assignment::{Assignment, Partition};
use super::client::Log;
use crate::bus::Topic;

/// From here on nothing more is fetched, until it is half of it: messages that wait to be
/// read, and their bytes. Stopping and going on costs about as much time as reading a
/// hundred messages.
const ENOUGH: (usize, usize) = (4096, 4 << 20);

/// What librdkafka's callbacks write to.
pub(super) struct Rebalances {
    log: Log,
    assignment: Mutex<Assignment>,
    gate: Mutex<()>,
    /// The reader is behind: nothing is to be fetched for now.
    held_back: AtomicBool,
    waiting: Waiting,
}

/// What was fetched and not read yet.
#[derive(Default)]
struct Waiting {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl Rebalances {
    /// Those of a member that has nothing yet.
    pub fn new(log: Log) -> Self {
        Self {
            log,
            assignment: Mutex::default(),
            gate: Mutex::default(),
            held_back: AtomicBool::new(false),
            waiting: Waiting::default(),
        }
    }

    /// What this member has. Held for a moment only, never over a question to the broker.
    pub fn assignment(&self) -> MutexGuard<'_, Assignment> {
        lock(&self.assignment)
    }

    /// While it is held no partition is taken away: a commit under it comes before the new
    /// owner's first look. It may be held for as long as the broker takes to answer, and is
    /// taken before the assignment.
    pub fn gate(&self) -> MutexGuard<'_, ()> {
        lock(&self.gate)
    }

    /// Notes a message that waits to be read.
    pub fn put(&self, bytes: usize) {
        self.waiting.messages.fetch_add(1, Ordering::AcqRel);
        self.waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Notes that it was read, or passed over.
    pub fn taken(&self, bytes: usize) {
        self.waiting.messages.fetch_sub(1, Ordering::AcqRel);
        self.waiting.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Whether nothing is fetched because enough is waiting.
    pub fn is_held_back(&self) -> bool {
        self.held_back.load(Ordering::Acquire)
    }

    /// Stops fetching while enough is waiting, and resumes it once half of that was read:
    /// whoever stops throws away what librdkafka has fetched ahead. For the polling thread.
    pub fn keep_pace(&self, consumer: &BaseConsumer<Self>) {
        let messages = self.waiting.messages.load(Ordering::Acquire);
        let bytes = self.waiting.bytes.load(Ordering::Acquire);
        let held_back = self.is_held_back();
        let hold = if held_back {
            messages > ENOUGH.0 / 2 || bytes > ENOUGH.1 / 2
        } else {
            messages >= ENOUGH.0 || bytes >= ENOUGH.1
        };
        if hold == held_back {
            return;
        }
        self.held_back.store(hold, Ordering::Release);
        let assignment = self.assignment();
        let open = assignment.partitions().filter(|(topic, _)| !assignment.is_paused(topic));
        switch(consumer, &list(open), !hold);
    }

    /// Stops or resumes fetching a topic, now and after every rebalance.
    pub fn pause(&self, consumer: &BaseConsumer<Self>, topic: &Topic, paused: bool) {
        let mut assignment = self.assignment();
        if assignment.pause(topic, paused) && !self.is_held_back() {
            let of_topic = assignment.partitions().filter(|(name, _)| name == topic);
            switch(consumer, &list(of_topic), !paused);
        }
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
        if let Rebalance::Assign(_) = rebalance {
            return;
        }
        let _gate = self.gate();
        let mut assignment = self.assignment();
        if let Rebalance::Revoke(partitions) = rebalance {
            for partition in names(partitions) {
                tracing::debug!(target: "kafka", ?partition, "partition taken away");
                assignment.revoke(&partition);
            }
        } else {
            assignment.revoke_all();
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(partitions) = rebalance else { return };
        let mut assignment = self.assignment();
        let mut still = Vec::new();
        for partition in names(partitions) {
            tracing::debug!(target: "kafka", ?partition, "partition given");
            if assignment.is_paused(&partition.0) || self.is_held_back() {
                still.push(partition.clone());
            }
            assignment.assign(partition);
        }
        switch(consumer, &list(still.iter()), false);
    }
}

/// Resumes (`on`) or pauses partitions.
fn switch(consumer: &BaseConsumer<Rebalances>, partitions: &TopicPartitionList, on: bool) {
    if partitions.count() == 0 {
        return;
    }
    let switched = if on { consumer.resume(partitions) } else { consumer.pause(partitions) };
    // A partition that has just been taken away cannot be switched, and need not be.
    if let Err(error) = switched {
        tracing::debug!(target: "kafka", %error, on, "partitions were not switched");
    }
}

fn names(partitions: &TopicPartitionList) -> Vec<Partition> {
    let elements = partitions.elements().into_iter();
    elements.filter_map(|e| Some((Topic::new(e.topic()).ok()?, e.partition()))).collect()
}

/// librdkafka's list of partitions.
pub(super) fn list<'a>(partitions: impl Iterator<Item = &'a Partition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, number) in partitions {
        list.add_partition(topic.as_str(), *number);
    }
    list
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one; a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
