//! A run as a pure state machine: what happened and when goes in, what to do comes out.
//!
//! `init → iter-batches → (fetch → process)… → drain → finalize → seal → cleanup`, with an
//! exit to `drain` from everywhere. One activity is under way at a time ([`Effect`]s other
//! than [`Effect::Record`], [`Effect::RaiseFlag`] and [`Effect::AbandonFetch`] start one,
//! and exactly one input answers it), while records of finished batches complete beside it.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use crate::handler::{
    AdapterProposal, Batch, BatchOutput, CallError, CancelSource, Cancellation, Classification,
    FaultCode, FinalOutput, HandlerError, HostFault, OpenError, YieldedBatch,
};
use crate::input::{Source, SourceRules};
use crate::metrics::{BadMetrics, Totals};
use crate::protocol::{RunState, content_hash};
use crate::store::{Progress, RunEnd, RunRecord};
use crate::types::BatchUid;
use crate::uids::UidSet;

/// Most batches processed ahead of their records.
const MAX_UNRECORDED: u64 = 256;

/// Most bytes of artifacts waiting to be recorded.
const MAX_UNRECORDED_BYTES: usize = 8 * 1024 * 1024;

/// Longest text of people's or a handler's making in an event, in bytes.
const MAX_TEXT: usize = 16 * 1024;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// [`Effect::Announce`] is done.
    Announced,
    /// [`Effect::Open`]: the plugin's digest, or why there is no instance.
    Opened(Result<String, OpenError>),
    /// [`Effect::Init`] is done.
    Initialised(Result<(), CallError>),
    /// [`Effect::IterBatches`] is done.
    Began(Result<Option<AdapterProposal>, CallError>),
    /// [`Effect::Fetch`] is done; none at the end.
    Fetched(Result<Option<YieldedBatch>, CallError>),
    /// [`Effect::Process`] is done.
    Processed {
        /// What the handler returned.
        result: Result<BatchOutput, CallError>,
        /// The handler was shown the cancel flag, so the result may be half of the work.
        saw_cancel: bool,
    },
    /// [`Effect::Finalize`] is done.
    Finalized(Result<FinalOutput, CallError>),
    /// [`Effect::Classify`] is done.
    Classified(Result<Classification, CallError>),
    /// The first `finished` batches are durable, recorded and reported.
    Recorded {
        /// Batches of the attempt.
        finished: u64,
    },
    /// [`Effect::Seal`] or [`Effect::Release`] is done, or was refused by the fence.
    Sealed,
    /// [`Effect::Cleanup`] is done.
    Cleaned,
    /// Somebody wants the run to stop.
    Stop(Stop),
}

/// A request to stop, with the time at which the guest is interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Who wants it and what follows from it.
    pub cause: StopCause,
    /// Until when the guest may go on.
    pub deadline: Instant,
}

/// Why a run stops before its work is done; later variants outrank earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopCause {
    /// The worker stops, or has no room: the run is released for another one. Nothing is
    /// sent.
    Shutdown,
    /// Signal, command or database flag: CANCELLED with the reason.
    Cancel {
        /// Which of the three.
        source: CancelKind,
        /// For people.
        reason: String,
    },
    /// The lease is gone, or cannot be kept: nothing is sent or written.
    LeaseLost,
    /// A newer attempt exists: nothing is sent or written.
    Superseded,
}

/// Who may cancel a run for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelKind {
    /// A coordinator's signal.
    Signal,
    /// A TASK_CANCEL command.
    Command,
    /// A flag in `tasks`.
    Database,
}

impl StopCause {
    fn rank(&self) -> u8 {
        match self {
            Self::Shutdown => 0,
            Self::Cancel { .. } => 1,
            Self::LeaseLost => 2,
            Self::Superseded => 3,
        }
    }

