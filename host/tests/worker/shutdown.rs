//! A worker that stops: what it keeps, what it gives back, how long it takes.

use tokio::time::Instant;

use crate::faults::Line;
use crate::scripted::{Plan, Quirk};
use crate::world::{World, ms, secs};

#[tokio::test(start_paused = true)]
async fn a_batch_that_did_not_see_the_flag_is_kept_and_the_next_worker_goes_on() {
    let world = World::new();
    world.script.plan("n", Plan::of(3).with_checkpoints().taking(secs(2)));
    let first = world.start("w1");
    world.command("n", 1).await;
    world.until("at work", |world| world.script.count("n", "process b1") == 1).await;
    first.stop().await;
    let record = world.record("n").await;
    assert_eq!((record.progress.finished, record.progress.reported), (2, 2));
    assert!(record.owner.is_none() && record.end.is_none());
    assert_eq!(world.script.of("n").last().unwrap(), "cleanup");
    let start = Instant::now();
    let _second = world.start("w2");
    world.until_ended("n").await;
    assert!(start.elapsed() < secs(5), "{:?}", start.elapsed());
    assert_eq!(
        world.lines("n"),
        [
            "1 TASK_ACCEPTED",
            "1 BATCH_OK b0",
            "1 BATCH_OK b1",
            "1 TASK_RESUMED",
            "1 BATCH_OK b2",
            r#"1 TASK_DONE {"final":1,"rows":3}"#,
        ]
    );
    assert_eq!(world.script.count("n", r#"iter {"next":2}"#), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_saw_the_flag_is_processed_again() {
    let world = World::new();
    world.script.plan("n", Plan::of(2).quirk("b1", Quirk::Heed));
    let first = world.start("w1");
    world.command("n", 1).await;
    world.until("at work", |world| world.script.count("n", "process b1") == 1).await;
    first.stop().await;
    assert_eq!(world.record("n").await.progress.finished, 1);
    world.script.plan("n", Plan::of(2));
    let _second = world.start("w2");
    world.until_ended("n").await;
    assert_eq!(world.script.count("n", "process b1"), 2);
    assert_eq!(world.script.count("n", "process b0"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_listen_is_interrupted_and_its_run_released_in_time() {
    let world = World::new();
    world.script.plan("n", Plan::of(2).quirk("b1", Quirk::Hang));
    let first = world.start("w1");
    world.command("n", 1).await;
    world.until("at work", |world| world.script.count("n", "process b1") == 1).await;
    let start = Instant::now();
    first.stop().await;
    assert!((secs(5)..secs(8)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(world.record("n").await.owner.is_none());
    assert_eq!(world.lines("n"), ["1 TASK_ACCEPTED", "1 BATCH_OK b0"]);
}

#[tokio::test(start_paused = true)]
async fn the_drain_ends_even_when_nothing_can_be_reached() {
    let world = World::new();
    world.script.plan("n", Plan::of(2).quirk("b1", Quirk::Heed));
    let first = world.start("w1");
    world.command("n", 1).await;
    world.until("at work", |world| world.script.count("n", "process b1") == 1).await;
    first.line.store_down(true);
    first.line.bus_down(true);
    let start = Instant::now();
    first.stop().await;
    assert!(start.elapsed() <= secs(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whatever_it_is_about_to_acquire_is_given_back() {
    for seed in 0..60 {
        let world = World::new();
        world.script.plan("n", Plan::of(50).with_checkpoints());
        world.command("n", 1).await;
        let first = world.start_with(World::settings("w1"), Line::new(seed, ms(40)));
        tokio::time::sleep(ms(seed * 5)).await;
        first.stop().await;
        if let Some(record) =
            flowkit::store::RunStore::run(&world.store, &crate::world::key("n")).await.unwrap()
        {
            assert!(record.owner.is_none(), "seed {seed}: {record:?}");
        }
        let start = Instant::now();
        let _second = world.start("w2");
        world.until_ended("n").await;
        assert!(start.elapsed() < secs(10), "seed {seed}: {:?}", start.elapsed());
        assert_eq!(world.count("n", "BATCH_OK"), 50, "seed {seed}: something was said twice");
    }
}

#[tokio::test(start_paused = true)]
async fn it_says_when_it_comes_and_last_of_all_when_it_goes() {
    let world = World::new();
    let worker = world.start("w1");
    tokio::time::sleep(secs(130)).await;
    worker.stop().await;
    let kinds: Vec<String> = world
        .bus
        .messages(&world.topics.announce)
        .iter()
        .map(|message| {
            let envelope = flowkit::protocol::Envelope::decode(&message.value).unwrap();
            envelope.payload["kind"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(kinds, ["WORKER_ONLINE", "WORKER_ONLINE", "WORKER_ONLINE", "WORKER_OFFLINE"]);
}
