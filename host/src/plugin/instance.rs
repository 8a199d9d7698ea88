//! One instance of a handler: the session of one run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use wasmtime::{Store, Trap, UpdateDeadline};

use super::config::HandlerConfig;
use super::context::{CallLimits, Guest, MAX_HANDLES, Made, OpenBatch};
use super::counts::Count;
use super::engine::Engine;
use super::faults::{self, Wreck};
use super::grants::Grants;
use super::load::{Compiled, Plugin};
use super::output::{Level, Output};
use super::results;
use super::text;
use super::timing::{Stopped, Timing};
use super::worlds::{Called, World};
use crate::handler::{
    AdapterProposal, Batch, BatchOutput, CallError, CancelFlag, Classification, FaultCode,
    FinalOutput, HandlerError, HostFault, OpenError, OpenRequest, Session, YieldedBatch,
};
use crate::metrics::Totals;

/// What happens before the first call, for messages.
const INSTANTIATION: &str = "instantiation";
/// `cleanup`'s limit.
const CLEANUP: Duration = Duration::from_secs(5);
/// The limit of a trial instance and its `describe`.
const TRIAL: Duration = Duration::from_secs(10);
/// Longest `detail` of an error.
const MAX_DETAIL: usize = 64 << 10;
/// What one call may hand over besides a result: uids, messages, pieces of output.
const SMALL_CHANGE: usize = 1 << 20;

/// A live instance. Its store is never used again after a trap or a dropped call.
pub(super) struct Instance {
    store: Store<Guest>,
    world: World,
    cancel: CancelFlag,
    calls: CallLimits,
    /// Processor time of the calls that are over.
    spent: Duration,
    max_result: usize,
    alive: bool,
    // Last: given back when the store is gone.
    _slot: OwnedSemaphorePermit,
}

/// Instantiates a plugin for a run.
pub(super) async fn open(plugin: &Plugin, request: OpenRequest) -> Result<Instance, OpenError> {
    let limits = &plugin.config.limits;
    let info = serde_json::to_string(&request.info).map_err(|error| HostFault {
        code: FaultCode::HandlerTrap,
        message: format!("run-info cannot be written as JSON: {error}"),
    })?;
    let tally = plugin.engine.counts.tally(Some(&request.info.role));
    let served = (&request.info, &*plugin.compiled.digest);
    let output = Output::new(Some(served), limits.log_lines_per_sec, tally.clone());
    let slot = slot(&plugin.engine).await?;
    let calls = CallLimits::new(&plugin.config);
    let timing = timing(INSTANTIATION, calls, &request.cancel);
    let (documents, client) = (plugin.engine.documents.clone(), plugin.engine.client.clone());
    let (config, grants) = (&plugin.config, &plugin.grants);
    let made = Made { config, grants, documents, client, tally, calls };
    let guest = Guest::new(made, output, timing, Some(info)).map_err(vanished)?;
    Ok(start(&plugin.compiled, guest, request.cancel, slot).await?)
}

fn timing(function: &'static str, calls: CallLimits, cancel: &CancelFlag) -> Timing {
    Timing::new(function, calls.time, cancel.clone()).within_cpu(calls.cpu).within_run(calls.run)
}

/// Instantiates a component without a run and asks who it is.
pub(super) async fn describe(
    engine: &Engine,
    compiled: &Compiled,
    (config, grants): (&HandlerConfig, &Grants),
) -> Result<Map<String, Value>, HostFault> {
    let cancel = CancelFlag::default();
    let tally = engine.counts.tally(None);
    let output = Output::new(None, config.limits.log_lines_per_sec, tally.clone());
    let slot = slot(engine).await?;
    let timing = Timing::new(INSTANTIATION, TRIAL, cancel.clone());
    let calls = CallLimits::new(config);
    let client = engine.client.clone();
    let made = Made { config, grants, documents: None, client, tally, calls };
    let guest = Guest::new(made, output, timing, None).map_err(vanished)?;
    let mut instance = start(compiled, guest, cancel, slot).await?;
    instance.describe().await
}

fn vanished(error: wasmtime::Error) -> HostFault {
    HostFault {
        code: FaultCode::HandlerTrap,
        message: format!("a granted directory cannot be opened any more: {error:#}"),
    }
}

/// Room for one more instance. No call's time runs while waiting for it.
async fn slot(engine: &Engine) -> Result<OwnedSemaphorePermit, HostFault> {
    Arc::clone(&engine.slots).acquire_owned().await.map_err(|_| HostFault {
        code: FaultCode::HandlerTrap,
        message: "the plugin engine is shutting down".to_owned(),
    })
}

