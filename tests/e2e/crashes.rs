//! kill -9 costs nothing that was finished.

use std::collections::{HashMap, HashSet};

use flowkit::protocol::RunEvent;
use flowkit::store::{ArtifactStore, RunStore};
use flowkit::types::{Epoch, NodeId, RunKey, TaskId};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::support::Site;

const BATCHES: u64 = 200;

/// Kills the worker at points that the seed chooses, again and again, and starts it anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_goes_on_where_it_was() {
    for seed in 1..=4u64 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        // Far longer than a test waits: nobody waits for the lease of a process that is gone.
        let site = Site::new(json!({"lease_ttl_sec": 600}));
        let input = json!({"count": BATCHES, "ms": 5}).to_string();
        let mut worker = site.worker("w-1");
        let task = site.ok(&["submit", "steps", "--input", &input]).trim().to_owned();
        let key = RunKey {
            task_id: TaskId::new(task.as_str()).unwrap(),
            node_id: site_node(&site, &task),
        };
        let mut kept: HashMap<u64, String> = HashMap::new();
        for kill in 1..=2u64 {
            let at = rng.random_range(1..BATCHES / 3) * kill;
            site.wait_for(&task, "that far", |now| batches(now) >= at);
            worker.kill();
            let store = site.store();
            let run = store.run(&key).await.unwrap().expect("the run is recorded");
            assert!(run.end.is_none(), "seed {seed}: the run ended before it was killed");
            let finished = run.progress.finished;
            for batch in store.finished(&key, Epoch(1), 0..finished, 1_000).await.unwrap() {
                kept.insert(batch.ordinal, batch.batch_uid.to_string());
            }
            assert_eq!(kept.len() as u64, finished, "seed {seed}: finished without artifact");
            drop(store);
            worker = site.worker("w-1");
            site.wait_for(&task, "resumed", |now| batches(now) > finished);
        }
        let end = site.wait_for_end(&task);
        assert_eq!(end["status"], "finished", "seed {seed}: {end}\n{}", site.log("w-1"));
        let node = &end["nodes"][key.node_id.as_str()];
        assert_eq!(node["batches"], BATCHES, "seed {seed}: {end}");
        assert_eq!(node["metrics"]["steps"], BATCHES, "seed {seed}: {end}");
        worker.signal("-TERM");
        assert_eq!(worker.exit_code(), Some(0));

        let store = site.store();
        let all = store.finished(&key, Epoch(1), 0..BATCHES, 1_000).await.unwrap();
        let uids: Vec<String> = all.iter().map(|batch| batch.batch_uid.to_string()).collect();
        let expected: Vec<String> = (0..BATCHES).map(|i| format!("step_{i}")).collect();
        assert_eq!(uids, expected, "seed {seed}: each batch once, in order");
        for (ordinal, uid) in kept {
            assert_eq!(uids[ordinal as usize], uid, "seed {seed}: a finished batch was redone");
        }
        assert_events(&site.events("steps").await, seed);
    }
}

fn assert_events(events: &[flowkit::protocol::Status], seed: u64) {
    let kinds: Vec<&str> = events.iter().map(|status| status.event.kind()).collect();
    assert_eq!(kinds.first(), Some(&"TASK_ACCEPTED"), "seed {seed}");
    assert_eq!(kinds.last(), Some(&"TASK_DONE"), "seed {seed}: something was said after the end");
    assert_eq!(kinds.iter().filter(|kind| **kind == "TASK_DONE").count(), 1, "seed {seed}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "TASK_RESUMED").count(), 2, "seed {seed}");
    assert!(events.iter().all(|status| status.address.epoch == Epoch(1)), "seed {seed}");
    let mut ids: HashMap<String, HashSet<&str>> = HashMap::new();
    for status in events {
        if let RunEvent::BatchOk { batch_uid, .. } = &status.event {
            ids.entry(batch_uid.to_string()).or_default().insert(&status.dedup_id);
        }
    }
    assert_eq!(ids.len() as u64, BATCHES, "seed {seed}: every batch was reported");
    assert!(ids.values().all(|ids| ids.len() == 1), "seed {seed}: one dedup_id a batch");
}

/// A graceful stop hands the run to another worker at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_releases_its_run() {
    let site = Site::new(json!({}));
    let input = json!({"count": 100, "ms": 10}).to_string();
    let first = site.worker("w-1");
    let task = site.ok(&["submit", "steps", "--input", &input]).trim().to_owned();
    site.wait_for(&task, "under way", |now| batches(now) >= 5);
    first.signal("-TERM");
    assert_eq!(first.exit_code(), Some(0), "{}", site.log("w-1"));
    let second = site.worker("w-2");
    let end = site.wait_for_end(&task);
    assert_eq!(end["status"], "finished", "{end}\n{}", site.log("w-2"));
    let node = site_node(&site, &task);
    assert_eq!(end["nodes"][node.as_str()]["metrics"]["steps"], 100);
    second.signal("-TERM");
    assert_eq!(second.exit_code(), Some(0));
    let kinds: Vec<&str> =
        site.events("steps").await.iter().map(|status| status.event.kind()).collect();
    assert!(!kinds.contains(&"CANCELLED"), "a shutdown is not a cancel: {kinds:?}");
    assert!(kinds.contains(&"TASK_RESUMED"), "{kinds:?}");
}

/// Another worker takes over what a killed one held, without waiting for the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_run_is_taken_over() {
    let site = Site::new(json!({}));
    let input = json!({"count": 100, "ms": 10}).to_string();
    let first = site.worker("w-1");
    let task = site.ok(&["submit", "steps", "--input", &input]).trim().to_owned();
    site.wait_for(&task, "under way", |now| batches(now) >= 5);
    let second = site.worker("w-2");
    first.kill();
    let end = site.wait_for_end(&task);
    assert_eq!(end["status"], "finished", "{end}\n{}", site.log("w-2"));
    let node = site_node(&site, &task);
    assert_eq!(end["nodes"][node.as_str()]["metrics"]["steps"], 100);
    second.signal("-TERM");
    assert_eq!(second.exit_code(), Some(0));
}

/// The one node of a task that was submitted as a role.
fn site_node(site: &Site, task: &str) -> NodeId {
    let now = site.wait_for(task, "known", |now| {
        now["nodes"].as_object().is_some_and(|nodes| nodes.len() == 1)
    });
    let name = now["nodes"].as_object().and_then(|nodes| nodes.keys().next().cloned());
    NodeId::new(name.expect("a task of one node")).expect("a node's name")
}

fn batches(task: &serde_json::Value) -> u64 {
    let nodes = task["nodes"].as_object();
    nodes.and_then(|nodes| nodes.values().next()?["batches"].as_u64()).unwrap_or(0)
}
