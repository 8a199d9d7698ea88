//! What one run proves beside another: the checks that compare.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::checks::{Check, Finding};
use super::judge::{Facts, batches, no_batch, number, only_some, unreached};
use super::trace::{End, Function, Scene, Trace};
use crate::types::BatchUid;

pub(super) fn same_batches(facts: &Facts) -> Finding {
    compare_uids(facts, Check::SameBatches, facts.again.as_ref())
}

pub(super) fn unknown_keys(facts: &Facts) -> Finding {
    if differs(facts) {
        return unreached(Check::UnknownKeys, Check::SameBatches);
    }
    compare_uids(facts, Check::UnknownKeys, facts.unknown.as_ref())
}

/// A second run yields other batches than the first.
fn differs(facts: &Facts) -> bool {
    let again = facts.again.as_ref().filter(|again| again.failed().is_none());
    again.is_some_and(|again| again.uids() != facts.first.uids())
}

fn compare_uids(facts: &Facts, check: Check, other: Option<&Trace>) -> Finding {
    let Some(other) = other else { return unreached_after_first(facts, check) };
    if let Some(broken) = Facts::spoiled(other) {
        return unreached(check, broken);
    }
    if facts.first.adapter && check == Check::SameBatches {
        return Finding::not_applicable(check, "the worker makes them, from upstream artifacts");
    }
    let (first, other) = (facts.first.uids(), other.uids());
    if first.is_empty() && other.is_empty() && check == Check::SameBatches {
        return no_batch(facts, check);
    }
    match first_difference(&first, &other) {
        Some(difference) => Finding::failed(check, difference),
        None => Finding::ok(check, batches(facts)),
    }
}

fn first_difference(first: &[&BatchUid], other: &[&BatchUid]) -> Option<String> {
    let number = (0..first.len().max(other.len())).find(|n| first.get(*n) != other.get(*n))?;
    let name = |uid: Option<&&BatchUid>| {
        uid.map_or_else(|| "the end".to_owned(), |uid| format!("`{uid}`"))
    };
    let (was, is) = (name(first.get(number)), name(other.get(number)));
    Some(format!("batch {} is {is}; it was {was} in the first run", number + 1))
}

fn unreached_after_first(facts: &Facts, check: Check) -> Finding {
    unreached(check, Facts::spoiled(&facts.first).unwrap_or(Check::ProcessBatch))
}

pub(super) fn process_again(facts: &Facts) -> Finding {
    let check = Check::ProcessAgain;
    let Some(again) = &facts.again else { return unreached_after_first(facts, check) };
    if let Some(broken) = Facts::spoiled(again) {
        return unreached(check, broken);
    }
    if differs(facts) {
        return unreached(check, Check::SameBatches);
    }
    if facts.first.batches.is_empty() {
        return no_batch(facts, check);
    }
    let pairs = facts.first.batches.iter().zip(&again.batches);
    let different: Vec<_> = pairs
        .filter(|(first, again)| {
            (&first.output.metrics, &first.output.partial)
                != (&again.output.metrics, &again.output.partial)
        })
        .map(|(first, _)| &first.uid)
        .collect();
    match different.first() {
        None => Finding::ok(check, "all give the same results"),
        Some(uid) => Finding::ok(
            check,
            format!(
                "valid, but {} of {} give other results than before, such as `{uid}`: clock or \
                 chance is part of them",
                different.len(),
                batches(facts)
            ),
        ),
    }
}

/// The runs that go on after a crash, those with a checkpoint or those without.
pub(super) fn resumed(facts: &Facts, check: Check) -> Finding {
    if facts.again.is_none() {
        return unreached_after_first(facts, check);
    }
    if differs(facts) {
        return unreached(check, Check::SameBatches);
    }
    if facts.first.batches.is_empty() {
        return no_batch(facts, check);
    }
    let wanted = check == Check::Checkpoint;
    let mut tried = 0;
    for trace in &facts.resumed {
        let Scene::Resumed { index, from_checkpoint, .. } = &trace.scene else { continue };
        if *from_checkpoint != wanted {
            continue;
        }
        if let Some(broken) = Facts::spoiled(trace) {
            return unreached(check, broken);
        }
        tried += 1;
        if let Some(found) = wrong_rest(&facts.first.uids(), *index, &trace.uids()) {
            return Finding::failed(check, format!("{}, {found}", trace.scene));
        }
    }
    match (tried, check) {
        (0, Check::Checkpoint) if facts.resumed.is_empty() => only_some(facts, check),
        (0, Check::Checkpoint) => Finding::not_applicable(
            check,
            "no checkpoint is saved: the run starts over after a crash",
        ),
        (0, _) => Finding::not_applicable(check, "the first batch saves a checkpoint already"),
        (n, _) => Finding::ok(check, format!("after {}", number(n, "crash", "crashes"))),
    }
}