async fn start(
    compiled: &Compiled,
    guest: Guest,
    cancel: CancelFlag,
    slot: OwnedSemaphorePermit,
) -> Result<Instance, HostFault> {
    let (calls, max_result) = (guest.calls, guest.max_result);
    let timing = guest.timing.clone();
    let mut store = Store::new(compiled.pre.engine(), guest);
    store.limiter(|guest| &mut guest.allocations);
    store.set_hostcall_fuel(max_result.saturating_add(SMALL_CHANGE));
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut context| {
        let guest = context.data_mut();
        match guest.timing.stop(Instant::now()) {
            None => Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))),
            stopped => {
                guest.stopped = stopped;
                Ok(UpdateDeadline::Interrupt)
            }
        }
    });
    let outcome = timing.watch(compiled.pre.instantiate(&mut store)).await;
    match outcome {
        Ok(Ok(world)) => Ok(Instance {
            store,
            world,
            cancel,
            calls,
            spent: Duration::ZERO,
            max_result,
            alive: true,
            _slot: slot,
        }),
        Ok(Err(error)) => Err(match wreck(&mut store, &timing, &error) {
            CallError::Dead(fault) => fault,
            _ => cancelled_early(),
        }),
        Err(stopped) => Err(match stopped_call(store.data(), &timing, stopped) {
            CallError::Dead(fault) => fault,
            _ => cancelled_early(),
        }),
    }
}

fn cancelled_early() -> HostFault {
    HostFault {
        code: FaultCode::TimeLimit,
        message: "the run was cancelled while its handler was being instantiated".to_owned(),
    }
}

/// What an instance died of.
fn wreck(store: &mut Store<Guest>, timing: &Timing, error: &wasmtime::Error) -> CallError {
    let guest = store.data();
    guest.output.finish();
    if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt)
        && let Some(stopped) = guest.stopped
    {
        return stopped_call(guest, timing, stopped);
    }
    let stderr = guest.output.stderr_tail();
    let fault = faults::explain(&Wreck {
        function: timing.function,
        error,
        stderr: &stderr,
        refused: guest.allocations.refused(),
    });
    count(guest, &fault);
    CallError::Dead(fault)
}

fn stopped_call(guest: &Guest, timing: &Timing, stopped: Stopped) -> CallError {
    match timing.fault(stopped) {
        None => CallError::Interrupted,
        Some(fault) => {
            count(guest, &fault);
            CallError::Dead(fault)
        }
    }
}

/// A limit that was met is counted, whatever becomes of the run.
fn count(guest: &Guest, fault: &HostFault) {
    let count = match fault.code {
        FaultCode::MemoryLimit => Count::MemoryLimit,
        FaultCode::TimeLimit => Count::TimeLimit,
        FaultCode::CpuLimit => Count::CpuLimit,
        FaultCode::ResultTooLarge => Count::ResultTooLarge,
        _ => return,
    };
    guest.tally.add(count, 1);
}

/// A call's way back from [`Timing::watch`].
type Outcome<R> = Result<Called<R>, Stopped>;

impl Instance {
    fn call(&self, function: &'static str) -> Timing {
        timing(function, self.calls, &self.cancel)
    }

    /// A result that cannot be used; the instance lives.
    fn reject(&self, fault: HostFault) -> CallError {
        count(self.store.data(), &fault);
        CallError::Rejected(fault)
    }

    /// Enters the guest: from here until [`Instance::end`] the instance counts as dead, so
    /// that a call that is dropped on its way leaves a dead one.
    fn begin(&mut self, timing: &Timing) -> Result<(), CallError> {
        if !self.alive {
            return Err(CallError::Dead(HostFault {
                code: FaultCode::HandlerTrap,
                message: format!("{} was called on an instance that has ended", timing.function),
            }));
        }
        self.alive = false;
        let guest = self.store.data_mut();
        guest.timing = timing.clone();
        guest.stopped = None;
        guest.allocations.forget();
        guest.output.begin_call();
        self.store.set_epoch_deadline(1);
        Ok(())
    }

    fn end<R>(&mut self, timing: &Timing, outcome: Outcome<R>) -> Result<R, CallError> {
        self.spent += timing.spent();
        match outcome {
            Ok(Ok(Ok(result))) => {
                self.alive = true;
                Ok(result)
            }
            Ok(Ok(Err(error))) => {
                self.alive = true;
                Err(CallError::Handler(self.handler_error(error)))
            }
            Ok(Err(error)) => Err(wreck(&mut self.store, timing, &error)),
            Err(stopped) => {
                self.store.data().output.finish();
                Err(stopped_call(self.store.data(), timing, stopped))
            }
        }
    }

    fn handler_error(&self, error: HandlerError) -> HandlerError {
        let detail = error.detail.filter(|detail| {
            let fits = detail.len() <= MAX_DETAIL;
            if !fits {
                let left_out = "an error's detail is longer than 64 KiB and was left out";
                self.store.data().output.log(Level::Warn, left_out);
            }
            fits
        });
        HandlerError { message: text::message(&error.message), detail }
    }

