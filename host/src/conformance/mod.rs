//! Whether a handler keeps what `wit/worker.wit` asks of it: the test that its author can
//! run on the finished component, whatever language it is written in.
//!
//! [`examine`] runs the handler several times over one input, as a worker would: whole,
//! again, on from every crash, cancelled in each function. What is seen of each run is a
//! `Trace`; `judge` alone decides what they prove.

mod checks;
mod compare;
mod judge;
mod trace;
mod trial;

pub use checks::{Check, Finding, Verdict};

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use self::judge::Facts;
use self::trace::{Answer, Classified, Failure, Function, Scene, Trace};
use self::trial::{CancelAt, Plan, begun, perform};
use crate::handler::{FaultCode, HandlerError, Handlers, HostFault};
use crate::store::{Store, StoreError};
use crate::types::{NodeId, Role, TaskId};
use crate::uids::UidSet;

/// Most crashes of each kind that are tried.
const MOST_CRASHES: usize = 5;
/// A call that takes longer than this is cancelled in its midst, a shorter one before it
/// begins.
const LONG_CALL: Duration = Duration::from_millis(30);
/// The counter of errors that a handler's `classify-error` gave no usable name.
const UNCLASSIFIED: &str = "unclassified";

/// What is examined, and with what.
pub struct Subject {
    /// Where it is loaded.
    pub handlers: Arc<dyn Handlers>,
    /// The role it serves there.
    pub role: Role,
    /// What its `describe` returned.
    pub describe: Map<String, Value>,
    /// The command's `input_inline`.
    pub inline: Map<String, Value>,
    /// Holds what the node `upstream` of the task `task_id` left; whatever upstream nodes a
    /// handler asks for, it gets these batches.
    pub store: Arc<dyn Store>,
    /// That task.
    pub task_id: TaskId,
    /// That node.
    pub upstream: NodeId,
    /// Most batches of a run that are looked at.
    pub most_batches: usize,
    /// How long a cancelled call may go on, `cancel_grace_sec` of a worker.
    pub grace: Duration,
}

/// Runs the handler and says of each check how it went, in a fixed order. Takes several
/// times as long as a run over the input does.
pub async fn examine(subject: &Subject) -> Result<Vec<Finding>, StoreError> {
    let whole = Plan { most: subject.most_batches, ..Plan::default() };
    let first = perform(subject, Scene::First, whole.clone()).await?;
    let mut facts = Facts::new(subject, first);
    let errors = facts.first.failed().and_then(|failed| match &failed.failure {
        Failure::Error(error, _) => Some(error.clone()),
        _ => None,
    });
    if facts.first.failed().is_none() {
        facts.again = Some(perform(subject, Scene::Again, whole.clone()).await?);
        facts.unknown = Some(perform(subject, Scene::UnknownKeys, whole.clone()).await?);
        for index in crashes(&facts.first) {
            facts.resumed.push(resume(subject, &facts.first, index).await?);
        }
        for at in cancels(&facts.first) {
            let plan = Plan { cancel: Some(at), ..whole.clone() };
            facts.cancelled.push(perform(subject, Scene::Cancelled(at.function), plan).await?);
        }
    }
    facts.classified = classify(subject, errors).await;
    facts.dropped_lines = counter(subject, "log_lines_dropped");
    Ok(judge::judge(&facts))
}

/// The findings where not even a trial instance and its `describe` succeed.
pub fn refused(fault: &HostFault) -> Vec<Finding> {
    judge::refused(fault)
}

fn counter(subject: &Subject, name: &str) -> u64 {
    let counters = subject.handlers.counters();
    counters.get(&subject.role).and_then(|counts| counts.get(name)).copied().unwrap_or(0)
}

/// After which batches a crash is tried: as many with a checkpoint as without, spread.
fn crashes(first: &Trace) -> Vec<usize> {
    // Behind the last batch that is looked at there is nothing to compare with.
    let cut = usize::from(first.result().is_none());
    let all = 0..first.batches.len().saturating_sub(cut);
    let (with, without): (Vec<usize>, Vec<usize>) =
        all.partition(|index| first.checkpoint_after(*index).is_some());
    [without, with].iter().flat_map(|indices| spread(indices)).collect()
}

/// At most [`MOST_CRASHES`] of them, the first and the last among them.
fn spread(indices: &[usize]) -> Vec<usize> {
    let last = indices.len().saturating_sub(1);
    if indices.len() <= MOST_CRASHES {
        return indices.to_vec();
    }
    (0..MOST_CRASHES).map(|n| indices[n * last / (MOST_CRASHES - 1)]).collect()
}

