//! Both input adapters, and slots that are given back while a run waits for upstream.

use serde_json::{Value, json};

use crate::faults::Line;
use crate::intake::complete;
use crate::scripted::Plan;
use crate::world::{World, address, ms, secs};

async fn pull(world: &World, node: &str, adapter: &str, args: Value) {
    let inline = json!({"input_adapter": adapter, "input_args": args});
    world.command_with(&address(node, 1), Some(inline)).await;
}

const ARTIFACTS: &str = "pull.from_artifacts";
const RECHUNK: &str = "pull.from_artifacts.rechunk:size";

#[tokio::test(start_paused = true)]
async fn a_downstream_run_gives_its_slot_to_the_upstream_it_waits_for() {
    let world = World::new();
    world.script.plan("up", Plan::of(5).taking(secs(1)));
    let mut settings = World::settings("w1");
    settings.max_concurrent_tasks = 1;
    let _worker = world.start_with(settings, Line::new(0, ms(0)));
    pull(&world, "down", ARTIFACTS, json!({"from_nodes": ["up"]})).await;
    tokio::time::sleep(secs(10)).await;
    world.command("up", 1).await;
    world.until_ended("down").await;
    let processed: Vec<String> =
        world.script.of("down").into_iter().filter(|what| what.starts_with("process")).collect();
    assert_eq!(processed, ["process b0", "process b1", "process b2", "process b3", "process b4"]);
    assert_eq!(world.lines("down").last().unwrap(), r#"1 TASK_DONE {"final":1,"rows":5}"#);
    assert_eq!(world.store.recorded_claims().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn many_runs_that_wait_are_bounded_and_the_upstream_still_runs() {
    let world = World::new();
    world.script.plan("up", Plan::of(2));
    let mut settings = World::settings("w1");
    settings.max_concurrent_tasks = 1;
    let _worker = world.start_with(settings, Line::new(0, ms(0)));
    let nodes: Vec<String> = (0..100).map(|i| format!("down{i}")).collect();
    for node in &nodes {
        pull(&world, node, ARTIFACTS, json!({"from_nodes": ["up"]})).await;
    }
    tokio::time::sleep(secs(120)).await;
    let live = |world: &World| {
        let opened: usize = nodes.iter().map(|n| world.script.count(n, "open")).sum();
        let closed: usize = nodes.iter().map(|n| world.script.count(n, "cleanup")).sum();
        opened - closed
    };
    assert!(live(&world) <= 65, "{} instances", live(&world));
    world.command("up", 1).await;
    world.until_ended("up").await;
    for node in &nodes {
        world.until_ended(node).await;
        let done = r#"1 TASK_DONE {"final":1,"rows":2}"#;
        assert_eq!(world.lines(node).last().unwrap(), done);
    }
}

#[tokio::test(start_paused = true)]
async fn rechunk_cuts_lists_of_two_upstream_nodes() {
    let world = World::new();
    for node in ["a", "b"] {
        world.script.plan(node, Plan { partial: Some(json!({"xs": [1, 2, 3]})), ..Plan::of(2) });
        world.command(node, 1).await;
    }
    let args = json!({"from_nodes": ["a", "b"], "size": 2, "meta_list_key": "xs"});
    pull(&world, "down", RECHUNK, args).await;
    let _worker = world.start("w1");
    world.until_ended("down").await;
    // Two nodes, two batches each, two chunks each.
    assert_eq!(world.lines("down").last().unwrap(), r#"1 TASK_DONE {"final":1,"rows":8}"#);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_without_data_is_no_error() {
    let world = World::new();
    complete(&world, "up").await;
    let _worker = world.start("w1");
    pull(&world, "down", ARTIFACTS, json!({"from_node": "up"})).await;
    world.until_ended("down").await;
    assert_eq!(world.lines("down"), ["1 TASK_ACCEPTED", r#"1 TASK_DONE {"final":1}"#]);
}

#[tokio::test(start_paused = true)]
async fn wrong_adapters_and_arguments_fail_before_anything_is_opened() {
    let world = World::new();
    let _worker = world.start("w1");
    pull(&world, "unknown", "pull.from_space", json!({})).await;
    pull(&world, "wrong", RECHUNK, json!({"from_nodes": ["a"], "size": 0})).await;
    for (node, reason) in [("unknown", "bad_input_adapter"), ("wrong", "bad_input_args")] {
        world.until_ended(node).await;
        let failed = format!("1 TASK_FAILED {reason} true");
        assert_eq!(world.lines(node), ["1 TASK_ACCEPTED".to_owned(), failed]);
        assert!(world.script.of(node).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_upstream_stops_at_once() {
    let world = World::new();
    let _worker = world.start("w1");
    pull(&world, "down", ARTIFACTS, json!({"from_nodes": ["up"]})).await;
    tokio::time::sleep(secs(30)).await;
    world.signal("down", 1, "enough", None).await;
    tokio::time::sleep(ms(100)).await;
    assert_eq!(world.lines("down"), ["1 TASK_ACCEPTED", "1 CANCELLED enough"]);
}

#[tokio::test(start_paused = true)]
async fn a_resumed_run_does_not_read_again_what_it_finished() {
    let world = World::new();
    world.script.plan("up", Plan::of(6));
    world.command("up", 1).await;
    world.script.plan("down", Plan::of(0).taking(secs(2)));
    let first = world.start("w1");
    world.until_ended("up").await;
    pull(&world, "down", ARTIFACTS, json!({"from_nodes": ["up"]})).await;
    world.until("three", |world| world.count("down", "BATCH_OK") == 3).await;
    first.crash().await;
    let _second = world.start("w1");
    world.until_ended("down").await;
    assert_eq!(world.lines("down").last().unwrap(), r#"1 TASK_DONE {"final":1,"rows":6}"#);
    for i in 0..3 {
        assert_eq!(world.script.count("down", &format!("process b{i}")), 1);
    }
}
