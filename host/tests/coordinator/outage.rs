//! Coordination while the bus and the store come and go.

use std::sync::Arc;

use flowkit::coordinator::driver::{host, run_task};
use flowkit::protocol::Topics;
use flowkit::store::{NodeStatus, TaskStatus};
use flowkit::tasks::spawn;
use flowkit::types::{Role, WorkerId};
use serde_json::json;

use crate::flaky::{FlakyBus, FlakyStore, Luck};
use crate::world::{Act, World, all_done, diamond};

fn flaky(world: &World, seed: u64) -> flowkit::coordinator::Deps {
    let luck = Luck::new(seed);
    let mut deps = world.deps();
    deps.bus = Arc::new(FlakyBus { inner: world.bus.clone(), luck: luck.clone() });
    deps.store = Arc::new(FlakyStore { inner: world.store.clone(), luck });
    deps
}

#[tokio::test(start_paused = true)]
async fn a_task_ends_whatever_comes_and_goes() {
    for seed in 0..40 {
        let world = World::new();
        let _worker = world.worker(all_done);
        let task = world.task(diamond(), None);
        let doc = run_task(flaky(&world, seed), task, &mut ()).await.unwrap();
        assert_eq!(doc.status, TaskStatus::Finished, "seed {seed}");
        let mut started = world.started();
        started.sort();
        assert_eq!(started, ["a/1", "b/1", "c/1", "d/1"], "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_dies_again_and_again_loses_nothing() {
    for seed in 0..20 {
        let world = World::new();
        let _worker = world.worker(|node, epoch| match (node, epoch) {
            ("b", 1) => vec![Act::Wait(300), Act::Fail("busy", false)],
            _ => vec![Act::Batch("x"), Act::Wait(700), Act::Done],
        });
        let mut graph = diamond();
        graph["nodes"][1]["retry_policy"] = json!({"max": 2, "backoff_sec": 1});
        world.submit(graph).await;
        let mut lives = 0u64;
        while !world.doc().await.status.is_final() {
            let (deps, name) = (flaky(&world, seed * 1_000 + lives), WorkerId::new("h").unwrap());
            let life = spawn("host", async move { host(deps, name, std::future::pending()).await });
            let span = std::time::Duration::from_millis(150 + (seed * 37 + lives * 211) % 900);
            tokio::time::sleep(span).await;
            drop(life); // killed
            lives += 1;
            assert!(lives < 1_000, "seed {seed}: {:?}", world.doc().await);
        }
        let doc = world.doc().await;
        let all = doc.graph.nodes.iter().all(|node| node.status == NodeStatus::Finished);
        assert!(all && lives > 1, "seed {seed}, {lives} lives: {doc:?}");
        let mut started = world.started();
        started.sort();
        assert_eq!(started, ["a/1", "b/1", "b/2", "c/1", "d/1"], "seed {seed}");
        // Orders may be repeated; workers know a repeated one by its id.
        let commands = Topics::default().commands(&Role::new("r").unwrap());
        assert!(world.bus.messages(&commands).len() >= 5);
    }
}
