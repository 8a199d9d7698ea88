//! What a run sees of its handler: one session of seven calls and one cancel flag.
//!
//! `plugin/` implements this over a WebAssembly component; simulations script it. A run's
//! driver knows nothing else about plugins.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::metrics::{Metrics, Totals};
use crate::types::{BatchUid, Epoch, NodeId, Role, TaskId, WorkerId};

/// The live set of handlers: which one serves which role.
#[async_trait]
pub trait Handlers: Send + Sync + 'static {
    /// The roles that have a loaded handler now.
    fn roles(&self) -> Vec<Role>;

    /// Told whenever roles or versions have changed; `None` if they never do.
    fn changes(&self) -> Option<watch::Receiver<()>> {
        None
    }

    /// How many runs of a role a worker may have at once; `None` for as many as it has
    /// slots.
    fn concurrency(&self, _role: &Role) -> Option<usize> {
        None
    }

    /// The digest of each role's present version, for WORKER_ONLINE.
    fn digests(&self) -> BTreeMap<Role, String> {
        BTreeMap::new()
    }

    /// How often each role's handlers met a limit or a refusal since the process began, by
    /// names such as `memory_limit`; for people.
    fn counters(&self) -> BTreeMap<Role, BTreeMap<&'static str, u64>> {
        BTreeMap::new()
    }

    /// The state of each role's plugin: its digest, version, and last problem; for people.
    fn describe(&self) -> Value {
        Value::Null
    }

    /// The version that serves one run, from its beginning to its end on this worker: the
    /// one that it began with, if that is kept here, or else the present one. May take
    /// seconds when a kept version has to be compiled.
    async fn choose(
        &self,
        role: &Role,
        began_with: Option<&str>,
    ) -> Result<Arc<dyn Handler>, OpenError>;
}

/// One version of a role's handler.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Its content: lowercase hex SHA-256 of its file.
    fn digest(&self) -> &str;

    /// A fresh instance for one run.
    async fn open(&self, request: OpenRequest) -> Result<Box<dyn Session>, OpenError>;
}

/// What a session is opened for.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// Told to the handler by `init` and `run-info`.
    pub info: RunInfo,
    /// The run's cancel flag: the session shows it to the guest and obeys its deadline.
    pub cancel: CancelFlag,
}

/// A run's identity as its handler sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
    /// Its role.
    pub role: Role,
    /// The attempt.
    pub attempt_epoch: Epoch,
    /// The worker it runs on.
    pub worker_id: WorkerId,
    /// True when an earlier owner began this attempt.
    pub resumed: bool,
}

/// Why no session could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No plugin serves the role: reason code `no_handler`, permanent.
    #[error("no plugin serves role `{0}`")]
    NoHandler(Role),
    /// The plugin could not be instantiated.
    #[error(transparent)]
    Fault(#[from] HostFault),
}

/// One instance of a handler, used for one run and then dropped.
///
/// Contract of every call: it returns at the latest when the per-call time limit or the
/// cancel flag's deadline has passed, wherever the guest is (in a loop or in a host call).
/// After [`CallError::Dead`] no further call is made. Dropping a session, or the future of
/// a call, at any time is allowed and ends the guest.
#[async_trait]
pub trait Session: Send {
    /// `init`.
    async fn init(&mut self) -> Result<(), CallError>;

    /// `iter-batches`; `input` is the command's `{input_ref, input_inline, batching}`.
    async fn iter_batches(
        &mut self,
        input: &str,
        checkpoint: Option<&str>,
    ) -> Result<Option<AdapterProposal>, CallError>;

    /// `next-batch`.
    async fn next_batch(&mut self) -> Result<Option<YieldedBatch>, CallError>;

    /// `process-batch`; `totals` answers `run-totals`.
    async fn process_batch(
        &mut self,
        batch: &Batch,
        totals: &Totals,
    ) -> Result<BatchOutput, CallError>;

    /// `finalize`; `totals` answers `run-totals`.
    async fn finalize(&mut self, totals: &Totals) -> Result<FinalOutput, CallError>;

    /// `classify-error`.
    async fn classify_error(&mut self, error: &HandlerError) -> Result<Classification, CallError>;

    /// `cleanup`, at most 5 seconds, whatever the cancel flag's deadline says.
    async fn cleanup(&mut self) -> Result<(), CallError>;
}

/// A batch as a handler yields it; `payload` is valid JSON text.
#[derive(Debug, Clone, PartialEq)]
pub struct YieldedBatch {
    /// The handler's name for it, if it gave one.
    pub uid: Option<BatchUid>,
    /// JSON text.
    pub payload: String,
}

/// A batch with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Unique in the attempt.
    pub uid: BatchUid,
    /// JSON text.
    pub payload: String,
}

/// What `iter-batches` asks for instead of the handler's own batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterProposal {
    /// Such as `pull.from_artifacts`.
    pub input_adapter: String,
    /// Its arguments.
    #[serde(default)]
    pub input_args: Map<String, Value>,
}

/// What a batch that succeeded left behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchOutput {
    /// Reported in BATCH_OK.
    pub metrics: Metrics,
    /// What `upsert-partial` buffered.
    pub partial: Option<Map<String, Value>>,
    /// What `save-checkpoint` buffered: JSON text.
    pub checkpoint: Option<String>,
}

/// What `finalize` returned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FinalOutput {
    /// Laid over the run's totals.
    pub metrics: Metrics,
    /// Stored with the complete artifact.
    pub payload: Option<Value>,
}

/// An error a handler returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    /// For people.
    pub message: String,
    /// For its own `classify-error`.
    pub detail: Option<String>,
}

