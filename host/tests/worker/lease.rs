//! Outages and lost leases: who may speak, and who has to be silent.

use flowkit::store::{Owner, RunStore as _};
use flowkit::types::{LeaseId, LeaseNo, WorkerId};

use crate::scripted::{Plan, Quirk};
use crate::world::{World, key, ms, secs};

const DONE: &str = r#"1 TASK_DONE {"final":1,"rows":3}"#;

#[tokio::test(start_paused = true)]
async fn a_run_that_another_worker_has_claimed_is_left_in_silence() {
    let world = World::new();
    world.script.plan("n", Plan::of(2).quirk("b1", Quirk::Heed));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until("at work", |world| world.script.count("n", "process b1") == 1).await;
    let record = world.record("n").await;
    let thief = Owner {
        worker_id: WorkerId::new("w9").unwrap(),
        lease_id: LeaseId::fresh(),
        deadline: world.clock.wall().plus(secs(3600)),
    };
    assert!(world.store.claim(&record, &thief).await.unwrap().is_some());
    world.until("cleaned up", |world| world.script.count("n", "cleanup") == 1).await;
    tokio::time::sleep(secs(60)).await;
    assert_eq!(world.lines("n"), ["1 TASK_ACCEPTED", "1 BATCH_OK b0"]);
    assert_eq!(world.record("n").await.owner, Some(thief));
}

#[tokio::test(start_paused = true)]
async fn a_store_outage_shorter_than_the_lease_costs_nothing() {
    // From just before the first renewal to just before the lease would end.
    for from in [1, 15, 21, 39] {
        let world = World::new();
        world.script.plan("n", Plan::of(3).taking(secs(30)));
        let worker = world.start("w1");
        world.command("n", 1).await;
        tokio::time::sleep(secs(from)).await;
        worker.line.store_down(true);
        tokio::time::sleep(secs(38)).await;
        worker.line.store_down(false);
        world.until_ended("n").await;
        let lines = world.lines("n");
        assert_eq!(lines.last().unwrap(), DONE, "from {from} s");
        assert_eq!(world.count("n", "TASK_RESUMED"), 0, "from {from} s");
        assert_eq!(world.record("n").await.lease_no, LeaseNo(1), "from {from} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_outage_longer_than_the_lease_ends_the_run_here_and_it_is_resumed() {
    let world = World::new();
    world.script.plan("n", Plan::of(3).with_checkpoints().taking(secs(30)));
    let worker = world.start("w1");
    world.command("n", 1).await;
    world.until("a batch", |world| world.count("n", "BATCH_OK") == 1).await;
    worker.line.store_down(true);
    let said = world.said("n").len();
    tokio::time::sleep(secs(200)).await;
    assert!(world.said("n").len() <= said + 1, "it spoke without a lease");
    worker.line.store_down(false);
    world.until_ended("n").await;
    let lines = world.lines("n");
    assert_eq!(lines.last().unwrap(), DONE);
    assert_eq!(world.count("n", "TASK_RESUMED"), 1, "{lines:?}");
    assert_eq!(world.script.count("n", "process b0"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bus_outage_of_any_length_only_delays_what_is_said() {
    for outage in [30, 300] {
        let world = World::new();
        let worker = world.start("w1");
        world.command("n", 1).await;
        world.until("accepted", |world| world.count("n", "TASK_ACCEPTED") == 1).await;
        worker.line.bus_down(true);
        tokio::time::sleep(secs(outage)).await;
        assert_eq!(world.ends("n"), 0);
        worker.line.bus_down(false);
        world.until_ended("n").await;
        let said = ["1 TASK_ACCEPTED", "1 BATCH_OK b0", "1 BATCH_OK b1", "1 BATCH_OK b2", DONE];
        assert_eq!(world.lines("n"), said, "{outage} s");
        assert_eq!(world.record("n").await.lease_no, LeaseNo(1));
    }
}

#[tokio::test(start_paused = true)]
async fn without_bus_and_store_the_lease_ends_while_the_end_is_being_sent() {
    let world = World::new();
    let worker = world.start("w1");
    worker.line.refuse("end", Some(flowkit::store::StoreError::Unavailable("busy".into())));
    world.command("n", 1).await;
    world.until("finalized", |world| world.script.of("n").len() >= 7).await;
    worker.line.store_down(true);
    tokio::time::sleep(secs(300)).await;
    assert_eq!(world.ends("n"), 0);
    worker.line.refuse("end", None);
    worker.line.store_down(false);
    world.until_ended("n").await;
    assert_eq!(world.lines("n").last().unwrap(), DONE);
    assert_eq!(world.ends("n"), 1);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_change_nothing_that_counts() {
    for seed in 0..30 {
        let world = World::new();
        world.script.plan("n", Plan::of(5));
        let line = crate::faults::Line::new(seed, ms(20));
        line.lose_answers(300);
        let _worker = world.start_with(World::settings("w1"), line);
        world.command("n", 1).await;
        world.until("ended", |world| world.ends("n") > 0).await;
        tokio::time::sleep(secs(60)).await;
        let lines = world.lines("n");
        let done = r#"1 TASK_DONE {"final":1,"rows":5}"#;
        assert_eq!(lines.last().unwrap(), done, "seed {seed}: {lines:?}");
        let expected: Vec<_> = (0..5u64).map(|i| (format!("b{i}"), i)).collect();
        assert_eq!(world.artifacts("n", 1).await, expected, "seed {seed}");
        let record = world.store.run(&key("n")).await.unwrap().unwrap();
        assert!(record.end_sent && record.owner.is_none(), "seed {seed}");
    }
}
