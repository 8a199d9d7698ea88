//! What a guest finds on the host's side of `flowkit:worker/host`, and the state behind it.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

use super::bindings::flowkit::worker::{host, types};
use super::config::HandlerConfig;
use super::json::{self, Kind};
use super::limits::Allocations;
use super::output::{Level, Output, Stream};
use super::text;
use super::timing::{Stopped, Timing};
use crate::metrics::Totals;

/// Most bytes of a checkpoint.
const MAX_CHECKPOINT: usize = 1 << 20;

/// Files, streams and timers a guest may hold at once.
pub(super) const MAX_HANDLES: usize = 1_024;

/// Everything one instance can reach.
pub(super) struct Guest {
    pub(super) wasi: WasiCtx,
    pub(super) resources: ResourceTable,
    pub(super) allocations: Allocations,
    pub(super) output: Output,
    /// The run's identity as JSON; none while `describe` is tried without a run.
    pub(super) run_info: Option<String>,
    pub(super) totals: Totals,
    pub(super) timing: Timing,
    /// Why the engine's clock interrupted the guest, once it did.
    pub(super) stopped: Option<Stopped>,
    /// What the batch being processed has left behind so far.
    pub(super) batch: Option<OpenBatch>,
    pub(super) max_result: usize,
    pub(super) call_time: Duration,
}

/// What `save-checkpoint` and `upsert-partial` fill while a batch is processed.
#[derive(Debug)]
pub(super) struct OpenBatch {
    uid: String,
    /// JSON text.
    pub(super) checkpoint: Option<String>,
    pub(super) partial: Option<Map<String, Value>>,
}

impl OpenBatch {
    /// A batch that has left nothing yet.
    pub(super) fn new(uid: String) -> Self {
        Self { uid, checkpoint: None, partial: None }
    }
}

impl Guest {
    /// A guest with what its configuration grants; fails when a granted directory is gone.
    pub(super) fn new(
        config: &HandlerConfig,
        output: Output,
        timing: Timing,
        run_info: Option<String>,
    ) -> wasmtime::Result<Self> {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(output.stream(Stream::Stdout)).stderr(output.stream(Stream::Stderr));
        // Sockets are off unless granted; the builder's default allows creating them.
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        for dir in &config.dirs {
            let permissions = if dir.write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&dir.host, &dir.guest, permissions)?;
        }
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(MAX_HANDLES);
        Ok(Self {
            wasi: wasi.build(),
            resources,
            allocations: Allocations::new(config.limits.memory_bytes.get()),
            output,
            run_info,
            totals: Totals::default(),
            timing,
            stopped: None,
            batch: None,
            max_result: config.limits.result_len(),
            call_time: config.limits.call_time(),
        })
    }

    fn require_run(&self, function: &str) -> wasmtime::Result<()> {
        if self.run_info.is_some() {
            return Ok(());
        }
        Err(OutsideRun(format!("host.{function}")).into())
    }

    fn keep_checkpoint(&mut self, checkpoint: &str) -> Result<(), String> {
        let Some(batch) = &mut self.batch else {
            return Err("save-checkpoint works only inside process-batch, because a \
                        checkpoint takes effect together with its batch"
                .to_owned());
        };
        if checkpoint.len() > MAX_CHECKPOINT {
            return Err(format!(
                "the checkpoint has {} bytes; at most {MAX_CHECKPOINT} are allowed: save a \
                 position instead of the data",
                checkpoint.len()
            ));
        }
        json::check(checkpoint).map_err(|error| format!("the checkpoint is not JSON: {error}"))?;
        batch.checkpoint = Some(checkpoint.to_owned());
        Ok(())
    }

    fn keep_partial(&mut self, uid: &str, meta: &str) -> Result<(), String> {
        let Some(batch) = &mut self.batch else {
            return Err("upsert-partial works only inside process-batch".to_owned());
        };
        if uid != batch.uid {
            return Err(format!(
                "upsert-partial was called for batch `{}` while `{}` is being processed; a \
                 batch can write its own artifact only",
                text::message(text::cut(uid, 100)),
                text::cut(&batch.uid, 100)
            ));
        }
        if meta.len() > self.max_result {
            return Err(format!(
                "upsert-partial's meta has {} bytes; limits.result_bytes allows {}",
                meta.len(),
                self.max_result
            ));
        }
        match json::check(meta) {
            Ok(Kind::Object) => {}
            Ok(Kind::Other) => {
                return Err("upsert-partial's meta is JSON, but not an object".to_owned());
            }
            Err(error) => return Err(format!("upsert-partial's meta is not JSON: {error}")),
        }
        let meta = serde_json::from_str(meta)
            .map_err(|error| format!("upsert-partial's meta is not a JSON object: {error}"))?;
        batch.partial = Some(meta);
        Ok(())
    }
}

/// `describe` called a function that needs a run.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` was called without a run: only `host.log` may be used in `describe`")]
struct OutsideRun(String);

type Answer = Result<(), types::HandlerError>;

fn answer(result: Result<(), String>) -> Answer {
    result.map_err(|message| types::HandlerError { message, detail: None })
}

impl types::Host for Guest {}

impl host::Host for Guest {
    fn run_info(&mut self) -> wasmtime::Result<String> {
        self.require_run("run-info")?;
        Ok(self.run_info.clone().unwrap_or_default())
    }

    fn cancelled(&mut self) -> wasmtime::Result<Option<host::Cancellation>> {
        self.require_run("cancelled")?;
        let now = Instant::now();
        Ok(self.timing.cancellation(now).map(|set| host::Cancellation {
            source: set.source.as_str().to_owned(),
            reason: set.reason,
            remaining_ms: milliseconds(set.deadline.saturating_duration_since(now)),
        }))
    }

    async fn sleep(&mut self, ms: u32) -> wasmtime::Result<bool> {
        self.require_run("sleep")?;
        Ok(self.timing.sleep(Duration::from_millis(u64::from(ms))).await)
    }

    fn save_checkpoint(&mut self, checkpoint: String) -> wasmtime::Result<Answer> {
        self.require_run("save-checkpoint")?;
        Ok(answer(self.keep_checkpoint(&checkpoint)))
    }

    fn upsert_partial(&mut self, uid: String, meta: String) -> wasmtime::Result<Answer> {
        self.require_run("upsert-partial")?;
        Ok(answer(self.keep_partial(&uid, &meta)))
    }

    fn run_totals(&mut self) -> wasmtime::Result<String> {
        self.require_run("run-totals")?;
        Ok(Value::Object(self.totals.to_object()).to_string())
    }

    fn log(&mut self, level: String, message: String) -> wasmtime::Result<()> {
        self.output.log(Level::named(&level), &message);
        Ok(())
    }

    fn metric(&mut self, kind: String, name: String, value: f64) -> wasmtime::Result<()> {
        self.require_run("metric")?;
        self.output.metric(&kind, &name, value);
        Ok(())
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
