//! What a broker answers when something is wrong, injected into librdkafka's own mock of
//! one. What a real broker does is in `tests/contract`.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaApiKey as Request;
use rdkafka::types::RDKafkaRespErr as Answer;
use tokio::time::timeout;

use super::{KafkaBus, KafkaOptions};
use crate::bus::{Bus, BusError, GroupConsumer, InMessage, OutMessage, Topic};

const SOON: Duration = Duration::from_secs(30);

struct World {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topic: Topic,
}

impl World {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let topic = Topic::new("t").unwrap();
        cluster.create_topic(topic.as_str(), 2, 1).unwrap();
        Self { cluster, topic }
    }

    fn bus(&self) -> KafkaBus {
        KafkaBus::connect(KafkaOptions {
            bootstrap: self.cluster.bootstrap_servers(),
            client_id: "w".into(),
            properties: BTreeMap::from([
                ("retry.backoff.ms".into(), "10".into()),
                ("heartbeat.interval.ms".into(), "200".into()),
                ("session.timeout.ms".into(), "3000".into()),
            ]),
            lease_ttl: Duration::from_secs(60),
        })
        .unwrap()
    }

    fn message(&self, value: &str) -> OutMessage {
        OutMessage {
            topic: self.topic.clone(),
            key: Some("same".into()),
            value: value.as_bytes().to_vec(),
            headers: Vec::new(),
        }
    }

    async fn publish(&self, bus: &KafkaBus, value: &str) -> Result<(), BusError> {
        bus.publish(&[self.message(value)], None).await
    }

    async fn join(&self, bus: &KafkaBus) -> Box<dyn GroupConsumer> {
        bus.subscribe("g", std::slice::from_ref(&self.topic)).await.unwrap()
    }
}

async fn next(member: &mut dyn GroupConsumer) -> InMessage {
    timeout(SOON, member.next()).await.expect("a message was due").unwrap()
}

#[tokio::test]
async fn publishing_waits_for_a_broker_that_is_busy() {
    let world = World::new();
    let bus = world.bus();
    world.cluster.request_errors(
        Request::Produce,
        &[
            Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            Answer::RD_KAFKA_RESP_ERR__TRANSPORT,
        ],
    );
    world.publish(&bus, "a").await.unwrap();
    let mut member = world.join(&bus).await;
    assert_eq!(next(&mut *member).await.value, b"a");
}

#[tokio::test]
async fn publishing_tells_what_to_change() {
    let world = World::new();
    let bus = world.bus();
    world
        .cluster
        .request_errors(Request::Produce, &[Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    match world.publish(&bus, "a").await {
        Err(BusError::Fatal(text)) => assert!(text.contains("topic t") && text.contains("ACL")),
        other => panic!("{other:?}"),
    }
    // librdkafka holds a topic's error against it for a while.
    let world = World::new();
    let bus = world.bus();
    world.cluster.request_errors(Request::Produce, &[Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let large = world.publish(&bus, "large").await;
    assert!(matches!(large, Err(BusError::TooLarge { size: 5, limit: 4 })), "{large:?}");
    world.publish(&bus, "b").await.unwrap();
}

/// A producer that may not write ends for good, and is not the last one.
#[tokio::test]
async fn a_producer_that_ended_is_replaced() {
    let world = World::new();
    world.cluster.request_errors(
        Request::InitProducerId,
        &[Answer::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 2],
    );
    let bus = world.bus();
    match world.publish(&bus, "a").await {
        Err(BusError::Fatal(text)) => assert!(text.contains("idempotent"), "{text}"),
        other => panic!("{other:?}"),
    }
    world.cluster.clear_request_errors(Request::InitProducerId);
    world.publish(&bus, "b").await.unwrap();
}

#[tokio::test]
async fn joining_waits_for_the_groups_coordinator() {
    let world = World::new();
    let bus = world.bus();
    world.publish(&bus, "a").await.unwrap();
    world.cluster.request_errors(
        Request::FindCoordinator,
        &[Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 2],
    );
    world.cluster.request_errors(
        Request::JoinGroup,
        &[
            Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
            Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        ],
    );
    let mut member = world.join(&bus).await;
    assert_eq!(next(&mut *member).await.value, b"a");
}

#[tokio::test]
async fn a_member_that_may_not_join_is_told_why() {
    let world = World::new();
    let bus = world.bus();
    world.cluster.request_errors(
        Request::JoinGroup,
        &[Answer::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED],
    );
    let mut member = world.join(&bus).await;
    match timeout(SOON, member.next()).await.unwrap() {
        Err(BusError::Fatal(text)) => assert!(text.contains("group g") && text.contains("READ")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_commit_waits_for_a_rebalance_and_gives_way_to_a_new_owner() {
    let world = World::new();
    let bus = world.bus();
    for value in ["a", "b"] {
        world.publish(&bus, value).await.unwrap();
    }
    let mut member = world.join(&bus).await;
    let (first, second) = (next(&mut *member).await, next(&mut *member).await);
    world.cluster.request_errors(
        Request::OffsetCommit,
        &[Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 2],
    );
    member.commit(&first).await.unwrap();
    // Somebody else has it now, so that there is nothing to do.
    world
        .cluster
        .request_errors(Request::OffsetCommit, &[Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    member.commit(&second).await.unwrap();
    drop(member);
    let mut member = world.join(&bus).await;
    assert_eq!(next(&mut *member).await.value, b"b");
}

#[tokio::test]
async fn a_commit_that_is_not_allowed_is_an_error() {
    let world = World::new();
    let bus = world.bus();
    world.publish(&bus, "a").await.unwrap();
    let mut member = world.join(&bus).await;
    let message = next(&mut *member).await;
    world.cluster.request_errors(
        Request::OffsetCommit,
        &[Answer::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED],
    );
    let refused = member.commit(&message).await;
    assert!(matches!(refused, Err(BusError::Fatal(_))), "{refused:?}");
    member.commit(&message).await.unwrap();
}
