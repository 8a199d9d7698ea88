//! A Kafka broker as the bus.
//!
//! librdkafka wants its handles polled by somebody who may block, so every reader has a
//! thread of its own; what that thread reads goes to the async side through a channel, and
//! fetching stops while enough waits there. Rebalances happen on that thread as well:
//! `assignment` is what both sides agree on, and a gate keeps a commit and a revocation from
//! crossing.

mod admin;
mod assignment;
mod client;
mod error;
#[cfg(test)]
mod faults;
mod member;
mod message;
mod producer;
mod properties;
mod reader;
mod rebalances;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub use properties::{is_secret, refused};

use self::producer::Producers;
use self::properties::Properties;
use super::{Bus, BusError, GroupConsumer, History, OutMessage, Tail, Topic};
use crate::tasks;

/// How long one question to the broker may take before it counts as out of reach.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// What a [`KafkaBus`] is made of.
#[derive(Clone)]
pub struct KafkaOptions {
    /// The brokers' addresses, `host:port`, with commas between them.
    pub bootstrap: String,
    /// What the broker's logs and quotas know this process by.
    pub client_id: String,
    /// librdkafka's properties, secrets included; none of them [`refused`].
    pub properties: BTreeMap<String, String>,
    /// How long a lease lasts: an event is given up after half of it at most.
    pub lease_ttl: Duration,
}

/// A Kafka cluster. Clones share the connections of the producers.
#[derive(Clone)]
pub struct KafkaBus {
    properties: Arc<Properties>,
    producers: Arc<Producers>,
}

impl KafkaBus {
    /// Checks the options and prepares the producers. No broker needs to answer yet.
    /// [`BusError::Fatal`] names the property that librdkafka does not take.
    pub fn connect(options: KafkaOptions) -> Result<Self, BusError> {
        let properties = Arc::new(Properties::new(options)?);
        let producers = Arc::new(Producers::new(properties.clone())?);
        Ok(Self { properties, producers })
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Properties) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        let properties = self.properties.clone();
        let asked = tasks::spawn_blocking("ask-kafka", move || question(&properties));
        asked.await.ok_or_else(|| BusError::Unavailable("the question was interrupted".into()))?
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        let topics = topics.to_vec();
        self.ask(move |properties| admin::ensure_topics(properties, &topics)).await
    }

    async fn publish(
        &self,
        messages: &[OutMessage],
        deadline: Option<Instant>,
    ) -> Result<(), BusError> {
        self.producers.publish(messages, deadline).await
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn GroupConsumer>, BusError> {
        self.ensure_topics(topics).await?;
        let (group, topics) = (group.to_owned(), topics.to_vec());
        let member = self.ask(move |properties| member::join(properties, &group, &topics)).await?;
        Ok(Box::new(member))
    }

    async fn tail(&self, topics: &[Topic]) -> Result<Box<dyn Tail>, BusError> {
        self.ensure_topics(topics).await?;
        let topics = topics.to_vec();
        let tail = self.ask(move |properties| reader::from_the_end(properties, topics)).await?;
        Ok(Box::new(tail))
    }

    async fn history(&self, topic: &Topic) -> Result<Box<dyn History>, BusError> {
        self.ensure_topics(std::slice::from_ref(topic)).await?;
        let topic = topic.clone();
        let history = self.ask(move |properties| reader::up_to_now(properties, topic)).await?;
        Ok(Box::new(history))
    }
}
