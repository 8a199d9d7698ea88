//! Consumer groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use flowkit::bus::{Bus, GroupConsumer, InMessage, Topic};
use tokio::time::timeout;

use crate::bus::{message, new_topic, next, nothing, text};
use crate::{BusBackend, QUIET, SOON, unique};

async fn publish(bus: &dyn Bus, topic: &Topic, values: std::ops::Range<u32>) {
    let messages: Vec<_> =
        values.map(|n| message(topic, Some(&format!("key-{}", n % 7)), &n.to_string())).collect();
    bus.publish(&messages, None).await.unwrap();
}

/// A member that leaves, or dies, without a commit leaves its messages to the others.
pub async fn uncommitted_is_delivered_again<B: BusBackend>() {
    let backend = B::start().await;
    let (topic, group) = (new_topic(), unique("g"));
    publish(&*backend.bus(), &topic, 0..3).await;
    let mut first = backend.bus().subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(text(&next(&mut *first).await));
    }
    drop(first);
    let mut second = backend.other_bus().subscribe(&group, &[topic]).await.unwrap();
    let mut again = Vec::new();
    for _ in 0..3 {
        again.push(text(&next(&mut *second).await));
    }
    taken.sort();
    again.sort();
    assert_eq!(taken, again);
}

/// Once a commit returned, no member sees the message again.
pub async fn committed_is_never_delivered_again<B: BusBackend>() {
    let backend = B::start().await;
    let (topic, group) = (new_topic(), unique("g"));
    publish(&*backend.bus(), &topic, 0..1).await;
    let mut first = backend.bus().subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    let done = next(&mut *first).await;
    first.commit(&done).await.unwrap();
    first.commit(&done).await.unwrap();
    drop(first);
    publish(&*backend.bus(), &topic, 1..2).await;
    let mut second = backend.other_bus().subscribe(&group, &[topic]).await.unwrap();
    assert_eq!(text(&next(&mut *second).await), "1");
    nothing(&mut *second).await;
}

/// A commit covers the earlier messages of its partition, and no later one.
pub async fn commit_covers_what_came_before<B: BusBackend>() {
    let backend = B::start().await;
    let (topic, group) = (new_topic(), unique("g"));
    for n in 0..5 {
        let one = message(&topic, Some("same"), &n.to_string());
        backend.bus().publish(&[one], None).await.unwrap();
    }
    let mut first = backend.bus().subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    let mut read = Vec::new();
    for _ in 0..5 {
        read.push(next(&mut *first).await);
    }
    first.commit(&read[2]).await.unwrap();
    first.commit(&read[0]).await.unwrap();
    drop(first);
    let mut second = backend.other_bus().subscribe(&group, &[topic]).await.unwrap();
    for n in 3..5 {
        assert_eq!(text(&next(&mut *second).await), n.to_string());
    }
    nothing(&mut *second).await;
}

/// How often each message was read, by all members.
type Seen = Arc<Mutex<BTreeMap<String, u32>>>;

/// Reads and commits until `expected` messages were read, by whomever, and nothing more
/// comes for a while.
async fn work(bus: Arc<dyn Bus>, group: String, topic: Topic, seen: Seen, expected: usize) {
    let mut consumer = bus.subscribe(&group, &[topic]).await.unwrap();
    loop {
        if let Ok(message) = timeout(QUIET, consumer.next()).await {
            note(&mut *consumer, &message.unwrap(), &seen).await;
        } else if seen.lock().unwrap().len() >= expected {
            return;
        }
    }
}

async fn note(consumer: &mut dyn GroupConsumer, message: &InMessage, seen: &Seen) {
    consumer.commit(message).await.unwrap();
    *seen.lock().unwrap().entry(text(message)).or_default() += 1;
}

