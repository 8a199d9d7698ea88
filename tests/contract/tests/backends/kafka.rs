//! A Kafka broker: the bus's suite, and what a broker adds to it. Two buses are as two
//! processes have them.

pub mod crash;
mod outage;
mod rebalances;
mod rights;
mod statics;
mod strategies;
mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use contract::{Backend, BusBackend};
use flowkit::bus::kafka::{KafkaBus, KafkaOptions};
use flowkit::bus::{Bus, GroupConsumer, InMessage, OutMessage, Topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::time::{Instant, timeout};

/// Members that are killed are missed after this time.
const SESSION: Duration = Duration::from_secs(6);

/// Properties that make groups settle sooner than people need.
const QUICK: [(&str, &str); 2] = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "300")];

struct Kafka {
    first: KafkaBus,
    second: KafkaBus,
}

#[async_trait]
impl Backend for Kafka {
    async fn start() -> Self {
        Self { first: shared_bus("first", &[]), second: shared_bus("second", &[]) }
    }

    fn available(test: &str) -> bool {
        flowkit_servers::available(test)
    }
}

impl BusBackend for Kafka {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.first.clone())
    }

    fn other_bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.second.clone())
    }

    fn moves_uncommitted() -> bool {
        true
    }
}

contract::bus_suite!(Kafka, tokio::test);

/// Options for a broker, with a group's quick properties and `more`.
fn options(name: &str, bootstrap: &str, more: &[(&str, &str)]) -> KafkaOptions {
    let all = QUICK.iter().chain(more);
    KafkaOptions {
        bootstrap: bootstrap.to_owned(),
        client_id: name.to_owned(),
        properties: all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        lease_ttl: Duration::from_secs(60),
    }
}

/// A bus of the broker that all tests share.
fn shared_bus(name: &str, more: &[(&str, &str)]) -> KafkaBus {
    KafkaBus::connect(options(name, &flowkit_servers::shared().kafka, more)).unwrap()
}

/// A client of the broker that all tests share, as anybody may have it.
fn stranger() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &flowkit_servers::shared().kafka);
    config
}

/// A topic of its own with so many partitions, and a property.
async fn made_topic(partitions: i32, property: Option<(&str, &str)>) -> Topic {
    let topic = contract::bus::new_topic();
    let admin: AdminClient<DefaultClientContext> = stranger().create().unwrap();
    let new = NewTopic::new(topic.as_str(), partitions, TopicReplication::Fixed(1));
    let new = property.into_iter().fold(new, |new, (name, value)| new.set(name, value));
    let made = admin.create_topics(&[new], &AdminOptions::new()).await.unwrap();
    made.into_iter().next().unwrap().unwrap();
    topic
}

/// `count` messages whose keys are spread over a topic's partitions.
fn spread(topic: &Topic, count: usize) -> Vec<OutMessage> {
    let one = |n: usize| contract::bus::message(topic, Some(&format!("key-{n}")), &n.to_string());
    (0..count).map(one).collect()
}

/// Reads until `count` messages have come.
async fn read(consumer: &mut dyn GroupConsumer, count: usize) -> Vec<InMessage> {
    let mut read = Vec::new();
    while read.len() < count {
        read.push(contract::bus::next(consumer).await);
    }
    read
}

/// Reads until nothing has come for `quiet`.
async fn read_for(consumer: &mut dyn GroupConsumer, quiet: Duration) -> Vec<InMessage> {
    let mut read = Vec::new();
    while let Ok(message) = timeout(quiet, consumer.next()).await {
        read.push(message.unwrap());
    }
    read
}

/// The last message of each partition.
fn last_of_each(messages: &[InMessage]) -> BTreeMap<i32, InMessage> {
    messages.iter().map(|message| (message.partition, message.clone())).collect()
}

/// Where messages were, in order.
fn places(messages: &[InMessage]) -> Vec<(i32, i64)> {
    let mut places: Vec<_> = messages.iter().map(|m| (m.partition, m.offset)).collect();
    places.sort_unstable();
    places
}

/// Waits until `done`, which must be soon.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < contract::SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
