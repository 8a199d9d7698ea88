//! What the evidence proves: pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::checks::{Check, Finding};
use super::trace::{Answer, Classified, End, Failed, Failure, Function, Scene, Trace};
use super::{Subject, compare, is_crash, is_limit};
use crate::handler::HostFault;

/// Everything that was seen.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) describe: Map<String, Value>,
    pub(super) most_batches: usize,
    pub(super) first: Trace,
    /// None where the first run failed.
    pub(super) again: Option<Trace>,
    pub(super) unknown: Option<Trace>,
    pub(super) resumed: Vec<Trace>,
    pub(super) cancelled: Vec<Trace>,
    pub(super) classified: Vec<Classified>,
    pub(super) dropped_lines: u64,
}

impl Facts {
    /// The first run alone.
    pub(super) fn new(subject: &Subject, first: Trace) -> Self {
        Self {
            describe: subject.describe.clone(),
            most_batches: subject.most_batches,
            first,
            again: None,
            unknown: None,
            resumed: Vec::new(),
            cancelled: Vec::new(),
            classified: Vec::new(),
            dropped_lines: 0,
        }
    }

    fn traces(&self) -> impl Iterator<Item = &Trace> {
        let others = self.again.iter().chain(&self.unknown).chain(&self.resumed);
        std::iter::once(&self.first).chain(others).chain(&self.cancelled)
    }

    /// What went wrong in any run, with the check that it breaks.
    fn faults(&self) -> impl Iterator<Item = (Check, String)> {
        self.traces().flat_map(|trace| {
            let ended = trace.failed().map(|failed| {
                let told = match (&trace.scene, &failed.failure) {
                    (Scene::Cancelled(_), Failure::Interrupted(_)) => failed.to_string(),
                    (scene, _) => format!("{scene}, {failed}"),
                };
                (blamed(&trace.scene, failed), told)
            });
            let cleanup = trace.cleanup.as_ref().map(|failure| {
                let check = fault_check(failure).unwrap_or(Check::Cleanup);
                (check, format!("{}, cleanup: {failure}", trace.scene))
            });
            ended.into_iter().chain(cleanup)
        })
    }

    /// The check that a run's failure breaks, for what cannot be looked at because of it.
    pub(super) fn spoiled(trace: &Trace) -> Option<Check> {
        trace.failed().map(|failed| blamed(&trace.scene, failed))
    }
}

/// What every check found, in their order.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![describe(facts)];
    let functions = [Check::Init, Check::IterBatches, Check::NextBatch, Check::BatchUids];
    found.extend(functions.map(|check| function(facts, check)));
    found.extend([Check::ProcessBatch, Check::Finalize].map(|check| function(facts, check)));
    let rest = [
        (Check::Cleanup, cleanup as fn(&Facts) -> Finding),
        (Check::SameBatches, compare::same_batches),
        (Check::ProcessAgain, compare::process_again),
        (Check::UnknownKeys, compare::unknown_keys),
        (Check::StartOver, |facts| compare::resumed(facts, Check::StartOver)),
        (Check::Checkpoint, |facts| compare::resumed(facts, Check::Checkpoint)),
        (Check::SameEnd, compare::same_end),
        (Check::CancelIterBatches, |facts| compare::cancelled(facts, Function::IterBatches)),
        (Check::CancelNextBatch, |facts| compare::cancelled(facts, Function::NextBatch)),
        (Check::CancelProcessBatch, |facts| compare::cancelled(facts, Function::ProcessBatch)),
        (Check::CancelFinalize, |facts| compare::cancelled(facts, Function::Finalize)),
        (Check::ClassifyError, classify_error),
        (Check::NoPanic, no_panic),
        (Check::Limits, limits),
        (Check::LogRate, log_rate),
    ];
    // A check that some run broke has failed, whatever else there is to compare.
    found.extend(rest.map(|(check, look)| match facts.faults().find(|fault| fault.0 == check) {
        Some((_, found)) => Finding::failed(check, found),
        None => look(facts),
    }));
    found
}

/// What is left to say where a trial instance failed.
pub(super) fn refused(fault: &HostFault) -> Vec<Finding> {
    vec![Finding::failed(Check::Describe, fault.to_string())]
}

/// The check that a failed run breaks.
fn blamed(scene: &Scene, failed: &Failed) -> Check {
    if let Some(check) = fault_check(&failed.failure) {
        return check;
    }
    match (scene, failed.function) {
        (Scene::UnknownKeys, _) => Check::UnknownKeys,
        (Scene::Resumed { from_checkpoint: true, .. }, _) => Check::Checkpoint,
        (Scene::Resumed { .. }, _) => Check::StartOver,
        (Scene::Cancelled(function), _) => Check::of_cancelled(*function),
        (Scene::Again, Function::ProcessBatch | Function::Finalize) => Check::ProcessAgain,
        (Scene::Again, _) => Check::SameBatches,
        (Scene::First, function) => match (function, &failed.failure) {
            (_, Failure::Twice(_)) => Check::BatchUids,
            (Function::Instantiate, _) => Check::Describe,
            (Function::Init, _) => Check::Init,
            (Function::IterBatches, _) => Check::IterBatches,
            (Function::NextBatch, _) => Check::NextBatch,
            (Function::ProcessBatch, _) => Check::ProcessBatch,
            _ => Check::Finalize,
        },
    }
}

/// The check that is broken wherever it happens.
fn fault_check(failure: &Failure) -> Option<Check> {
    match failure {
        Failure::Fault(fault) if is_crash(fault.code) => Some(Check::NoPanic),
        Failure::Fault(fault) if is_limit(fault.code) => Some(Check::Limits),
        _ => None,
    }
}

