//! A bus or a store that is away, from the beginning or in the middle: the worker waits.

use flowkit::bus::Bus as _;
use flowkit::store::{RunStore as _, WorkerStore as _};
use flowkit::types::LeaseNo;

use crate::faults::Line;
use crate::scripted::Plan;
use crate::world::{World, address, ms, secs};

#[tokio::test(start_paused = true)]
async fn a_worker_that_starts_before_its_bus_or_store_waits_for_it() {
    for (bus, store) in [(true, false), (false, true), (true, true)] {
        let world = World::new();
        let line = Line::new(0, ms(0));
        line.bus_down(bus);
        line.store_down(store);
        let worker = world.start_with(World::settings("w1"), line.clone());
        world.command("n", 1).await;
        tokio::time::sleep(secs(70)).await;
        assert!(!worker.task.is_finished());
        if bus && !store {
            let record = &world.store.workers().await.unwrap()[0];
            assert!(record.health["parts"]["bus"]["down_since_ms"].is_i64(), "{record:?}");
            assert_eq!(record.health["parts"]["store"], "ok");
        }
        line.bus_down(false);
        line.store_down(false);
        let back = tokio::time::Instant::now();
        world.until_ended("n").await;
        assert!(back.elapsed() < secs(7), "{:?}", back.elapsed());
        tokio::time::sleep(secs(6)).await;
        let record = &world.store.workers().await.unwrap()[0];
        assert_eq!(record.health["parts"], serde_json::json!({"bus": "ok", "store": "ok"}));
        assert!(!world.bus.messages(&world.topics.announce).is_empty());
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_waits_for_its_bus_ends_at_once_when_asked() {
    let world = World::new();
    let line = Line::new(0, ms(0));
    line.bus_down(true);
    let worker = world.start_with(World::settings("w1"), line);
    tokio::time::sleep(secs(20)).await;
    let asked = tokio::time::Instant::now();
    worker.stop().await;
    assert!(asked.elapsed() < ms(10), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_minute_without_bus_and_store_in_the_middle_of_runs_costs_no_event() {
    for seed in 0..12 {
        let world = World::new();
        let nodes = ["a", "b", "c"];
        for node in nodes {
            world.script.plan(node, Plan::of(40).with_checkpoints().taking(secs(2)));
        }
        let worker = world.start_with(World::settings("w1"), Line::new(seed, ms(10)));
        for node in nodes {
            world.command(node, 1).await;
        }
        tokio::time::sleep(secs(10 + seed)).await;
        let (bus, store) = (seed % 3 != 1, seed % 3 != 2);
        worker.line.bus_down(bus);
        worker.line.store_down(store);
        tokio::time::sleep(secs(60)).await;
        worker.line.bus_down(false);
        worker.line.store_down(false);
        for node in nodes {
            world.until_ended(node).await;
            let lines: Vec<_> =
                world.lines(node).into_iter().filter(|l| *l != "1 TASK_RESUMED").collect();
            let mut batches: Vec<_> = (0..40).map(|i| format!("1 BATCH_OK b{i}")).collect();
            batches.insert(0, "1 TASK_ACCEPTED".into());
            batches.push(r#"1 TASK_DONE {"final":1,"rows":40}"#.into());
            let mut once = lines.clone();
            once.dedup();
            assert_eq!(once, batches, "{node}, seed {seed}");
            // The lease is given up only where it could not be renewed for all of its time.
            let record = world.record(node).await;
            assert!(store || record.lease_no == LeaseNo(1), "{node}, seed {seed}");
            assert!(record.lease_no <= LeaseNo(2), "{node}, seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_stays_in_its_group_through_outages_and_pauses() {
    let world = World::new();
    let mut settings = World::settings("w1");
    settings.max_concurrent_tasks = 1;
    settings.max_queued_runs = 3;
    let worker = world.start_with(settings, Line::new(0, ms(0)));
    for i in 0..9 {
        world.script.plan(&format!("n{i}"), Plan::of(1).taking(secs(30)));
        world.command(&format!("n{i}"), 1).await;
    }
    tokio::time::sleep(secs(10)).await;
    let recorded = async |world: &World| {
        let mut recorded = 0;
        for i in 0..9 {
            let run = world.store.run(&crate::world::key(&format!("n{i}"))).await.unwrap();
            recorded += usize::from(run.is_some());
        }
        recorded
    };
    // One runs, three wait, the rest stay in the topic.
    assert_eq!(recorded(&world).await, 4);
    worker.line.bus_down(true);
    worker.line.store_down(true);
    tokio::time::sleep(secs(45)).await;
    worker.line.bus_down(false);
    worker.line.store_down(false);
    for i in 0..9 {
        world.until_ended(&format!("n{i}")).await;
    }
    assert_eq!(worker.line.joined(), 1);
    // Everything was committed: nothing comes again.
    let group = flowkit::protocol::Topics::group(&address("n", 1).role);
    let topic = world.topics.commands(&address("n", 1).role);
    worker.stop().await;
    let mut other = world.bus.subscribe(&group, &[topic]).await.unwrap();
    assert!(tokio::time::timeout(secs(5), other.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_refused_or_late_stops_nothing() {
    let world = World::new();
    let topic = world.topics.commands(&address("n", 1).role);
    let worker = world.start("w1");
    tokio::time::sleep(secs(1)).await;
    worker.line.bus_down(true);
    world.say(&topic, None, b"{".to_vec()).await;
    tokio::time::sleep(secs(30)).await;
    worker.line.bus_down(false);
    tokio::time::sleep(secs(2)).await;
    assert_eq!(world.bus.messages(&world.topics.dead_letter).len(), 1);
    worker.line.close_topic(&world.topics.dead_letter);
    world.say(&topic, None, b"[".to_vec()).await;
    for _ in 0..30 {
        world.say(&world.topics.signals, None, b"no signal".to_vec()).await;
        world.say(&world.topics.query, None, b"no question".to_vec()).await;
    }
    world.command("n", 1).await;
    world.until_ended("n").await;
    tokio::time::sleep(secs(61)).await;
    let passed_over = &world.store.workers().await.unwrap()[0].health["passed_over"];
    let expected = serde_json::json!({
        "malformed_signals": 30, "malformed_queries": 30, "dead_letters": 1, "lost_letters": 1,
    });
    assert_eq!(*passed_over, expected);
    assert_eq!(worker.line.joined(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_everything_costs_no_command() {
    let world = World::new();
    let worker = world.start("w1");
    let why = flowkit::store::StoreError::Fatal("the password has changed".into());
    worker.line.refuse_all(Some(why.clone()));
    world.command("n", 1).await;
    tokio::time::sleep(secs(60)).await;
    assert!(world.bus.messages(&world.topics.dead_letter).is_empty());
    worker.line.refuse_all(None);
    world.until_ended("n").await;
    // One that it refuses to hold alone goes to the dead letters.
    worker.line.refuse("admit", Some(why));
    world.command("m", 1).await;
    tokio::time::sleep(secs(5)).await;
    assert_eq!(world.bus.messages(&world.topics.dead_letter).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_not_asked_more_and_more() {
    let world = World::new();
    world.task(&["n"], 1).await;
    world.script.plan("n", Plan::of(1).taking(secs(100)));
    let worker = world.start("w1");
    world.command("n", 1).await;
    world.until("accepted", |world| world.count("n", "TASK_ACCEPTED") == 1).await;
    let before = worker.line.asked("views");
    worker.line.freeze(true);
    tokio::time::sleep(secs(40)).await;
    assert!(worker.line.asked("views") - before <= 3);
    worker.line.freeze(false);
    world.until_ended("n").await;
}
