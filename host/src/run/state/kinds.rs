//! What goes into a run's state machine and what comes out.

use tokio::time::Instant;

use crate::handler::{
    AdapterProposal, Batch, BatchOutput, CallError, CancelSource, Cancellation, Classification,
    FinalOutput, HandlerError, OpenError, YieldedBatch,
};
use crate::input::Source;
use crate::store::RunEnd;
use crate::types::BatchUid;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// [`Effect::Announce`] is done: the digest of the version that serves the run, or why
    /// there is none.
    Announced(Result<String, OpenError>),
    /// [`Effect::Open`] is done, or there is no instance.
    Opened(Result<(), OpenError>),
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
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Shutdown => 0,
            Self::Cancel { .. } => 1,
            Self::LeaseLost => 2,
            Self::Superseded => 3,
        }
    }

    pub(super) fn flag(&self) -> (CancelSource, String) {
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
    /// What every run begins with: choose the plugin's version, send TASK_ACCEPTED (or
    /// TASK_RESUMED) and the BATCH_OKs that may not have left.
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