    async fn describe(&mut self) -> Result<Map<String, Value>, HostFault> {
        let timing = Timing::new("describe", TRIAL, self.cancel.clone());
        let described = match self.begin(&timing) {
            Ok(()) => {
                let outcome = timing.watch(self.world.describe(&mut self.store)).await;
                self.end(&timing, outcome)
            }
            Err(error) => Err(error),
        };
        match described {
            Ok(text) => results::description(&text),
            Err(CallError::Dead(fault) | CallError::Rejected(fault)) => Err(fault),
            Err(error) => Err(HostFault {
                code: FaultCode::BadOutput,
                message: format!("describe returned an error: {error}"),
            }),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let spent = u64::try_from(self.spent.as_millis()).unwrap_or(u64::MAX);
        self.store.data().tally.add(Count::CpuMs, spent);
    }
}

#[async_trait]
impl Session for Instance {
    async fn init(&mut self) -> Result<(), CallError> {
        let timing = self.call("init");
        self.begin(&timing)?;
        let info = self.store.data().run_info.clone().unwrap_or_default();
        let outcome = timing.watch(self.world.init(&mut self.store, &info)).await;
        self.end(&timing, outcome)
    }

    async fn iter_batches(
        &mut self,
        input: &str,
        checkpoint: Option<&str>,
    ) -> Result<Option<AdapterProposal>, CallError> {
        let timing = self.call("iter-batches");
        self.begin(&timing)?;
        let call = self.world.iter_batches(&mut self.store, input, checkpoint);
        let outcome = timing.watch(call).await;
        let proposed = self.end(&timing, outcome)?;
        proposed
            .map(|text| results::proposal(&text, self.max_result))
            .transpose()
            .map_err(|fault| self.reject(fault))
    }

    async fn next_batch(&mut self) -> Result<Option<YieldedBatch>, CallError> {
        let timing = self.call("next-batch");
        self.begin(&timing)?;
        let outcome = timing.watch(self.world.next_batch(&mut self.store)).await;
        let batch = self.end(&timing, outcome)?;
        batch
            .map(|(uid, payload)| results::yielded(uid, payload, self.max_result))
            .transpose()
            .map_err(|fault| self.reject(fault))
    }

    async fn process_batch(
        &mut self,
        batch: &Batch,
        totals: &Totals,
    ) -> Result<BatchOutput, CallError> {
        let timing = self.call("process-batch");
        self.begin(&timing)?;
        let guest = self.store.data_mut();
        guest.totals.clone_from(totals);
        guest.batch = Some(OpenBatch::new(batch.uid.to_string()));
        let call = self.world.process_batch(&mut self.store, batch.uid.as_str(), &batch.payload);
        let outcome = timing.watch(call).await;
        let left = self.store.data_mut().batch.take();
        let returned = self.end(&timing, outcome)?;
        let metrics =
            results::batch_metrics(&returned, self.max_result).map_err(|f| self.reject(f))?;
        let (partial, checkpoint) = left.map_or((None, None), |b| (b.partial, b.checkpoint));
        Ok(BatchOutput { metrics, partial, checkpoint })
    }

    async fn finalize(&mut self, totals: &Totals) -> Result<FinalOutput, CallError> {
        let timing = self.call("finalize");
        self.begin(&timing)?;
        self.store.data_mut().totals.clone_from(totals);
        let outcome = timing.watch(self.world.finalize(&mut self.store)).await;
        let returned = self.end(&timing, outcome)?;
        results::final_output(&returned, self.max_result).map_err(|fault| self.reject(fault))
    }

    async fn classify_error(&mut self, error: &HandlerError) -> Result<Classification, CallError> {
        let timing = self.call("classify-error");
        self.begin(&timing)?;
        let outcome = timing.watch(self.world.classify_error(&mut self.store, error)).await;
        match self.end(&timing, outcome) {
            Ok((reason_code, permanent)) => {
                let class = results::classification(reason_code.clone(), permanent);
                let replaced = u64::from(class.reason_code != reason_code);
                self.store.data().tally.add(Count::Unclassified, replaced);
                Ok(class)
            }
            Err(CallError::Handler(error)) => {
                self.store.data().tally.add(Count::Unclassified, 1);
                let failed = format!("classify-error failed itself: {}", error.message);
                self.store.data().output.log(Level::Warn, &failed);
                Ok(results::unclassified())
            }
            Err(error) => Err(error),
        }
    }

    async fn cleanup(&mut self) -> Result<(), CallError> {
        let timing = Timing::new("cleanup", CLEANUP, self.cancel.clone()).whatever_is_cancelled();
        self.begin(&timing)?;
        let outcome = timing.watch(self.world.cleanup(&mut self.store)).await;
        self.end(&timing, outcome)
    }
}
