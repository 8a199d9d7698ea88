//! What becomes of commands, questions and capacity.

use flowkit::protocol::Envelope;
use flowkit::store::{ArtifactStore as _, NewComplete, Owner, RunStore as _};
use flowkit::types::{Epoch, Fence, LeaseId, LeaseNo, WorkerId};
use serde_json::{Map, Value};

use crate::faults::Line;
use crate::scripted::{Plan, Quirk};
use crate::world::{World, address, key, ms, secs};

#[tokio::test(start_paused = true)]
async fn malformed_commands_go_to_the_dead_letters_and_block_nothing() {
    let world = World::new();
    let topic = world.topics.commands(&address("n", 1).role);
    world.command("a", 1).await;
    let bad: [&[u8]; 4] = [b"", b"{", b"\xff\xfe", b"{\"v\":1}"];
    for value in bad {
        world.say(&topic, Some("k".into()), value.to_vec()).await;
    }
    let mut other = address("m", 1);
    other.role = flowkit::types::Role::new("other").unwrap();
    let misplaced = flowkit::protocol::start_command(
        &other,
        &flowkit::store::RunInput::default(),
        world.clock.wall(),
    );
    world.say(&topic, None, misplaced.encode()).await;
    world.say(&world.topics.signals, None, b"no signal".to_vec()).await;
    world.say(&world.topics.query, None, b"no question".to_vec()).await;
    world.command("b", 1).await;
    let worker = world.start("w1");
    world.until_ended("a").await;
    world.until_ended("b").await;
    let letters = world.bus.messages(&world.topics.dead_letter);
    let values: Vec<&[u8]> = letters.iter().map(|letter| letter.value.as_slice()).collect();
    assert_eq!(values[..4], bad);
    assert_eq!(letters.len(), 5);
    for letter in &letters {
        let names: Vec<&str> = letter.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["topic", "partition", "offset", "error", "time_ms"]);
        assert!(!letter.headers[3].1.is_empty());
    }
    // They are committed: another life does not find them again.
    worker.stop().await;
    let _second = world.start("w1");
    tokio::time::sleep(secs(5)).await;
    assert_eq!(world.bus.messages(&world.topics.dead_letter).len(), 5);
}

/// What the dead letters' topic takes is less than the commands' does, and is not told.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_cut_until_it_fits_and_says_so() {
    let world = World::new();
    let topic = world.topics.commands(&address("n", 1).role);
    let value: Vec<u8> = (0..60_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    world.say(&topic, None, value.clone()).await;
    world.command("b", 1).await;
    let line = Line::new(1, ms(0));
    line.limit_topic(&world.topics.dead_letter, 10_000);
    let _worker = world.start_with(World::settings("w1"), line);
    world.until_ended("b").await;
    let letters = world.bus.messages(&world.topics.dead_letter);
    assert_eq!(letters.len(), 1);
    let kept = &letters[0].value;
    assert!((5_000..=10_000).contains(&kept.len()), "as much as fits: {}", kept.len());
    assert!(value.starts_with(kept));
    let cut = letters[0].headers.iter().find(|(name, _)| name == "cut_from");
    assert_eq!(cut.map(|(_, length)| length.as_slice()), Some(b"60000".as_slice()));
}

#[tokio::test(start_paused = true)]
async fn a_store_outage_delays_a_command_and_loses_none() {
    let world = World::new();
    let worker = world.start("w1");
    tokio::time::sleep(secs(1)).await;
    worker.line.store_down(true);
    world.command("a", 1).await;
    world.command("b", 1).await;
    tokio::time::sleep(secs(300)).await;
    worker.line.store_down(false);
    world.until_ended("a").await;
    world.until_ended("b").await;
    assert_eq!(world.count("a", "TASK_ACCEPTED"), 1);
    assert_eq!(world.record("a").await.lease_no, LeaseNo(1));
}

#[tokio::test(start_paused = true)]
async fn as_many_runs_as_slots_work_and_the_rest_wait_unowned_for_whoever_is_free() {
    let world = World::new();
    let nodes: Vec<String> = (0..5).map(|i| format!("n{i}")).collect();
    for node in &nodes {
        world.script.plan(node, Plan::of(1).taking(secs(30)));
    }
    let mut settings = World::settings("w1");
    settings.max_concurrent_tasks = 2;
    let _first = world.start_with(settings, Line::new(0, ms(0)));
    for node in &nodes {
        world.command(node, 1).await;
    }
    tokio::time::sleep(secs(10)).await;
    let opened = |world: &World| nodes.iter().filter(|n| world.script.count(n, "open") > 0).count();
    assert_eq!(opened(&world), 2);
    for node in &nodes[2..] {
        let record = world.record(node).await;
        assert!(record.owner.is_none() && world.lines(node).is_empty());
    }
    // Another worker with room takes one; the first claims another as it gets free.
    let mut settings = World::settings("w2");
    settings.max_concurrent_tasks = 1;
    let _second = world.start_with(settings, Line::new(1, ms(0)));
    tokio::time::sleep(secs(5)).await;
    assert_eq!((opened(&world), world.script.count("n2", "open")), (3, 1));
    for node in &nodes {
        world.until_ended(node).await;
        assert_eq!(world.lines(node)[0], "1 TASK_ACCEPTED");
        assert_eq!(world.count(node, "TASK_ACCEPTED"), 1);
        assert_eq!(world.count(node, "TASK_RESUMED"), 0);
    }
}

