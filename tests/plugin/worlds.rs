//! Versions of the world: those that are served run side by side, the others are refused by
//! name and version.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowkit::handler::{Batch, CallError, CancelFlag, FaultCode, Handlers as _, Session};
use flowkit::metrics::Totals;
use flowkit::plugin::{
    CheckError, Engine, HandlerConfig, Plugin, PluginConfig, Plugins, Reloader, check,
};
use flowkit::protocol::RunEvent;
use flowkit::types::{BatchUid, Role};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::support::{engine, guest_file, load, request, session};
use super::worker::Trial;
use super::wrong_files::checked_with;

/// The handler that was built for 1.0.0, and what it must always be.
const FIRST: &str = "1e0e1bbf3913526fc304ae32327a1f90a2bf01299709b892aa36be318fc74533";

fn first() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/worlds/worker-1.0.0.wasm")
}

/// An engine that serves the next world too.
fn both() -> Engine {
    engine().with_next_world().expect("its imports are new")
}

/// Three lines, of two words each, through a session; what each batch left.
async fn run(session: &mut dyn Session, checkpoint: Option<&str>) -> Vec<(String, Value)> {
    let input = json!({"input_inline": {"lines": ["a b", "c d", "e f"]}}).to_string();
    assert_eq!(session.iter_batches(&input, checkpoint).await, Ok(None));
    let mut left = Vec::new();
    while let Some(batch) = session.next_batch().await.expect("yields") {
        let uid = batch.uid.expect("is named");
        let batch = Batch { uid: uid.clone(), payload: batch.payload };
        let done = session.process_batch(&batch, &Totals::default()).await.expect("counts");
        let partial = done.partial.map_or(Value::Null, Value::Object);
        let metrics = json!(done.metrics);
        let mark = json!({"m": metrics, "p": partial["words"], "c": done.checkpoint});
        left.push((uid.to_string(), mark));
    }
    left
}

fn expected(lines: std::ops::Range<usize>) -> Vec<(String, Value)> {
    let mark = |line: usize| {
        let checkpoint = (line + 1).to_string();
        json!({"m": {"lines": 1, "words": 2}, "p": 2, "c": checkpoint})
    };
    lines.map(|line| (format!("line_{line}"), mark(line))).collect()
}

async fn a_run_and_its_resume(plugin: &Plugin) {
    let flag = CancelFlag::default();
    let mut whole = session(plugin, "words", &flag).await;
    assert_eq!(run(&mut *whole, None).await, expected(0..3));
    let done = whole.finalize(&Totals::default()).await.expect("ends");
    assert_eq!(json!(done.metrics), json!({"tasks": 1}));
    assert!(done.payload.expect("has one")["totals"].is_object());
    whole.cleanup().await.expect("ends");
    let mut resumed = session(plugin, "words", &flag).await;
    assert_eq!(run(&mut *resumed, Some("2")).await, expected(2..3));
}

#[tokio::test]
async fn a_handler_of_the_first_version_runs_for_ever() {
    let checked = check(&first()).await.expect("it is a handler");
    assert_eq!(checked.world, "flowkit:worker@1.0.0");
    assert_eq!(checked.digest, FIRST, "it was built again; it must stay what it was");
    assert!(checked.imports.contains(&"flowkit:worker/host@1.0.0".to_owned()), "{checked:?}");
    let plugin = load(HandlerConfig::new(first())).await;
    a_run_and_its_resume(&plugin).await;
    let flag = CancelFlag::default();
    let mut failing = session(&plugin, "words", &flag).await;
    let input = r#"{"input_inline": {"lines": ["a"], "fail_at": 0}}"#;
    failing.iter_batches(input, None).await.expect("begins");
    let payload = r#"{"number": 0, "text": "a"}"#.to_owned();
    let batch = Batch { uid: BatchUid::new("line_0").expect("valid"), payload };
    let failed = failing.process_batch(&batch, &Totals::default()).await;
    let Err(CallError::Handler(error)) = failed else { panic!("{failed:?}") };
    let class = failing.classify_error(&error).await.expect("classifies");
    assert_eq!((class.reason_code.as_str(), class.permanent), ("bad_line", true));
}

#[tokio::test]
async fn a_handler_of_the_next_version_is_one_like_others() {
    let plugin = both().load(HandlerConfig::new(guest_file("next"))).await.expect("is served");
    assert_eq!(plugin.inspection().describe["name"], "next");
    assert_eq!(plugin.inspection().world, "flowkit:worker@2.0.0-test.1");
    a_run_and_its_resume(&plugin).await;
}

