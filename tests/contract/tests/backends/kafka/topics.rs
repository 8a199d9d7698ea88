//! Topics with limits of their own, keys, and partitions that are added.

use std::time::Duration;

use contract::SOON;
use contract::bus::{message, new_topic, tail_next, text};
use flowkit::bus::{Bus, BusError, OutMessage};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use tokio::time::{Instant, timeout};

use super::{made_topic, shared_bus, spread, stranger};

/// Bytes that no compression makes fewer.
fn noise(length: usize) -> Vec<u8> {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_topics_own_limit_is_a_matter_of_size() {
    if !flowkit_servers::available("kafka::a_topics_own_limit_is_a_matter_of_size") {
        return;
    }
    let bus = shared_bus("w", &[("linger.ms", "100")]);
    let topic = made_topic(1, Some(("max.message.bytes", "20000"))).await;
    let mut tail = bus.tail(std::slice::from_ref(&topic)).await.unwrap();
    let large = OutMessage { value: noise(30_000), ..message(&topic, None, "") };
    match bus.publish(&[large], None).await {
        Err(BusError::TooLarge { size, limit }) => assert!(size == 30_000 && limit < size),
        other => panic!("{other:?}"),
    }
    // Small ones that are too large only together, as a client packs them.
    let small: Vec<_> = (0..100)
        .map(|n| {
            let value = [n.to_string().as_bytes(), b" ", &noise(1000)[..]].concat();
            OutMessage { value, ..message(&topic, Some("same"), "") }
        })
        .collect();
    bus.publish(&small, None).await.unwrap();
    for message in &small {
        assert_eq!(tail_next(&mut *tail).await.value, message.value);
    }
}

/// A key and headers count as well, and nothing is stored before that is known.
#[tokio::test]
async fn a_message_is_refused_whole_before_anything_is_stored() {
    if !flowkit_servers::available("kafka::a_message_is_refused_whole_before_anything_is_stored") {
        return;
    }
    let bus = shared_bus("w", &[("message.max.bytes", "10000")]);
    let topic = new_topic();
    let mut tail = bus.tail(std::slice::from_ref(&topic)).await.unwrap();
    let fits = message(&topic, None, "fits");
    let with_key = OutMessage {
        key: Some("k".repeat(3_000)),
        headers: vec![("h".into(), vec![0; 3_000])],
        value: noise(5_000),
        ..fits.clone()
    };
    match bus.publish(&[fits, with_key.clone()], None).await {
        Err(BusError::TooLarge { size: 5_000, limit }) => {
            assert!(limit < 4_000, "what is left for the value: {limit}");
            let cut = OutMessage { value: noise(limit), ..with_key };
            bus.publish(std::slice::from_ref(&cut), None).await.unwrap();
            assert_eq!(tail_next(&mut *tail).await.value, cut.value);
        }
        other => panic!("{other:?}"),
    }
}

/// Where Java's and Python's clients put a key, so that a role's commands for one node stay
/// in one partition whoever sends them.
#[tokio::test]
async fn keys_go_where_other_clients_put_them() {
    if !flowkit_servers::available("kafka::keys_go_where_other_clients_put_them") {
        return;
    }
    let bus = shared_bus("w", &[]);
    let topic = made_topic(10, None).await;
    let mut tail = bus.tail(std::slice::from_ref(&topic)).await.unwrap();
    // Hashes from the tests of Kafka's own client.
    let hashes: [(&str, i32); 5] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("abc", 479_470_107),
    ];
    for (key, hash) in hashes {
        bus.publish(&[message(&topic, Some(key), key)], None).await.unwrap();
        let read = tail_next(&mut *tail).await;
        assert_eq!(read.partition, (hash & 0x7fff_ffff) % 10, "{key}");
    }
}

#[tokio::test]
async fn a_tail_finds_partitions_that_are_added() {
    if !flowkit_servers::available("kafka::a_tail_finds_partitions_that_are_added") {
        return;
    }
    let bus = shared_bus("w", &[("topic.metadata.refresh.interval.ms", "500")]);
    let topic = made_topic(1, None).await;
    let mut tail = bus.tail(std::slice::from_ref(&topic)).await.unwrap();
    bus.publish(&spread(&topic, 5), None).await.unwrap();
    for n in 0..5 {
        assert_eq!(text(&tail_next(&mut *tail).await), n.to_string());
    }
    let admin: AdminClient<DefaultClientContext> = stranger().create().unwrap();
    let more = [NewPartitions::new(topic.as_str(), 4)];
    admin.create_partitions(&more, &AdminOptions::new()).await.unwrap();
    // A producer learns of them in its own time, as the reader does.
    let begun = Instant::now();
    let (mut sent, mut read) = (0_usize, Vec::new());
    while read.iter().all(|partition| *partition == 0) {
        assert!(begun.elapsed() < SOON, "nothing from a new partition");
        let messages = spread(&topic, 20);
        bus.publish(&messages, None).await.unwrap();
        sent += messages.len();
        while let Ok(message) = timeout(Duration::from_millis(200), tail.next()).await {
            read.push(message.unwrap().partition);
        }
    }
    while read.len() < sent {
        read.push(tail_next(&mut *tail).await.partition);
    }
    assert!(timeout(Duration::from_millis(500), tail.next()).await.is_err(), "nothing twice");
}
