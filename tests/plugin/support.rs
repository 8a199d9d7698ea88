//! One engine and the rogue guest, shared by all tests of this binary.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use flowkit::handler::{
    Batch, BatchOutput, CallError, CancelFlag, CancelSource, Cancellation, OpenRequest, RunInfo,
    Session,
};
use flowkit::metrics::Totals;
use flowkit::plugin::{Engine, HandlerConfig, Plugin};
use flowkit::types::{BatchUid, Epoch, NodeId, Role, TaskId, WorkerId};
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

/// Asks for a stop, with this long to go.
pub fn cancel_in(flag: &CancelFlag, grace: Duration) {
    flag.cancel(Cancellation {
        source: CancelSource::Signal,
        reason: "enough".to_owned(),
        deadline: Instant::now() + grace,
    });
}
