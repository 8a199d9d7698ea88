//! What rebalances leave as it was.

use std::collections::BTreeSet;
use std::time::Duration;

use contract::bus::{next, nothing, text};
use contract::{SOON, unique};
use flowkit::bus::{Bus, GroupConsumer, InMessage, Topic};
use tokio::time::{Instant, timeout};

use super::{last_of_each, made_topic, places, read, read_for, shared_bus, spread};

/// Long enough for a group of two to settle.
const SETTLED: Duration = Duration::from_secs(2);

/// A topic of four partitions with 40 messages, and a member that has read all of them
/// and committed none.
async fn all_read(bus: &dyn Bus, group: &str) -> (Topic, Box<dyn GroupConsumer>, Vec<InMessage>) {
    let topic = made_topic(4, None).await;
    bus.publish(&spread(&topic, 40), None).await.unwrap();
    let mut member = bus.subscribe(group, std::slice::from_ref(&topic)).await.unwrap();
    let messages = read(&mut *member, 40).await;
    (topic, member, messages)
}

/// Reads what a newcomer gets, while the first member is asked as well.
async fn share(first: &mut dyn GroupConsumer, newcomer: &mut dyn GroupConsumer) -> Vec<InMessage> {
    let begun = Instant::now();
    let mut got = Vec::new();
    while got.is_empty() {
        assert!(begun.elapsed() < SOON, "the newcomer got nothing");
        got.extend(read_for(newcomer, Duration::from_millis(200)).await);
        let again = timeout(Duration::from_millis(1), first.next()).await;
        assert!(again.is_err(), "read twice by the same member: {again:?}");
    }
    got.extend(read_for(newcomer, SETTLED).await);
    got
}

#[tokio::test]
async fn a_member_commits_nothing_of_what_it_lost() {
    if !flowkit_servers::available("kafka::a_member_commits_nothing_of_what_it_lost") {
        return;
    }
    let (bus, group) = (shared_bus("w", &[]), unique("g"));
    let (topic, mut first, all) = all_read(&bus, &group).await;
    let other = shared_bus("other", &[]);
    let mut second = other.subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    let moved = share(&mut *first, &mut *second).await;
    let lost: BTreeSet<i32> = moved.iter().map(|message| message.partition).collect();
    assert!(lost.len() < 4, "the first member has kept something: {lost:?}");
    for last in last_of_each(&moved).values() {
        second.commit(last).await.unwrap();
    }
    // The first message of each partition, so that a wrong commit would go back.
    for message in all.iter().filter(|message| message.offset == 0) {
        first.commit(message).await.unwrap();
    }
    drop((first, second));
    let mut third = bus.subscribe(&group, &[topic]).await.unwrap();
    let left: Vec<_> = all
        .into_iter()
        .filter(|message| !lost.contains(&message.partition) && message.offset > 0)
        .collect();
    let again = read_for(&mut *third, SETTLED).await;
    assert_eq!(places(&again), places(&left));
}

#[tokio::test]
async fn a_late_commit_goes_behind_nobody_elses() {
    if !flowkit_servers::available("kafka::a_late_commit_goes_behind_nobody_elses") {
        return;
    }
    let (bus, group) = (shared_bus("w", &[]), unique("g"));
    let (topic, mut first, all) = all_read(&bus, &group).await;
    let other = shared_bus("other", &[]);
    let mut second = other.subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    let moved = share(&mut *first, &mut *second).await;
    for last in last_of_each(&moved).values() {
        second.commit(last).await.unwrap();
    }
    drop(second);
    // Once it has something new of each partition, everything is the first member's again.
    bus.publish(&spread(&topic, 40), None).await.unwrap();
    read(&mut *first, 40).await;
    let came_back: BTreeSet<i32> = moved.iter().map(|message| message.partition).collect();
    for message in all.iter().filter(|m| m.offset == 0 && came_back.contains(&m.partition)) {
        first.commit(message).await.unwrap();
    }
    drop(first);
    let mut third = bus.subscribe(&group, &[topic]).await.unwrap();
    let again = read_for(&mut *third, SETTLED).await;
    let first_offsets = last_of_each(&moved);
    for message in again.iter().filter(|message| came_back.contains(&message.partition)) {
        assert!(message.offset > first_offsets[&message.partition].offset, "{message:?}");
    }
    assert_eq!(again.len(), 80 - moved.len());
}

#[tokio::test]
async fn a_pause_holds_for_partitions_that_come_later() {
    if !flowkit_servers::available("kafka::a_pause_holds_for_partitions_that_come_later") {
        return;
    }
    let (bus, group) = (shared_bus("w", &[]), unique("g"));
    let (topic, mut first, _) = all_read(&bus, &group).await;
    let other = shared_bus("other", &[]);
    let mut second = other.subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    let moved = share(&mut *first, &mut *second).await;
    first.pause(&topic, true).await.unwrap();
    drop(second);
    let quiet = read_for(&mut *first, SETTLED).await;
    assert_eq!(quiet, [], "it is paused");
    first.pause(&topic, false).await.unwrap();
    let again = read(&mut *first, moved.len()).await;
    assert_eq!(places(&again), places(&moved));
    nothing(&mut *first).await;
}

/// Nobody asks for a message for longer than a member may be silent, with more waiting than
/// is fetched ahead.
#[tokio::test]
async fn a_member_that_nobody_asks_stays() {
    if !flowkit_servers::available("kafka::a_member_that_nobody_asks_stays") {
        return;
    }
    let bus = shared_bus("w", &[("max.poll.interval.ms", "6000")]);
    let (topic, group) = (made_topic(4, None).await, unique("g"));
    bus.publish(&spread(&topic, 9000), None).await.unwrap();
    let mut member = bus.subscribe(&group, std::slice::from_ref(&topic)).await.unwrap();
    let mut seen = read(&mut *member, 1).await;
    let other = shared_bus("other", &[]);
    tokio::time::sleep(Duration::from_secs(8)).await;
    member.commit(&seen[0]).await.unwrap();
    seen.extend(read(&mut *member, 8999).await);
    let distinct: BTreeSet<String> = seen.iter().map(text).collect();
    assert_eq!(distinct.len(), 9000, "each once: it was a member all the time");
    for last in last_of_each(&seen).values() {
        member.commit(last).await.unwrap();
    }
    drop(member);
    bus.publish(&spread(&topic, 1), None).await.unwrap();
    let mut after = other.subscribe(&group, &[topic]).await.unwrap();
    assert_eq!(text(&next(&mut *after).await), "0");
    nothing(&mut *after).await;
}
