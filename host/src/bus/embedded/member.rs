//! A group's member.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::sql::{self, Turn};
use crate::bus::{BusError, GroupConsumer, InMessage, Topic};
use crate::sqlite::{Abort, Database, Failure, Shared, Tx};

/// How soon a member that waits for another's turn looks whether that one's process is
/// gone, which nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Who a member is to the others.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) group: Arc<str>,
    pub(super) process: Arc<str>,
    /// Its number within the process.
    pub(super) number: i64,
}

pub(super) struct Member {
    db: Database,
    who: Identity,
    topics: Vec<Subscribed>,
    /// Read and not yet handed out.
    buffer: VecDeque<InMessage>,
    /// A look at the topics under way; it outlives the `next` that began it, so that what
    /// it brings is lost to nobody.
    looking: Option<Looking>,
    changes: watch::Receiver<u64>,
    /// Which topic is looked at first, so that a busy one does not starve the others.
    first: usize,
}

type Looking = Pin<Box<dyn Future<Output = Result<Found, Failure>> + Send>>;

#[derive(Debug, Clone)]
struct Subscribed {
    topic: Topic,
    id: i64,
    paused: bool,
    /// What is known of the turn while it is this member's.
    held: Option<Held>,
}

/// Places in a topic, as this member knows them.
#[derive(Debug, Clone, Copy)]
struct Held {
    committed: i64,
    handed_out: i64,
    fetched: i64,
}

/// What a look brought.
#[derive(Default)]
struct Found {
    topics: Vec<FoundTopic>,
    /// Something waits that another member is at.
    blocked: bool,
}

struct FoundTopic {
    at: usize,
    committed: i64,
    messages: Vec<InMessage>,
}

impl Member {
    pub(super) async fn join(
        db: Database,
        who: Identity,
        topics: &[Topic],
        ids: &[i64],
    ) -> Result<Self, BusError> {
        let (group, joined) = (who.group.clone(), ids.to_vec());
        let joined = db.write(move |tx| {
            for id in joined {
                sql::join(tx, &group, id)?;
            }
            Ok(())
        });
        joined.await?;
        let subscribed = |(topic, id): (&Topic, &i64)| Subscribed {
            topic: topic.clone(),
            id: *id,
            paused: false,
            held: None,
        };
        let topics = topics.iter().zip(ids).map(subscribed).collect();
        let changes = db.changes();
        Ok(Self { db, who, topics, buffer: VecDeque::new(), looking: None, changes, first: 0 })
    }

    /// Begins a look at the topics that are not paused, and takes the turns of those
    /// where something waits.
    fn look(&mut self) -> Looking {
        self.changes.borrow_and_update();
        self.first = (self.first + 1) % self.topics.len().max(1);
        let order = (self.first..self.topics.len()).chain(0..self.first);
        let wanted: Vec<_> = order
            .map(|at| (at, self.topics[at].clone()))
            .filter(|(_, topic)| !topic.paused)
            .collect();
        let look = Look { shared: self.db.shared(), who: self.who.clone(), wanted };
        let db = self.db.clone();
        Box::pin(async move {
            // Most looks find nothing; they only read.
            let (look, something) = db.read(move |tx| look.glance(tx)).await?;
            match something {
                Turn::Free { .. } => db.write(move |tx| look.take(tx)).await,
                Turn::Taken => Ok(Found { blocked: true, ..Found::default() }),
                Turn::Idle => Ok(Found::default()),
            }
        })
    }

    /// Waits for the look under way, or for a new one, and keeps what it brings. True
    /// when something waits that another member is at.
    async fn finish_look(&mut self) -> Result<bool, BusError> {
        let looking = match self.looking.take() {
            Some(looking) => looking,
            None => self.look(),
        };
        let found = self.looking.insert(looking).await;
        self.looking = None;
        let found = found?;
        for topic in found.topics {
            self.keep(topic);
        }
        Ok(found.blocked)
    }

    fn keep(&mut self, found: FoundTopic) {
        let subscribed = &mut self.topics[found.at];
        let committed = found.committed;
        let held = subscribed.held.get_or_insert(Held {
            committed,
            handed_out: committed,
            fetched: committed,
        });
        if !subscribed.paused {
            if let Some(last) = found.messages.last() {
                held.fetched = last.offset;
            }
            self.buffer.extend(found.messages);
        }
        if held.is_done() {
            self.release(found.at);
        }
    }

    /// Gives up a turn without waiting for it.
    fn release(&mut self, at: usize) {
        self.topics[at].held = None;
        let (who, topic) = (self.who.clone(), self.topics[at].id);
        self.db.write_later(move |tx| sql::release(tx, &who, topic));
    }