/// What a run that goes on behind the batch at `index` does wrong.
fn wrong_rest(whole: &[&BatchUid], index: usize, done: &[&BatchUid]) -> Option<String> {
    let left = &whole[index + 1..];
    let (known, yielded): (HashSet<_>, HashSet<_>) = (left.iter().collect(), done.iter().collect());
    if let Some(lost) = left.iter().find(|uid| !yielded.contains(uid)) {
        return Some(format!("the batch `{lost}` is never yielded: its work would be lost"));
    }
    let extra = done.iter().find(|uid| !known.contains(uid))?;
    Some(format!("it yields `{extra}`, a batch that the whole run does not have"))
}

pub(super) fn same_end(facts: &Facts) -> Finding {
    let check = Check::SameEnd;
    let Some(again) = &facts.again else { return unreached_after_first(facts, check) };
    if let Some(broken) = Facts::spoiled(again) {
        return unreached(check, broken);
    }
    if differs(facts) {
        return unreached(check, Check::SameBatches);
    }
    let (Some(whole), Some(second)) = (facts.first.result(), again.result()) else {
        return only_some(facts, check);
    };
    if facts.first.batches.is_empty() {
        return no_batch(facts, check);
    }
    if whole != second {
        let why = "two whole runs end differently already: clock or chance is part of the result";
        return Finding::not_applicable(check, why);
    }
    for trace in &facts.resumed {
        let wrong = matches!(&trace.scene, Scene::Resumed { index, .. }
            if wrong_rest(&facts.first.uids(), *index, &trace.uids()).is_some());
        let broken = match (&trace.scene, Facts::spoiled(trace)) {
            (_, Some(broken)) => Some(broken),
            (Scene::Resumed { from_checkpoint: true, .. }, None) => Some(Check::Checkpoint),
            _ => Some(Check::StartOver),
        };
        if let Some(broken) = broken.filter(|_| wrong || trace.failed().is_some()) {
            return unreached(check, broken);
        }
        if let Some(found) = trace.result().and_then(|end| other_result(&whole, &end)) {
            return Finding::failed(check, format!("{}, {found}", trace.scene));
        }
    }
    Finding::ok(check, format!("after {}", number(facts.resumed.len(), "crash", "crashes")))
}

fn other_result(whole: &Value, end: &Value) -> Option<String> {
    let (was, is) = (&whole["metrics"], &end["metrics"]);
    let names = was.as_object().into_iter().chain(is.as_object()).flat_map(|object| object.keys());
    for name in names {
        if was[name] != is[name] {
            return Some(format!(
                "the metric `{name}` ends as {}; the whole run's is {}",
                is[name], was[name]
            ));
        }
    }
    (whole != end).then(|| "the payload is another than the whole run's".to_owned())
}

pub(super) fn cancelled(facts: &Facts, function: Function) -> Finding {
    let check = Check::of_cancelled(function);
    let ours = |trace: &&Trace| trace.scene == Scene::Cancelled(function);
    let Some(trace) = facts.cancelled.iter().find(ours) else {
        return match function {
            _ if facts.again.is_none() => unreached_after_first(facts, check),
            Function::NextBatch if facts.first.adapter => {
                Finding::not_applicable(check, "the batches are what upstream nodes left")
            }
            Function::Finalize => only_some(facts, check),
            _ => no_batch(facts, check),
        };
    };
    if let Some(broken) = Facts::spoiled(trace) {
        return unreached(check, broken);
    }
    match &trace.end {
        End::Cancelled(call) => match (call.after, call.observed) {
            (None, _) => Finding::ok(check, "it ended before it was cancelled"),
            (Some(after), true) => {
                Finding::ok(check, format!("it saw the cancel and returned {}", ms(after)))
            }
            (Some(after), false) => {
                Finding::ok(check, format!("it returned {}, without a look", ms(after)))
            }
        },
        _ if differs(facts) => unreached(check, Check::SameBatches),
        _ => Finding::not_applicable(check, "this run never came there"),
    }
}

fn ms(after: Duration) -> String {
    format!("after {} ms", after.as_millis())
}