/// What a failure means for the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classification {
    /// Reported as `reason_code`.
    pub reason_code: String,
    /// No retry can help.
    pub permanent: bool,
}

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The handler's own error; the instance lives and can classify it.
    #[error("{}", .0.message)]
    Handler(HandlerError),
    /// What the handler returned cannot be used (`bad_output`, `result_too_large`); the
    /// instance lives.
    #[error(transparent)]
    Rejected(HostFault),
    /// The instance is dead (`handler_trap`, `handler_panic`, `time_limit`, `cpu_limit`,
    /// `memory_limit`).
    #[error(transparent)]
    Dead(HostFault),
    /// The instance was interrupted because the cancel flag's deadline passed; it is dead.
    #[error("interrupted after the cancel grace")]
    Interrupted,
}

/// A failure that the host found, not the handler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct HostFault {
    /// Which of the protocol's reason codes.
    pub code: FaultCode,
    /// For people: what, where and what to do; with the tail of the guest's stderr.
    pub message: String,
}

/// The protocol's reason codes for what the host finds (`protocol.md`, "Failures").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// No plugin serves the role.
    NoHandler,
    /// The command names an unknown input adapter.
    BadInputAdapter,
    /// The adapter's arguments are missing or wrong.
    BadInputArgs,
    /// The guest trapped.
    HandlerTrap,
    /// The guest panicked, aborted, or let an exception escape.
    HandlerPanic,
    /// A call took longer than its limit.
    TimeLimit,
    /// A call computed for longer than its limit.
    CpuLimit,
    /// The guest asked for more memory than its limit.
    MemoryLimit,
    /// A result is larger than its limit.
    ResultTooLarge,
    /// A result is not what the WIT says: not JSON, not an object, a bad metric or name.
    BadOutput,
    /// One attempt yielded the same uid twice.
    DuplicateBatchUid,
}

impl FaultCode {
    /// The wire's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoHandler => "no_handler",
            Self::BadInputAdapter => "bad_input_adapter",
            Self::BadInputArgs => "bad_input_args",
            Self::HandlerTrap => "handler_trap",
            Self::HandlerPanic => "handler_panic",
            Self::TimeLimit => "time_limit",
            Self::CpuLimit => "cpu_limit",
            Self::MemoryLimit => "memory_limit",
            Self::ResultTooLarge => "result_too_large",
            Self::BadOutput => "bad_output",
            Self::DuplicateBatchUid => "duplicate_batch_uid",
        }
    }

    /// Whether another attempt could end differently.
    pub fn permanent(self) -> bool {
        !matches!(
            self,
            Self::HandlerTrap
                | Self::HandlerPanic
                | Self::TimeLimit
                | Self::CpuLimit
                | Self::MemoryLimit
        )
    }
}

impl std::fmt::Display for FaultCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who wants a run to stop; the `source` a handler sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelSource {
    /// A coordinator's signal.
    Signal,
    /// A TASK_CANCEL command.
    Command,
    /// A flag in `tasks`.
    Database,
    /// The lease is gone.
    Lease,
    /// A newer attempt exists.
    Superseded,
    /// The worker stops.
    Shutdown,
    /// The call is about to reach its time limit.
    TimeLimit,
}

impl CancelSource {
    /// The name the guest sees.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Command => "command",
            Self::Database => "database",
            Self::Lease => "lease",
            Self::Superseded => "superseded",
            Self::Shutdown => "shutdown",
            Self::TimeLimit => "time_limit",
        }
    }
}

/// A request to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancellation {
    /// Who wants it.
    pub source: CancelSource,
    /// For people; may be empty.
    pub reason: String,
    /// When the guest is interrupted wherever it is.
    pub deadline: Instant,
}

/// A run's cancel flag: set once by the run, read by the guest, obeyed by the session.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    set: Mutex<Option<Cancellation>>,
    observed: AtomicBool,
    changed: Notify,
}

impl CancelFlag {
    /// Sets the flag. A flag that is set keeps its source and reason; an earlier deadline
    /// replaces a later one.
    pub fn cancel(&self, wanted: Cancellation) {
        let mut set = self.lock();
        match &mut *set {
            Some(old) => old.deadline = old.deadline.min(wanted.deadline),
            None => *set = Some(wanted),
        }
        drop(set);
        self.0.changed.notify_waiters();
    }

    /// The flag, as the guest is shown it. What a guest returns after it saw the flag may
    /// be half of its work ([`observed`](Self::observed)).
    pub fn observe(&self) -> Option<Cancellation> {
        let seen = self.get();
        if seen.is_some() {
            self.0.observed.store(true, Ordering::Relaxed);
        }
        seen
    }

    /// True once the guest was shown a set flag.
    pub fn observed(&self) -> bool {
        self.0.observed.load(Ordering::Relaxed)
    }

    /// The flag.
    pub fn get(&self) -> Option<Cancellation> {
        self.lock().clone()
    }

    /// Milliseconds from `now` to the interrupt, if the flag is set.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.lock().as_ref().map(|c| c.deadline.saturating_duration_since(now))
    }

    /// True when the flag is set and its deadline has passed.
    pub fn overdue(&self, now: Instant) -> bool {
        self.lock().as_ref().is_some_and(|c| c.deadline <= now)
    }

    /// Resolves once the flag is set. Cancel-safe.
    pub async fn wait(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().is_some() {
                return;
            }
            changed.await;
        }
    }

    /// Resolves once the flag's deadline has passed. Cancel-safe.
    pub async fn wait_overdue(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let deadline = self.lock().as_ref().map(|c| c.deadline);
            match deadline {
                None => changed.await,
                Some(at) => {
                    // Cancel-safe: both sides only wait.
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => return,
                        () = changed => {}
                    }
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Cancellation>> {
        self.0.set.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
