//! A reader outside any group.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;
use tokio::sync::watch;

use super::sql;
use crate::bus::{BusError, History, InMessage, Tail, Topic};
use crate::sqlite::{Database, Failure};

pub(super) struct EmbeddedTail {
    db: Database,
    topics: Vec<Position>,
    buffer: VecDeque<InMessage>,
    /// A read under way; it outlives the `next` that began it.
    reading: Option<Reading>,
    changes: watch::Receiver<u64>,
}

type Reading = Pin<Box<dyn Future<Output = Result<Vec<Position>, Failure>> + Send>>;

/// What was read of a topic.
#[derive(Clone)]
struct Position {
    topic: Topic,
    id: i64,
    seq: i64,
    messages: Vec<InMessage>,
}

impl EmbeddedTail {
    pub(super) async fn open(
        db: Database,
        topics: &[Topic],
        ids: &[i64],
    ) -> Result<Self, BusError> {
        let changes = db.changes();
        let seq = db.read(|tx| Ok(sql::last_seq(tx)?)).await?;
        let position = |(topic, id): (&Topic, &i64)| Position {
            topic: topic.clone(),
            id: *id,
            seq,
            messages: Vec::new(),
        };
        let topics = topics.iter().zip(ids).map(position).collect();
        Ok(Self { db, topics, buffer: VecDeque::new(), reading: None, changes })
    }

    fn read(&mut self) -> Reading {
        self.changes.borrow_and_update();
        let (db, mut topics) = (self.db.clone(), self.topics.clone());
        Box::pin(async move {
            let read = db.read(move |tx| {
                for position in &mut topics {
                    let topic = (&position.topic, position.id);
                    position.messages = sql::after(tx, topic, position.seq)?;
                    position.seq =
                        position.messages.last().map_or(position.seq, |last| last.offset);
                }
                Ok(topics)
            });
            read.await
        })
    }
}

#[async_trait]
impl Tail for EmbeddedTail {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        loop {
            if let Some(message) = self.buffer.pop_front() {
                return Ok(message);
            }
            let reading = match self.reading.take() {
                Some(reading) => reading,
                None => self.read(),
            };
            let read = self.reading.insert(reading).await;
            self.reading = None;
            self.topics = read?;
            for position in &mut self.topics {
                self.buffer.append(&mut std::mem::take(&mut position.messages).into());
            }
            if self.buffer.is_empty() && self.changes.changed().await.is_err() {
                return Err(BusError::Fatal("the database was closed".into()));
            }
        }
    }
}

/// What was in a topic when the reader was opened.
pub(super) struct EmbeddedHistory {
    db: Database,
    topic: Topic,
    id: i64,
    /// The last message that was read, and the last to be read.
    seq: i64,
    end: i64,
    page: VecDeque<InMessage>,
}

impl EmbeddedHistory {
    pub(super) async fn open(db: Database, topic: &Topic, id: i64) -> Result<Self, BusError> {
        let end = db.read(|tx| Ok(sql::last_seq(tx)?)).await?;
        Ok(Self { db, topic: topic.clone(), id, seq: 0, end, page: VecDeque::new() })
    }
}

#[async_trait]
impl History for EmbeddedHistory {
    async fn next(&mut self) -> Result<Option<InMessage>, BusError> {
        if self.page.is_empty() {
            let (topic, id, seq) = (self.topic.clone(), self.id, self.seq);
            let page = self.db.read(move |tx| sql::after(tx, (&topic, id), seq)).await?;
            self.page = page.into();
        }
        let next = self.page.pop_front().filter(|message| message.offset <= self.end);
        if let Some(message) = &next {
            self.seq = message.offset;
        }
        Ok(next)
    }
}
