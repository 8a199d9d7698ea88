//! Who takes over what, how soon, and without a stampede.

use flowkit::clock::Clock;
use flowkit::settings::Settings;
use flowkit::store::{RunStore as _, TaskStore as _};
use flowkit::types::{Epoch, LeaseNo, Role, TaskId};

use crate::faults::Line;
use crate::scripted::{Plan, Quirk};
use crate::world::{ROLE, World, ms, secs};

fn settings(worker: &str, slots: usize) -> Settings {
    let mut settings = World::settings(worker);
    settings.max_concurrent_tasks = slots;
    settings
}

#[tokio::test(start_paused = true)]
async fn a_dead_workers_run_goes_on_within_its_lease_and_five_seconds() {
    for seed in 0..20 {
        let world = World::new();
        world.script.plan("n", Plan::of(9).with_checkpoints().taking(secs(13)));
        let first = world.start_with(settings("w1", 1), Line::new(seed, ms(5)));
        // Its clock is as far behind as two clocks may be apart.
        let behind = Clock::starting_at(flowkit::clock::UnixMs(world.clock.wall().0 - 2_000));
        let _second = world.start_on(settings("w2", 1), Line::new(seed, ms(5)), behind);
        tokio::time::sleep(secs(1)).await;
        world.command("n", 1).await;
        tokio::time::sleep(secs(40 + seed)).await;
        let owner = world.record("n").await.owner.unwrap();
        if owner.worker_id.as_str() != "w1" {
            continue;
        }
        let renewed = owner.deadline.0 - 60_000;
        first.crash().await;
        world.until("resumed", |world| world.count("n", "TASK_RESUMED") == 1).await;
        let resumed = world.said("n").into_iter().find(|(_, s)| s.event.kind() == "TASK_RESUMED");
        let after = resumed.unwrap().0.timestamp.0 - renewed;
        assert!((60_000..=65_000).contains(&after), "seed {seed}: {after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_back_under_its_name_takes_its_own_runs_at_once() {
    let world = World::new();
    world.script.plan("n", Plan::of(3).with_checkpoints().taking(secs(10)));
    let first = world.start("w1");
    world.command("n", 1).await;
    world.until("a batch", |world| world.count("n", "BATCH_OK") == 1).await;
    first.crash().await;
    let _again = world.start("w1");
    let start = tokio::time::Instant::now();
    world.until("resumed", |world| world.count("n", "TASK_RESUMED") == 1).await;
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    world.until_ended("n").await;
    assert_eq!(world.record("n").await.lease_no, LeaseNo(2));
    assert_eq!(world.script.count("n", "process b0"), 1);
}

#[tokio::test(start_paused = true)]
async fn many_workers_do_not_stampede() {
    for (workers, runs) in [(2, 200), (20, 60), (40, 400)] {
        let world = World::new();
        let nodes: Vec<String> = (0..runs).map(|i| format!("n{i}")).collect();
        for node in &nodes {
            world.script.plan(node, Plan::of(1).taking(ms(700)));
            let new = flowkit::store::NewRun {
                key: crate::world::key(node),
                role: Role::new(ROLE).unwrap(),
                epoch: Epoch(1),
                input: flowkit::store::RunInput::default(),
                created_at: world.clock.wall(),
            };
            world.store.admit(&new, None).await.unwrap();
            tokio::time::sleep(ms(1)).await;
        }
        // All of them begin in the same moment, on slow lines.
        let workers: Vec<_> = (0..workers)
            .map(|i| world.start_with(settings(&format!("w{i}"), 2), Line::new(i, ms(25))))
            .collect();
        let role = Role::new(ROLE).unwrap();
        tokio::time::sleep(secs(90)).await;
        let said = world.bus.messages(&world.topics.status(&role));
        let done = |message: &flowkit::bus::InMessage| {
            String::from_utf8_lossy(&message.value).contains(r#""kind":"TASK_DONE""#)
        };
        assert_eq!(said.iter().filter(|message| done(message)).count() as u64, runs);
        let asked = |call: &str| workers.iter().map(|w| w.line.asked(call)).sum::<u64>();
        let failed = asked("claim") - runs;
        // A look loses three at most; and most lose none.
        assert!(failed <= 3 * asked("claimable") && failed <= runs * 2, "{failed} of {runs} runs");
        let at_once = workers.iter().filter(|w| w.line.asked("claim") > 0).count();
        assert!(at_once * 10 >= workers.len() * 9, "{at_once} of {} had work", workers.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_has_no_more_runs_than_its_limit_and_hides_no_other() {
    let world = World::with_roles(&["echo", "other"]);
    let other = Role::new("other").unwrap();
    let settings = settings("w1", 4);
    world.script.limit(ROLE, 1);
    let _worker = world.start_with(settings, Line::new(0, ms(0)));
    // More of the limited role than one look sees.
    let nodes: Vec<String> = (0..150).map(|i| format!("n{i}")).collect();
    for node in &nodes {
        world.script.plan(node, Plan::of(1).taking(secs(20)));
        world.command(node, 1).await;
    }
    tokio::time::sleep(secs(5)).await;
    let opened = |world: &World| nodes.iter().filter(|n| world.script.count(n, "open") > 0).count();
    assert_eq!(opened(&world), 1);
    // One that nobody owns, younger than all of them.
    let run = flowkit::store::NewRun {
        role: other,
        created_at: world.clock.wall(),
        key: crate::world::key("m"),
        ..world.record("n0").await.new
    };
    world.store.admit(&run, None).await.unwrap();
    world.script.plan("m", Plan::of(1).taking(secs(1)));
    tokio::time::sleep(secs(4)).await;
    assert_eq!(world.script.count("m", "finalize {\"rows\":1}"), 1);
    tokio::time::sleep(secs(50)).await;
    assert_eq!(opened(&world), 3);
}

#[tokio::test(start_paused = true)]
async fn a_full_worker_sees_that_runs_were_superseded_or_cancelled() {
    let world = World::new();
    world.task(&["held", "unowned", "cancelled"], 1).await;
    for node in ["held", "unowned", "cancelled"] {
        world.script.plan(node, Plan::of(2).taking(secs(1_000)));
    }
    let _worker = world.start_with(settings("w1", 1), Line::new(0, ms(0)));
    for node in ["held", "unowned", "cancelled"] {
        world.command(node, 1).await;
        tokio::time::sleep(secs(1)).await;
    }
    let id = TaskId::new("t1").unwrap();
    let mut task = world.store.task(&id).await.unwrap().unwrap();
    task.graph.nodes[2].coordinator.cancelled = true;
    task.coordinator.cancel_reason = Some("enough".into());
    assert!(world.store.save_task(&task).await.unwrap());
    tokio::time::sleep(secs(3)).await;
    assert_eq!(world.lines("cancelled"), ["1 TASK_ACCEPTED", "1 CANCELLED "]);

    let mut task = world.store.task(&id).await.unwrap().unwrap();
    for node in &mut task.graph.nodes[..2] {
        node.attempt_epoch = Epoch(2);
    }
    assert!(world.store.save_task(&task).await.unwrap());
    tokio::time::sleep(secs(30)).await;
    // The slot is free, but nobody begins what is over; the new attempts begin when read.
    assert_eq!(world.lines("held"), ["1 TASK_ACCEPTED"]);
    assert_eq!(world.lines("unowned"), Vec::<String>::new());
    world.command("unowned", 2).await;
    world.until("begun", |world| world.count("unowned", "TASK_ACCEPTED") == 1).await;
    assert_eq!(world.lines("unowned"), ["2 TASK_ACCEPTED"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_lost_a_run_leaves_the_answer_to_its_owner() {
    let world = World::new();
    world.script.plan("n", Plan::of(1).quirk("b0", Quirk::Hang));
    let _first = world.start_with(settings("w1", 1), Line::new(0, ms(0)));
    world.command("n", 1).await;
    world.until("accepted", |world| world.count("n", "TASK_ACCEPTED") == 1).await;
    // Somebody else takes it; the guest here has some seconds until it is interrupted.
    let record = world.record("n").await;
    let thief = flowkit::store::Owner {
        worker_id: flowkit::types::WorkerId::new("w9").unwrap(),
        lease_id: flowkit::types::LeaseId::fresh(),
        deadline: world.clock.wall().plus(secs(3_600)),
    };
    assert!(world.store.claim(&record, &thief).await.unwrap().is_some());
    for _ in 0..40 {
        tokio::time::sleep(secs(1)).await;
        world.ask("n", 2).await;
    }
    let topic = &world.topics.reply;
    let replies: Vec<String> = world
        .bus
        .messages(topic)
        .iter()
        .map(|message| flowkit::protocol::Envelope::decode(&message.value).unwrap())
        .map(|reply| reply.payload["run_state"].as_str().unwrap().to_owned())
        .collect();
    // Until it knows, it answers as the owner; never as one that is stopping.
    assert!(replies.len() < 25 && replies.iter().all(|state| state == "running"), "{replies:?}");
}
