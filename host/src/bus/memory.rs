//! A broker in memory, for simulation and tests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{
    Bus, BusError, GroupConsumer, History, InMessage, MAX_MESSAGE_BYTES, OutMessage, Tail, Topic,
};
use crate::clock::Clock;

/// A broker in this process. Clones share it. Nothing in it waits for real time, so it
/// works under paused tokio time; dropping a consumer without a commit is what a crash of
/// its process looks like to the others.
#[derive(Clone)]
pub struct MemoryBus {
    broker: Arc<Broker>,
    clock: Clock,
}

struct Broker {
    state: Mutex<State>,
    /// Told of every change that a waiting reader may want to see; it wakes them in the
    /// order in which they began to wait, so that a simulation can be replayed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    topics: HashMap<Topic, Vec<InMessage>>,
    shares: BTreeMap<(String, Topic), Share>,
    members: u64,
}

/// What a group knows of a topic. One member at a time works through it: the one that was
/// handed messages, until it has committed them all or has left.
#[derive(Default)]
struct Share {
    committed: usize,
    delivered: usize,
    holder: Option<u64>,
}

impl Broker {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; a poisoned one is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.notify_waiters();
    }
}

impl MemoryBus {
    /// An empty broker whose messages are stamped by `clock`.
    pub fn new(clock: Clock) -> Self {
        let broker = Broker { state: Mutex::default(), changed: Notify::new() };
        Self { broker: Arc::new(broker), clock }
    }

    /// Every message of a topic, as published; for assertions.
    pub fn messages(&self, topic: &Topic) -> Vec<InMessage> {
        self.broker.state().topics.get(topic).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        let mut state = self.broker.state();
        for topic in topics {
            state.topics.entry(topic.clone()).or_default();
        }
        Ok(())
    }

    async fn publish(
        &self,
        messages: &[OutMessage],
        deadline: Option<Instant>,
    ) -> Result<(), BusError> {
        OutMessage::check_sizes(messages, MAX_MESSAGE_BYTES)?;
        if deadline.is_some_and(|deadline| deadline <= self.clock.now()) {
            return Err(BusError::Expired);
        }
        let timestamp = self.clock.wall();
        let mut state = self.broker.state();
        for message in messages {
            let log = state.topics.entry(message.topic.clone()).or_default();
            log.push(InMessage {
                topic: message.topic.clone(),
                partition: 0,
                offset: i64::try_from(log.len()).unwrap_or(i64::MAX),
                key: message.key.clone().map(String::into_bytes),
                value: message.value.clone(),
                headers: message.headers.clone(),
                timestamp,
            });
        }
        drop(state);
        self.broker.wake();
        Ok(())
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn GroupConsumer>, BusError> {
        self.ensure_topics(topics).await?;
        let mut state = self.broker.state();
        state.members += 1;
        Ok(Box::new(Member {
            broker: self.broker.clone(),
            group: group.to_owned(),
            id: state.members,
            topics: topics.to_vec(),
            paused: BTreeSet::new(),
            turn: 0,
        }))
    }

    async fn tail(&self, topics: &[Topic]) -> Result<Box<dyn Tail>, BusError> {
        self.ensure_topics(topics).await?;
        let state = self.broker.state();
        let positions =
            topics.iter().map(|t| (t.clone(), state.topics.get(t).map_or(0, Vec::len))).collect();
        Ok(Box::new(MemoryTail { broker: self.broker.clone(), positions }))
    }

    async fn history(&self, topic: &Topic) -> Result<Box<dyn History>, BusError> {
        Ok(Box::new(MemoryHistory(self.messages(topic).into_iter())))
    }
}

struct MemoryHistory(std::vec::IntoIter<InMessage>);

#[async_trait]
impl History for MemoryHistory {
    async fn next(&mut self) -> Result<Option<InMessage>, BusError> {
        Ok(self.0.next())
    }
}

struct Member {
    broker: Arc<Broker>,
    group: String,
    id: u64,
    topics: Vec<Topic>,
    paused: BTreeSet<Topic>,
    /// Which topic is looked at first, so that a busy one does not starve the others.
    turn: usize,
}

impl Member {
    fn take(&mut self) -> Option<InMessage> {
        let mut state = self.broker.state();
        let State { topics, shares, .. } = &mut *state;
        for step in 0..self.topics.len() {
            let topic = &self.topics[(self.turn + step) % self.topics.len()];
            if self.paused.contains(topic) {
                continue;
            }
            let share = shares.entry((self.group.clone(), topic.clone())).or_default();
            if share.holder.is_some_and(|holder| holder != self.id) {
                continue;
            }
            if let Some(message) = topics.get(topic).and_then(|log| log.get(share.delivered)) {
                share.holder = Some(self.id);
                share.delivered += 1;
                self.turn = (self.turn + step + 1) % self.topics.len();
                return Some(message.clone());
            }
        }
        None
    }
}

#[async_trait]
impl GroupConsumer for Member {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        let broker = self.broker.clone();
        loop {
            // It counts from here, so that nothing is missed between the look and the wait.
            let changed = broker.changed.notified();
            // A message is taken and returned without an await in between: dropping the
            // future loses none.
            if let Some(message) = self.take() {
                return Ok(message);
            }
            changed.await;
        }
    }

    async fn commit(&mut self, message: &InMessage) -> Result<(), BusError> {
        let mut state = self.broker.state();
        let share = state.shares.entry((self.group.clone(), message.topic.clone())).or_default();
        if share.holder == Some(self.id) {
            let next = usize::try_from(message.offset.saturating_add(1)).unwrap_or(0);
            share.committed = share.committed.max(next.min(share.delivered));
            if share.committed == share.delivered {
                share.holder = None;
            }
        }
        drop(state);
        self.broker.wake();
        Ok(())
    }

    async fn pause(&mut self, topic: &Topic, paused: bool) -> Result<(), BusError> {
        if paused {
            self.paused.insert(topic.clone());
        } else {
            self.paused.remove(topic);
        }
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.broker.state();
        for ((group, _), share) in &mut state.shares {
            if *group == self.group && share.holder == Some(self.id) {
                share.holder = None;
                share.delivered = share.committed;
            }
        }
        drop(state);
        self.broker.wake();
    }
}

struct MemoryTail {
    broker: Arc<Broker>,
    positions: Vec<(Topic, usize)>,
}

impl MemoryTail {
    fn take(&mut self) -> Option<InMessage> {
        let state = self.broker.state();
        for at in 0..self.positions.len() {
            let (topic, position) = &mut self.positions[at];
            if let Some(message) = state.topics.get(topic).and_then(|log| log.get(*position)) {
                *position += 1;
                let message = message.clone();
                self.positions.rotate_left(at + 1);
                return Some(message);
            }
        }
        None
    }
}

#[async_trait]
impl Tail for MemoryTail {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        let broker = self.broker.clone();
        loop {
            let changed = broker.changed.notified();
            if let Some(message) = self.take() {
                return Ok(message);
            }
            changed.await;
        }
    }
}
