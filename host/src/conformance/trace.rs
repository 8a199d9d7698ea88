//! What was seen of a handler: the evidence that is judged.

use std::time::Duration;

use serde_json::Value;

use crate::handler::{
    BatchOutput, CallError, Classification, FinalOutput, HandlerError, HostFault,
};
use crate::metrics::{Metrics, Totals};
use crate::types::BatchUid;

/// A function of the handler; the first is what comes before any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Function {
    Instantiate,
    Init,
    IterBatches,
    NextBatch,
    ProcessBatch,
    Finalize,
}

impl Function {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Instantiate => "instantiation",
            Self::Init => "init",
            Self::IterBatches => "iter-batches",
            Self::NextBatch => "next-batch",
            Self::ProcessBatch => "process-batch",
            Self::Finalize => "finalize",
        }
    }
}

/// Which run it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scene {
    /// The one the others are compared with.
    First,
    /// The same once more.
    Again,
    /// With keys in the input that this version does not have.
    UnknownKeys,
    /// On a worker that takes over when the batch at `index`, `uid`, was the last finished.
    Resumed { index: usize, uid: BatchUid, from_checkpoint: bool },
    /// Cancelled in this function.
    Cancelled(Function),
}

impl std::fmt::Display for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First => f.write_str("in the first run"),
            Self::Again => f.write_str("in a second run"),
            Self::UnknownKeys => f.write_str("with an unknown key in the input"),
            Self::Resumed { uid, from_checkpoint: true, .. } => {
                write!(f, "going on from the checkpoint of batch `{uid}`")
            }
            Self::Resumed { uid, .. } => write!(f, "starting over after batch `{uid}`"),
            Self::Cancelled(function) => write!(f, "cancelled in {}", function.name()),
        }
    }
}

/// One run, as far as it went.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) scene: Scene,
    /// The batches that were processed, in order.
    pub(super) batches: Vec<Processed>,
    /// The worker makes the batches, from what upstream nodes left.
    pub(super) adapter: bool,
    pub(super) end: End,
    /// What `cleanup` said, if it was called.
    pub(super) cleanup: Option<Failure>,
    /// The call that took longest.
    pub(super) longest: (Function, Duration),
    /// How long `iter-batches` and `finalize` took.
    pub(super) began_in: Duration,
    pub(super) finalized_in: Duration,
}

/// A batch that was processed.
#[derive(Debug)]
pub(super) struct Processed {
    pub(super) uid: BatchUid,
    pub(super) output: BatchOutput,
    /// How long it took to yield it, and to process it.
    pub(super) yielded_in: Duration,
    pub(super) processed_in: Duration,
}

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// `finalize` returned: what the run reports.
    Finished {
        metrics: Metrics,
        output: FinalOutput,
    },
    /// Its batches were not followed to their end.
    Enough,
    /// It was cancelled, as planned.
    Cancelled(Cancelled),
    Failed(Failed),
}

/// How a cancelled call ended.
#[derive(Debug)]
pub(super) struct Cancelled {
    /// From the cancel to the call's end; none when the call ended before.
    pub(super) after: Option<Duration>,
    /// The handler was shown the flag.
    pub(super) observed: bool,
}

/// The call that ended a run.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) function: Function,
    pub(super) uid: Option<BatchUid>,
    pub(super) failure: Failure,
}

/// Why a call gave no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The handler's own error, and what it means by its own word.
    Error(HandlerError, Option<Classification>),
    /// The host could not use what it got, or ended it.
    Fault(HostFault),
    /// It went on after its cancel until it was interrupted, after so long.
    Interrupted(Duration),
    /// This uid came twice.
    Twice(BatchUid),
}

impl Failure {
    pub(super) fn of(error: CallError, grace: Duration) -> Self {
        match error {
            CallError::Handler(error) => Self::Error(error, None),
            CallError::Rejected(fault) | CallError::Dead(fault) => Self::Fault(fault),
            CallError::Interrupted => Self::Interrupted(grace),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error, Some(class)) => {
                let kind = if class.permanent { "permanent" } else { "may be tried again" };
                write!(f, "{} ({kind}): {}", class.reason_code, error.message)
            }
            Self::Error(error, None) => write!(f, "an error: {}", error.message),
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::Interrupted(grace) => {
                write!(f, "it went on for {} ms and had to be interrupted", grace.as_millis())
            }
            Self::Twice(uid) => write!(f, "the batch `{uid}` came twice"),
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A fault's message begins with the function's name.
        match (&self.failure, &self.uid) {
            (Failure::Fault(_) | Failure::Twice(_), None) => write!(f, "{}", self.failure),
            (_, None) => write!(f, "{}: {}", self.function.name(), self.failure),
            (_, Some(uid)) => write!(f, "batch `{uid}`: {}", self.failure),
        }
    }
}

impl Trace {
    pub(super) fn new(scene: Scene) -> Self {
        Self {
            scene,
            batches: Vec::new(),
            adapter: false,
            end: End::Enough,
            cleanup: None,
            longest: (Function::Instantiate, Duration::ZERO),
            began_in: Duration::ZERO,
            finalized_in: Duration::ZERO,
        }
    }

    /// Names of the processed batches, in order.
    pub(super) fn uids(&self) -> Vec<&BatchUid> {
        self.batches.iter().map(|batch| &batch.uid).collect()
    }

    pub(super) fn failed(&self) -> Option<&Failed> {
        match &self.end {
            End::Failed(failed) => Some(failed),
            _ => None,
        }
    }

    /// What the run reports, as one value to compare.
    pub(super) fn result(&self) -> Option<Value> {
        match &self.end {
            End::Finished { metrics, output } => Some(serde_json::json!({
                "metrics": metrics, "payload": output.payload,
            })),
            _ => None,
        }
    }

    /// The checkpoint that holds once the batch at `index` is finished.
    pub(super) fn checkpoint_after(&self, index: usize) -> Option<&String> {
        let upto = self.batches.get(..=index)?;
        upto.iter().rev().find_map(|batch| batch.output.checkpoint.as_ref())
    }

    /// The totals then.
    pub(super) fn totals_after(&self, index: usize) -> Totals {
        let mut totals = Totals::default();
        for batch in self.batches.iter().take(index + 1) {
            // They were added once before, when the batch was processed.
            let _ = totals.add(&batch.output.metrics);
        }
        totals
    }
}

/// An error that was given to `classify-error`, and its answer.
#[derive(Debug)]
pub(super) struct Classified {
    /// Which error, for people.
    pub(super) error: String,
    pub(super) answer: Answer,
}

#[derive(Debug)]
pub(super) enum Answer {
    Class(Classification),
    /// It failed itself, or its reason code is none.
    Unusable,
    Failed(Failure),
}