    fn flag(&self) -> (CancelSource, String) {
        match self {
            Self::Shutdown => (CancelSource::Shutdown, "the worker is stopping".into()),
            Self::LeaseLost => (CancelSource::Lease, "the run's lease was lost".into()),
            Self::Superseded => (CancelSource::Superseded, "a newer attempt exists".into()),
            Self::Cancel { source, reason } => {
                let source = match source {
                    CancelKind::Signal => CancelSource::Signal,
                    CancelKind::Command => CancelSource::Command,
                    CancelKind::Database => CancelSource::Database,
                };
                (source, reason.clone())
            }
        }
    }
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// What every run begins with: send TASK_ACCEPTED (or TASK_RESUMED) and the BATCH_OKs that may not have left.
    Announce,
    /// Open a session.
    Open,
    /// Call `init`.
    Init,
    /// Call `iter-batches` with this checkpoint.
    IterBatches {
        /// The last one that took effect.
        checkpoint: Option<String>,
    },
    /// Batches come from here.
    UseSource(Source),
    /// Get the next batch from the source.
    Fetch,
    /// Drop a fetch that is waiting for upstream data; no input answers it.
    AbandonFetch,
    /// Call `process-batch`.
    Process(Batch),
    /// Make a finished batch durable, beside everything else.
    Record(Box<Finished>),
    /// Call `finalize`.
    Finalize,
    /// Call `classify-error`.
    Classify(HandlerError),
    /// Show the guest a cancel flag.
    RaiseFlag(Cancellation),
    /// Write and send the end; with a complete artifact when it is there.
    Seal {
        /// How it ended.
        end: RunEnd,
        /// What `finalize` returned.
        complete: Option<FinalOutput>,
    },
    /// Give the lease back.
    Release,
    /// Call `cleanup`.
    Cleanup,
}

/// A finished batch on its way into the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Its name.
    pub uid: BatchUid,
    /// Its place in the attempt.
    pub ordinal: u64,
    /// What it left behind.
    pub output: BatchOutput,
}

/// What a run knows of itself when it starts.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its record.
    pub record: &'a RunRecord,
    /// Uids of the batches the record says are finished.
    pub finished: Arc<UidSet>,
    /// How input adapters are chosen.
    pub rules: SourceRules,
    /// From this attempt on failures are permanent.
    pub max_attempts: Option<u32>,
    /// The run was cancelled before it began: it is answered, the handler is not started.
    pub cancelled: Option<Stop>,
}

/// A run under way.
#[derive(Debug)]
pub struct Run {
    phase: Phase,
    instance: Instance,
    stop: Option<Stop>,
    rules: SourceRules,
    inline: Option<serde_json::Map<String, Value>>,
    last_attempt: bool,
    source: Option<Source>,
    resume: Resume,
    seen: UidSet,
    progress: Progress,
    recorded: u64,
    unrecorded_bytes: VecDeque<usize>,
}

#[derive(Debug)]
enum Phase {
    Announcing,
    Opening,
    Initialising,
    Beginning,
    Fetching,
    Throttled,
    Processing { uid: BatchUid },
    Classifying { batch: Option<BatchUid>, error: HandlerError },
    Draining(Verdict),
    Finalizing,
    Sealing,
    Cleaning,
    Ended,
}

/// What follows once everything processed is recorded.
#[derive(Debug)]
enum Verdict {
    Finish,
    Fail(RunEnd),
    Cancel { reason: String },
    Release,
}

#[derive(Debug, PartialEq)]
enum Instance {
    None,
    Opened,
    Ready,
    Dead,
}

/// Which of the batches a handler yields again may be left out (`protocol.md`: a uid that
/// one attempt yields twice is never skipped silently).
#[derive(Debug)]
enum Resume {
    /// Nothing was finished, or the source leaves finished batches out by itself.
    Nothing,
    /// The handler starts over: each finished batch comes once more, in any order.
    Over { finished: Arc<UidSet> },
    /// The handler goes on from its checkpoint: what was finished after it comes again
    /// before anything new does.
    FromCheckpoint { finished: Arc<UidSet> },
}

impl Run {
    /// A run that begins: [`Effect::Announce`] is under way.
    pub fn start(start: Start<'_>) -> Self {
        let Start { record, finished, rules, max_attempts, cancelled } = start;
        let progress = record.progress.clone();
        let resume = match (&progress.checkpoint, finished.is_empty()) {
            (_, true) => Resume::Nothing,
            (None, false) => Resume::Over { finished },
            (Some(_), false) => Resume::FromCheckpoint { finished },
        };
        Self {
            phase: Phase::Announcing,
            instance: Instance::None,
            stop: cancelled,
            rules,
            inline: record.new.input.input_inline.clone(),
            last_attempt: max_attempts.is_some_and(|max| record.new.epoch.0 >= max),
            source: None,
            resume,
            seen: UidSet::default(),
            recorded: progress.finished,
            progress,
            unrecorded_bytes: VecDeque::new(),
        }
    }

