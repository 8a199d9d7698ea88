//! Workers on a real broker and a real database, killed, stopped and started again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::field::{Coordinator, Field, State};
use crate::support::Process;

const TASKS: usize = 200;
const BATCHES: u32 = 50;

/// Every fifth task fails once, in the middle.
fn input(epoch: u32, number: usize) -> Value {
    let fails = number.is_multiple_of(5) && epoch == 1;
    json!({"count": BATCHES, "ms": 15, "fail_at": fails.then_some(25)})
}

/// Three workers, one of which is always in trouble.
struct Fleet<'a> {
    field: &'a Field,
    workers: Vec<Option<Process>>,
    rng: rand::rngs::StdRng,
    next: Instant,
    /// A worker that is stopped, and until when.
    stopped: Option<(usize, Instant)>,
    kills: u32,
    stops: u32,
}

impl<'a> Fleet<'a> {
    fn start(field: &'a Field) -> Self {
        let worker = |n: usize| Some(field.site.worker(&format!("w-{n}")));
        Self {
            field,
            workers: (0..3).map(worker).collect(),
            rng: rand::rngs::StdRng::seed_from_u64(7),
            next: Instant::now() + Duration::from_secs(4),
            stopped: None,
            kills: 0,
            stops: 0,
        }
    }

    /// Makes the next trouble when it is due.
    fn trouble(&mut self) {
        if let Some((worker, until)) = self.stopped
            && until <= Instant::now()
        {
            self.signal(worker, "-CONT");
            self.stopped = None;
        }
        if self.next > Instant::now() {
            return;
        }
        self.next = Instant::now() + Duration::from_millis(self.rng.random_range(1_500..3_500));
        let worker = self.rng.random_range(0..self.workers.len());
        if self.stopped.is_some_and(|(stopped, _)| stopped == worker) {
            return;
        }
        if self.stopped.is_none() && self.rng.random_bool(0.4) {
            // Past its lease, so that others go on with its runs while it sleeps.
            self.signal(worker, "-STOP");
            self.stopped = Some((worker, Instant::now() + Duration::from_secs(5)));
            self.stops += 1;
        } else {
            if let Some(process) = self.workers[worker].take() {
                process.kill();
            }
            self.workers[worker] = Some(self.field.site.worker(&format!("w-{worker}")));
            self.kills += 1;
        }
    }

    fn signal(&self, worker: usize, signal: &str) {
        if let Some(process) = &self.workers[worker] {
            process.signal(signal);
        }
    }

    /// Lets all of them stop in peace.
    fn end(mut self) {
        if let Some((worker, _)) = self.stopped.take() {
            self.signal(worker, "-CONT");
        }
        for (number, process) in self.workers.iter_mut().enumerate() {
            let Some(process) = process.take() else { continue };
            process.signal("-TERM");
            let code = process.exit_code();
            assert_eq!(code, Some(0), "{}", self.field.site.log(&format!("w-{number}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_tasks_end_once_each_whatever_happens_to_the_workers() {
    if !flowkit_servers::available("two_hundred_tasks_end_once_each") {
        return;
    }
    let field = Field::new("steps", json!({"max_concurrent_tasks": 4})).await;
    let mut coordinator = Coordinator::new(&field).await;
    coordinator.start(TASKS, input).await;
    let mut fleet = Fleet::start(&field);
    let begun = Instant::now();
    coordinator.until_all_ended(|| fleet.trouble()).await;
    let took = begun.elapsed();
    let (kills, stops) = (fleet.kills, fleet.stops);
    // Whoever was asleep wakes up and has nothing to say any more.
    coordinator.linger(Duration::from_secs(2)).await;
    fleet.end();
    coordinator.linger(Duration::from_secs(1)).await;

    assert_eq!(coordinator.wrong, Vec::<String>::new());
    let all: HashSet<String> = (0..BATCHES).map(|n| format!("step_{n}")).collect();
    let mut retried = 0;
    for (task, node) in &coordinator.nodes {
        assert_eq!(node.state, State::Finished, "{task}");
        assert_eq!(node.ends, node.epoch, "{task}: one end an attempt");
        assert_eq!(node.batches, all, "{task}: every batch was reported");
        retried += u32::from(node.epoch > 1);
        let of_task = doc! {"task_id": task, "node_id": "n"};
        let artifacts = field.documents("artifacts", of_task.clone()).await;
        let of_status = |status: &str| {
            artifacts
                .iter()
                .filter(|a| a.get_str("status").ok() == Some(status))
                .collect::<Vec<_>>()
        };
        let partials = of_status("partial");
        let uids: HashSet<String> =
            partials.iter().map(|a| a.get_str("batch_uid").unwrap().to_owned()).collect();
        assert_eq!((partials.len(), &uids), (all.len(), &all), "{task}: each artifact once");
        for artifact in partials.into_iter().chain(of_status("complete")) {
            assert_eq!(artifact.get_i64("attempt_epoch").unwrap(), i64::from(node.epoch), "{task}");
        }
        assert_eq!(of_status("complete").len(), 1, "{task}");
        let runs = field.documents("worker_states", of_task).await;
        assert_eq!(runs.len(), 1, "{task}");
        assert!(runs[0].get_bool("end_sent").unwrap(), "{task}");
    }
    assert!(retried >= u32::try_from(TASKS / 5).unwrap());
    let twice = coordinator.ids.iter().find(|(_, ids)| ids.len() > 1);
    assert_eq!(twice, None, "one deduplication id an event");
    assert!(kills > 0 && stops > 0, "{kills} kills, {stops} stops");
    println!(
        "{TASKS} tasks of {BATCHES} batches in {:.0} s: {kills} workers killed, {stops} stopped past \
         their lease; {retried} tasks tried again, {} runs resumed, {} events, {} of them again",
        took.as_secs_f64(),
        coordinator.resumed,
        coordinator.received,
        coordinator.repeated,
    );
}

/// The demo's graph gives the same over a broker and a database as in one process.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_counts_the_same_on_kafka_and_mongodb() {
    if !flowkit_servers::available("the_demo_counts_the_same_on_kafka_and_mongodb") {
        return;
    }
    let shared = flowkit_servers::shared();
    let name = uuid::Uuid::new_v4().simple().to_string();
    let on_servers = crate::support::Site::new(json!({
        "backend": "kafka",
        "kafka_bootstrap": shared.kafka,
        "mongodb_uri": shared.mongodb,
        "mongodb_database": format!("demo-{name}"),
        "topic_cmd_fmt": format!("cmd.{{type}}.{name}"),
        "topic_status_fmt": format!("status.{{type}}.{name}"),
    }));
    let alone = crate::support::Site::new(json!({}));
    let graph = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/demo.json");
    let mut results = Vec::new();
    for site in [&on_servers, &alone] {
        for n in 0..40 {
            let text = format!("file {n}\n").repeat(n * 13);
            std::fs::write(site.dir.path().join(format!("data/{n}.txt")), text).unwrap();
        }
        let output: Value =
            serde_json::from_str(&site.ok(&["run", &graph.to_string_lossy(), "--json"])).unwrap();
        let nodes = output["nodes"].as_object().unwrap().clone();
        let metrics = ["count", "report"].map(|node| nodes[node]["metrics"].clone());
        results.push((output["outcome"].clone(), output["status"].clone(), metrics));
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0].2[0]["files"], 40);
}
