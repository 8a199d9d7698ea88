//! Sends ends again that a coordinator has not taken: one that was being restarted has
//! never seen them (`protocol.md`, "Restarts").

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use super::duties::note;
use crate::bus::OutMessage;
use crate::health::Part;
use crate::run::{Deps, ending};
use crate::store::{NodeStatus, NodeView, RunEnd, RunRecord, StoreError};
use crate::types::RunKey;

/// How often a worker looks for ends that are due a look.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// Ends looked at with one question.
const GROUP: usize = 256;

/// How long an end may take to leave: what `tasks` said before it must still be news.
const SENT_WITHIN: Duration = Duration::from_secs(5);

/// What `tasks` says of an end that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It was taken, or nobody waits for it.
    Taken,
    /// The coordinator has not noted the attempt yet.
    TooEarly,
    /// The attempt still runs for the coordinator.
    Missed,
}

/// One look at the ends that are due one, of whatever worker.
pub(super) async fn look(deps: Deps) {
    loop {
        match look_at_some(&deps).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return note(&deps, "ends were not looked after", &error),
        }
    }
}

/// True when there may be more of them.
async fn look_at_some(deps: &Deps) -> Result<bool, StoreError> {
    let now = deps.clock.wall();
    let due = deps.store.due_checks(&deps.handlers.roles(), now, GROUP).await?;
    deps.health.answered(Part::Store, now);
    let mut more = due.len() == GROUP;
    let views = views(deps, &due).await?;
    let mut missed = Vec::new();
    let mut failed = None;
    for run in due {
        let Some(check) = run.check else { continue };
        let verdict = verdict(&run, views.get(&run.new.key));
        let next = if verdict == Verdict::Taken { None } else { check.next(now) };
        match deps.store.move_check(&run, next.as_ref()).await {
            Ok(true) if verdict == Verdict::Missed => missed.push(run),
            Ok(true) => {}
            // Another worker is at the same runs: the rest is left to it.
            Ok(false) => {
                more = false;
                break;
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if !missed.is_empty() {
        send(deps, missed).await?;
    }
    failed.map_or(Ok(more), Err)
}

/// Sends the ends of runs whose look this worker has won, unless they were taken meanwhile.
async fn send(deps: &Deps, mut runs: Vec<RunRecord>) -> Result<(), StoreError> {
    let views = views(deps, &runs).await?;
    runs.retain(|run| verdict(run, views.get(&run.new.key)) == Verdict::Missed);
    let messages: Vec<OutMessage> = runs.iter().flat_map(|run| ending::again(deps, run)).collect();
    if messages.is_empty() {
        return Ok(());
    }
    for run in &runs {
        tracing::info!(run = %run.new.key, epoch = %run.new.epoch, "the end is sent again");
    }
    let deadline = deps.clock.now() + SENT_WITHIN;
    match deps.bus.publish(&messages, Some(deadline)).await {
        Ok(()) => deps.health.answered(Part::Bus, deps.clock.wall()),
        // The next look sends them.
        Err(error) => deps.health.failed(Part::Bus, &error.to_string(), deps.clock.wall()),
    }
    Ok(())
}

async fn views(deps: &Deps, runs: &[RunRecord]) -> Result<HashMap<RunKey, NodeView>, StoreError> {
    let keys: Vec<RunKey> = runs.iter().map(|run| run.new.key.clone()).collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let views = deps.store.views(&keys).await?;
    Ok(views.into_iter().map(|view| (view.key.clone(), view)).collect())
}

fn verdict(run: &RunRecord, view: Option<&NodeView>) -> Verdict {
    let Some(view) = view else { return Verdict::Taken };
    let waits = match view.status {
        NodeStatus::Running => true,
        // Nothing but these two ends a node that is being cancelled.
        NodeStatus::Cancelling => {
            matches!(run.end, Some(RunEnd::Cancelled { .. } | RunEnd::Failed { .. }))
        }
        _ => false,
    };
    match view.epoch.cmp(&run.new.epoch) {
        Ordering::Less => Verdict::TooEarly,
        Ordering::Equal if waits => Verdict::Missed,
        Ordering::Equal | Ordering::Greater => Verdict::Taken,
    }
}