    /// Takes what happened and says what to do. An answer to an activity that is no longer
    /// under way changes nothing.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        if !self.expects(&input) {
            return vec![];
        }
        match input {
            Input::Stop(stop) => self.on_stop(stop),
            Input::Recorded { finished } => self.on_recorded(finished),
            Input::Announced => self.on_announced(),
            Input::Opened(result) => self.on_opened(result),
            Input::Initialised(result) => self.on_initialised(result),
            Input::Began(result) => self.on_began(result),
            Input::Fetched(result) => self.on_fetched(result),
            Input::Processed { result, saw_cancel } => self.on_processed(result, saw_cancel),
            Input::Finalized(result) => self.on_finalized(result),
            Input::Classified(result) => self.on_classified(result),
            Input::Sealed => self.close(),
            Input::Cleaned => self.enter(Phase::Ended, vec![]),
        }
    }

    /// No more effects will come.
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// What to tell a coordinator that asks.
    pub fn state(&self) -> RunState {
        match (&self.stop, &self.phase) {
            (Some(_), _) => RunState::Cancelling,
            (None, Phase::Draining(_) | Phase::Finalizing | Phase::Sealing | Phase::Cleaning) => {
                RunState::Finishing
            }
            (None, _) => RunState::Running,
        }
    }

    /// Everything processed so far, recorded or about to be.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether the run may no longer write or send anything.
    pub fn abandoned(&self) -> bool {
        matches!(self.stop, Some(Stop { cause: StopCause::LeaseLost | StopCause::Superseded, .. }))
    }

    /// The end is being written or is written; what else is said of the run would be said
    /// after its end.
    pub fn sealing(&self) -> bool {
        matches!(self.phase, Phase::Sealing | Phase::Cleaning | Phase::Ended)
    }

    /// Whether the end of the lease would change anything.
    pub fn needs_lease(&self) -> bool {
        !self.abandoned() && !matches!(self.phase, Phase::Cleaning | Phase::Ended)
    }

    fn expects(&self, input: &Input) -> bool {
        match input {
            Input::Stop(_) | Input::Recorded { .. } => true,
            Input::Announced => matches!(self.phase, Phase::Announcing),
            Input::Opened(_) => matches!(self.phase, Phase::Opening),
            Input::Initialised(_) => matches!(self.phase, Phase::Initialising),
            Input::Began(_) => matches!(self.phase, Phase::Beginning),
            Input::Fetched(_) => matches!(self.phase, Phase::Fetching),
            Input::Processed { .. } => matches!(self.phase, Phase::Processing { .. }),
            Input::Classified(_) => matches!(self.phase, Phase::Classifying { .. }),
            Input::Finalized(_) => matches!(self.phase, Phase::Finalizing),
            Input::Sealed => matches!(self.phase, Phase::Sealing),
            Input::Cleaned => matches!(self.phase, Phase::Cleaning),
        }
    }

    fn enter(&mut self, phase: Phase, effects: Vec<Effect>) -> Vec<Effect> {
        self.phase = phase;
        effects
    }

    fn on_announced(&mut self) -> Vec<Effect> {
        if self.stop.is_some() {
            return self.conclude();
        }
        match self.rules.commanded(self.inline.as_ref()) {
            Ok(_) => self.enter(Phase::Opening, vec![Effect::Open]),
            Err(fault) => self.fail(None, &fault),
        }
    }

    fn on_opened(&mut self, result: Result<String, OpenError>) -> Vec<Effect> {
        if let Ok(digest) = &result {
            self.instance = Instance::Opened;
            self.progress.digest = Some(digest.clone());
        }
        if self.stop.is_some() {
            return self.conclude();
        }
        match result {
            Ok(_) => self.enter(Phase::Initialising, vec![Effect::Init]),
            Err(OpenError::NoHandler(role)) => {
                let message =
                    format!("no plugin serves role `{role}` on this worker; map one in `handlers`");
                self.fail(None, &HostFault { code: FaultCode::NoHandler, message })
            }
            Err(OpenError::Fault(fault)) => self.fail(None, &fault),
        }
    }

    fn on_initialised(&mut self, result: Result<(), CallError>) -> Vec<Effect> {
        if result.is_ok() {
            self.instance = Instance::Ready;
        }
        match self.unless_stopped(result, None) {
            Ok(()) => {
                let checkpoint = self.progress.checkpoint.clone();
                self.enter(Phase::Beginning, vec![Effect::IterBatches { checkpoint }])
            }
            Err(effects) => effects,
        }
    }

    fn on_began(&mut self, result: Result<Option<AdapterProposal>, CallError>) -> Vec<Effect> {
        let proposal = match self.unless_stopped(result, None) {
            Ok(proposal) => proposal,
            Err(effects) => return effects,
        };
        let source = match self.rules.choose(self.inline.as_ref(), proposal.as_ref()) {
            Ok(source) => source,
            Err(fault) => return self.fail(None, &fault),
        };
        if !matches!(source, Source::Handler) {
            self.resume = Resume::Nothing;
        }
        self.source = Some(source.clone());
        self.enter(Phase::Fetching, vec![Effect::UseSource(source), Effect::Fetch])
    }

    fn on_fetched(&mut self, result: Result<Option<YieldedBatch>, CallError>) -> Vec<Effect> {
        let yielded = match self.unless_stopped(result, None) {
            Ok(Some(yielded)) => yielded,
            Ok(None) => return self.drain(Verdict::Finish),
            Err(effects) => return effects,
        };
        let YieldedBatch { uid, payload } = yielded;
        let uid = uid.unwrap_or_else(|| payload_uid(&payload));
        if !self.seen.insert(&uid) {
            return self.fail_duplicate(&uid);
        }
        match &self.resume {
            Resume::Over { finished } | Resume::FromCheckpoint { finished }
                if finished.contains(&uid) =>
            {
                return self.enter(Phase::Fetching, vec![Effect::Fetch]);
            }
            Resume::FromCheckpoint { finished } => {
                // What is new has begun: from here on a finished uid is a duplicate.
                self.seen = UidSet::clone(finished);
                self.seen.insert(&uid);
                self.resume = Resume::Nothing;
            }
            Resume::Over { .. } | Resume::Nothing => {}
        }
        let batch = Batch { uid: uid.clone(), payload };
        self.enter(Phase::Processing { uid }, vec![Effect::Process(batch)])
    }

    fn on_processed(
        &mut self,
        result: Result<BatchOutput, CallError>,
        saw_cancel: bool,
    ) -> Vec<Effect> {
        let Phase::Processing { uid } = &self.phase else { return vec![] };
        let uid = uid.clone();
        if self.stop.is_some() {
            // A batch that was finished without a look at the flag is worth keeping when
            // somebody else goes on with the run.
            let keep = matches!(&self.stop, Some(Stop { cause: StopCause::Shutdown, .. }));
            self.note_death(&result);
            let mut effects = match result {
                Ok(output) if keep && !saw_cancel => self.finish(uid, output).unwrap_or_default(),
                _ => vec![],
            };
            effects.extend(self.conclude());
            return effects;
        }
        let output = match self.unless_stopped(result, Some(&uid)) {
            Ok(output) => output,
            Err(effects) => return effects,
        };
        match self.finish(uid.clone(), output) {
            Ok(mut effects) => {
                effects.extend(self.fetch_when_there_is_room());
                effects
            }
            Err(bad) => self.fail(
                Some(uid),
                &HostFault { code: FaultCode::ResultTooLarge, message: bad.to_string() },
            ),
        }
    }

    /// Counts a processed batch as finished and has it recorded.
    fn finish(&mut self, uid: BatchUid, output: BatchOutput) -> Result<Vec<Effect>, BadMetrics> {
        self.progress.totals.add(&output.metrics)?;
        let ordinal = self.progress.finished;
        self.progress.finished += 1;
        if let Some(checkpoint) = &output.checkpoint {
            self.progress.checkpoint = Some(checkpoint.clone());
        }
        self.unrecorded_bytes.push_back(weight(&output));
        Ok(vec![Effect::Record(Box::new(Finished { uid, ordinal, output }))])
    }

    fn fetch_when_there_is_room(&mut self) -> Vec<Effect> {
        let waiting = self.progress.finished - self.recorded;
        let bytes: usize = self.unrecorded_bytes.iter().sum();
        if waiting < MAX_UNRECORDED && bytes < MAX_UNRECORDED_BYTES {
            self.enter(Phase::Fetching, vec![Effect::Fetch])
        } else {
            self.enter(Phase::Throttled, vec![])
        }
    }

    fn on_recorded(&mut self, finished: u64) -> Vec<Effect> {
        while self.recorded < finished && self.unrecorded_bytes.pop_front().is_some() {
            self.recorded += 1;
        }
        match &self.phase {
            Phase::Throttled => self.fetch_when_there_is_room(),
            Phase::Draining(_) => self.proceed_if_drained(),
            _ => vec![],
        }
    }

    fn on_finalized(&mut self, result: Result<FinalOutput, CallError>) -> Vec<Effect> {
        match self.unless_stopped(result, None) {
            Ok(output) => {
                let metrics = self.progress.totals.overlaid(&output.metrics);
                let end = RunEnd::Done { metrics };
                self.enter(Phase::Sealing, vec![Effect::Seal { end, complete: Some(output) }])
            }
            Err(effects) => effects,
        }
    }

    fn on_classified(&mut self, result: Result<Classification, CallError>) -> Vec<Effect> {
        self.note_death(&result);
        if self.stop.is_some() {
            return self.conclude();
        }
        let Phase::Classifying { batch, error } = std::mem::replace(&mut self.phase, Phase::Ended)
        else {
            return vec![];
        };
        // A handler that cannot say what its own error means gets the seed's answer.
        let Classification { reason_code, permanent } = result.unwrap_or_else(|_| Classification {
            reason_code: "unknown_error".into(),
            permanent: false,
        });
        self.fail_with(batch, reason_code, permanent, error.message)
    }

    fn on_stop(&mut self, stop: Stop) -> Vec<Effect> {
        if matches!(self.phase, Phase::Sealing | Phase::Cleaning | Phase::Ended) {
            return vec![];
        }
        let (source, reason) = stop.cause.flag();
        let flag = Cancellation { source, reason, deadline: stop.deadline };
        let mut effects = vec![Effect::RaiseFlag(flag)];
        // The flag takes the earlier deadline; the first reason of a rank stays.
        if self.stop.as_ref().is_some_and(|old| old.cause.rank() >= stop.cause.rank()) {
            return effects;
        }
        self.stop = Some(stop);
        match &self.phase {
            Phase::Fetching if !matches!(self.source, Some(Source::Handler)) => {
                effects.push(Effect::AbandonFetch);
                effects.extend(self.conclude());
            }
            Phase::Throttled => effects.extend(self.conclude()),
            // A failure that is already being written stands, unless nothing may be.
            Phase::Draining(Verdict::Fail(_)) if !self.abandoned() => {}
            Phase::Draining(_) => effects.extend(self.conclude()),
            _ => {}
        }
        effects
    }

    /// The result of a call, or what follows from its failure or from a stop meanwhile.
    fn unless_stopped<T>(
        &mut self,
        result: Result<T, CallError>,
        batch: Option<&BatchUid>,
    ) -> Result<T, Vec<Effect>> {
        self.note_death(&result);
        if self.stop.is_some() {
            return Err(self.conclude());
        }
        result.map_err(|error| match error {
            CallError::Handler(error) => {
                let effects = vec![Effect::Classify(error.clone())];
                self.enter(Phase::Classifying { batch: batch.cloned(), error }, effects)
            }
            CallError::Rejected(fault) | CallError::Dead(fault) => {
                self.fail(batch.cloned(), &fault)
            }
            CallError::Interrupted => self.fail(
                batch.cloned(),
                &HostFault {
                    code: FaultCode::HandlerTrap,
                    message: "the handler was interrupted although nobody cancelled it".into(),
                },
            ),
        })
    }

    fn note_death<T>(&mut self, result: &Result<T, CallError>) {
        if matches!(result, Err(CallError::Dead(_) | CallError::Interrupted)) {
            self.instance = Instance::Dead;
        }
    }

    fn fail_duplicate(&mut self, uid: &BatchUid) -> Vec<Effect> {
        let message = format!(
            "the handler yielded the batch `{uid}` twice in one attempt; give each batch a \
             uid of its own (batches without one are named by their payload, so equal \
             payloads need names)"
        );
        self.fail(None, &HostFault { code: FaultCode::DuplicateBatchUid, message })
    }

    fn fail(&mut self, batch: Option<BatchUid>, fault: &HostFault) -> Vec<Effect> {
        let reason_code = fault.code.as_str().to_owned();
        self.fail_with(batch, reason_code, fault.code.permanent(), fault.message.clone())
    }

    fn fail_with(
        &mut self,
        batch_uid: Option<BatchUid>,
        reason_code: String,
        permanent: bool,
        error: String,
    ) -> Vec<Effect> {
        let permanent = permanent || self.last_attempt;
        let error = Some(brief(&error));
        let reason_code = brief(&reason_code);
        self.drain(Verdict::Fail(RunEnd::Failed { batch_uid, reason_code, permanent, error }))
    }

    /// What follows from the stop that was asked for.
    fn conclude(&mut self) -> Vec<Effect> {
        match self.stop.as_ref().map(|stop| stop.cause.clone()) {
            Some(StopCause::Cancel { reason, .. }) => {
                self.drain(Verdict::Cancel { reason: brief(&reason) })
            }
            Some(StopCause::Shutdown) => self.drain(Verdict::Release),
            Some(StopCause::LeaseLost | StopCause::Superseded) => self.close(),
            None => vec![],
        }
    }

    fn drain(&mut self, verdict: Verdict) -> Vec<Effect> {
        self.phase = Phase::Draining(verdict);
        self.proceed_if_drained()
    }

    fn proceed_if_drained(&mut self) -> Vec<Effect> {
        if self.recorded < self.progress.finished {
            return vec![];
        }
        let Phase::Draining(verdict) = std::mem::replace(&mut self.phase, Phase::Sealing) else {
            return vec![];
        };
        match verdict {
            Verdict::Finish => self.enter(Phase::Finalizing, vec![Effect::Finalize]),
            Verdict::Fail(end) => vec![Effect::Seal { end, complete: None }],
            Verdict::Cancel { reason } => {
                vec![Effect::Seal { end: RunEnd::Cancelled { reason }, complete: None }]
            }
            Verdict::Release => vec![Effect::Release],
        }
    }

    /// After everything that matters: let the handler clean up, if it can.
    fn close(&mut self) -> Vec<Effect> {
        if self.instance == Instance::Ready {
            self.enter(Phase::Cleaning, vec![Effect::Cleanup])
        } else {
            self.enter(Phase::Ended, vec![])
        }
    }

    /// Numeric metrics of the finished batches, for `run-totals`.
    pub fn totals(&self) -> &Totals {
        &self.progress.totals
    }
}

/// A text as long as an event may carry it: an event must never outgrow a message.
fn brief(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let cut = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}… ({} bytes in all)", &text[..cut], text.len())
}

/// The uid of a batch that its handler did not name (`protocol.md`).
fn payload_uid(payload: &str) -> BatchUid {
    let payload: Value = serde_json::from_str(payload).unwrap_or(Value::Null);
    let hash = content_hash(&serde_json::json!({ "payload": payload }));
    BatchUid::new(hash).expect("a hash is a name")
}

fn weight(output: &BatchOutput) -> usize {
    let object = |map: &serde_json::Map<String, Value>| {
        map.iter().map(|(key, value)| key.len() + value_weight(value)).sum::<usize>()
    };
    object(output.metrics.as_object())
        + output.partial.as_ref().map_or(0, object)
        + output.checkpoint.as_ref().map_or(0, String::len)
}

fn value_weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 32,
        Value::Array(items) => 32 + items.iter().map(value_weight).sum::<usize>(),
        Value::Object(map) => {
            32 + map.iter().map(|(k, v)| k.len() + 32 + value_weight(v)).sum::<usize>()
        }
        _ => 32,
    }
}