pub(super) fn unreached(check: Check, broken: Check) -> Finding {
    Finding::not_applicable(check, format!("not reached: `{}` failed", broken.name()))
}

fn describe(facts: &Facts) -> Finding {
    let of = |key: &str| facts.describe.get(key).and_then(Value::as_str);
    let known = ["name", "version", "language", "sdk"].into_iter().filter_map(of);
    let text = known.collect::<Vec<_>>().join(", ");
    let found = if text.is_empty() { "it says nothing of itself".to_owned() } else { text };
    Finding::ok(Check::Describe, found)
}

/// A function of the first run.
fn function(facts: &Facts, check: Check) -> Finding {
    let first = &facts.first;
    let own = match check {
        Check::Init => Function::Init,
        Check::IterBatches => Function::IterBatches,
        Check::NextBatch | Check::BatchUids => Function::NextBatch,
        Check::ProcessBatch => Function::ProcessBatch,
        _ => Function::Finalize,
    };
    if let Some(failed) = first.failed() {
        let broken = blamed(&first.scene, failed);
        if broken == check {
            return Finding::failed(check, failed.to_string());
        }
        // What was yielded before the failure was looked at.
        let later = failed.function > own;
        let seen = match check {
            Check::NextBatch => later || broken == Check::BatchUids,
            Check::BatchUids => later && !first.batches.is_empty(),
            _ => later,
        };
        if !seen {
            return unreached(check, broken);
        }
    }
    let count = first.batches.len();
    match check {
        Check::NextBatch if first.adapter => {
            Finding::not_applicable(check, "the batches are what upstream nodes left")
        }
        Check::BatchUids if first.adapter => {
            Finding::not_applicable(check, "the worker names batches from upstream nodes")
        }
        Check::NextBatch if count == 0 => Finding::ok(check, "it yields no batch"),
        Check::BatchUids | Check::ProcessBatch if count == 0 => no_batch(facts, check),
        Check::NextBatch => Finding::ok(check, batches(facts)),
        Check::BatchUids => Finding::ok(check, number(count, "name", "different names")),
        Check::ProcessBatch => {
            let left = first.batches.iter().filter(|batch| batch.output.partial.is_some()).count();
            Finding::ok(check, format!("{}, of which {left} left a `meta`", batches(facts)))
        }
        Check::Finalize => match &first.end {
            End::Finished { metrics, output } => {
                let payload = if output.payload.is_some() { " and a payload" } else { "" };
                let count = number(metrics.as_object().len(), "metric", "metrics");
                Finding::ok(check, format!("the run ends with {count}{payload}"))
            }
            _ => only_some(facts, check),
        },
        _ => Finding::ok(check, "it returns"),
    }
}

pub(super) fn batches(facts: &Facts) -> String {
    let count = number(facts.first.batches.len(), "batch", "batches");
    match facts.first.end {
        End::Enough => format!("the first {count}"),
        _ => count,
    }
}

pub(super) fn number(n: usize, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

pub(super) fn no_batch(facts: &Facts, check: Check) -> Finding {
    if check != Check::ProcessBatch {
        return Finding::not_applicable(check, "no batch");
    }
    let advice = if facts.first.adapter {
        "give what upstream nodes left with --upstream FILE"
    } else {
        "give an input that makes batches with --input"
    };
    Finding::not_applicable(check, format!("no batch: {advice}"))
}

pub(super) fn only_some(facts: &Facts, check: Check) -> Finding {
    let most = facts.most_batches;
    let why = format!("the run has more batches than the {most} looked at; see --batches");
    Finding::not_applicable(check, why)
}

fn cleanup(facts: &Facts) -> Finding {
    match facts.first.failed() {
        Some(failed) if failed.function <= Function::Init => {
            unreached(Check::Cleanup, blamed(&facts.first.scene, failed))
        }
        Some(Failed { failure: Failure::Fault(fault), .. }) if is_crash(fault.code) => {
            unreached(Check::Cleanup, Check::NoPanic)
        }
        _ => Finding::ok(Check::Cleanup, "after every run"),
    }
}

fn classify_error(facts: &Facts) -> Finding {
    let check = Check::ClassifyError;
    let mut codes = BTreeSet::new();
    for Classified { error, answer } in &facts.classified {
        match answer {
            Answer::Class(class) => {
                codes.insert(class.reason_code.as_str());
            }
            Answer::Unusable => {
                let found = format!("given {error}, it fails itself or returns another code");
                return Finding::failed(check, found);
            }
            Answer::Failed(failure) => {
                return Finding::failed(check, format!("given {error}: {failure}"));
            }
        }
    }
    if facts.classified.is_empty() {
        return unreached(check, Facts::spoiled(&facts.first).unwrap_or(Check::Init));
    }
    let codes: Vec<_> = codes.into_iter().map(|code| format!("`{code}`")).collect();
    Finding::ok(check, format!("{} errors become {}", facts.classified.len(), codes.join(", ")))
}

fn no_panic(facts: &Facts) -> Finding {
    Finding::ok(Check::NoPanic, format!("in {}", number(facts.traces().count(), "run", "runs")))
}

fn limits(facts: &Facts) -> Finding {
    let longest = facts.traces().map(|trace| trace.longest).max_by_key(|(_, took)| *took);
    let (function, took) = longest.unwrap_or(facts.first.longest);
    let found = format!("the longest call, {}, took {} ms", function.name(), took.as_millis());
    Finding::ok(Check::Limits, found)
}

fn log_rate(facts: &Facts) -> Finding {
    match facts.dropped_lines {
        0 => Finding::ok(Check::LogRate, "no line was left out"),
        n => Finding::failed(Check::LogRate, format!("{n} lines were left out, over all runs")),
    }
}
