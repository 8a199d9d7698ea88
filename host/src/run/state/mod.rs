//! A run as a pure state machine: what happened and when goes in, what to do comes out.
//!
//! `init → iter-batches → (fetch → process)… → drain → finalize → seal → cleanup`, with an
//! exit to `drain` from everywhere. One activity is under way at a time ([`Effect`]s other
//! than [`Effect::Record`], [`Effect::RaiseFlag`] and [`Effect::AbandonFetch`] start one,
//! and exactly one input answers it), while records of finished batches complete beside it.

mod kinds;
mod leave;
mod size;
#[cfg(test)]
mod tests;
mod yielded;

pub use kinds::{CancelKind, Effect, Finished, Input, Stop, StopCause};
pub use yielded::{Admission, Yielded, payload_uid};

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use self::size::weight;
use crate::handler::{
    AdapterProposal, Batch, BatchOutput, CallError, Classification, FaultCode, FinalOutput,
    HandlerError, HostFault, OpenError, YieldedBatch,
};
use crate::input::{Source, SourceRules};
use crate::metrics::{BadMetrics, Totals};
use crate::protocol::RunState;
use crate::store::{Progress, RunEnd, RunRecord};
use crate::types::BatchUid;
use crate::uids::UidSet;

/// Most batches processed ahead of their records.
const MAX_UNRECORDED: u64 = 256;

/// Most bytes of artifacts waiting to be recorded.
const MAX_UNRECORDED_BYTES: usize = 8 * 1024 * 1024;

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
    yielded: Yielded,
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

impl Run {
    /// A run that begins: [`Effect::Announce`] is under way.
    pub fn start(start: Start<'_>) -> Self {
        let Start { record, finished, rules, max_attempts, cancelled } = start;
        let progress = record.progress.clone();
        let yielded = Yielded::after(finished, progress.checkpoint.is_some());
        Self {
            phase: Phase::Announcing,
            instance: Instance::None,
            stop: cancelled,
            rules,
            inline: record.new.input.input_inline.clone(),
            last_attempt: max_attempts.is_some_and(|max| record.new.epoch.0 >= max),
            source: None,
            yielded,
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
            Input::Announced(handler) => self.on_announced(handler),
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

    /// Whether heartbeats may be sent: before TASK_ACCEPTED, and once the end is being
    /// written, they would be out of order.
    pub fn beats(&self) -> bool {
        let silent = matches!(
            self.phase,
            Phase::Announcing | Phase::Sealing | Phase::Cleaning | Phase::Ended
        );
        !silent && !self.abandoned()
    }

    /// Whether the end of the lease would change anything.
    pub fn needs_lease(&self) -> bool {
        !self.abandoned() && !matches!(self.phase, Phase::Cleaning | Phase::Ended)
    }

    fn expects(&self, input: &Input) -> bool {
        match input {
            Input::Stop(_) | Input::Recorded { .. } => true,
            Input::Announced(_) => matches!(self.phase, Phase::Announcing),
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

    fn on_announced(&mut self, handler: Result<String, OpenError>) -> Vec<Effect> {
        if self.stop.is_some() {
            return self.conclude();
        }
        if let Err(fault) = self.rules.commanded(self.inline.as_ref()) {
            return self.fail(None, &fault);
        }
        match handler {
            Ok(digest) => {
                self.progress.digest = Some(digest);
                self.enter(Phase::Opening, vec![Effect::Open])
            }
            Err(error) => self.fail_to_open(error),
        }
    }

    fn on_opened(&mut self, result: Result<(), OpenError>) -> Vec<Effect> {
        if result.is_ok() {
            self.instance = Instance::Opened;
        }
        if self.stop.is_some() {
            return self.conclude();
        }
        match result {
            Ok(()) => self.enter(Phase::Initialising, vec![Effect::Init]),
            Err(error) => self.fail_to_open(error),
        }
    }

    fn fail_to_open(&mut self, error: OpenError) -> Vec<Effect> {
        match error {
            OpenError::NoHandler(role) => {
                let message =
                    format!("no plugin serves role `{role}` on this worker; map one in `handlers`");
                self.fail(None, &HostFault { code: FaultCode::NoHandler, message })
            }
            OpenError::Fault(fault) => self.fail(None, &fault),
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
            // The source leaves out what is finished.
            self.yielded = Yielded::default();
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
        match self.yielded.admit(&uid) {
            Admission::New => {}
            Admission::Finished => return self.enter(Phase::Fetching, vec![Effect::Fetch]),
            Admission::Twice => return self.fail_duplicate(&uid),
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

    /// Numeric metrics of the finished batches, for `run-totals`.
    pub fn totals(&self) -> &Totals {
        &self.progress.totals
    }
}
