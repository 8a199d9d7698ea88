//! How a run leaves its work: stops, failures, the drain before the end.

use super::kinds::{Effect, Stop, StopCause};
use super::size::brief;
use super::{Instance, Phase, Run, Verdict};
use crate::handler::{CallError, Cancellation, FaultCode, HostFault};
use crate::input::Source;
use crate::store::RunEnd;
use crate::types::BatchUid;

impl Run {
    pub(super) fn on_stop(&mut self, stop: Stop) -> Vec<Effect> {
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
    pub(super) fn unless_stopped<T>(
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

    pub(super) fn note_death<T>(&mut self, result: &Result<T, CallError>) {
        if matches!(result, Err(CallError::Dead(_) | CallError::Interrupted)) {
            self.instance = Instance::Dead;
        }
    }

    pub(super) fn fail_duplicate(&mut self, uid: &BatchUid) -> Vec<Effect> {
        let message = format!(
            "the handler yielded the batch `{uid}` twice in one attempt; give each batch a \
             uid of its own (batches without one are named by their payload, so equal \
             payloads need names)"
        );
        self.fail(None, &HostFault { code: FaultCode::DuplicateBatchUid, message })
    }

    pub(super) fn fail(&mut self, batch: Option<BatchUid>, fault: &HostFault) -> Vec<Effect> {
        let reason_code = fault.code.as_str().to_owned();
        self.fail_with(batch, reason_code, fault.code.permanent(), fault.message.clone())
    }

    pub(super) fn fail_with(
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
    pub(super) fn conclude(&mut self) -> Vec<Effect> {
        match self.stop.as_ref().map(|stop| stop.cause.clone()) {
            Some(StopCause::Cancel { reason, .. }) => {
                self.drain(Verdict::Cancel { reason: brief(&reason) })
            }
            Some(StopCause::Shutdown) => self.drain(Verdict::Release),
            Some(StopCause::LeaseLost | StopCause::Superseded) => self.close(),
            None => vec![],
        }
    }

    pub(super) fn drain(&mut self, verdict: Verdict) -> Vec<Effect> {
        self.phase = Phase::Draining(verdict);
        self.proceed_if_drained()
    }

    pub(super) fn proceed_if_drained(&mut self) -> Vec<Effect> {
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
    pub(super) fn close(&mut self) -> Vec<Effect> {
        if self.instance == Instance::Ready {
            self.enter(Phase::Cleaning, vec![Effect::Cleanup])
        } else {
            self.enter(Phase::Ended, vec![])
        }
    }
}
