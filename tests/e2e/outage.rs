//! The broker, then the database, is away in the middle of runs.

use std::time::{Duration, Instant};

use flowkit_servers::{Kafka, KafkaOptions, Mongo};
use serde_json::{Value, json};

use crate::field::{Coordinator, Field, State};

const TASKS: usize = 8;

fn input(_: u32, _: usize) -> Value {
    json!({"count": 60, "ms": 50})
}

/// Longer than several heartbeats, and than a lease.
const AWAY: Duration = Duration::from_secs(8);

/// A server that can be stopped in the middle of whatever it does.
trait Server: Send + 'static {
    fn away(&self, away: bool);
}

impl Server for Kafka {
    fn away(&self, away: bool) {
        if away { self.pause() } else { self.resume() }.unwrap();
    }
}

impl Server for Mongo {
    fn away(&self, away: bool) {
        if away { self.pause() } else { self.resume() }.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_its_broker_and_goes_on_by_itself() {
    if !flowkit_servers::available("a_worker_waits_for_its_broker_and_goes_on_by_itself") {
        return;
    }
    let kafka = Kafka::start(&KafkaOptions::default()).unwrap();
    let (bootstrap, mongodb) = (kafka.bootstrap(), flowkit_servers::shared().mongodb.clone());
    outage(&bootstrap, &mongodb, kafka, "bus").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_its_database_and_goes_on_by_itself() {
    if !flowkit_servers::available("a_worker_waits_for_its_database_and_goes_on_by_itself") {
        return;
    }
    let mongo = Mongo::start().unwrap();
    let (bootstrap, mongodb) = (flowkit_servers::shared().kafka.clone(), mongo.uri());
    outage(&bootstrap, &mongodb, mongo, "store").await;
}

async fn outage(kafka: &str, mongodb: &str, server: impl Server, part: &str) {
    let more = json!({"max_concurrent_tasks": 4, "lease_ttl_sec": 5});
    let field = Field::on(kafka, mongodb, "steps", more).await;
    let mut coordinator = Coordinator::new(&field).await;
    coordinator.start(TASKS, input).await;
    let worker = field.site.worker("w-1");
    coordinator.until(|nodes| nodes.values().any(|node| node.batches.len() > 5)).await;
    let begun = Instant::now();
    server.away(true);
    // A thread of its own ends the outage: the coordinator may itself wait for the server.
    let returned = std::thread::spawn(move || {
        std::thread::sleep(AWAY);
        server.away(false);
        server
    });
    coordinator.until_all_ended(|| {}).await;
    assert!(begun.elapsed() > AWAY, "the outage was in the middle of the runs");
    assert!(coordinator.nodes.values().all(|node| node.state == State::Finished));
    assert!(coordinator.nodes.values().all(|node| node.epoch == 1), "none was tried again");
    assert_eq!(coordinator.wrong, Vec::<String>::new());
    worker.signal("-TERM");
    let log = field.site.log("w-1");
    assert_eq!(worker.exit_code(), Some(0), "{log}");
    let told = |words: &str| {
        let of_part = |line: &&str| line.contains(words) && line.contains(&format!("\"{part}\""));
        log.lines().filter(of_part).count()
    };
    assert!((1..=3).contains(&told("out of reach")), "{part}: told once, not for ever\n{log}");
    assert!(told("in reach again") >= 1, "{part}\n{log}");
    assert!(log.lines().count() < 200, "{log}");
    drop(returned.join().unwrap());
}
