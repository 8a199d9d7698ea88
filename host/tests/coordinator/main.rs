//! The coordinator over the backends in memory, with workers that follow a script and
//! paused time.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod flaky;
mod outage;
mod world;

use std::time::Duration;

use flowkit::bus::{Bus, OutMessage};
use flowkit::coordinator::driver::{GROUP, run_task};
use flowkit::protocol::{Signal, Topics};
use flowkit::store::{
    NodeStatus, RunStore, TaskDoc, TaskStatus, TaskStore, WorkerRecord, WorkerStore,
};
use flowkit::tasks::spawn;
use flowkit::types::{NodeId, Role, RunKey, TaskId, WorkerId};
use serde_json::{Value, json};

use world::{Act, World, all_done, diamond};

fn statuses(doc: &TaskDoc) -> Vec<NodeStatus> {
    doc.graph.nodes.iter().map(|node| node.status).collect()
}

#[tokio::test(start_paused = true)]
async fn a_graph_runs_to_its_end_in_order() {
    let world = World::new();
    let _worker = world.worker(all_done);
    let doc = run_task(world.deps(), world.task(diamond(), None), &mut ()).await.unwrap();
    assert_eq!(doc.status, TaskStatus::Finished);
    let started = world.started();
    assert_eq!(started.first().unwrap(), "a/1");
    assert_eq!(started.last().unwrap(), "d/1");
    assert_eq!(started.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_streaming_node_starts_with_the_first_batch() {
    let world = World::new();
    let _worker =
        world.worker(|_, _| vec![Act::Wait(10), Act::Batch("x"), Act::Wait(5_000), Act::Done]);
    let graph = json!({"nodes": [
        {"node_id": "a", "type": "r"},
        {"node_id": "s", "type": "r", "depends_on": ["a"], "io": {"start_when": "first_batch"}},
    ]});
    let before = world.clock.wall();
    let doc = run_task(world.deps(), world.task(graph, None), &mut ()).await.unwrap();
    assert_eq!(doc.status, TaskStatus::Finished);
    assert!(world.clock.wall().since(before) < Duration::from_secs(6), "one after the other");
}

#[tokio::test(start_paused = true)]
async fn a_failed_node_is_tried_again_after_its_backoff() {
    let world = World::new();
    let _worker = world.worker(|_, epoch| match epoch {
        1 | 2 => vec![Act::Fail("busy", false)],
        _ => vec![Act::Done],
    });
    let graph = json!({"nodes": [{"node_id": "a", "type": "r", "retry_policy": {"max": 3}}]});
    let before = world.clock.wall();
    let doc = run_task(world.deps(), world.task(graph, None), &mut ()).await.unwrap();
    assert_eq!(doc.status, TaskStatus::Finished);
    assert_eq!(world.started(), ["a/1", "a/2", "a/3"]);
    let took = world.clock.wall().since(before).as_secs();
    assert!((600..602).contains(&took), "two waits of 300 s, not {took} s");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_stops_the_others_with_its_reason() {
    let world = World::new();
    let _worker = world.worker(|node, _| match node {
        "bad" => vec![Act::Wait(500), Act::Fail("bad_row", true)],
        _ => vec![Act::Hang],
    });
    let graph = json!({"nodes": [
        {"node_id": "bad", "type": "r", "retry_policy": {"max": 5}},
        {"node_id": "long", "type": "r"},
        {"node_id": "later", "type": "r", "depends_on": ["bad"]},
    ]});
    let doc = run_task(world.deps(), world.task(graph, None), &mut ()).await.unwrap();
    assert_eq!(doc.status, TaskStatus::Failed);
    assert_eq!(statuses(&doc), [NodeStatus::Failed, NodeStatus::Cancelled, NodeStatus::Skipped]);
    assert_eq!(doc.graph.nodes[1].coordinator.cancel_reason.as_deref(), Some("hard_fail:bad_row"));
    let signals = world.bus.messages(&Topics::default().signals);
    let signals: Vec<Signal> = signals.iter().map(|m| Signal::decode(&m.value).unwrap()).collect();
    assert_eq!(signals.len(), 1);
    assert_eq!(signals[0].reason, "hard_fail:bad_row");
    assert_eq!(signals[0].address.key.node_id.as_str(), "long");
}

#[tokio::test(start_paused = true)]
async fn a_request_in_the_store_stops_a_task() {
    let world = World::new();
    let _worker = world.worker(|_, _| vec![Act::Hang]);
    let (deps, task) = (world.deps(), world.task(diamond(), None));
    let running = spawn("run", async move { run_task(deps, task, &mut ()).await });
    world.until(|doc| doc.graph.nodes[0].lease.is_some()).await;
    let asked = world.clock.wall();
    world.store.request_cancel(&TaskId::new("t").unwrap(), "enough").await.unwrap();
    let doc = running.await.unwrap().unwrap();
    assert_eq!(statuses(&doc), [NodeStatus::Cancelled; 4]);
    assert!(world.clock.wall().since(asked) < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_nobody_works_on_can_still_be_cancelled() {
    let world = World::new();
    let (deps, task) = (world.deps(), world.task(diamond(), None));
    let running = spawn("run", async move { run_task(deps, task, &mut ()).await });
    world.until(|doc| doc.graph.nodes[0].status == NodeStatus::Running).await;
    world.store.request_cancel(&TaskId::new("t").unwrap(), "enough").await.unwrap();
    let doc = running.await.unwrap().unwrap();
    assert_eq!(statuses(&doc), [NodeStatus::Cancelled; 4]);
    // Whoever reads the command later finds the flag.
    assert!(doc.graph.nodes[0].coordinator.cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_no_broker_takes_fails_its_node_only_once() {
    let world = World::new();
    let _worker = world.worker(all_done);
    let big = "x".repeat(2 * 1024 * 1024);
    let graph = json!({"nodes": [
        {"node_id": "a", "type": "r"},
        {"node_id": "big", "type": "r", "depends_on": ["a"], "io": {"input_inline": {"x": big}},
         "retry_policy": {"max": 3}},
    ]});
    let doc = run_task(world.deps(), world.task(graph, None), &mut ()).await.unwrap();
    assert_eq!(statuses(&doc), [NodeStatus::Finished, NodeStatus::Failed]);
    let said = doc.graph.nodes[1].more["flowkit"]["failure"]["error"].as_str().unwrap();
    assert!(said.contains("hand large input over by reference"), "{said}");
    assert_eq!(world.started(), ["a/1"]);
}

#[tokio::test(start_paused = true)]
async fn a_host_picks_up_what_is_submitted_and_hands_over_when_it_stops() {
    let world = World::new();
    let _worker = world.worker(|_, _| vec![Act::Wait(3_000), Act::Done]);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let first = world.host("h1", async { drop(stopped.await) });
    let _second = world.host("h2", std::future::pending());
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.submit(diamond()).await;
    let submitted = world.clock.wall();
    world.until(|doc| doc.graph.nodes[0].status == NodeStatus::Running).await;
    assert!(world.clock.wall().since(submitted) <= Duration::from_millis(300));
    world.until(|doc| doc.graph.nodes[1].status == NodeStatus::Running).await;
    stop.send(()).unwrap();
    first.await.unwrap();
    let doc = world.until(|doc| doc.status.is_final()).await;
    assert_eq!(doc.status, TaskStatus::Finished);
    assert_eq!(world.started().len(), 4);
    // One coordinator at a time: nothing was ordered twice.
    let commands = world.bus.messages(&Topics::default().commands(&Role::new("r").unwrap()));
    assert_eq!(commands.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_no_coordinator_lives_is_not_lost() {
    let world = World::new();
    let _worker = world.worker(|_, _| vec![Act::Wait(2_000), Act::Batch("x"), Act::Done]);
    let first = world.host("h", std::future::pending());
    world.submit(diamond()).await;
    world.until(|doc| doc.graph.nodes[0].lease.is_some()).await;
    drop(first); // killed
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.doc().await.graph.nodes[0].status, NodeStatus::Running);
    let _second = world.host("h", std::future::pending());
    let doc = world.until(|doc| doc.status.is_final()).await;
    assert_eq!(doc.status, TaskStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_only_in_the_record_is_found() {
    let world = World::new();
    let _worker = world.worker(|_, _| vec![Act::Wait(2_000), Act::DoneUnsaid]);
    world.submit(json!({"nodes": [{"node_id": "a", "type": "r"}]})).await;
    let first = world.host("h", std::future::pending());
    world.until(|doc| doc.graph.nodes[0].lease.is_some()).await;
    drop(first);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let _second = world.host("h", std::future::pending());
    let doc = world.until(|doc| doc.status.is_final()).await;
    assert_eq!(doc.status, TaskStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_never_heard_is_found_by_a_living_coordinator() {
    let world = World::new();
    let _worker = world.worker(|_, _| vec![Act::Wait(2_000), Act::DoneUnsaid]);
    let graph = json!({"nodes": [{"node_id": "a", "type": "r"}]});
    let before = world.clock.wall();
    let doc = run_task(world.deps(), world.task(graph, None), &mut ()).await.unwrap();
    assert_eq!(doc.status, TaskStatus::Finished);
    assert!(world.clock.wall().since(before) < Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn orders_lost_in_a_crash_are_repeated() {
    let world = World::new();
    // Stored as running, but the process died before the command left.
    let mut task = world.task(json!({"nodes": [{"node_id": "a", "type": "r"}]}), None);
    let _ = task.on_begin(world.clock.wall());
    world.store.create_task(&task.to_doc(world.clock.wall())).await.unwrap();
    let _worker = world.worker(all_done);
    let _host = world.host("h", std::future::pending());
    assert_eq!(world.until(|doc| doc.status.is_final()).await.status, TaskStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn garbage_and_strangers_on_a_status_topic_do_not_stop_a_host() {
    let world = World::new();
    let _worker = world.worker(all_done);
    let topic = Topics::default().status(&Role::new("r").unwrap());
    let garbage = |value: &[u8]| OutMessage {
        topic: topic.clone(),
        key: None,
        value: value.to_vec(),
        headers: Vec::new(),
    };
    world.bus.publish(&[garbage(b"\xff{"), garbage(b"{}")], None).await.unwrap();
    let _host = world.host("h", std::future::pending());
    world.submit(diamond()).await;
    assert_eq!(world.until(|doc| doc.status.is_final()).await.status, TaskStatus::Finished);
    // All of it was committed: a member that joins now is given nothing.
    let mut member = world.bus.subscribe(GROUP, &[topic]).await.unwrap();
    let rest = tokio::time::timeout(Duration::from_secs(5), member.next()).await;
    assert!(rest.is_err(), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_is_left_to_its_own_process_while_that_lives() {
    let world = World::new();
    let _worker = world.worker(all_done);
    let runner = WorkerId::new("runner").unwrap();
    let record = WorkerRecord {
        worker_id: runner.clone(),
        version: "2.0.0".into(),
        roles: Vec::new(),
        capacity: 1,
        running: 0,
        updated_at: world.clock.wall(),
        health: Value::Null,
    };
    world.store.put_worker(&record).await.unwrap();
    let doc = world.task(diamond(), Some(&runner)).to_doc(world.clock.wall());
    world.store.create_task(&doc).await.unwrap();
    let _host = world.host("h", std::future::pending());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.doc().await.status, TaskStatus::Queued);
    world.store.set_gone(&runner, true);
    assert_eq!(world.until(|doc| doc.status.is_final()).await.status, TaskStatus::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_task_does_not_stop_the_others() {
    let world = World::new();
    let _worker = world.worker(all_done);
    let mut damaged = world.task(diamond(), None).to_doc(world.clock.wall());
    damaged.id = TaskId::new("damaged").unwrap();
    damaged.graph.nodes[0].more.insert("depends_on".into(), json!(["nowhere"]));
    world.store.create_task(&damaged).await.unwrap();
    let _host = world.host("h", std::future::pending());
    world.submit(diamond()).await;
    assert_eq!(world.until(|doc| doc.status.is_final()).await.status, TaskStatus::Finished);
    let key = RunKey { task_id: damaged.id, node_id: NodeId::new("a").unwrap() };
    assert!(world.store.run(&key).await.unwrap().is_none());
}
