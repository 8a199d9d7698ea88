//! Ends that a coordinator missed while it was being restarted are sent again.

use flowkit::protocol::Status;
use flowkit::store::{NodeStatus, TaskStore as _};
use flowkit::types::{Epoch, TaskId};

use crate::faults::Line;
use crate::scripted::{Plan, Quirk};
use crate::world::{World, ms, secs};

fn is_end(status: &Status) -> bool {
    matches!(status.event.kind(), "TASK_DONE" | "TASK_FAILED" | "CANCELLED")
}

/// When which end of a node was said, in seconds after the first.
fn ends(world: &World, node: &str) -> Vec<(u64, String)> {
    let said = world.said(node);
    let ends: Vec<_> = said.into_iter().filter(|(_, status)| is_end(status)).collect();
    let first = ends[0].0.timestamp;
    let seconds = |at: flowkit::clock::UnixMs| at.since(first).as_secs();
    ends.iter().map(|(m, status)| (seconds(m.timestamp), status.dedup_id.clone())).collect()
}

/// Writes what the coordinator notes of a node.
async fn note(world: &World, node: &str, status: NodeStatus, epoch: u32) {
    let mut task = world.store.task(&TaskId::new("t1").unwrap()).await.unwrap().unwrap();
    let nodes = &mut task.graph.nodes;
    let stored = nodes.iter_mut().find(|stored| stored.node_id.as_str() == node).unwrap();
    (stored.status, stored.attempt_epoch) = (status, Epoch(epoch));
    assert!(world.store.save_task(&task).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_nobody_took_is_sent_again_at_doubling_intervals_for_an_hour() {
    let world = World::new();
    world.task(&["n"], 1).await;
    let _workers = [world.start("w1"), world.start("w2"), world.start("w3")];
    world.command("n", 1).await;
    world.until_ended("n").await;
    tokio::time::sleep(secs(3 * 3_600)).await;
    let ends = ends(&world, "n");
    assert_eq!(ends.len(), 8, "{ends:?}");
    assert!(ends.iter().all(|(_, id)| *id == ends[0].1), "{ends:?}");
    // A look comes at most one period late, and what follows counts from it.
    let mut due = 0;
    for (try_no, (at, _)) in ends.iter().enumerate().skip(1) {
        due += 15 * 2_u64.pow(try_no as u32 - 1);
        assert!((due..=due + 6).contains(at), "{ends:?}");
        due = *at;
    }
    assert_eq!(world.record("n").await.check, None);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_taken_is_sent_once() {
    let cases = [
        (NodeStatus::Finished, 1),
        (NodeStatus::Cancelling, 1),
        (NodeStatus::Running, 2),
        (NodeStatus::Deferred, 1),
    ];
    for (status, epoch) in cases {
        let world = World::new();
        world.task(&["n"], 1).await;
        let _worker = world.start("w1");
        world.command("n", 1).await;
        world.until_ended("n").await;
        note(&world, "n", status, epoch).await;
        tokio::time::sleep(secs(4_000)).await;
        assert_eq!(world.ends("n"), 1, "{status:?} at {epoch}");
        assert_eq!(world.record("n").await.check, None, "{status:?} at {epoch}");
    }
    // A task that is in no database.
    let world = World::new();
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until_ended("n").await;
    tokio::time::sleep(secs(4_000)).await;
    assert_eq!((world.ends("n"), world.record("n").await.check), (1, None));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_being_cancelled_still_waits_for_cancelled() {
    let world = World::new();
    world.task(&["n"], 1).await;
    world.cancel_task("enough").await;
    let _worker = world.start("w1");
    note(&world, "n", NodeStatus::Cancelling, 1).await;
    world.command("n", 1).await;
    world.until("sent again", |world| world.ends("n") == 2).await;
    assert_eq!(world.lines("n").last().unwrap(), "1 CANCELLED enough");
}

#[tokio::test(start_paused = true)]
async fn an_end_is_sent_again_until_it_is_taken() {
    let world = World::new();
    world.task(&["n"], 1).await;
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until("sent again", |world| world.ends("n") == 3).await;
    note(&world, "n", NodeStatus::Finished, 1).await;
    tokio::time::sleep(secs(4_000)).await;
    assert_eq!(world.ends("n"), 3);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_coordinator_has_not_noted_yet_is_looked_at_again() {
    let world = World::new();
    world.task(&["n"], 1).await;
    let _worker = world.start("w1");
    world.command("n", 2).await;
    world.until_ended("n").await;
    tokio::time::sleep(secs(30)).await;
    assert_eq!(world.ends("n"), 1);
    note(&world, "n", NodeStatus::Running, 2).await;
    world.until("sent again", |world| world.ends("n") == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_sent_again_with_its_batch_by_a_worker_that_did_not_run_it() {
    let world = World::new();
    world.task(&["n"], 1).await;
    world.script.plan("n", Plan::of(1).quirk("b0", Quirk::Fail("no disk")));
    let first = world.start("w1");
    world.command("n", 1).await;
    world.until_ended("n").await;
    first.crash().await;
    let _second = world.start("w2");
    world.until("sent again", |world| world.ends("n") == 2).await;
    let lines = world.lines("n");
    let end = ["1 BATCH_FAILED b0 told_so false", "1 TASK_FAILED told_so false"];
    assert_eq!(lines[1..], [end, end].concat());
    let ids: Vec<_> = world.statuses("n").into_iter().map(|status| status.dedup_id).collect();
    assert_eq!(ids[1..3], ids[3..5]);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_meets_an_outage_is_made_up_for() {
    for (store, bus) in [(true, false), (false, true)] {
        let world = World::new();
        world.task(&["n"], 1).await;
        let worker = world.start("w1");
        world.command("n", 1).await;
        world.until_ended("n").await;
        worker.line.store_down(store);
        worker.line.bus_down(bus);
        tokio::time::sleep(secs(60)).await;
        assert_eq!(world.ends("n"), 1);
        worker.line.store_down(false);
        worker.line.bus_down(false);
        world.until("sent again", |world| world.ends("n") == 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_workers_share_the_looks_at_many_ends() {
    let world = World::new();
    let nodes: Vec<String> = (0..300).map(|i| format!("n{i}")).collect();
    let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
    world.task(&names, 1).await;
    let workers: Vec<_> = (0..20)
        .map(|i| {
            let settings = World::settings(&format!("w{i}"));
            world.start_with(settings, Line::new(i, ms(3)))
        })
        .collect();
    for node in &nodes {
        world.script.plan(node, Plan::of(1));
        world.command(node, 1).await;
    }
    // Each takes a few milliseconds, so all end within a second.
    tokio::time::sleep(secs(6)).await;
    assert!(nodes.iter().all(|node| world.ends(node) == 1));
    let asked = |name: &str| workers.iter().map(|w| w.line.asked(name)).sum::<u64>();
    let before = asked("move_check");
    tokio::time::sleep(secs(20)).await;
    for node in &nodes {
        assert_eq!(world.ends(node), 2, "{node}");
        assert_eq!(world.record(node).await.check.unwrap().tries, 1);
    }
    // One write for each end, and few that come too late.
    let moves = asked("move_check") - before;
    assert!((300..=420).contains(&moves), "{moves}");
}
