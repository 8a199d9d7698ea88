//! The bus as a worker reaches it over its line: what it publishes leaves in order, and its
//! partitions may be taken away.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use flowkit::bus::memory::MemoryBus;
use flowkit::bus::{Bus, BusError, GroupConsumer, History, InMessage, OutMessage, Tail, Topic};
use rand::RngExt as _;
use tokio::time::Instant;

use super::Line;

/// The bus at the end of a line.
pub struct FarBus {
    pub line: Line,
    pub bus: MemoryBus,
}

#[async_trait]
impl Bus for FarBus {
    async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        self.line.bus_passes()?;
        self.bus.ensure_topics(topics).await
    }

    async fn publish(
        &self,
        messages: &[OutMessage],
        deadline: Option<Instant>,
    ) -> Result<(), BusError> {
        let wire = self.line.state().wire.clone();
        let in_order = wire.lock().await;
        self.line.travel().await;
        self.line.bus_passes()?;
        let closed = self.line.state().closed_topic.clone();
        if messages.iter().any(|message| Some(&message.topic) == closed.as_ref()) {
            return Err(BusError::Fatal("nobody may write here".into()));
        }
        if let Some((topic, most)) = self.line.state().small_topic.clone() {
            let of_topic = messages.iter().filter(|message| message.topic == topic);
            if let Some(size) = of_topic.map(|m| m.value.len()).find(|size| *size > most) {
                return Err(BusError::TooLarge { size, limit: size - 1 });
            }
        }
        self.line.mortal().await;
        self.bus.publish(messages, deadline).await?;
        let witness = self.line.state().witness.clone();
        if let Some(witness) = witness {
            witness.published(messages).await;
        }
        drop(in_order);
        self.line.mortal().await;
        self.line.travel().await;
        let mut state = self.line.state();
        let lost = state.lost_answers;
        if lost > 0 && state.rng.random_range(0..1000) < lost {
            return Err(BusError::Unavailable("the answer was lost".into()));
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        group: &str,
        topics: &[Topic],
    ) -> Result<Box<dyn GroupConsumer>, BusError> {
        self.line.bus_passes()?;
        let inner = self.bus.subscribe(group, topics).await?;
        let assignment = {
            let mut state = self.line.state();
            state.joined += 1;
            state.assignment
        };
        Ok(Box::new(FarConsumer {
            line: self.line.clone(),
            bus: self.bus.clone(),
            group: group.to_owned(),
            topics: topics.to_vec(),
            paused: BTreeSet::new(),
            assignment,
            inner,
        }))
    }

    async fn tail(&self, topics: &[Topic]) -> Result<Box<dyn Tail>, BusError> {
        self.line.bus_passes()?;
        let inner = self.bus.tail(topics).await?;
        Ok(Box::new(FarTail { line: self.line.clone(), inner }))
    }

    async fn history(&self, topic: &Topic) -> Result<Box<dyn History>, BusError> {
        self.bus.history(topic).await
    }
}

struct FarConsumer {
    line: Line,
    bus: MemoryBus,
    group: String,
    topics: Vec<Topic>,
    paused: BTreeSet<Topic>,
    assignment: u64,
    inner: Box<dyn GroupConsumer>,
}

impl FarConsumer {
    /// Whether what was handed out before is still this member's to commit.
    fn is_assigned(&self) -> bool {
        self.line.state().assignment == self.assignment
    }

    async fn rebalance(&mut self) -> Result<(), BusError> {
        self.inner = self.bus.subscribe(&self.group, &self.topics).await?;
        for topic in &self.paused {
            self.inner.pause(topic, true).await?;
        }
        self.assignment = self.line.state().assignment;
        Ok(())
    }
}

#[async_trait]
impl GroupConsumer for FarConsumer {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        loop {
            self.line.bus_passes()?;
            if !self.is_assigned() {
                self.rebalance().await?;
            }
            let frozen = self.line.state().frozen;
            if frozen {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            // A consumer is woken by its messages; the rest it looks for now and then.
            let look = Duration::from_secs(2);
            if let Ok(message) = tokio::time::timeout(look, self.inner.next()).await {
                return message;
            }
        }
    }

    async fn commit(&mut self, message: &InMessage) -> Result<(), BusError> {
        self.line.bus_passes()?;
        self.line.mortal().await;
        if self.is_assigned() {
            self.inner.commit(message).await?;
            let witness = self.line.state().witness.clone();
            if let Some(witness) = witness {
                witness.committed(message).await;
            }
        }
        self.line.mortal().await;
        Ok(())
    }

    async fn pause(&mut self, topic: &Topic, paused: bool) -> Result<(), BusError> {
        match paused {
            true => self.paused.insert(topic.clone()),
            false => self.paused.remove(topic),
        };
        self.inner.pause(topic, paused).await
    }
}

struct FarTail {
    line: Line,
    inner: Box<dyn Tail>,
}

#[async_trait]
impl Tail for FarTail {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        self.line.bus_passes()?;
        self.inner.next().await
    }
}