/// One line through the next world's handler.
async fn line(text: &str) -> Result<(), (FaultCode, String)> {
    let mut config = HandlerConfig::new(guest_file("next"));
    config.limits.call_time_ms = NonZeroU32::new(300).expect("not zero");
    let plugin = both().load(config).await.expect("is served");
    let mut session = session(&plugin, "words", &CancelFlag::default()).await;
    session.iter_batches(r#"{"input_inline": {}}"#, None).await.expect("begins");
    let payload = json!({"number": 0, "text": text}).to_string();
    let batch = Batch { uid: BatchUid::new("line_0").expect("valid"), payload };
    match session.process_batch(&batch, &Totals::default()).await {
        Ok(_) => Ok(()),
        Err(CallError::Handler(error)) => {
            let class = session.classify_error(&error).await.expect("says it itself");
            session.cleanup().await.expect("lives");
            Err((FaultCode::BadOutput, format!("{}: {}", class.reason_code, error.message)))
        }
        Err(CallError::Dead(fault)) => Err((fault.code, fault.message)),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_handler_of_the_next_version_is_held_to_the_same_limits() {
    assert_eq!(line("fine").await, Ok(()));
    let (_, told) = line("bad").await.expect_err("fails");
    assert_eq!(told, "bad_line: a line is bad");
    let (code, told) = line("loop").await.expect_err("is stopped");
    assert_eq!(code, FaultCode::TimeLimit, "{told}");
    let (_, told) = line("not-json").await.expect_err("is refused");
    assert!(told.starts_with("bad_output: a batch's metrics is not JSON"), "{told}");
}

/// The metrics of each task's end, and in which order batches were done.
async fn ends(trial: &mut Trial, tasks: usize) -> (BTreeMap<String, Value>, Vec<String>) {
    let (mut ends, mut order) = (BTreeMap::new(), Vec::new());
    while ends.len() < tasks {
        let status = trial.event().await;
        let task = status.address.key.task_id.to_string();
        match status.event {
            RunEvent::BatchOk { .. } => order.push(task),
            RunEvent::TaskDone { metrics, .. } => drop(ends.insert(task, json!(metrics))),
            RunEvent::TaskFailed { error, .. } => panic!("{task} failed: {error:?}"),
            _ => {}
        }
    }
    (ends, order)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_are_served_by_one_worker_at_the_same_time() {
    let roles = ["first", "next"].map(|role| Role::new(role).expect("valid"));
    let files = [first(), guest_file("next")];
    let configs = roles
        .iter()
        .zip(files)
        .map(|(role, file)| PluginConfig { role: role.clone(), handler: HandlerConfig::new(file) });
    let plugins = Plugins::load(&both(), configs.collect()).await.expect("both load");
    let mut trial = Trial::start(Arc::new(plugins), 2).await;
    let lines = vec!["one two three"; 200];
    for role in &roles {
        trial.command(role, (role.as_str(), "n"), json!({"lines": lines})).await;
    }
    let (ends, order) = ends(&mut trial, 2).await;
    for role in &roles {
        let expected = json!({"lines": 200, "words": 600, "tasks": 1});
        assert_eq!(ends[role.as_str()], expected, "{role}");
    }
    let changes = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes > 2, "one ran after the other");
    trial.stop().await;
}

#[tokio::test]
async fn a_role_moves_to_the_next_version_and_a_run_ends_on_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("words.wasm");
    std::fs::copy(first(), &file).expect("copied");
    let role = Role::new("words").expect("valid");
    let config = PluginConfig { role: role.clone(), handler: HandlerConfig::new(&file) };
    let engine = both();
    let plugins = Plugins::load(&engine, vec![config.clone()]).await.expect("loads");
    let plugins = Arc::new(plugins);
    let handler = plugins.choose(&role, None).await.expect("is served");
    let flag = CancelFlag::default();
    let mut old = handler.open(request("words", &flag)).await.expect("opens");
    old.init().await.expect("begins");
    std::fs::copy(guest_file("next"), &file).expect("copied");
    Reloader::new(engine, plugins.clone()).look(vec![config], true).await;
    let handler = plugins.choose(&role, None).await.expect("is served");
    assert_ne!(handler.digest(), FIRST);
    let mut new = handler.open(request("words", &flag)).await.expect("opens");
    new.init().await.expect("begins");
    for session in [&mut old, &mut new] {
        assert_eq!(run(&mut **session, None).await, expected(0..3));
    }
}

#[tokio::test]
async fn other_versions_are_refused_by_their_names() {
    let refused = engine().load(HandlerConfig::new(guest_file("next"))).await.expect_err("is off");
    let CheckError::OtherWorld { differences, .. } = refused else { panic!("{refused}") };
    assert_snapshot!(differences[0], @"it is built for flowkit:worker/handler@2.0.0-test.1, and this worker serves flowkit:worker 1.0.0 to 1.1.0; build it with an SDK for one of these, or use a worker that serves the other");
    let handler = |version: &'static str| async move {
        checked_with(&[("flowkit:worker/handler@1.1.0", version)]).await
    };
    assert_snapshot!(handler("flowkit:worker/handler@3.0.0").await, @r"
    handler.wasm is a component, but not a handler:
      - it is built for flowkit:worker/handler@3.0.0, and this worker serves flowkit:worker 1.0.0 to 1.1.0; build it with an SDK for one of these, or use a worker that serves the other
    ");
    assert_snapshot!(handler("flowkit:worker/handler@0.9.0").await, @r"
    handler.wasm is a component, but not a handler:
      - it is built for flowkit:worker/handler@0.9.0, and this worker serves flowkit:worker 1.0.0 to 1.1.0; build it with an SDK for one of these, or use a worker that serves the other
    ");
    assert_snapshot!(handler("airflow:worker/handler@1.1.0").await, @r"
    handler.wasm is a component, but not a handler:
      - it does not export the interface flowkit:worker/handler@1.1.0; it exports airflow:worker/handler@1.1.0
    ");
    let newer = [("worker/host@1.1.0", "worker/host@1.9.0"), ("run-totals", "run-trends")];
    assert_snapshot!(checked_with(&newer).await, @r"
    handler.wasm is a component, but not a handler:
      - it calls `run-trends` of flowkit:worker/host@1.9.0, which this worker (flowkit:worker@1.1.0) does not have; use a newer worker, or build with an older SDK
    ");
    let newer = [("worker/host@1.1.0", "worker/tubs@1.9.0")];
    assert_snapshot!(checked_with(&newer).await, @r"
    handler.wasm is a component, but not a handler:
      - it imports flowkit:worker/tubs@1.9.0, which this worker does not offer: a newer worker may; this one has flowkit:worker@1.1.0
    ");
}
