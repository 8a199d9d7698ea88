//! Topics, tails and publishing.

use std::collections::BTreeMap;
use std::time::Duration;

use flowkit::bus::{BusError, GroupConsumer, InMessage, OutMessage, Tail, Topic};
use tokio::time::{Instant, timeout};

use crate::{BusBackend, QUIET, SOON, unique};

/// A topic of its own.
pub fn new_topic() -> Topic {
    Topic::new(unique("topic")).unwrap()
}

/// A message whose value is a text.
pub fn message(topic: &Topic, key: Option<&str>, value: &str) -> OutMessage {
    OutMessage {
        topic: topic.clone(),
        key: key.map(str::to_owned),
        value: value.as_bytes().to_vec(),
        headers: Vec::new(),
    }
}

/// The value of a message that was published by [`message`].
pub fn text(message: &InMessage) -> String {
    String::from_utf8(message.value.clone()).unwrap()
}

/// The next message, which must come.
pub async fn next(consumer: &mut dyn GroupConsumer) -> InMessage {
    timeout(SOON, consumer.next()).await.expect("a message was due").unwrap()
}

/// The next message of a tail, which must come.
pub async fn tail_next(tail: &mut dyn Tail) -> InMessage {
    timeout(SOON, tail.next()).await.expect("a message was due").unwrap()
}

/// Fails if a message comes.
pub async fn nothing(consumer: &mut dyn GroupConsumer) {
    let message = timeout(QUIET, consumer.next()).await;
    assert!(message.is_err(), "unexpected: {message:?}");
}

async fn numbered(bus: &dyn flowkit::bus::Bus, topic: &Topic, numbers: std::ops::Range<u32>) {
    let messages: Vec<_> = numbers.map(|n| message(topic, Some("same"), &n.to_string())).collect();
    bus.publish(&messages, None).await.unwrap();
}

/// Messages with the same key are read in their order, whoever publishes in between.
pub async fn order_by_key<B: BusBackend>() {
    let backend = B::start().await;
    let (bus, other, topic) = (backend.bus(), backend.other_bus(), new_topic());
    for n in 0..50 {
        for (bus, key) in [(&bus, "a"), (&other, "b"), (&bus, "c")] {
            bus.publish(&[message(&topic, Some(key), &n.to_string())], None).await.unwrap();
        }
    }
    let mut consumer = other.subscribe(&unique("g"), &[topic]).await.unwrap();
    let mut read: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    for _ in 0..150 {
        let message = next(&mut *consumer).await;
        read.entry(message.key.clone().unwrap()).or_default().push(text(&message));
    }
    let expected: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    for key in ["a", "b", "c"] {
        assert_eq!(read[key.as_bytes()], expected, "key {key}");
    }
}

/// The messages of one call keep their order, also when they are many.
pub async fn one_publish_keeps_its_order<B: BusBackend>() {
    let backend = B::start().await;
    let topic = new_topic();
    let mut tail = backend.other_bus().tail(std::slice::from_ref(&topic)).await.unwrap();
    numbered(&*backend.bus(), &topic, 0..300).await;
    for n in 0..300 {
        assert_eq!(text(&tail_next(&mut *tail).await), n.to_string());
    }
}

/// Groups do not take messages from each other.
pub async fn every_group_sees_everything<B: BusBackend>() {
    let backend = B::start().await;
    let topic = new_topic();
    numbered(&*backend.bus(), &topic, 0..5).await;
    for _ in 0..2 {
        let mut consumer =
            backend.bus().subscribe(&unique("g"), std::slice::from_ref(&topic)).await.unwrap();
        for n in 0..5 {
            let message = next(&mut *consumer).await;
            assert_eq!(text(&message), n.to_string());
            consumer.commit(&message).await.unwrap();
        }
    }
}

/// What was published before the group existed is read by it.
pub async fn new_group_starts_at_the_beginning<B: BusBackend>() {
    let backend = B::start().await;
    let topic = new_topic();
    backend.bus().ensure_topics(std::slice::from_ref(&topic)).await.unwrap();
    numbered(&*backend.bus(), &topic, 0..3).await;
    let mut consumer = backend.other_bus().subscribe(&unique("g"), &[topic]).await.unwrap();
    for n in 0..3 {
        assert_eq!(text(&next(&mut *consumer).await), n.to_string());
    }
}

/// Key, value, headers and topic, whatever bytes they are.
pub async fn everything_arrives_as_published<B: BusBackend>() {
    let backend = B::start().await;
    let (first, second) = (new_topic(), new_topic());
    let mut tail = backend.other_bus().tail(&[first.clone(), second.clone()]).await.unwrap();
    let every_byte: Vec<u8> = (0..=255).collect();
    let messages = [
        OutMessage {
            topic: first.clone(),
            key: Some("ключ:1".into()),
            value: every_byte.clone(),
            headers: vec![("a".into(), every_byte), ("a".into(), Vec::new())],
        },
        OutMessage { topic: second, key: None, value: Vec::new(), headers: Vec::new() },
    ];
    backend.bus().publish(&messages, None).await.unwrap();
    for _ in 0..2 {
        let read = tail_next(&mut *tail).await;
        let published = &messages[usize::from(read.topic != first)];
        assert_eq!(read.topic, published.topic);
        assert_eq!(read.key, published.key.clone().map(String::into_bytes));
        assert_eq!(read.value, published.value);
        assert_eq!(read.headers, published.headers);
        assert!(read.timestamp.0 > 0);
    }
}

