//! How a run goes when nothing disturbs it, and how it fails when its handler does.

use flowkit::handler::{FaultCode, HostFault, OpenError};
use flowkit::protocol::RunEvent;
use flowkit::store::RunEnd;
use flowkit::types::{LeaseNo, Role};
use serde_json::json;

use crate::scripted::{Plan, Quirk, metrics};
use crate::world::{ROLE, World, secs};

#[tokio::test(start_paused = true)]
async fn a_plain_run_says_and_stores_everything_in_order() {
    let world = World::new();
    world.script.plan("n", Plan { partial: Some(json!({"k": "v"})), ..Plan::of(3) });
    world.command("n", 1).await;
    let worker = world.start("w1");
    world.until_ended("n").await;
    assert_eq!(
        world.lines("n"),
        [
            "1 TASK_ACCEPTED",
            "1 BATCH_OK b0",
            "1 BATCH_OK b1",
            "1 BATCH_OK b2",
            r#"1 TASK_DONE {"final":1,"rows":3}"#,
        ]
    );
    assert_eq!(
        world.script.of("n"),
        [
            "open",
            "init",
            "iter -",
            "process b0",
            "process b1",
            "process b2",
            r#"finalize {"rows":3}"#,
            "cleanup"
        ]
    );
    let record = world.record("n").await;
    assert_eq!(record.lease_no, LeaseNo(1));
    assert_eq!(record.progress.finished, 3);
    assert_eq!(record.progress.digest.as_deref(), Some("d1"));
    assert!(record.end_sent && record.owner.is_none());
    assert_eq!(record.end, Some(RunEnd::Done { metrics: metrics(json!({"final": 1, "rows": 3})) }));
    let expected: Vec<_> = (0..3u64).map(|i| (format!("b{i}"), i)).collect();
    assert_eq!(world.artifacts("n", 1).await, expected);
    assert!(world.is_complete("n").await);
    // Nothing follows the end, not even a heartbeat.
    tokio::time::sleep(secs(300)).await;
    let said = world.said("n");
    assert_eq!(said.last().unwrap().1.event.kind(), "TASK_DONE");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_starts_after_its_command_still_gets_it_once() {
    let world = World::new();
    world.command("n", 1).await;
    world.command("n", 1).await;
    let _worker = world.start("w1");
    world.until_ended("n").await;
    world.command("n", 1).await;
    tokio::time::sleep(secs(5)).await;
    assert_eq!((world.count("n", "TASK_ACCEPTED"), world.ends("n")), (1, 1));
    assert_eq!(world.script.count("n", "open"), 1);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_renew_the_lease_of_a_long_batch() {
    let world = World::new();
    world.script.plan("n", Plan::of(1).taking(secs(200)));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until_ended("n").await;
    let beats: Vec<_> = world
        .said("n")
        .into_iter()
        .filter_map(|(message, status)| match status.event {
            RunEvent::TaskHeartbeat(lease) => {
                Some(lease.lease_deadline_ts_ms.0 - message.timestamp.0)
            }
            _ => None,
        })
        .collect();
    assert!(beats.len() >= 9, "{} heartbeats in 200 s", beats.len());
    assert!(beats.iter().all(|left| (59_000..=60_000).contains(left)), "{beats:?}");
    assert_eq!(world.record("n").await.lease_no, LeaseNo(1));
}

#[tokio::test(start_paused = true)]
async fn a_failing_batch_is_classified_and_named() {
    let world = World::new();
    world.script.plan("n", Plan::of(3).quirk("b1", Quirk::Fail("no disk")));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until_ended("n").await;
    assert_eq!(
        world.lines("n"),
        [
            "1 TASK_ACCEPTED",
            "1 BATCH_OK b0",
            "1 BATCH_FAILED b1 told_so false",
            "1 TASK_FAILED told_so false",
        ]
    );
    assert_eq!(world.script.count("n", "classify no disk"), 1);
    assert_eq!(world.script.count("n", "cleanup"), 1);
    assert!(!world.is_complete("n").await);
}

#[tokio::test(start_paused = true)]
async fn a_dead_instance_is_asked_nothing_more() {
    let world = World::new();
    world.script.plan("n", Plan::of(1).quirk("b0", Quirk::Die(FaultCode::HandlerTrap)));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until_ended("n").await;
    assert_eq!(
        world.lines("n")[1..],
        ["1 BATCH_FAILED b0 handler_trap false", "1 TASK_FAILED handler_trap false"]
    );
    assert_eq!(world.script.of("n"), ["open", "init", "iter -", "process b0"]);
}

#[tokio::test(start_paused = true)]
async fn an_unusable_result_fails_its_batch_without_a_question() {
    let world = World::new();
    world.script.plan("n", Plan::of(1).quirk("b0", Quirk::Reject(FaultCode::BadOutput)));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until_ended("n").await;
    assert_eq!(
        world.lines("n")[1..],
        ["1 BATCH_FAILED b0 bad_output true", "1 TASK_FAILED bad_output true"]
    );
    assert_eq!(world.script.of("n")[4..], ["cleanup"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_outside_a_batch_fails_the_task_alone() {
    let world = World::new();
    let _worker = world.start("w1");
    for call in ["init", "iter", "next", "finalize"] {
        world.script.plan(call, Plan { error_in: Some(call), ..Plan::of(1) });
        world.command(call, 1).await;
        world.until_ended(call).await;
        let lines = world.lines(call);
        assert_eq!(lines.last().unwrap(), "1 TASK_FAILED told_so false");
        assert_eq!(world.count(call, "BATCH_FAILED"), 0);
        assert_eq!(world.script.count(call, &format!("classify {call} failed")), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_plugin_the_task_fails_for_good() {
    let world = World::new();
    let role = Role::new(ROLE).unwrap();
    world.script.plan("n", Plan { open: Some(OpenError::NoHandler(role)), ..Plan::of(1) });
    let fault = HostFault { code: FaultCode::MemoryLimit, message: "too much".into() };
    world.script.plan("m", Plan { open: Some(OpenError::Fault(fault)), ..Plan::of(1) });
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.command("m", 1).await;
    world.until_ended("n").await;
    world.until_ended("m").await;
    assert_eq!(world.lines("n"), ["1 TASK_ACCEPTED", "1 TASK_FAILED no_handler true"]);
    assert_eq!(world.lines("m"), ["1 TASK_ACCEPTED", "1 TASK_FAILED memory_limit false"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_fails_for_good() {
    let world = World::new();
    world.script.plan("n", Plan::of(1).quirk("b0", Quirk::Fail("again")));
    let _worker = world.start("w1");
    for (epoch, permanent) in [(19, false), (20, true), (21, true)] {
        world.command("n", epoch).await;
        let line = format!("{epoch} TASK_FAILED told_so {permanent}");
        world.until(&line, |world| world.lines("n").contains(&line)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_uid_yielded_twice_fails_the_task_in_words() {
    let world = World::new();
    let twice = |uid: Option<&str>| vec![(uid.map(str::to_owned), json!({"same": 1})); 2];
    world.script.plan("named", Plan { batches: twice(Some("x")), ..Plan::of(0) });
    world.script.plan("hashed", Plan { batches: twice(None), ..Plan::of(0) });
    let _worker = world.start("w1");
    for node in ["named", "hashed"] {
        world.command(node, 1).await;
        world.until_ended(node).await;
        let lines = world.lines(node);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[2], "1 TASK_FAILED duplicate_batch_uid true");
        let RunEvent::TaskFailed { error: Some(error), .. } =
            world.statuses(node).pop().unwrap().event
        else {
            panic!("no words")
        };
        assert!(error.contains("give each batch a uid of its own"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_text_from_a_handler_does_not_outgrow_a_message() {
    let world = World::new();
    let long: &'static str = Box::leak("\u{1}".repeat(900_000).into_boxed_str());
    world.script.plan("n", Plan::of(1).quirk("b0", Quirk::Fail(long)));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until_ended("n").await;
    assert_eq!(world.lines("n").last().unwrap(), "1 TASK_FAILED told_so false");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_the_store_refuses_is_tried_again_more_and_more_slowly() {
    let world = World::new();
    let worker = world.start("w1");
    let why = flowkit::store::StoreError::Damaged { what: "t1/n".into(), problem: "odd".into() };
    worker.line.refuse("write_partials", Some(why));
    world.command("n", 1).await;
    tokio::time::sleep(secs(600)).await;
    let tries = world.script.count("n", "open");
    assert!((2..=20).contains(&tries), "{tries} tries in ten minutes");
    worker.line.refuse("write_partials", None);
    world.until_ended("n").await;
    let done = world.lines("n");
    assert_eq!(done.last().unwrap(), r#"1 TASK_DONE {"final":1,"rows":3}"#);
}
