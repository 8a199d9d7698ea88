//! The bus in the embedded backend's SQLite file.
//!
//! A topic has one partition. Within a group one member at a time works through it: the
//! member takes the topic's turn when there is something to read, keeps it until all it
//! was handed is committed, and loses it when it leaves. A turn whose process is gone is
//! free. Readers are woken at once by what their own process publishes, and within some
//! 20 ms by what another does.

mod member;
mod sql;
mod tail;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Bus, BusError, GroupConsumer, History, MAX_MESSAGE_BYTES, OutMessage, Tail, Topic};
use crate::clock::Clock;
use crate::sqlite::{Database, Failure};

/// The bus of one database.
#[derive(Clone)]
pub struct EmbeddedBus {
    db: Database,
}

impl EmbeddedBus {
    /// A view of an open database.
    pub fn new(db: Database) -> Self {
        Self { db }
    }

    async fn topic_ids(&self, topics: &[Topic]) -> Result<Vec<i64>, BusError> {
        let topics = topics.to_vec();
        let ids = self.db.write(move |tx| {
            let ids = topics.iter().map(|topic| sql::topic_id(tx, topic));
            Ok(ids.collect::<rusqlite::Result<_>>()?)
        });
        Ok(ids.await?)
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        self.topic_ids(topics).await.map(drop)
    }

    async fn publish(
        &self,
        messages: &[OutMessage],
        deadline: Option<Instant>,
    ) -> Result<(), BusError> {
        OutMessage::check_sizes(messages, MAX_MESSAGE_BYTES)?;
        let messages = messages.to_vec();
        let published = self.db.write_before(deadline.map(Instant::into_std), move |tx| {
            let now = Clock::system().wall();
            for message in &messages {
                sql::insert(tx, message, now)?;
            }
            tx.wake_readers();
            Ok(())
        });
        match published.await {
            // Another program's lock outlasted the deadline; nothing was stored.
            Err(Failure::Unavailable(_)) if deadline.is_some_and(|d| d <= Instant::now()) => {
                Err(BusError::Expired)
            }
            published => Ok(published?),
        }
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn GroupConsumer>, BusError> {
        let process = self.db.process()?;
        let ids = self.topic_ids(topics).await?;
        let number = self.db.number();
        let identity = member::Identity { group: group.into(), process: process.into(), number };
        let consumer = member::Member::join(self.db.clone(), identity, topics, &ids).await?;
        Ok(Box::new(consumer))
    }

    async fn tail(&self, topics: &[Topic]) -> Result<Box<dyn Tail>, BusError> {
        let ids = self.topic_ids(topics).await?;
        Ok(Box::new(tail::EmbeddedTail::open(self.db.clone(), topics, &ids).await?))
    }
    async fn history(&self, topic: &Topic) -> Result<Box<dyn History>, BusError> {
        let ids = self.topic_ids(std::slice::from_ref(topic)).await?;
        Ok(Box::new(tail::EmbeddedHistory::open(self.db.clone(), topic, ids[0]).await?))
    }
}
