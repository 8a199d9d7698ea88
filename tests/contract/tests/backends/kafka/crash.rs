//! A member whose process is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Instant;

use contract::bus::next;
use contract::unique;
use flowkit::bus::{Bus, Topic};

use super::{SESSION, made_topic, places, read, shared_bus, spread};

/// The child: reads without a commit, says what it has read, and stays.
pub fn read_until_killed(order: &Path) {
    let order = order.to_str().unwrap();
    let (topic, group) = order.split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = shared_bus("child", &[]);
        let mut member = bus.subscribe(group, &[Topic::new(topic).unwrap()]).await.unwrap();
        for _ in 0..20 {
            let message = next(&mut *member).await;
            let mut out = std::io::stdout().lock();
            writeln!(out, "\nread {} {}", message.partition, message.offset).unwrap();
            out.flush().unwrap();
        }
        member.next().await.unwrap();
    });
}

#[tokio::test]
async fn a_killed_member_is_replaced_after_its_session() {
    if !flowkit_servers::available("kafka::a_killed_member_is_replaced_after_its_session") {
        return;
    }
    let (bus, group) = (shared_bus("w", &[]), unique("g"));
    let topic = made_topic(4, None).await;
    bus.publish(&spread(&topic, 20), None).await.unwrap();
    let order = format!("{topic} {group}");
    let mut child = crate::child::start("read-kafka", Path::new(&order));
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<String> =
        lines.map_while(Result::ok).filter(|l| l.starts_with("read ")).take(20).collect();
    assert_eq!(said.len(), 20, "the child ended by itself");
    let mut member = bus.subscribe(&group, &[topic]).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    let again = read(&mut *member, 20).await;
    assert!(killed.elapsed() < SESSION * 2, "{:?}", killed.elapsed());
    let said: Vec<_> = said
        .iter()
        .map(|line| {
            let (partition, offset) = line["read ".len()..].split_once(' ').unwrap();
            (partition.parse::<i32>().unwrap(), offset.parse::<i64>().unwrap())
        })
        .collect();
    let mut said_sorted = said.clone();
    said_sorted.sort_unstable();
    assert_eq!(places(&again), said_sorted);
}
