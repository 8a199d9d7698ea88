//! One run of a handler, call by call as a worker makes them, and what was seen of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Subject;
use super::trace::{Cancelled, End, Failed, Failure, Function, Processed, Scene, Trace};
use crate::clock::Clock;
use crate::handler::{
    Batch, CallError, CancelFlag, CancelSource, Cancellation, HandlerError, OpenError, OpenRequest,
    RunInfo, Session, YieldedBatch,
};
use crate::input::artifacts::{ArtifactSource, Polled};
use crate::input::{Source, SourceRules};
use crate::metrics::Totals;
use crate::run::state::{Admission, Yielded, payload_uid};
use crate::settings::Settings;
use crate::store::StoreError;
use crate::types::{BatchUid, Epoch, NodeId, RunKey, TaskId, WorkerId};
use crate::uids::UidSet;

/// What a run begins with, and how far it goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) resumed: bool,
    pub(super) checkpoint: Option<String>,
    pub(super) finished: Arc<UidSet>,
    pub(super) totals: Totals,
    /// Most batches to process; what is behind them is not looked at.
    pub(super) most: usize,
    pub(super) cancel: Option<CancelAt>,
}

/// Where a run is cancelled.
#[derive(Debug, Clone, Copy)]
pub(super) struct CancelAt {
    pub(super) function: Function,
    /// The batch with this number is the one being yielded or processed.
    pub(super) index: usize,
    /// So long after the call began; zero for before.
    pub(super) delay: Duration,
}

/// Runs it.
pub(super) async fn perform(
    subject: &Subject,
    scene: Scene,
    plan: Plan,
) -> Result<Trace, StoreError> {
    let flag = CancelFlag::default();
    let mut trace = Trace::new(scene);
    let session = match open(subject, plan.resumed, &flag).await {
        Ok(session) => session,
        Err(failure) => {
            let function = Function::Instantiate;
            trace.end = End::Failed(Failed { function, uid: None, failure });
            return Ok(trace);
        }
    };
    let mut trial = Trial { subject, plan, flag, session, trace, alive: true, begun: false };
    let ended = trial.go().await;
    trial.trace.end = match ended {
        Ok(end) | Err(Stop::Ended(end)) => end,
        Err(Stop::Store(error)) => return Err(error),
    };
    trial.clean_up().await;
    Ok(trial.trace)
}

/// A session of a run that has begun, for `classify-error`; none where it does not get there.
pub(super) async fn begun(subject: &Subject) -> Option<Box<dyn Session>> {
    let mut session = open(subject, false, &CancelFlag::default()).await.ok()?;
    session.init().await.ok()?;
    match session.iter_batches(&input(subject).to_string(), None).await {
        Err(CallError::Dead(_) | CallError::Interrupted) => None,
        Ok(_) | Err(CallError::Handler(_) | CallError::Rejected(_)) => Some(session),
    }
}

/// What `iter-batches` is given.
fn input(subject: &Subject) -> Value {
    json!({"input_ref": null, "input_inline": subject.inline, "batching": null})
}

async fn open(
    subject: &Subject,
    resumed: bool,
    flag: &CancelFlag,
) -> Result<Box<dyn Session>, Failure> {
    let key = key_of(subject);
    let info = RunInfo {
        task_id: key.task_id,
        node_id: key.node_id,
        role: subject.role.clone(),
        attempt_epoch: Epoch(1),
        worker_id: worker(),
        resumed,
    };
    let request = OpenRequest { info, cancel: flag.clone() };
    let opened = match subject.handlers.choose(&subject.role, None).await {
        Ok(handler) => handler.open(request).await,
        Err(error) => Err(error),
    };
    opened.map_err(|error| match error {
        OpenError::Fault(fault) => Failure::Fault(fault),
        // The caller loaded it under this role.
        OpenError::NoHandler(_) => {
            Failure::Error(HandlerError { message: error.to_string(), detail: None }, None)
        }
    })
}

fn worker() -> WorkerId {
    WorkerId::new("plugin-test").expect("a name")
}

fn key_of(subject: &Subject) -> RunKey {
    RunKey {
        task_id: TaskId::new("plugin-test").expect("a name"),
        node_id: NodeId::new(subject.role.as_str()).expect("a role's name is a node's too"),
    }
}