    fn pop(&mut self) -> Option<InMessage> {
        let message = self.buffer.pop_front()?;
        let topic = self.topics.iter_mut().find(|topic| topic.topic == message.topic);
        if let Some(held) = topic.and_then(|topic| topic.held.as_mut()) {
            held.handed_out = message.offset;
        }
        Some(message)
    }

    fn position(&self, topic: &Topic) -> Result<usize, BusError> {
        self.topics.iter().position(|subscribed| subscribed.topic == *topic).ok_or_else(|| {
            BusError::Fatal(format!(
                "group `{}` was not subscribed to the topic {topic} by this member",
                self.who.group
            ))
        })
    }
}

impl Held {
    /// Everything read was handed out, and everything handed out is committed.
    fn is_done(self) -> bool {
        self.handed_out == self.fetched && self.committed >= self.handed_out
    }
}

/// A look at some topics on behalf of a member.
struct Look {
    shared: Arc<Shared>,
    who: Identity,
    wanted: Vec<(usize, Subscribed)>,
}

impl Look {
    fn glance(self, tx: &Tx<'_>) -> Result<(Self, Turn), Abort> {
        let mut seen = Turn::Idle;
        for (_, topic) in &self.wanted {
            match self.turn(tx, topic)? {
                Turn::Idle => {}
                Turn::Taken => seen = Turn::Taken,
                free @ Turn::Free { .. } => {
                    seen = free;
                    break;
                }
            }
        }
        Ok((self, seen))
    }

    fn take(self, tx: &Tx<'_>) -> Result<Found, Abort> {
        let mut found = Found::default();
        for (at, topic) in &self.wanted {
            match self.turn(tx, topic)? {
                Turn::Idle => {}
                Turn::Taken => found.blocked = true,
                Turn::Free { from, committed, mine } => {
                    if !mine {
                        sql::take(tx, &self.who, topic.id)?;
                    }
                    let messages = sql::after(tx, (&topic.topic, topic.id), from)?;
                    found.topics.push(FoundTopic { at: *at, committed, messages });
                }
            }
        }
        Ok(found)
    }

    fn turn(&self, tx: &Tx<'_>, topic: &Subscribed) -> Result<Turn, Abort> {
        let fetched = topic.held.map_or(0, |held| held.fetched);
        sql::look(tx, &self.shared, &self.who, (topic.id, fetched))
    }
}

#[async_trait]
impl GroupConsumer for Member {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        loop {
            if let Some(message) = self.pop() {
                return Ok(message);
            }
            let blocked = self.finish_look().await?;
            if !self.buffer.is_empty() {
                continue;
            }
            // Waiting changes nothing; dropping it loses nothing.
            if blocked {
                let _ = tokio::time::timeout(LOOK_AGAIN, self.changes.changed()).await;
            } else if self.changes.changed().await.is_err() {
                return Err(BusError::Fatal("the database was closed".into()));
            }
        }
    }

    async fn commit(&mut self, message: &InMessage) -> Result<(), BusError> {
        let at = self.position(&message.topic)?;
        if self.looking.is_some() {
            // What it fetches decides whether the turn is done. `next` meets its error.
            let _ = self.finish_look().await;
        }
        let topic = self.topics[at].id;
        let Some(mut held) = self.topics[at].held else {
            // The turn was given up, which is done only when all is committed.
            return Ok(());
        };
        held.committed = held.committed.max(message.offset);
        let (who, seq, done) = (self.who.clone(), message.offset, held.is_done());
        let committed = self.db.write(move |tx| {
            let committed = sql::commit(tx, &who, topic, seq)?;
            if done {
                sql::release(tx, &who, topic)?;
            }
            Ok(committed)
        });
        if !committed.await? {
            return Err(BusError::Unavailable(format!(
                "the topic {} is no longer this member's",
                message.topic
            )));
        }
        self.topics[at].held = (!done).then_some(held);
        Ok(())
    }

    async fn pause(&mut self, topic: &Topic, paused: bool) -> Result<(), BusError> {
        let at = self.position(topic)?;
        if self.looking.is_some() {
            // It may be taking the turn. `next` meets its error.
            let _ = self.finish_look().await;
        }
        self.topics[at].paused = paused;
        if paused {
            self.buffer.retain(|message| message.topic != *topic);
            if let Some(held) = &mut self.topics[at].held {
                held.fetched = held.handed_out;
                if held.is_done() {
                    self.release(at);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        for at in 0..self.topics.len() {
            self.release(at);
        }
    }
}
