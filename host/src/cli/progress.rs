//! A graph under way, on stderr: a bar for each node that runs, or plain lines where
//! stderr is no terminal.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use tokio::time::Instant;

use super::note;
use super::outcome::node_word;
use super::printable::brief;
use crate::clock::Clock;
use crate::coordinator::{NodeState, Stage, Task, Watch};
use crate::protocol::RunEvent;
use crate::types::Epoch;

/// How often a bar moves by itself.
const TICK: Duration = Duration::from_millis(200);

/// How often a running node writes a plain line.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Longest part of an error in a line.
const ERROR_CHARS: usize = 160;

/// Shows what a task does.
pub struct Progress {
    clock: Clock,
    show: Show,
    nodes: Vec<Seen>,
}

enum Show {
    Bars { all: MultiProgress, running: HashMap<usize, ProgressBar> },
    Lines,
}

/// What was shown of a node.
struct Seen {
    name: String,
    stage: Stage,
    batches: u64,
    since: Instant,
    line_at: Instant,
}

impl Progress {
    /// On stderr, as it is.
    pub fn new(task: &Task, clock: Clock) -> Self {
        let bars = std::io::stderr().is_terminal();
        let show = match bars {
            true => Show::Bars { all: MultiProgress::new(), running: HashMap::new() },
            false => Show::Lines,
        };
        let now = clock.now();
        let nodes = task.graph().nodes().iter().map(|node| Seen {
            name: brief(node.id.as_str(), 40),
            stage: Stage::Waiting,
            batches: 0,
            since: now,
            line_at: now,
        });
        Self { nodes: nodes.collect(), clock, show }
    }

    /// Writes a line above the bars.
    pub fn say(&self, line: &str) {
        match &self.show {
            Show::Bars { all, .. } => {
                // A terminal that went away has nobody to tell.
                let _ = all.println(line);
            }
            Show::Lines => note(line),
        }
    }

    /// The bars make room for what comes after.
    pub fn clear(&self) {
        if let Show::Bars { all, .. } = &self.show {
            let _ = all.clear();
        }
    }

    fn on_stage(&mut self, node: usize, state: &NodeState, max: u32) {
        let now = self.clock.now();
        let seen = &mut self.nodes[node];
        let attempt_began = seen.stage.epoch() != state.stage.epoch();
        seen.stage = state.stage.clone();
        if attempt_began {
            (seen.batches, seen.since) = (0, now);
            seen.line_at = now + LINE_EVERY;
        }
        let line = line_of(seen, state, max, now, self.clock.wall());
        match &mut self.show {
            Show::Lines => {}
            Show::Bars { all, running } => {
                if state.stage.status().is_final() {
                    if let Some(bar) = running.remove(&node) {
                        bar.finish_and_clear();
                    }
                } else {
                    let bar = running
                        .entry(node)
                        .or_insert_with(|| all.add(new_bar(&self.nodes[node].name)));
                    if attempt_began {
                        bar.reset();
                    }
                    bar.set_style(style_of(&self.nodes[node].stage, self.clock.clone()));
                    bar.set_message(message_of(&self.nodes[node].stage, max));
                }
            }
        }
        self.say(&line);
    }
}

impl Watch for Progress {
    fn changed(&mut self, task: &Task) {
        for (node, state) in task.nodes().iter().enumerate() {
            let before = &self.nodes[node].stage;
            let same =
                before.status() == state.stage.status() && before.epoch() == state.stage.epoch();
            if !same {
                let policy = task.graph().nodes()[node].retry.as_ref();
                self.on_stage(node, state, policy.map_or(1, |policy| policy.max.get()));
            }
        }
    }

    fn event(&mut self, node: usize, _: Epoch, event: &RunEvent) {
        let RunEvent::BatchOk { .. } = event else { return };
        let now = self.clock.now();
        let seen = &mut self.nodes[node];
        seen.batches += 1;
        match &self.show {
            Show::Bars { running, .. } => {
                if let Some(bar) = running.get(&node) {
                    bar.set_position(seen.batches);
                }
            }
            Show::Lines if now >= seen.line_at => {
                seen.line_at = now + LINE_EVERY;
                note(format_args!("{}: {}", seen.name, count_of(seen, now)));
            }
            Show::Lines => {}
        }
    }
}