/// Each message was read once; where partitions move, the one that each of the members had
/// out when one came or went may have been read again.
fn check_seen<B: BusBackend>(seen: &Seen, expected: usize, members: u32, changes: u32) {
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), expected);
    let again: u32 = seen.values().map(|times| times - 1).sum();
    let most = if B::moves_uncommitted() { members * changes } else { 0 };
    assert!(again <= most, "{again} were read again: {seen:?}");
}

/// Members of both processes share the messages among them.
pub async fn each_message_to_one_member<B: BusBackend>() {
    let backend = B::start().await;
    let (topic, group, seen) = (new_topic(), unique("g"), Seen::default());
    let members: Vec<_> = (0..4)
        .map(|n| {
            let bus = if n % 2 == 0 { backend.bus() } else { backend.other_bus() };
            tokio::spawn(work(bus, group.clone(), topic.clone(), seen.clone(), 200))
        })
        .collect();
    for n in 0..20 {
        publish(&*backend.bus(), &topic, n * 10..n * 10 + 10).await;
        tokio::task::yield_now().await;
    }
    for member in members {
        timeout(SOON, member).await.unwrap().unwrap();
    }
    // Four that came and four that went.
    check_seen::<B>(&seen, 200, 4, 8);
}

/// Members that join, and leave after a commit, change nothing about that.
pub async fn each_message_to_one_member_while_members_come_and_go<B: BusBackend>() {
    let backend = B::start().await;
    let (topic, group, seen) = (new_topic(), unique("g"), Seen::default());
    let stays = work(backend.bus(), group.clone(), topic.clone(), seen.clone(), 50);
    let stays = tokio::spawn(stays);
    for n in 0..10 {
        publish(&*backend.bus(), &topic, n * 5..n * 5 + 5).await;
        let mut guest =
            backend.other_bus().subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
        if let Ok(message) = timeout(QUIET / 10, guest.next()).await {
            note(&mut *guest, &message.unwrap(), &seen).await;
        }
    }
    timeout(SOON, stays).await.unwrap().unwrap();
    check_seen::<B>(&seen, 50, 2, 20);
}

/// A paused topic brings nothing until it is resumed, and the others go on.
pub async fn pause_leaves_the_topic<B: BusBackend>() {
    let backend = B::start().await;
    let (paused, open, group) = (new_topic(), new_topic(), unique("g"));
    let mut consumer =
        backend.bus().subscribe(&group, &[paused.clone(), open.clone()]).await.unwrap();
    consumer.pause(&paused, true).await.unwrap();
    publish(&*backend.bus(), &paused, 0..3).await;
    publish(&*backend.bus(), &open, 10..11).await;
    assert_eq!(text(&next(&mut *consumer).await), "10");
    nothing(&mut *consumer).await;
    consumer.pause(&paused, false).await.unwrap();
    let mut read = Vec::new();
    for _ in 0..3 {
        read.push(text(&next(&mut *consumer).await));
    }
    read.sort();
    assert_eq!(read, ["0", "1", "2"]);
}

/// A message that was handed out before the pause can be committed during it, and what
/// was not handed out is not lost.
pub async fn pause_keeps_what_was_handed_out<B: BusBackend>() {
    let backend = B::start().await;
    let (topic, group) = (new_topic(), unique("g"));
    for n in 0..4 {
        let one = message(&topic, Some("same"), &n.to_string());
        backend.bus().publish(&[one], None).await.unwrap();
    }
    let mut consumer = backend.bus().subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    let first = next(&mut *consumer).await;
    consumer.pause(&topic, true).await.unwrap();
    nothing(&mut *consumer).await;
    consumer.commit(&first).await.unwrap();
    consumer.pause(&topic, false).await.unwrap();
    for n in 1..4 {
        assert_eq!(text(&next(&mut *consumer).await), n.to_string());
    }
    drop(consumer);
    let mut second = backend.other_bus().subscribe(&group, &[topic]).await.unwrap();
    assert_eq!(text(&next(&mut *second).await), "1");
}
