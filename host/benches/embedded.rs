//! What the embedded backend does in a second, and how soon a message arrives.
//!
//! `cargo bench --bench embedded` prints one line a figure.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing to print")]

use std::time::{Duration, Instant};

use flowkit::bus::embedded::EmbeddedBus;
use flowkit::bus::{Bus, OutMessage, Topic};
use flowkit::clock::{Clock, UnixMs};
use flowkit::metrics::Metrics;
use flowkit::sqlite::Database;
use flowkit::store::embedded::EmbeddedStore;
use flowkit::store::{ArtifactStore, Fenced, NewPartial, Progress, RunStore};
use flowkit::store::{NewRun, Owner, RunInput};
use flowkit::types::{
    BatchUid, Epoch, Fence, LeaseId, LeaseNo, NodeId, Role, RunKey, TaskId, WorkerId,
};

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(2);

/// Partial artifacts that one write holds.
const GROUP: u64 = 64;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.db");
        let db = Database::open(&path).unwrap();
        let store = EmbeddedStore::new(db.clone(), Clock::system());
        let fence = admitted(&store).await;
        partials(&store, &fence).await;
        progress(&store, &fence).await;
        let bus = EmbeddedBus::new(db);
        publishes("one", std::slice::from_ref(&bus)).await;
        publishes("64 at a time", &vec![bus.clone(); 64]).await;
        latency("within a process", &bus, &bus).await;
        let other = EmbeddedBus::new(Database::open(&path).unwrap());
        publishes("one in each of two processes", &[bus.clone(), other.clone()]).await;
        latency("between two", &bus, &other).await;
    });
}

async fn admitted(store: &EmbeddedStore) -> Fence {
    let key = RunKey { task_id: TaskId::fresh(), node_id: NodeId::new("n").unwrap() };
    let worker_id = WorkerId::new("w").unwrap();
    let owner =
        Owner { worker_id: worker_id.clone(), lease_id: LeaseId::fresh(), deadline: UnixMs(1) };
    let (role, input) = (Role::new("role").unwrap(), RunInput::default());
    let run = NewRun { key: key.clone(), role, epoch: Epoch(1), input, created_at: UnixMs(0) };
    store.admit(&run, Some(&owner)).await.unwrap();
    Fence { key, epoch: Epoch(1), lease_no: LeaseNo(1), worker_id }
}

fn report(what: &str, count: u64, since: Instant) {
    let rate = count as f64 / since.elapsed().as_secs_f64();
    println!("{what:<52} {rate:>10.0} /s");
}

async fn partials(store: &EmbeddedStore, fence: &Fence) {
    let (started, mut written) = (Instant::now(), 0);
    while started.elapsed() < TIME {
        let partial = |ordinal: u64| NewPartial {
            batch_uid: BatchUid::new(format!("batch_{ordinal}")).unwrap(),
            ordinal,
            metrics: Metrics::default(),
            meta: serde_json::from_str(r#"{"lines": 1000, "words": 9000}"#).unwrap(),
            now: UnixMs(0),
        };
        let group: Vec<_> = (written..written + GROUP).map(partial).collect();
        assert_eq!(store.write_partials(fence, &group).await.unwrap(), Fenced::Written);
        written += GROUP;
    }
    report("partial artifacts, 64 a write", written, started);
}

async fn progress(store: &EmbeddedStore, fence: &Fence) {
    let (started, mut finished) = (Instant::now(), 0);
    while started.elapsed() < TIME {
        finished += 1;
        let progress = Progress { finished, ..Progress::default() };
        assert_eq!(store.save_progress(fence, &progress).await.unwrap(), Fenced::Written);
    }
    report("writes of a run's progress", finished, started);
}

fn message(topic: &Topic) -> OutMessage {
    let value = vec![b'x'; 300];
    OutMessage { topic: topic.clone(), key: Some("t:n".into()), value, headers: Vec::new() }
}

/// Each caller publishes one message at a time.
async fn publishes(what: &str, callers: &[EmbeddedBus]) {
    let topic = Topic::new("bench").unwrap();
    let started = Instant::now();
    let publish = |bus: &EmbeddedBus| {
        let (bus, message) = (bus.clone(), message(&topic));
        tokio::spawn(async move {
            let (mut published, mut slowest) = (0, Duration::ZERO);
            while started.elapsed() < TIME {
                let sent = Instant::now();
                bus.publish(std::slice::from_ref(&message), None).await.unwrap();
                slowest = slowest.max(sent.elapsed());
                published += 1;
            }
            (published, slowest)
        })
    };
    let tasks: Vec<_> = callers.iter().map(publish).collect();
    let (mut published, mut slowest) = (0, Duration::ZERO);
    for task in tasks {
        let (count, time) = task.await.unwrap();
        published += count;
        slowest = slowest.max(time);
    }
    report(&format!("publishes, {what}, slowest {slowest:.0?}"), published, started);
}

/// From the call of `publish` to the message in the hands of a group member that waits.
async fn latency(what: &str, from: &EmbeddedBus, to: &EmbeddedBus) {
    let topic = Topic::new(format!("latency-{}", what.replace(' ', "-"))).unwrap();
    let mut member = to.subscribe("group", std::slice::from_ref(&topic)).await.unwrap();
    let mut times = Vec::new();
    for n in 0..100 {
        let publish = async {
            // Not in step with whatever the reader does now and then.
            tokio::time::sleep(Duration::from_micros(25_000 + n * 157)).await;
            let sent = Instant::now();
            from.publish(&[message(&topic)], None).await.unwrap();
            sent
        };
        let (received, sent) =
            tokio::join!(async { (member.next().await.unwrap(), Instant::now()) }, publish);
        times.push(received.1.duration_since(sent));
        member.commit(&received.0).await.unwrap();
    }
    times.sort();
    let (middle, slowest) = (times[times.len() / 2], times[times.len() * 95 / 100]);
    println!("publish to next, {what}: median {middle:.0?}, 95 of 100 within {slowest:.0?}");
}