fn new_bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_prefix(name.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// `{wait}` counts down to the next attempt.
fn style_of(stage: &Stage, clock: Clock) -> ProgressStyle {
    let template = match stage {
        Stage::Backoff { .. } => "{spinner} {prefix}: {msg} in {wait}",
        _ => "{spinner} {prefix}: {msg} {pos} batches, {rate}",
    };
    let until = match stage {
        Stage::Backoff { until, .. } => *until,
        _ => clock.wall(),
    };
    let wait = move |_: &ProgressState, text: &mut dyn std::fmt::Write| {
        let left = until.since(clock.wall());
        let _ = write!(text, "{} s", left.as_millis().div_ceil(1_000));
    };
    let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        let _ = write!(text, "{:.1}/s", state.per_sec());
    };
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.with_key("wait", wait).with_key("rate", rate)
}

fn message_of(stage: &Stage, max: u32) -> String {
    match stage {
        Stage::Backoff { epoch, .. } => {
            format!("waits for attempt {} of {max}", epoch.0.saturating_add(1))
        }
        stage if stage.epoch() > Epoch(1) => {
            format!("{}, attempt {},", node_word(stage.status()), stage.epoch())
        }
        stage => node_word(stage.status()).to_owned(),
    }
}

/// What happened to a node, in a line.
fn line_of(
    seen: &Seen,
    state: &NodeState,
    max: u32,
    now: Instant,
    wall: crate::clock::UnixMs,
) -> String {
    let name = &seen.name;
    let error = || match &state.failure {
        Some(failure) => {
            let text = failure.error.as_deref().unwrap_or_default();
            let colon = if text.is_empty() { "" } else { ": " };
            brief(&format!("{}{colon}{text}", failure.reason_code), ERROR_CHARS)
        }
        None => "no reason given".to_owned(),
    };
    match &state.stage {
        Stage::Waiting => format!("{name}: queued"),
        Stage::Running { epoch: Epoch(1), .. } => format!("{name}: started"),
        Stage::Running { epoch, .. } => format!("{name}: started, attempt {epoch} of {max}"),
        Stage::Backoff { epoch, until } => {
            let wait = until.since(wall).as_secs_f64();
            let next = epoch.0.saturating_add(1);
            format!("{name}: failed: {}; attempt {next} of {max} in {wait:.0} s", error())
        }
        Stage::Cancelling { reason, .. } => {
            format!("{name}: cancelling: {}", brief(reason, ERROR_CHARS))
        }
        Stage::Finished { .. } => format!("{name}: finished, {}", count_of(seen, now)),
        Stage::Failed { .. } => format!("{name}: failed: {}", error()),
        Stage::Cancelled { reason, .. } => {
            format!("{name}: cancelled: {}", brief(reason, ERROR_CHARS))
        }
        Stage::Skipped { .. } => format!("{name}: skipped"),
    }
}

fn count_of(seen: &Seen, now: Instant) -> String {
    let took = (now - seen.since).as_secs_f64();
    let rate = if took > 0.0 { seen.batches as f64 / took } else { 0.0 };
    let word = if seen.batches == 1 { "batch" } else { "batches" };
    format!("{} {word} in {took:.1} s ({rate:.1}/s)", seen.batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMs;
    use crate::coordinator::Failure;

    fn line(stage: Stage, failure: Option<Failure>, batches: u64) -> String {
        let now = Instant::now();
        let name = "count".to_owned();
        let seen =
            Seen { name, stage: stage.clone(), batches, since: now - TICK * 10, line_at: now };
        let state = NodeState { stage, artifact: false, failure };
        line_of(&seen, &state, 3, now, UnixMs(1_000))
    }

    #[tokio::test(start_paused = true)]
    async fn every_change_is_told_in_a_line() {
        let epoch = Epoch(2);
        let (reason_code, error) = ("busy".to_owned(), Some("the disk\nis full".to_owned()));
        let failure = Some(Failure { reason_code, permanent: false, error });
        let reason = "hard_fail:\u{1b}bad".to_owned();
        let until = UnixMs(301_000);
        let lines = [
            line(Stage::Running { epoch: Epoch(1), owner: None }, None, 0),
            line(Stage::Backoff { epoch: Epoch(1), until }, failure.clone(), 7),
            line(Stage::Running { epoch, owner: None }, failure.clone(), 0),
            line(Stage::Finished { epoch }, None, 200),
            line(Stage::Failed { epoch }, failure, 1),
            line(Stage::Cancelled { epoch, reason }, None, 1),
            line(Stage::Skipped { epoch: Epoch(0) }, None, 0),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        count: started
        count: failed: busy: the disk\nis full; attempt 2 of 3 in 300 s
        count: started, attempt 2 of 3
        count: finished, 200 batches in 2.0 s (100.0/s)
        count: failed: busy: the disk\nis full
        count: cancelled: hard_fail:\u{1b}bad
        count: skipped
        "#);
    }
}