async fn resume(subject: &Subject, first: &Trace, index: usize) -> Result<Trace, StoreError> {
    let mut finished = UidSet::default();
    for uid in &first.uids()[..=index] {
        finished.insert(uid);
    }
    let checkpoint = first.checkpoint_after(index).cloned();
    let left = first.batches.len() - index - 1;
    let scene = Scene::Resumed {
        index,
        uid: first.batches[index].uid.clone(),
        from_checkpoint: checkpoint.is_some(),
    };
    // One more than is left, to see what does not belong there.
    let most = if first.result().is_some() { left + 1 } else { left };
    let totals = first.totals_after(index);
    let finished = Arc::new(finished);
    let plan = Plan { resumed: true, checkpoint, finished, totals, most, cancel: None };
    perform(subject, scene, plan).await
}

/// Where each function is cancelled: in the call that took longest, after a third of it.
fn cancels(first: &Trace) -> Vec<CancelAt> {
    let mut found = Vec::new();
    let mut at = |function: Function, index: usize, took: Duration| {
        let delay = if took < LONG_CALL { Duration::ZERO } else { took / 3 };
        found.push(CancelAt { function, index, delay });
    };
    at(Function::IterBatches, 0, first.began_in);
    let slowest = |took: fn(&trace::Processed) -> Duration| {
        let numbered = first.batches.iter().map(took).enumerate();
        numbered.max_by_key(|(_, took)| *took)
    };
    if let Some((index, took)) = slowest(|batch| batch.yielded_in).filter(|_| !first.adapter) {
        at(Function::NextBatch, index, took);
    }
    if let Some((index, took)) = slowest(|batch| batch.processed_in) {
        at(Function::ProcessBatch, index, took);
    }
    if first.result().is_some() {
        at(Function::Finalize, 0, first.finalized_in);
    }
    found
}

/// Gives `classify-error` the handler's own error, if there was one, and all sorts of others.
async fn classify(subject: &Subject, own: Option<HandlerError>) -> Vec<Classified> {
    let Some(mut session) = begun(subject).await else { return Vec::new() };
    let mut classified = Vec::new();
    let own = own.map(|error| ("the error of its own".to_owned(), error));
    for (name, error) in own.into_iter().chain(strange_errors()) {
        let before = counter(subject, UNCLASSIFIED);
        let answer = match session.classify_error(&error).await {
            Err(error) => Answer::Failed(Failure::of(error, Duration::ZERO)),
            Ok(_) if counter(subject, UNCLASSIFIED) > before => Answer::Unusable,
            Ok(class) => Answer::Class(class),
        };
        let over = matches!(answer, Answer::Failed(_));
        classified.push(Classified { error: name, answer });
        if over {
            return classified;
        }
    }
    // Whoever began a run ends it; how that goes was seen before.
    let _ = session.cleanup().await;
    classified
}

/// Errors that a handler may be asked about and never made; each `detail` is JSON.
fn strange_errors() -> Vec<(String, HandlerError)> {
    let error = |name: &str, message: &str, detail: Option<String>| {
        (name.to_owned(), HandlerError { message: message.to_owned(), detail })
    };
    let odd = "Ω 漢字 🦀 \u{202e}\u{0}\u{1b}[31m\u{fffd} \"\\ \r\n";
    let refusal = json!({"reason_code": "cursor_limit", "permanent": true}).to_string();
    vec![
        error("a plain message", "the disk is full", None),
        error("an empty message", "", None),
        error("a message of 4 KiB", &"x".repeat(4 << 10), None),
        error("a message of odd characters", odd, None),
        error("a refusal of the worker's", "too many cursors", Some(refusal)),
        error("the detail null", "odd", Some("null".to_owned())),
        error("the detail {}", "odd", Some("{}".to_owned())),
        error("a detail of 64 KiB", "long", Some(json!("x".repeat((64 << 10) - 2)).to_string())),
        error("a detail of odd characters", "odd", Some(json!(odd).to_string())),
    ]
}

/// Whether the host ended a call for the handler's own fault.
fn is_crash(code: FaultCode) -> bool {
    matches!(code, FaultCode::HandlerPanic | FaultCode::HandlerTrap)
}

/// Whether a call met a limit.
fn is_limit(code: FaultCode) -> bool {
    matches!(
        code,
        FaultCode::MemoryLimit
            | FaultCode::TimeLimit
            | FaultCode::CpuLimit
            | FaultCode::ResultTooLarge
    )
}
