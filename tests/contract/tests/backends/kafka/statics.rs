//! Static membership.

use std::collections::BTreeSet;
use std::time::Duration;

use contract::unique;
use flowkit::bus::Bus;

use super::{last_of_each, made_topic, places, read, read_for, shared_bus, spread, until};

/// While a static member is restarted nobody takes its partitions, and it has the same ones
/// afterwards.
#[tokio::test]
async fn a_static_member_that_restarts_keeps_its_partitions() {
    if !flowkit_servers::available("kafka::a_static_member_that_restarts_keeps_its_partitions") {
        return;
    }
    // Static names are unique within a group alone, and this group is new.
    let patient = ("session.timeout.ms", "30000");
    let bus = |name| shared_bus(name, &[("group.instance.id", name), patient]);
    let (first_bus, second_bus) = (bus("rack-1"), bus("rack-2"));
    let (topic, group) = (made_topic(4, None).await, unique("g"));
    let topics = std::slice::from_ref(&topic);
    let mut first = first_bus.subscribe(&group, topics).await.unwrap();
    let mut second = second_bus.subscribe(&group, topics).await.unwrap();
    // Both have a share once neither gets everything.
    let mut shares = (BTreeSet::new(), BTreeSet::new());
    let quiet = Duration::from_millis(500);
    until("both members have partitions", async || {
        first_bus.publish(&spread(&topic, 40), None).await.unwrap();
        let read = [read_for(&mut *first, quiet).await, read_for(&mut *second, quiet).await];
        for (member, read) in [&mut first, &mut second].into_iter().zip(&read) {
            for last in last_of_each(read).values() {
                member.commit(last).await.unwrap();
            }
        }
        let partitions = read.map(|read| read.iter().map(|m| m.partition).collect());
        shares = partitions.into();
        shares.0.len() == 2 && shares.1.len() == 2 && shares.0.is_disjoint(&shares.1)
    })
    .await;

    drop(first);
    first_bus.publish(&spread(&topic, 40), None).await.unwrap();
    let alone = read_for(&mut *second, Duration::from_secs(3)).await;
    assert!(alone.iter().all(|message| shares.1.contains(&message.partition)), "{alone:?}");
    let mut first = bus("rack-1").subscribe(&group, topics).await.unwrap();
    let again = read(&mut *first, 40 - alone.len()).await;
    let partitions: BTreeSet<i32> = again.iter().map(|message| message.partition).collect();
    assert_eq!(partitions, shares.0);
    assert!(places(&again).iter().all(|place| !places(&alone).contains(place)));
}