/// Why a run goes no further.
enum Stop {
    Ended(End),
    Store(StoreError),
}

struct Trial<'a> {
    subject: &'a Subject,
    plan: Plan,
    flag: CancelFlag,
    session: Box<dyn Session>,
    trace: Trace,
    /// No call has killed the instance.
    alive: bool,
    /// `init` succeeded, so that `cleanup` is due.
    begun: bool,
}

impl Trial<'_> {
    async fn go(&mut self) -> Result<End, Stop> {
        let watch = self.watch(Function::Init, 0);
        let called = watch.call(self.session.init()).await;
        self.note((Function::Init, None), called).await?;
        self.begun = true;
        let mut source = self.source().await?;
        let finished = Arc::clone(&self.plan.finished);
        let mut yielded = match source {
            None => Yielded::after(finished, self.plan.checkpoint.is_some()),
            // It leaves out what is finished.
            Some(_) => Yielded::default(),
        };
        let mut totals = std::mem::take(&mut self.plan.totals);
        loop {
            let (next, yielded_in) = self.fetch(source.as_mut()).await?;
            let Some(YieldedBatch { uid, payload }) = next else { break };
            let uid = uid.unwrap_or_else(|| payload_uid(&payload));
            match yielded.admit(&uid) {
                Admission::New => {}
                Admission::Finished => continue,
                Admission::Twice => {
                    let failure = Failure::Twice(uid);
                    return Err(failed(Function::NextBatch, None, failure));
                }
            }
            if self.trace.batches.len() == self.plan.most {
                return Ok(End::Enough);
            }
            self.process(Batch { uid, payload }, &mut totals, yielded_in).await?;
        }
        self.finalize(&totals).await
    }

    async fn source(&mut self) -> Result<Option<ArtifactSource>, Stop> {
        let mut input = input(self.subject);
        if self.trace.scene == Scene::UnknownKeys {
            input["key_of_a_later_version"] = json!({"list": [1, null]});
        }
        let input = input.to_string();
        let checkpoint = self.plan.checkpoint.clone();
        let watch = self.watch(Function::IterBatches, 0);
        let called = watch.call(self.session.iter_batches(&input, checkpoint.as_deref())).await;
        self.trace.began_in = called.took;
        let proposal = self.note((Function::IterBatches, None), called).await?;
        let rules = SourceRules(Settings::new(worker()).pull);
        let chosen = rules
            .choose(Some(&self.subject.inline), proposal.as_ref())
            .map_err(|fault| failed(Function::IterBatches, None, Failure::Fault(fault)))?;
        let Source::Artifacts(mut pull) = chosen else { return Ok(None) };
        self.trace.adapter = true;
        pull.from_nodes = vec![self.subject.upstream.clone()];
        let store = Arc::clone(&self.subject.store);
        let finished = Arc::clone(&self.plan.finished);
        let consumer = RunKey { task_id: self.subject.task_id.clone(), ..key_of(self.subject) };
        Ok(Some(ArtifactSource::new(store, Clock::system(), consumer, pull, finished)))
    }

    async fn fetch(
        &mut self,
        source: Option<&mut ArtifactSource>,
    ) -> Result<(Option<YieldedBatch>, Duration), Stop> {
        if let Some(source) = source {
            let batch = match source.poll().await.map_err(Stop::Store)? {
                Polled::Batch(batch) => Some(batch),
                // Nobody is there to write more.
                Polled::Later(_) | Polled::End => None,
            };
            return Ok((batch, Duration::ZERO));
        }
        let watch = self.watch(Function::NextBatch, self.trace.batches.len());
        let called = watch.call(self.session.next_batch()).await;
        let took = called.took;
        Ok((self.note((Function::NextBatch, None), called).await?, took))
    }

    async fn process(
        &mut self,
        batch: Batch,
        totals: &mut Totals,
        yielded_in: Duration,
    ) -> Result<(), Stop> {
        let watch = self.watch(Function::ProcessBatch, self.trace.batches.len());
        let called = watch.call(self.session.process_batch(&batch, totals)).await;
        let processed_in = called.took;
        let uid = batch.uid;
        let output = self.note((Function::ProcessBatch, Some(&uid)), called).await?;
        if let Err(bad) = totals.add(&output.metrics) {
            let error = HandlerError { message: bad.to_string(), detail: None };
            return Err(failed(Function::ProcessBatch, Some(uid), Failure::Error(error, None)));
        }
        self.trace.batches.push(Processed { uid, output, yielded_in, processed_in });
        Ok(())
    }

    async fn finalize(&mut self, totals: &Totals) -> Result<End, Stop> {
        let watch = self.watch(Function::Finalize, 0);
        let called = watch.call(self.session.finalize(totals)).await;
        self.trace.finalized_in = called.took;
        let output = self.note((Function::Finalize, None), called).await?;
        Ok(End::Finished { metrics: totals.overlaid(&output.metrics), output })
    }

    async fn clean_up(&mut self) {
        if !self.begun || !self.alive {
            return;
        }
        let started = Instant::now();
        if let Err(error) = self.session.cleanup().await {
            self.trace.cleanup = Some(Failure::of(error, started.elapsed()));
        }
    }

    fn watch(&self, function: Function, index: usize) -> Watch {
        let at = self.plan.cancel.filter(|at| at.function == function && at.index == index);
        Watch { cancel: at.map(|at| at.delay), flag: self.flag.clone(), grace: self.subject.grace }
    }

    /// Takes note of how a call went. A call that was to be cancelled is the run's last.
    async fn note<T>(
        &mut self,
        (function, uid): (Function, Option<&BatchUid>),
        called: Called<T>,
    ) -> Result<T, Stop> {
        let Called { result, took, planned, after } = called;
        if took > self.trace.longest.1 {
            self.trace.longest = (function, took);
        }
        if matches!(result, Err(CallError::Dead(_) | CallError::Interrupted)) {
            self.alive = false;
        }
        // What a cancelled call returns makes no difference; that it returns does.
        let harmless =
            matches!(result, Ok(_) | Err(CallError::Handler(_) | CallError::Rejected(_)));
        if planned && harmless {
            let observed = self.flag.observed();
            return Err(Stop::Ended(End::Cancelled(Cancelled { after, observed })));
        }
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                let mut failure = Failure::of(error, after.unwrap_or_default());
                if let Failure::Error(error, class) = &mut failure {
                    *class = self.session.classify_error(error).await.ok();
                }
                Err(failed(function, uid.cloned(), failure))
            }
        }
    }
}