/// A tail begins where it was opened.
pub async fn tail_sees_only_later_messages<B: BusBackend>() {
    let backend = B::start().await;
    let topic = new_topic();
    numbered(&*backend.bus(), &topic, 0..5).await;
    let mut tails = Vec::new();
    for _ in 0..2 {
        tails.push(backend.other_bus().tail(std::slice::from_ref(&topic)).await.unwrap());
    }
    numbered(&*backend.bus(), &topic, 5..10).await;
    for tail in &mut tails {
        for n in 5..10 {
            assert_eq!(text(&tail_next(&mut **tail).await), n.to_string());
        }
    }
}

/// Reading by tail takes nothing from a group.
pub async fn tail_and_group_are_independent<B: BusBackend>() {
    let backend = B::start().await;
    let topic = new_topic();
    let mut tail = backend.bus().tail(std::slice::from_ref(&topic)).await.unwrap();
    let mut consumer =
        backend.bus().subscribe(&unique("g"), std::slice::from_ref(&topic)).await.unwrap();
    numbered(&*backend.other_bus(), &topic, 0..3).await;
    for n in 0..3 {
        assert_eq!(text(&tail_next(&mut *tail).await), n.to_string());
        assert_eq!(text(&next(&mut *consumer).await), n.to_string());
    }
}

/// A message that is too large is refused by a name of its own, and nothing of the rest
/// is hurt by it.
pub async fn too_large<B: BusBackend>() {
    let backend = B::start().await;
    let topic = new_topic();
    let mut tail = backend.bus().tail(std::slice::from_ref(&topic)).await.unwrap();
    let large = OutMessage { value: vec![7; 3 << 20], ..message(&topic, None, "") };
    match backend.bus().publish(&[large], None).await {
        Err(BusError::TooLarge { size, limit }) => assert!(size == 3 << 20 && limit < size),
        other => panic!("{other:?}"),
    }
    let fits = OutMessage { value: vec![7; 700 << 10], ..message(&topic, None, "") };
    backend.bus().publish(std::slice::from_ref(&fits), None).await.unwrap();
    assert_eq!(tail_next(&mut *tail).await.value, fits.value);
}

/// What could not be stored before the deadline is not stored after it.
pub async fn expired<B: BusBackend>() {
    let backend = B::start().await;
    let topic = new_topic();
    let mut tail = backend.bus().tail(std::slice::from_ref(&topic)).await.unwrap();
    let late = backend.bus().publish(&[message(&topic, None, "late")], Some(Instant::now())).await;
    assert!(matches!(late, Err(BusError::Expired)), "{late:?}");
    let deadline = Some(Instant::now() + SOON);
    backend.bus().publish(&[message(&topic, None, "in time")], deadline).await.unwrap();
    assert_eq!(text(&tail_next(&mut *tail).await), "in time");
}

/// Dropping `next` at any moment loses no message and repeats none.
pub async fn next_is_cancel_safe<B: BusBackend>() {
    let backend = B::start().await;
    let (bus, topic) = (backend.bus(), new_topic());
    let mut consumer = bus.subscribe(&unique("g"), std::slice::from_ref(&topic)).await.unwrap();
    let mut read = Vec::new();
    let mut published = 0;
    let started = Instant::now();
    while read.len() < 60 {
        assert!(started.elapsed() < SOON, "only {read:?}");
        if published < 60 {
            numbered(&*bus, &topic, published..published + 1).await;
            published += 1;
        }
        for micros in [0, 1, 20, 100, 1_000, 5_000] {
            // A future is polled at least once before its time is up.
            let Ok(message) = timeout(Duration::from_micros(micros), consumer.next()).await else {
                continue;
            };
            let message = message.unwrap();
            read.push(text(&message));
            if read.len() % 3 == 0 {
                consumer.commit(&message).await.unwrap();
            }
        }
    }
    let expected: Vec<_> = (0..60).map(|n| n.to_string()).collect();
    assert_eq!(read, expected);
}

/// The same for a tail.
pub async fn tail_next_is_cancel_safe<B: BusBackend>() {
    let backend = B::start().await;
    let (bus, topic) = (backend.bus(), new_topic());
    let mut tail = bus.tail(std::slice::from_ref(&topic)).await.unwrap();
    let mut read = Vec::new();
    let started = Instant::now();
    numbered(&*bus, &topic, 0..100).await;
    while read.len() < 100 {
        assert!(started.elapsed() < SOON, "only {read:?}");
        for micros in [0, 1, 20, 100, 1_000, 5_000] {
            if let Ok(message) = timeout(Duration::from_micros(micros), tail.next()).await {
                read.push(text(&message.unwrap()));
            }
        }
    }
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(read, expected);
}

/// A history brings what was there when it was opened, and ends.
pub async fn history_ends_at_its_beginning<B: BusBackend>() {
    let backend = B::start().await;
    let (bus, topic) = (backend.bus(), new_topic());
    assert_eq!(bus.history(&topic).await.unwrap().next().await.unwrap(), None, "an empty topic");
    for n in 0..100 {
        let key = (n % 7).to_string();
        bus.publish(&[message(&topic, Some(&key), &n.to_string())], None).await.unwrap();
    }
    let mut history = backend.other_bus().history(&topic).await.unwrap();
    numbered(&*bus, &topic, 100..110).await;
    let mut read: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
    while let Some(message) = timeout(SOON, history.next()).await.unwrap().unwrap() {
        read.entry(message.key.clone().unwrap()).or_default().push(text(&message).parse().unwrap());
    }
    assert_eq!(history.next().await.unwrap(), None, "the end stays the end");
    let mut all: Vec<u32> = read.values().flatten().copied().collect();
    assert!(read.values().all(|numbers| numbers.is_sorted()), "{read:?}");
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
}
