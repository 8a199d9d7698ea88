//! Attempts: a newer one silences an older one, wherever it is.

use flowkit::types::{Epoch, LeaseNo};

use crate::scripted::{Plan, Quirk};
use crate::world::{World, secs};

#[tokio::test(start_paused = true)]
async fn a_stale_command_changes_nothing() {
    let world = World::new();
    let _worker = world.start("w1");
    world.command("n", 3).await;
    world.until_ended("n").await;
    world.command("n", 2).await;
    tokio::time::sleep(secs(5)).await;
    assert_eq!(world.record("n").await.new.epoch, Epoch(3));
    assert_eq!((world.script.count("n", "open"), world.ends("n")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_newer_attempt_starts_from_nothing_and_the_older_says_nothing_more() {
    let world = World::new();
    let plan = Plan::of(3).with_checkpoints().taking(secs(1));
    world.script.plan("n", plan.quirk("b2", Quirk::Hang));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until("two batches", |world| world.count("n", "BATCH_OK") == 2).await;
    world.script.plan("n", Plan::of(3).with_checkpoints());
    world.command("n", 2).await;
    world.until_ended("n").await;
    tokio::time::sleep(secs(120)).await;
    let lines = world.lines("n");
    assert_eq!(
        lines,
        [
            "1 TASK_ACCEPTED",
            "1 BATCH_OK b0",
            "1 BATCH_OK b1",
            "2 TASK_ACCEPTED",
            "2 BATCH_OK b0",
            "2 BATCH_OK b1",
            "2 BATCH_OK b2",
            r#"2 TASK_DONE {"final":1,"rows":3}"#,
        ]
    );
    let record = world.record("n").await;
    assert_eq!((record.new.epoch, record.lease_no), (Epoch(2), LeaseNo(2)));
    assert_eq!(world.script.count("n", "iter -"), 2);
    assert!(world.artifacts("n", 1).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_newer_attempt_in_tasks_silences_the_run() {
    let world = World::new();
    world.task(&["n"], 1).await;
    world.script.plan("n", Plan::of(2).quirk("b1", Quirk::Heed));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until("a batch", |world| world.count("n", "BATCH_OK") == 1).await;
    world.set_epoch(2).await;
    world.until("cleaned up", |world| world.script.count("n", "cleanup") == 1).await;
    assert_eq!(world.lines("n"), ["1 TASK_ACCEPTED", "1 BATCH_OK b0"]);
    world.command("n", 2).await;
    world.script.plan("n", Plan::of(1));
    world.until_ended("n").await;
    let lines = world.lines("n");
    assert_eq!(
        lines[2..],
        ["2 TASK_ACCEPTED", "2 BATCH_OK b0", r#"2 TASK_DONE {"final":1,"rows":1}"#]
    );
}
