//! What a guest finds on the host's side of `flowkit:worker/host`, and the state behind it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::bindings::flowkit::worker::{documents, host, types};
use super::config::HandlerConfig;
use super::counts::Tally;
use super::documents::{Cursors, Refusal};
use super::grants::Grants;
use super::http::Outbound;
use super::http_client::Client;
use super::json::{self, Kind};
use super::limits::Allocations;
use super::output::{Level, Output, Stream};
use super::text;
use super::timing::{RunTime, Stopped, Timing};
use crate::documents::Documents;
use crate::metrics::Totals;

/// Most bytes of a checkpoint.
const MAX_CHECKPOINT: usize = 1 << 20;

/// Files, streams and timers a guest may hold at once.
pub(super) const MAX_HANDLES: usize = 1_024;

/// Everything one instance can reach.
pub(super) struct Guest {
    pub(super) wasi: WasiCtx,
    pub(super) http: WasiHttpCtx,
    pub(super) outbound: Outbound,
    pub(super) cursors: Cursors,
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
    pub(super) calls: CallLimits,
    pub(super) tally: Tally,
}

/// What every call of an instance is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallLimits {
    pub(super) time: Duration,
    pub(super) cpu: Duration,
    pub(super) run: Option<RunTime>,
}

impl CallLimits {
    /// Of a run that begins now.
    pub(super) fn new(config: &HandlerConfig) -> Self {
        let limits = &config.limits;
        Self {
            time: limits.call_time(),
            cpu: limits.call_cpu(),
            run: limits.run_time().map(RunTime::new),
        }
    }
}

/// What a guest is made of.
pub(super) struct Made<'a> {
    pub(super) config: &'a HandlerConfig,
    pub(super) grants: &'a Grants,
    pub(super) documents: Option<Arc<dyn Documents>>,
    pub(super) client: Arc<Client>,
    pub(super) tally: Tally,
    pub(super) calls: CallLimits,
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
        made: Made<'_>,
        output: Output,
        timing: Timing,
        run_info: Option<String>,
    ) -> wasmtime::Result<Self> {
        let Made { config, grants, documents, client, tally, calls } = made;
        let limits = &config.limits;
        let mut wasi = WasiCtx::builder();
        wasi.stdout(output.stream(Stream::Stdout)).stderr(output.stream(Stream::Stderr));
        grants.give(&mut wasi)?;
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(MAX_HANDLES);
        let way = (client, Arc::clone(&grants.http));
        let cursors = usize::try_from(limits.open_cursors.get()).unwrap_or(1);
        Ok(Self {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            outbound: Outbound::new(way, limits, tally.clone(), output.clone()),
            cursors: Cursors::new(
                documents,
                Arc::clone(&grants.documents),
                (cursors, limits.result_len()),
                tally.clone(),
            ),
            resources,
            allocations: Allocations::new(limits.memory_bytes.get(), limits.table_elements.get()),
            output,
            run_info,
            totals: Totals::default(),
            timing,
            stopped: None,
            batch: None,
            max_result: limits.result_len(),
            calls,
            tally,
        })
    }

    pub(super) fn require_run(&self, function: &str) -> wasmtime::Result<()> {
        self.require_run_for("host", function)
    }

    fn require_run_for(&self, interface: &str, function: &str) -> wasmtime::Result<()> {
        if self.run_info.is_some() {
            return Ok(());
        }
        Err(OutsideRun(format!("{interface}.{function}")).into())
    }

    pub(super) fn keep_checkpoint(&mut self, checkpoint: &str) -> Result<(), String> {
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

    pub(super) fn keep_partial(&mut self, uid: &str, meta: &str) -> Result<(), String> {
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

fn refused(refusal: Refusal) -> types::HandlerError {
    let (message, detail) = refusal.into_wire();
    types::HandlerError { message, detail }
}

impl documents::Host for Guest {
    async fn open(
        &mut self,
        collection: String,
        query: String,
    ) -> wasmtime::Result<Result<u32, types::HandlerError>> {
        self.require_run_for("documents", "open")?;
        Ok(self.cursors.open(&collection, &query).await.map_err(refused))
    }

    async fn next(
        &mut self,
        cursor: u32,
    ) -> wasmtime::Result<Result<Option<String>, types::HandlerError>> {
        self.require_run_for("documents", "next")?;
        Ok(self.cursors.next(cursor).await.map_err(refused))
    }

    fn close(&mut self, cursor: u32) -> wasmtime::Result<()> {
        self.cursors.close(cursor);
        Ok(())
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.resources,
            hooks: &mut self.outbound,
        }
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
