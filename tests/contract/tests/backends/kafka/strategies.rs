//! How partitions are shared out: the suite with the strategy of mixed fleets, and what
//! happens where members do not agree on one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use contract::bus::message;
use contract::{Backend, BusBackend, SOON, unique};
use flowkit::bus::kafka::KafkaBus;
use flowkit::bus::{Bus, BusError};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::time::timeout;

use super::{QUICK, made_topic, shared_bus, stranger, until};

const ROUND_ROBIN: (&str, &str) = ("partition.assignment.strategy", "roundrobin");

/// Every rebalance takes everything from everybody.
struct RoundRobin {
    first: KafkaBus,
    second: KafkaBus,
}

#[async_trait]
impl Backend for RoundRobin {
    async fn start() -> Self {
        let bus = |name| shared_bus(name, &[ROUND_ROBIN]);
        Self { first: bus("first"), second: bus("second") }
    }

    fn available(test: &str) -> bool {
        flowkit_servers::available(test)
    }
}

impl BusBackend for RoundRobin {
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

contract::bus_suite!(RoundRobin, tokio::test);

/// A worker in another language, which knows `roundrobin` alone.
#[tokio::test]
async fn members_that_disagree_are_told_what_to_set() {
    if !flowkit_servers::available("kafka::members_that_disagree_are_told_what_to_set") {
        return;
    }
    let (topic, group) = (made_topic(2, None).await, unique("g"));
    let mut config = stranger();
    for (name, value) in QUICK {
        config.set(name, value);
    }
    config.set("group.id", &group).set(ROUND_ROBIN.0, ROUND_ROBIN.1);
    config.set("auto.offset.reset", "earliest");
    let other: BaseConsumer = config.create().unwrap();
    other.subscribe(&[topic.as_str()]).unwrap();
    let bus = shared_bus("w", &[]);
    bus.publish(&[message(&topic, None, "here")], None).await.unwrap();
    until("the other member reads", async || {
        let read = other.poll(Duration::from_millis(100)).and_then(Result::ok);
        read.is_some_and(|read| read.payload() == Some(b"here"))
    })
    .await;

    let mut member = bus.subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    match timeout(SOON, member.next()).await.expect("an answer") {
        Err(BusError::Fatal(text)) => {
            assert!(text.contains("partition.assignment.strategy") && text.contains(&group));
        }
        other => panic!("{other:?}"),
    }
    drop(member);

    let same = shared_bus("w", &[ROUND_ROBIN]);
    let mut member = same.subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    // The other has to be asked for rebalances to go through.
    let joined = async {
        loop {
            let _ = other.poll(Duration::from_millis(10));
            bus.publish(&[message(&topic, None, "more")], None).await.unwrap();
            if let Ok(read) = timeout(Duration::from_millis(100), member.next()).await {
                return read.unwrap();
            }
        }
    };
    timeout(SOON, joined).await.expect("it has joined");
}
