//! Plugins that change while the worker is at work: their roles, their versions.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::scripted::Plan;
use crate::world::{World, ms, secs};

/// What WORKER_ONLINE said last.
fn announced(world: &World) -> Value {
    let said = world.bus.messages(&world.topics.announce);
    let last = said.last().unwrap();
    serde_json::from_slice::<Value>(&last.value).unwrap()["payload"].clone()
}

/// The plugin that each of a node's events names, in order.
fn digests(world: &World, node: &str) -> Vec<(String, Value, Value)> {
    let field = |message: &flowkit::bus::InMessage| {
        let payload = &serde_json::from_slice::<Value>(&message.value).unwrap()["payload"];
        let kind = payload["kind"].as_str().unwrap().to_owned();
        (kind, payload["plugin_digest"].clone(), payload["plugin_digest_before"].clone())
    };
    world.said(node).iter().map(|(message, _)| field(message)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_role_that_comes_is_served_and_announced_at_once() {
    let world = World::with_roles(&["echo"]);
    world.script.serve(&[]);
    let _worker = world.start("w1");
    world.command("n", 1).await;
    tokio::time::sleep(secs(3)).await;
    assert_eq!(world.script.count("n", "open"), 0);
    assert_eq!(announced(&world)["capabilities"]["roles"], json!([]));
    world.script.serve(&["echo"]);
    world.until_ended("n").await;
    assert_eq!(announced(&world)["capabilities"]["roles"], json!(["echo"]));
    assert_eq!(announced(&world)["plugins"], json!({"echo": "d1"}));
}

#[tokio::test(start_paused = true)]
async fn a_role_that_goes_ends_what_it_began_and_leaves_the_rest_to_others() {
    let world = World::with_roles(&["echo"]);
    world.script.plan("begun", Plan::of(5).taking(secs(1)));
    let _worker = world.start("w1");
    world.command("begun", 1).await;
    world.until("at work", |world| world.script.count("begun", "process b0") == 1).await;
    world.script.serve(&[]);
    tokio::time::sleep(ms(1)).await;
    world.command("later", 1).await;
    world.until_ended("begun").await;
    tokio::time::sleep(secs(5)).await;
    assert_eq!(world.script.count("later", "open"), 0);
    assert_eq!(announced(&world)["capabilities"]["roles"], json!([]));
    // It comes back, and so does what was left.
    world.script.serve(&["echo"]);
    world.until_ended("later").await;
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_on_the_version_it_began_with_and_each_event_names_it() {
    let world = World::new();
    world.script.plan("n", Plan::of(3).taking(secs(1)));
    let _worker = world.start("w1");
    world.command("n", 1).await;
    world.until("at work", |world| world.script.count("n", "process b0") == 1).await;
    world.script.swap("d2", &[]);
    world.until_ended("n").await;
    world.command("m", 1).await;
    world.until_ended("m").await;
    for (node, digest) in [("n", "d1"), ("m", "d2")] {
        let said = digests(&world, node);
        assert!(said.len() >= 5, "{said:?}");
        let others = said.iter().filter(|(kind, named, before)| {
            *before != Value::Null || *named != json!(digest) && kind != "TASK_HEARTBEAT"
        });
        assert_eq!(others.count(), 0, "{said:?}");
    }
    assert_eq!(world.record("n").await.progress.digest.as_deref(), Some("d1"));
    assert_eq!(announced(&world)["plugins"], json!({"echo": "d2"}));
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_elsewhere_with_its_version_or_says_which_one_it_has_now() {
    for (kept, serves, before) in [
        (vec!["d1"], "d1", Value::Null),
        (vec!["d0"], "d2", json!("d1")),
        (vec![], "d2", json!("d1")),
    ] {
        let world = World::new();
        world.script.plan("n", Plan::of(3).with_checkpoints().taking(secs(1)));
        let first = world.start("w1");
        world.command("n", 1).await;
        world.until("at work", |world| world.script.count("n", "process b1") == 1).await;
        first.stop().await;
        assert_eq!(world.record("n").await.progress.digest.as_deref(), Some("d1"));
        world.script.swap("d2", &kept);
        let _second = world.start("w2");
        world.until_ended("n").await;
        let said = digests(&world, "n");
        let resumed = said.iter().position(|(kind, ..)| kind == "TASK_RESUMED").unwrap();
        assert_eq!(said[resumed], ("TASK_RESUMED".into(), json!(serves), before), "{kept:?}");
        for (kind, digest, before) in &said[resumed + 1..] {
            assert_eq!((digest, before), (&json!(serves), &Value::Null), "{kind}");
        }
        assert_eq!(world.record("n").await.progress.digest.as_deref(), Some(serves));
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_announces_what_its_roles_can_fill() {
    let limits = BTreeMap::from([("a", 2), ("b", 3)]);
    for (roles, capacity) in [(&[][..], 0), (&["a"], 2), (&["a", "b"], 5), (&["a", "free"], 8)] {
        let world = World::with_roles(roles);
        limits.iter().for_each(|(role, runs)| world.script.limit(role, *runs));
        let mut settings = World::settings("w1");
        settings.max_concurrent_tasks = 8;
        let line = crate::faults::Line::new(0, ms(0));
        let _worker = world.start_with(settings, line);
        tokio::time::sleep(secs(1)).await;
        assert_eq!(announced(&world)["capacity"], json!({"tasks": capacity}), "{roles:?}");
    }
}