fn failed(function: Function, uid: Option<BatchUid>, failure: Failure) -> Stop {
    Stop::Ended(End::Failed(Failed { function, uid, failure }))
}

/// Times a call, and cancels it where that is planned.
struct Watch {
    cancel: Option<Duration>,
    flag: CancelFlag,
    grace: Duration,
}

struct Called<T> {
    result: Result<T, CallError>,
    took: Duration,
    /// It was to be cancelled.
    planned: bool,
    /// From the cancel to the end; none when it ended before.
    after: Option<Duration>,
}

impl Watch {
    async fn call<T>(self, call: impl Future<Output = Result<T, CallError>>) -> Called<T> {
        let started = Instant::now();
        let planned = self.cancel.is_some();
        let raised_at = started + self.cancel.unwrap_or_default();
        let raising = async {
            match self.cancel {
                None => std::future::pending().await,
                Some(Duration::ZERO) => self.raise(),
                Some(_) => {
                    tokio::time::sleep_until(raised_at).await;
                    self.raise();
                }
            }
        };
        tokio::pin!(call);
        // Cancel-safe: the call is kept and polled on; raising the flag is done in one poll.
        let result = tokio::select! {
            biased;
            () = raising => call.await,
            result = &mut call => result,
        };
        let took = started.elapsed();
        let raised = planned && self.flag.get().is_some();
        Called { result, took, planned, after: raised.then(|| raised_at.elapsed()) }
    }

    fn raise(&self) {
        self.flag.cancel(Cancellation {
            source: CancelSource::Signal,
            reason: "plugin test".to_owned(),
            deadline: Instant::now() + self.grace,
        });
    }
}
