//! Cancel means stop: who wants it, what the guest sees, what is sent.

use flowkit::store::TaskStore as _;

use crate::scripted::{Plan, Quirk};
use crate::world::{Process, World, ms, secs};

async fn at_work(world: &World, quirk: Quirk) -> Process {
    world.task(&["n"], 1).await;
    world.script.plan("n", Plan::of(2).quirk("b1", quirk));
    let worker = world.start("w1");
    world.command("n", 1).await;
    world.until("at work", |world| world.script.count("n", "process b1") == 1).await;
    worker
}

const CANCELLED: [&str; 3] = ["1 TASK_ACCEPTED", "1 BATCH_OK b0", "1 CANCELLED enough"];

#[tokio::test(start_paused = true)]
async fn a_signal_cancels_whatever_the_batch_returns_then() {
    let world = World::new();
    let _worker = at_work(&world, Quirk::Heed).await;
    world.signal("n", 1, "enough", Some("w1")).await;
    world.until_ended("n").await;
    assert_eq!(world.lines("n"), CANCELLED);
    assert_eq!(world.script.of("n").last().unwrap(), "cleanup");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_listen_is_interrupted_after_the_grace() {
    let world = World::new();
    let _worker = at_work(&world, Quirk::Hang).await;
    let start = tokio::time::Instant::now();
    world.signal("n", 1, "enough", Some("w1")).await;
    world.until_ended("n").await;
    assert!((secs(5)..secs(6)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(world.lines("n"), CANCELLED);
}

#[tokio::test(start_paused = true)]
async fn a_command_cancels() {
    let world = World::new();
    let _worker = at_work(&world, Quirk::Heed).await;
    world.cancel_command("n", 1, "enough").await;
    world.until_ended("n").await;
    assert_eq!(world.lines("n"), CANCELLED);
}

#[tokio::test(start_paused = true)]
async fn a_flag_in_tasks_cancels() {
    let world = World::new();
    let _worker = at_work(&world, Quirk::Heed).await;
    world.cancel_task("enough").await;
    world.until_ended("n").await;
    assert_eq!(world.lines("n"), CANCELLED);
}

#[tokio::test(start_paused = true)]
async fn a_signal_for_another_attempt_or_worker_cancels_nothing() {
    let world = World::new();
    world.script.plan("n", Plan::of(2).taking(secs(5)));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until("accepted", |world| world.count("n", "TASK_ACCEPTED") == 1).await;
    world.signal("n", 2, "another attempt", None).await;
    world.signal("n", 1, "another worker", Some("w2")).await;
    world.until_ended("n").await;
    assert_eq!(world.lines("n").last().unwrap(), r#"1 TASK_DONE {"final":1,"rows":2}"#);
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_comes_before_its_command_is_remembered() {
    let world = World::new();
    let _worker = world.start("w1");
    tokio::time::sleep(ms(100)).await;
    world.signal("n", 2, "enough", Some("w1")).await;
    tokio::time::sleep(ms(100)).await;
    world.command("n", 2).await;
    world.until_ended("n").await;
    assert_eq!(world.lines("n"), ["2 TASK_ACCEPTED", "2 CANCELLED enough"]);
    assert!(world.script.of("n").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_is_answered_more_slowly_each_time_without_its_handler() {
    let world = World::new();
    world.task(&["n"], 1).await;
    world.cancel_task("enough").await;
    let _worker = world.start("w1");
    let mut waits = Vec::new();
    for epoch in 1..=12 {
        let start = tokio::time::Instant::now();
        world.command("n", epoch).await;
        let line = format!("{epoch} CANCELLED enough");
        world.until(&line, |world| world.lines("n").last() == Some(&line)).await;
        waits.push(start.elapsed());
    }
    assert!(waits[0] < ms(100), "{waits:?}");
    assert!(waits.is_sorted_by(|a, b| *a <= *b + ms(20)), "{waits:?}");
    assert!((secs(4)..secs(6)).contains(&waits[11]), "{waits:?}");
    assert!(world.script.of("n").is_empty());
    assert_eq!(world.count("n", "TASK_ACCEPTED"), 12);
}

fn full(world: &World) -> Process {
    world.script.plan("busy", Plan::of(1).quirk("b0", Quirk::Hang));
    let mut settings = World::settings("w1");
    settings.max_concurrent_tasks = 1;
    world.start_with(settings, crate::faults::Line::new(0, ms(0)))
}

#[tokio::test(start_paused = true)]
async fn a_queued_run_is_cancelled_by_command_without_waiting_for_a_slot() {
    let world = World::new();
    let _worker = full(&world);
    world.command("busy", 1).await;
    world.command("n", 1).await;
    tokio::time::sleep(secs(2)).await;
    assert!(world.lines("n").is_empty() && world.record("n").await.owner.is_none());
    world.cancel_command("n", 1, "enough").await;
    world.until_ended("n").await;
    assert_eq!(world.lines("n"), ["1 TASK_ACCEPTED", "1 CANCELLED enough"]);
    assert!(world.script.of("n").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_queued_run_is_cancelled_by_flag_without_waiting_for_a_slot() {
    let world = World::new();
    world.task(&["n"], 1).await;
    let _worker = full(&world);
    world.command("busy", 1).await;
    world.command("n", 1).await;
    tokio::time::sleep(secs(2)).await;
    world.store.request_cancel(&crate::world::key("n").task_id, "enough").await.unwrap();
    world.until_ended("n").await;
    assert_eq!(world.lines("n"), ["1 TASK_ACCEPTED", "1 CANCELLED enough"]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_command_read_by_another_worker_reaches_the_owner() {
    let world = World::new();
    let owner = at_work(&world, Quirk::Heed).await;
    // From now on another member of the group reads the commands.
    owner.line.bus_down(true);
    let _other = world.start("w2");
    tokio::time::sleep(secs(1)).await;
    world.cancel_command("n", 1, "enough").await;
    tokio::time::sleep(secs(1)).await;
    owner.line.bus_down(false);
    world.until_ended("n").await;
    assert_eq!(world.lines("n"), CANCELLED);
    assert_eq!(world.count("n", "TASK_RESUMED"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_signal_about_its_own_failure_is_no_news_to_a_run_that_has_ended() {
    let world = World::new();
    let mut plan = Plan::of(2).quirk("b1", Quirk::Fail("no disk"));
    plan.class = ("no_disk".into(), true);
    world.script.plan("n", plan);
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until_ended("n").await;
    let said = world.lines("n");
    assert_eq!(said.last().unwrap(), "1 TASK_FAILED no_disk true");
    world.signal("n", 1, "hard_fail:no_disk", Some("w1")).await;
    world.signal("n", 1, "hard_fail:no_disk", None).await;
    tokio::time::sleep(secs(60)).await;
    assert_eq!(world.lines("n"), said);
    // Its sibling stops with the same reason.
    world.script.plan("m", Plan::of(1).quirk("b0", Quirk::Heed));
    world.command("m", 1).await;
    world.until("at work", |world| world.script.count("m", "process b0") == 1).await;
    world.signal("m", 1, "hard_fail:no_disk", Some("w1")).await;
    world.until_ended("m").await;
    assert_eq!(world.lines("m"), ["1 TASK_ACCEPTED", "1 CANCELLED hard_fail:no_disk"]);
}
