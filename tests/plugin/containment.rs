//! Everything bad at once, in one worker: each run ends with its reason, the runs beside
//! them end well, and the worker goes on.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use flowkit::handler::Handlers as _;
use flowkit::plugin::{HandlerConfig, PluginConfig, Plugins};
use flowkit::protocol::RunEvent;
use flowkit::types::Role;
use serde_json::json;

use super::support::{engine, guest_file};
use super::worker::Trial;

/// What a run does, and how it ends: the reason code, and whether it is final.
const HOSTILE: [(&str, &str, bool); 14] = [
    ("process-batch:loop", "time_limit", false),
    ("process-batch:sleep", "time_limit", false),
    ("process-batch:flood", "time_limit", false),
    ("process-batch:stdout", "time_limit", false),
    ("init:loop", "time_limit", false),
    ("next-batch:wasi-sleep", "time_limit", false),
    ("process-batch:memory", "memory_limit", false),
    ("process-batch:recursion", "handler_trap", false),
    ("process-batch:abort", "handler_trap", false),
    ("process-batch:exit", "handler_trap", false),
    ("finalize:panic", "handler_panic", false),
    ("process-batch:huge", "result_too_large", true),
    ("process-batch:not-json", "bad_output", true),
    ("next-batch:long-uid", "bad_output", true),
];

/// Tasks that do nothing wrong.
const GOOD: usize = 20;

fn role(name: &str) -> Role {
    Role::new(name).expect("valid")
}

async fn plugins() -> Arc<Plugins> {
    let handler = |change: fn(&mut HandlerConfig)| {
        let mut config = HandlerConfig::new(guest_file("rogue"));
        // Room for the result of 100 MB, and not for everything.
        config.limits.memory_bytes = NonZeroU64::new(160 << 20).expect("not zero");
        change(&mut config);
        config
    };
    let hostile =
        handler(|config| config.limits.call_time_ms = NonZeroU32::new(800).expect("not zero"));
    let thinker =
        handler(|config| config.limits.call_cpu_ms = NonZeroU32::new(200).expect("not zero"));
    let configs = [("hostile", hostile), ("thinker", thinker), ("good", handler(|_| {}))];
    let configs = configs.map(|(name, handler)| PluginConfig { role: role(name), handler });
    Arc::new(Plugins::load(&engine(), configs.to_vec()).await.expect("all load"))
}

/// How so many tasks end.
async fn ends(trial: &mut Trial, tasks: usize) -> BTreeMap<String, (String, bool)> {
    let mut ends = BTreeMap::new();
    while ends.len() < tasks {
        let status = trial.event().await;
        let end = match status.event {
            RunEvent::TaskDone { .. } => ("done".to_owned(), true),
            RunEvent::TaskFailed { reason_code, permanent, .. } => (reason_code, permanent),
            _ => continue,
        };
        ends.insert(status.address.key.task_id.to_string(), end);
    }
    ends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_full_of_hostile_runs_serves_the_others() {
    let plugins = plugins().await;
    let mut trial = Trial::start(plugins.clone(), 6).await;
    for (number, (deed, ..)) in HOSTILE.iter().enumerate() {
        trial.command(&role("hostile"), (&format!("bad-{number}"), deed), json!({})).await;
    }
    trial.command(&role("thinker"), ("thinker", "process-batch:think"), json!({})).await;
    for number in 0..GOOD {
        trial.command(&role("good"), (&format!("good-{number}"), "none"), json!({})).await;
    }
    let ends_of_all = ends(&mut trial, HOSTILE.len() + 1 + GOOD).await;
    for (number, (deed, reason, permanent)) in HOSTILE.iter().enumerate() {
        let end = &ends_of_all[&format!("bad-{number}")];
        assert_eq!((end.0.as_str(), end.1), (*reason, *permanent), "{deed}");
    }
    assert_eq!(ends_of_all["thinker"], ("cpu_limit".to_owned(), false));
    for number in 0..GOOD {
        assert_eq!(ends_of_all[&format!("good-{number}")].0, "done", "good-{number}");
    }
    // All slots are free again, and the worker lives.
    trial.command(&role("good"), ("last", "none"), json!({})).await;
    assert_eq!(ends(&mut trial, 1).await["last"].0, "done");
    trial.stop().await;
    let counted = plugins.counters();
    let hostile = &counted[&role("hostile")];
    for (counter, least) in [("time_limit", 6), ("memory_limit", 1), ("result_too_large", 1)] {
        assert!(hostile.get(counter).is_some_and(|n| *n >= least), "{counter}: {hostile:?}");
    }
    assert_eq!(counted[&role("thinker")].get("cpu_limit"), Some(&1));
    let good = counted.get(&role("good")).cloned().unwrap_or_default();
    assert!(good.keys().all(|counter| *counter == "cpu_ms"), "{good:?}");
}
