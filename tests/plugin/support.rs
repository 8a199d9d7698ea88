//! One engine and the rogue guest, shared by all tests of this binary.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use flowkit::handler::{
    Batch, BatchOutput, CallError, CancelFlag, CancelSource, Cancellation, Handler as _,
    OpenRequest, RunInfo, Session,
};
use flowkit::metrics::Totals;
use flowkit::plugin::{Engine, HandlerConfig, Plugin};
use flowkit::types::{BatchUid, Epoch, NodeId, Role, TaskId, WorkerId};
use serde_json::Value;
use tokio::time::Instant;

/// The process's engine.
pub fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().expect("the engine starts")).clone()
}

/// A guest that `cargo xtask plugins` has built.
pub fn guest_file(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/guests/{name}.wasm"));
    assert!(file.exists(), "{} is missing: run `cargo xtask plugins` first", file.display());
    file
}

/// An example plugin's file.
pub fn example_file(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/{name}.wasm"));
    assert!(file.exists(), "{} is missing: run `cargo xtask plugins` first", file.display());
    file
}

/// The rogue's bytes with names replaced, everywhere and by names of the same length: it
/// stays a valid component, of another world.
pub fn rogue_renamed(replacements: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = std::fs::read(guest_file("rogue")).expect("read");
    for (old, new) in replacements {
        assert_eq!(old.len(), new.len());
        let places: Vec<usize> = (0..bytes.len() - old.len())
            .filter(|at| bytes[*at..].starts_with(old.as_bytes()))
            .collect();
        assert!(!places.is_empty(), "{old} is not in the component");
        for at in places {
            bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
    }
    bytes
}

/// The rogue with default limits and no grants.
pub async fn rogue() -> Plugin {
    static ROGUE: tokio::sync::OnceCell<Plugin> = tokio::sync::OnceCell::const_new();
    ROGUE.get_or_init(|| load(HandlerConfig::new(guest_file("rogue")))).await.clone()
}

/// A plugin that must load.
pub async fn load(config: HandlerConfig) -> Plugin {
    match engine().load(config).await {
        Ok(plugin) => plugin,
        Err(error) => panic!("{error}"),
    }
}

/// The rogue with its limits changed.
pub async fn rogue_with(change: impl FnOnce(&mut HandlerConfig)) -> Plugin {
    let mut config = HandlerConfig::new(guest_file("rogue"));
    change(&mut config);
    load(config).await
}

/// A run whose node tells the rogue what to do, such as `process-batch:loop`.
pub fn request(deed: &str, cancel: &CancelFlag) -> OpenRequest {
    OpenRequest {
        info: RunInfo {
            task_id: TaskId::new("t-1").expect("valid"),
            node_id: NodeId::new(deed).expect("valid"),
            role: Role::new("rogue").expect("valid"),
            attempt_epoch: Epoch(1),
            worker_id: WorkerId::new("w-1").expect("valid"),
            resumed: false,
        },
        cancel: cancel.clone(),
    }
}

/// A session that has passed `init`.
pub async fn session(plugin: &Plugin, deed: &str, cancel: &CancelFlag) -> Box<dyn Session> {
    let mut session = plugin.open(request(deed, cancel)).await.expect("opens");
    session.init().await.expect("init succeeds");
    session
}

/// The one batch the rogue yields.
pub fn b0() -> Batch {
    Batch { uid: BatchUid::new("b0").expect("valid"), payload: "{}".to_owned() }
}

/// `process-batch` with a deed, on a fresh session.
pub async fn process(plugin: &Plugin, deed: &str) -> Result<BatchOutput, CallError> {
    let flag = CancelFlag::default();
    let mut session = session(plugin, &format!("process-batch:{deed}"), &flag).await;
    session.process_batch(&b0(), &Totals::default()).await
}

/// The caller, changed: a guest that uses what it is granted.
pub async fn caller_with(change: impl FnOnce(&mut HandlerConfig)) -> Plugin {
    let mut config = HandlerConfig::new(guest_file("caller"));
    // It sends requests, so it does not load without a host.
    config.http.push("nowhere.invalid".parse().expect("a host"));
    change(&mut config);
    load(config).await
}

/// What one of the caller's deeds gives: its metrics, or its error with the reason code.
pub async fn act(plugin: &Plugin, deed: Value) -> Result<Value, String> {
    let flag = CancelFlag::default();
    let mut session = session(plugin, "none", &flag).await;
    session.iter_batches(r#"{"input_inline": {}}"#, None).await.expect("begins");
    let batch = Batch { payload: deed.to_string(), ..b0() };
    let done = session.process_batch(&batch, &Totals::default()).await;
    let told = match done {
        Ok(output) => Ok(Value::Object(output.metrics.as_object().clone())),
        Err(CallError::Handler(error)) => {
            let class = session.classify_error(&error).await.expect("classifies");
            let kind = if class.permanent { "permanent" } else { "transient" };
            Err(format!("{} ({kind}): {}", class.reason_code, error.message))
        }
        Err(other) => Err(format!("{other:?}")),
    };
    if !matches!(&told, Err(text) if text.starts_with("Dead")) {
        session.cleanup().await.expect("the instance lives");
    }
    told
}

/// One counter of a role.
pub fn counter(engine: &Engine, role: &str, name: &str) -> u64 {
    let role = Role::new(role).expect("valid");
    engine.counters().get(&role).and_then(|counts| counts.get(name)).copied().unwrap_or(0)
}

/// Asks for a stop, with this long to go.
pub fn cancel_in(flag: &CancelFlag, grace: Duration) {
    flag.cancel(Cancellation {
        source: CancelSource::Signal,
        reason: "enough".to_owned(),
        deadline: Instant::now() + grace,
    });
}
