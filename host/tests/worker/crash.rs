//! A crash costs nothing that was finished, at whatever moment it comes.

use std::collections::HashMap;

use flowkit::protocol::{RunEvent, Status};

use crate::faults::Line;
use crate::scripted::Plan;
use crate::world::{World, ms, secs};

/// What must hold for a run of `batches` batches that went through crashes.
async fn check(world: &World, batches: usize, at: &str) {
    let lines = world.lines("n");
    let done = format!(r#"1 TASK_DONE {{"final":1,"rows":{batches}}}"#);
    assert!(lines.contains(&done), "{at}: {lines:#?}");
    let record = world.record("n").await;
    assert_eq!(record.progress.finished, batches as u64, "{at}");
    let expected: Vec<_> = (0..batches).map(|i| (format!("b{i}"), i as u64)).collect();
    assert_eq!(world.artifacts("n", 1).await, expected, "{at}");
    // The first thing said is that it is accepted; a second owner says that it resumes.
    assert_eq!(lines[0], "1 TASK_ACCEPTED", "{at}");
    // Every batch is reported, and whatever is said again is the same message.
    let mut ids: HashMap<String, String> = HashMap::new();
    for Status { dedup_id, event, .. } in world.statuses("n") {
        if let RunEvent::BatchOk { batch_uid, .. } = &event {
            let id = ids.entry(batch_uid.to_string()).or_insert_with(|| dedup_id.clone());
            assert_eq!(*id, dedup_id, "{at}");
        }
    }
    assert_eq!(ids.len(), batches, "{at}: {lines:#?}");
}

/// No batch that the record calls finished is processed again: of all that is processed
/// twice, the second owner's record at its start knew nothing.
async fn crash_everywhere(plan: &Plan, same_worker: bool) {
    let batches = plan.batches.len();
    let mut moment = 0;
    loop {
        let world = World::new();
        world.script.plan("n", plan.clone());
        let line = Line::new(moment, ms(3));
        line.crash_at(moment);
        let first = world.start_with(World::settings("w1"), line.clone());
        world.command("n", 1).await;
        let start = tokio::time::Instant::now();
        while !line.crashed() && start.elapsed() < secs(5) {
            tokio::time::sleep(ms(5)).await;
        }
        let survived = !line.crashed();
        first.crash().await;
        let at = format!("crash at moment {moment}");
        let known = match flowkit::store::RunStore::run(&world.store, &crate::world::key("n")).await
        {
            Ok(Some(record)) => record,
            _ => {
                // Not even recorded: the command comes again.
                let _second = world.start(if same_worker { "w1" } else { "w2" });
                world.until_ended("n").await;
                check(&world, batches, &at).await;
                moment += 1;
                continue;
            }
        };
        let before = world.script.calls().len();
        let _second = world.start(if same_worker { "w1" } else { "w2" });
        let restarted = tokio::time::Instant::now();
        if !known.end_sent {
            world.until("ended", |world| world.ends("n") > 0).await;
        }
        tokio::time::sleep(secs(90)).await;
        check(&world, batches, &at).await;
        let record = world.record("n").await;
        assert!(record.end_sent, "{at}");
        // Finished is finished.
        let again: Vec<_> = world.script.calls()[before..]
            .iter()
            .filter(|call| call.node == "n")
            .map(|call| call.what.clone())
            .collect();
        for batch in 0..known.progress.finished {
            assert!(!again.contains(&format!("process b{batch}")), "{at}: {again:?}");
        }
        if known.end.is_none() && known.owner.is_some() {
            let checkpoint = known.progress.checkpoint.as_deref().unwrap_or("-");
            assert!(again.contains(&format!("iter {checkpoint}")), "{at}: {again:?}");
            if known.progress.accepted {
                assert_eq!(world.count("n", "TASK_RESUMED"), 1, "{at}");
            }
        }
        if known.end.is_some() {
            assert!(again.is_empty(), "{at}: an ended run was started: {again:?}");
        }
        let _ = restarted;
        if survived {
            assert!(moment > 20, "the crashes did not come: {moment}");
            return;
        }
        moment += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn at_every_moment_with_the_same_worker_and_checkpoints() {
    crash_everywhere(&Plan::of(4).with_checkpoints(), true).await;
}

#[tokio::test(start_paused = true)]
async fn at_every_moment_with_the_same_worker_and_no_checkpoints() {
    crash_everywhere(&Plan::of(4), true).await;
}

#[tokio::test(start_paused = true)]
async fn at_every_moment_with_another_worker() {
    crash_everywhere(&Plan::of(4).with_checkpoints(), false).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_worker_need_not_wait_for_its_own_lease() {
    let world = World::new();
    world.script.plan("n", Plan::of(4).taking(secs(2)));
    let first = world.start("w1");
    world.command("n", 1).await;
    world.until("a batch", |world| world.count("n", "BATCH_OK") == 1).await;
    first.crash().await;
    let start = tokio::time::Instant::now();
    let _second = world.start("w1");
    world.until("resumed", |world| world.count("n", "TASK_RESUMED") == 1).await;
    assert!(start.elapsed() < secs(3), "{:?}", start.elapsed());
    world.until_ended("n").await;
    check(&world, 4, "own lease").await;
}

#[tokio::test(start_paused = true)]
async fn another_worker_takes_over_once_the_lease_has_ended() {
    let world = World::new();
    world.script.plan("n", Plan::of(4).taking(secs(2)));
    let first = world.start("w1");
    let _second = world.start("w2");
    world.command("n", 1).await;
    world.until("a batch", |world| world.count("n", "BATCH_OK") == 1).await;
    let owner = world.record("n").await.owner.unwrap();
    // Whichever has it; only the first can be killed here.
    if owner.worker_id.as_str() != "w1" {
        return;
    }
    first.crash().await;
    let start = tokio::time::Instant::now();
    world.until("resumed", |world| world.count("n", "TASK_RESUMED") == 1).await;
    assert!((secs(40)..secs(66)).contains(&start.elapsed()), "{:?}", start.elapsed());
    world.until_ended("n").await;
    check(&world, 4, "takeover").await;
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_found_across_a_resume_of_either_kind() {
    for checkpoints in [false, true] {
        let world = World::new();
        let mut plan = Plan::of(4).taking(secs(1));
        plan.checkpoints = checkpoints;
        // The last batch has the uid of the first, which is finished before the crash.
        plan.batches.push((Some("b0".into()), serde_json::json!({"i": 4})));
        world.script.plan("n", plan);
        let first = world.start("w1");
        world.command("n", 1).await;
        world.until("two batches", |world| world.count("n", "BATCH_OK") == 2).await;
        first.crash().await;
        let _second = world.start("w1");
        world.until_ended("n").await;
        let last = world.lines("n").pop().unwrap();
        assert_eq!(last, "1 TASK_FAILED duplicate_batch_uid true", "checkpoints: {checkpoints}");
        assert_eq!(world.script.count("n", "process b0"), 1);
    }
}