fn replies(world: &World, corr_id: &str) -> Vec<Value> {
    let messages = world.bus.messages(&world.topics.reply);
    let envelopes = messages.iter().map(|message| Envelope::decode(&message.value).unwrap());
    envelopes.filter(|reply| reply.corr_id == corr_id).map(|reply| reply.payload).collect()
}

#[tokio::test(start_paused = true)]
async fn the_owner_answers_a_question_at_once_and_nobody_else_does() {
    let world = World::new();
    world.script.plan("n", Plan::of(2).quirk("b1", Quirk::Hang));
    let _owner = world.start("w1");
    world.command("n", 3).await;
    world.until("at work", |world| world.count("n", "BATCH_OK") == 1).await;
    let _other = world.start("w2");
    tokio::time::sleep(secs(1)).await;
    let asked = world.ask("n", 4).await;
    tokio::time::sleep(ms(50)).await;
    let replies = replies(&world, &asked);
    let [reply] = replies.as_slice() else { panic!("{replies:?}") };
    let owner = world.record("n").await.owner.unwrap();
    assert_eq!(reply["run_state"], "running");
    assert_eq!(reply["attempt_epoch"], 3);
    assert_eq!(reply["worker_id"], "w1");
    assert_eq!(reply["lease"]["worker_id"], "w1");
    assert_eq!(reply["lease"]["lease_id"], owner.lease_id.as_str());
    assert!(reply["lease"]["deadline_ts_ms"].is_i64());
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_answers_only_when_no_live_run_is_recorded() {
    let world = World::new();
    let _worker = world.start("w1");
    tokio::time::sleep(secs(1)).await;
    // Nothing known.
    let asked = world.ask("n", 1).await;
    tokio::time::sleep(ms(50)).await;
    let idle = replies(&world, &asked);
    assert_eq!(idle.len(), 1);
    assert_eq!((&idle[0]["run_state"], &idle[0]["worker_id"]), (&"idle".into(), &Value::Null));
    assert_eq!((&idle[0]["artifacts"], &idle[0]["attempt_epoch"]), (&Value::Null, &0.into()));
    // Done.
    world.command("n", 1).await;
    world.until_ended("n").await;
    let asked = world.ask("n", 2).await;
    tokio::time::sleep(ms(50)).await;
    assert_eq!(replies(&world, &asked)[0]["artifacts"], serde_json::json!({"complete": true}));
    // Somebody else's.
    let owner = Owner {
        worker_id: WorkerId::new("w9").unwrap(),
        lease_id: LeaseId::fresh(),
        deadline: world.clock.wall().plus(secs(60)),
    };
    let run = flowkit::store::NewRun { epoch: Epoch(2), ..world.record("n").await.new };
    world.store.admit(&run, Some(&owner)).await.unwrap();
    let asked = world.ask("n", 3).await;
    tokio::time::sleep(ms(50)).await;
    assert!(replies(&world, &asked).is_empty());
    // Another role's.
    let mut stranger = address("m", 1);
    stranger.role = flowkit::types::Role::new("other").unwrap();
    let mut query = flowkit::protocol::start_command(
        &stranger,
        &flowkit::store::RunInput::default(),
        world.clock.wall(),
    );
    query.msg_type = flowkit::protocol::MsgType::Query;
    query.payload = serde_json::json!({"query": "TASK_DISCOVER", "want_epoch": 1});
    world.say(&world.topics.query, None, query.encode()).await;
    tokio::time::sleep(ms(50)).await;
    assert!(replies(&world, &query.corr_id).is_empty());
}

/// Writes what an upstream node would: a complete mark.
pub async fn complete(world: &World, node: &str) {
    let fence = Fence {
        key: key(node),
        epoch: Epoch(1),
        lease_no: LeaseNo(1),
        worker_id: WorkerId::new("up").unwrap(),
    };
    let now = world.clock.wall();
    let complete = NewComplete { meta: Map::new(), payload: Value::Null, now };
    let _ = world.store.write_complete(&fence, &complete).await.unwrap();
}
