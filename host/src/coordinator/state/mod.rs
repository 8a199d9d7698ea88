//! A task as a state machine: what happened goes in, what is to be done comes out. No
//! I/O, no clock; [`driver`](super::driver) performs the orders.
//!
//! What always holds:
//! - A node has at most one attempt that was ordered and has not ended.
//! - As soon as one node has failed for good or was cancelled, no node waits, runs or
//!   waits for a retry: each has ended or is being stopped. So the nodes alone tell
//!   whether a task is stopping, and a document needs no further note of it.

mod document;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::graph::Graph;
use super::node::{Failure, NodeEvent, NodeOwner, NodeState, Stage};
use crate::clock::UnixMs;
use crate::store::{RunRecord, TaskStatus};
use crate::types::{Epoch, RunKey, TaskId, WorkerId};

pub use document::{BadTask, outcome_of};

/// How long a worker that has a run may take to stop it; the signal's deadline. After
/// that it counts as stopped: the flag in the document stops it whenever it is back.
pub const CANCEL_WITHIN: Duration = Duration::from_secs(30);

/// The same for an attempt that no worker has accepted: time for one that is just about
/// to accept it to read the flag.
pub const CANCEL_UNACCEPTED_WITHIN: Duration = Duration::from_secs(5);

/// A task: a graph, and where each of its nodes stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    id: TaskId,
    graph: Graph,
    nodes: Vec<NodeState>,
    run_by: Option<WorkerId>,
    version: u64,
    created_at: UnixMs,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every node is done.
    Finished,
    /// A node failed for good.
    Failed,
    /// It was stopped on request.
    Cancelled,
}

/// What is to be done after a step, in this order: store the task if it `changed`, then
/// carry out the orders. Orders may be carried out twice.
#[derive(Debug, Default, PartialEq)]
#[must_use = "a step's orders are lost unless they are carried out"]
pub struct Step {
    /// The task is not what it was.
    pub changed: bool,
    /// What to tell the workers.
    pub orders: Vec<Order>,
}

/// What to tell the workers about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// TASK_START.
    Start {
        /// Index into [`Graph::nodes`].
        node: usize,
        /// The attempt.
        epoch: Epoch,
    },
    /// The signal CANCEL.
    Cancel {
        /// Index into [`Graph::nodes`].
        node: usize,
        /// The attempt.
        epoch: Epoch,
        /// Why.
        reason: String,
        /// Until when it should have stopped.
        deadline: UnixMs,
    },
}

impl Task {
    /// A task that has not begun. `run_by` is the worker process that coordinates it by
    /// itself; `None` leaves it to the worker that coordinates what is submitted.
    pub fn new(id: TaskId, graph: Graph, run_by: Option<WorkerId>, now: UnixMs) -> Self {
        let nodes = vec![NodeState::new(); graph.nodes().len()];
        Self { id, graph, nodes, run_by, version: 0, created_at: now }
    }

    /// Its id.
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Its graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Where its nodes stand, in the order of [`Graph::nodes`].
    pub fn nodes(&self) -> &[NodeState] {
        &self.nodes
    }

    /// The process that coordinates it by itself.
    pub fn run_by(&self) -> Option<&WorkerId> {
        self.run_by.as_ref()
    }

    /// A node's run.
    pub fn run_key(&self, node: usize) -> RunKey {
        let node_id = self.graph.nodes()[node].id.clone();
        RunKey { task_id: self.id.clone(), node_id }
    }

    /// How it ended, once every node has.
    pub fn outcome(&self) -> Option<Outcome> {
        outcome_of(self.nodes.iter().map(|node| node.stage.status()))
    }

    /// Where it stands.
    pub fn status(&self) -> TaskStatus {
        match self.outcome() {
            Some(Outcome::Finished) => TaskStatus::Finished,
            Some(Outcome::Failed | Outcome::Cancelled) => TaskStatus::Failed,
            None if self.stopping() => TaskStatus::Cancelling,
            None if self.nodes.iter().all(|node| node.stage == Stage::Waiting) => {
                TaskStatus::Queued
            }
            None => TaskStatus::Running,
        }
    }

    /// When [`on_tick`](Self::on_tick) is next needed.
    pub fn next_wake(&self) -> Option<UnixMs> {
        let until = self.nodes.iter().filter_map(|node| match node.stage {
            Stage::Backoff { until, .. } | Stage::Cancelling { until, .. } => Some(until),
            _ => None,
        });
        until.min()
    }

    /// Starts what can start, and repeats the orders that may never have been carried out
    /// before a crash. Called once after a task was made or read back.
    pub fn on_begin(&mut self, now: UnixMs) -> Step {
        let mut step = Step::default();
        for node in 0..self.nodes.len() {
            match &self.nodes[node].stage {
                Stage::Waiting => self.start_if_ready(node, &mut step),
                Stage::Running { epoch, owner: None } => {
                    step.orders.push(Order::Start { node, epoch: *epoch });
                }
                Stage::Cancelling { epoch, reason, until, .. } => {
                    let (epoch, reason, deadline) = (*epoch, reason.clone(), *until);
                    step.orders.push(Order::Cancel { node, epoch, reason, deadline });
                }
                _ => {}
            }
        }
        step.append(self.on_tick(now));
        step
    }

    /// Time has passed.
    pub fn on_tick(&mut self, now: UnixMs) -> Step {
        let mut step = Step::default();
        for node in 0..self.nodes.len() {
            let longest = self.longest_wait(node);
            let state = &mut self.nodes[node];
            match &mut state.stage {
                // A wall clock that was set back must not stretch a wait.
                Stage::Backoff { until, .. } | Stage::Cancelling { until, .. }
                    if *until > now.plus(longest) =>
                {
                    *until = now.plus(longest);
                    step.changed = true;
                }
                Stage::Backoff { epoch, until } if *until <= now => {
                    let epoch = Epoch(epoch.0.saturating_add(1));
                    state.stage = Stage::Running { epoch, owner: None };
                    step.changed = true;
                    step.orders.push(Order::Start { node, epoch });
                }
                Stage::Cancelling { epoch, reason, until, .. } if *until <= now => {
                    state.stage =
                        Stage::Cancelled { epoch: *epoch, reason: std::mem::take(reason) };
                    step.changed = true;
                }
                _ => {}
            }
        }
        step
    }

    /// Somebody wants the task stopped. Nothing happens when it is stopping already.
    pub fn on_cancel(&mut self, reason: &str, now: UnixMs) -> Step {
        let mut step = Step::default();
        if !self.stopping() {
            self.stop(reason, StopKind::Request, now, &mut step);
        }
        step
    }

    /// Something happened to one attempt of a node. Events of other attempts, and those
    /// that come after the attempt's end, change nothing.
    pub fn on_event(&mut self, node: usize, epoch: Epoch, event: NodeEvent, now: UnixMs) -> Step {
        let mut step = Step::default();
        let stage = &self.nodes[node].stage;
        let live = matches!(stage, Stage::Running { .. } | Stage::Cancelling { .. });
        if !live || stage.epoch() != epoch {
            return step;
        }
        match event {
            NodeEvent::Owned(owner) => self.on_owned(node, owner, now, &mut step),
            NodeEvent::Artifact => self.on_artifact(node, &mut step),
            NodeEvent::Done => self.on_done(node, epoch, &mut step),
            NodeEvent::Failed(failure) => self.on_failed(node, failure, now, &mut step),
            NodeEvent::Cancelled { reason } => self.on_cancelled(node, reason, now, &mut step),
        }
        step
    }

    /// Learns from the runs' own records what was missed.
    pub fn on_records(&mut self, records: &[RunRecord], now: UnixMs) -> Step {
        let mut step = Step::default();
        for record in records {
            if record.new.key.task_id != self.id {
                continue;
            }
            let Some(node) = self.graph.find(&record.new.key.node_id) else { continue };
            let epoch = record.new.epoch;
            if let Some(owner) = &record.owner
                && record.progress.accepted
            {
                let owner = NodeOwner {
                    worker_id: owner.worker_id.clone(),
                    lease_id: owner.lease_id.clone(),
                };
                step.append(self.on_event(node, epoch, NodeEvent::Owned(owner), now));
            }
            if record.progress.finished > 0 {
                step.append(self.on_event(node, epoch, NodeEvent::Artifact, now));
            }
            if let Some(end) = &record.end {
                step.append(self.on_event(node, epoch, NodeEvent::from(end), now));
            }
        }
        step
    }

    fn on_owned(&mut self, node: usize, new: NodeOwner, now: UnixMs, step: &mut Step) {
        match &mut self.nodes[node].stage {
            Stage::Running { owner, .. } => {
                step.changed |= owner.as_ref() != Some(&new);
                *owner = Some(new);
            }
            Stage::Cancelling { epoch, owner, reason, until } if owner.as_ref() != Some(&new) => {
                // The signal may have gone out before this worker could know the run.
                *owner = Some(new);
                *until = now.plus(CANCEL_WITHIN);
                let (epoch, reason, deadline) = (*epoch, reason.clone(), *until);
                step.orders.push(Order::Cancel { node, epoch, reason, deadline });
                step.changed = true;
            }
            _ => {}
        }
    }

    fn on_artifact(&mut self, node: usize, step: &mut Step) {
        if !self.nodes[node].artifact {
            self.nodes[node].artifact = true;
            step.changed = true;
            self.start_children(node, step);
        }
    }

    fn on_done(&mut self, node: usize, epoch: Epoch, step: &mut Step) {
        // A complete artifact is one, too.
        let state = &mut self.nodes[node];
        *state = NodeState { stage: Stage::Finished { epoch }, artifact: true, failure: None };
        step.changed = true;
        self.start_children(node, step);
    }

    fn on_failed(&mut self, node: usize, failure: Failure, now: UnixMs, step: &mut Step) {
        let state = &mut self.nodes[node];
        let epoch = state.stage.epoch();
        let retry = self.graph.nodes()[node]
            .retry
            .as_ref()
            .filter(|policy| !failure.permanent && !policy.gives_up(epoch.0, &failure.reason_code));
        let reason = format!("hard_fail:{}", failure.reason_code);
        state.failure = Some(failure);
        step.changed = true;
        match (&mut state.stage, retry) {
            (Stage::Cancelling { reason, .. }, Some(_)) => {
                state.stage = Stage::Cancelled { epoch, reason: std::mem::take(reason) };
            }
            (Stage::Cancelling { .. }, None) => state.stage = Stage::Failed { epoch },
            (_, Some(policy)) => {
                state.stage = Stage::Backoff { epoch, until: now.plus(policy.backoff) };
            }
            (_, None) => {
                state.stage = Stage::Failed { epoch };
                self.stop(&reason, StopKind::HardFail, now, step);
            }
        }
    }

    fn on_cancelled(&mut self, node: usize, reason: String, now: UnixMs, step: &mut Step) {
        let state = &mut self.nodes[node];
        let epoch = state.stage.epoch();
        step.changed = true;
        match &mut state.stage {
            Stage::Cancelling { reason, .. } => {
                state.stage = Stage::Cancelled { epoch, reason: std::mem::take(reason) };
            }
            // The worker has read the flag, or a command, before the coordinator did. A
            // node that stays away would leave the others waiting: the task goes with it.
            _ => {
                state.stage = Stage::Cancelled { epoch, reason: reason.clone() };
                self.stop(&reason, StopKind::Request, now, step);
            }
        }
    }

    fn start_children(&mut self, parent: usize, step: &mut Step) {
        for at in 0..self.graph.children(parent).len() {
            let child = self.graph.children(parent)[at];
            self.start_if_ready(child, step);
        }
    }

    fn start_if_ready(&mut self, node: usize, step: &mut Step) {
        let wanted = &self.graph.nodes()[node];
        let parents = || wanted.parents.iter().map(|&parent| &self.nodes[parent]);
        let finished = parents().filter(|p| matches!(p.stage, Stage::Finished { .. })).count();
        let early = wanted.first_batch && parents().any(|parent| parent.artifact);
        let ready = early || wanted.satisfied_by(finished);
        if ready && self.nodes[node].stage == Stage::Waiting {
            let epoch = Epoch(1);
            self.nodes[node].stage = Stage::Running { epoch, owner: None };
            step.changed = true;
            step.orders.push(Order::Start { node, epoch });
        }
    }

    /// Ends everything that has not ended.
    fn stop(&mut self, reason: &str, kind: StopKind, now: UnixMs, step: &mut Step) {
        for (node, state) in self.nodes.iter_mut().enumerate() {
            let epoch = state.stage.epoch();
            let reason = reason.to_owned();
            match &mut state.stage {
                Stage::Running { owner, .. } => {
                    let within =
                        if owner.is_some() { CANCEL_WITHIN } else { CANCEL_UNACCEPTED_WITHIN };
                    let owner = owner.take();
                    let (until, deadline) = (now.plus(within), now.plus(CANCEL_WITHIN));
                    state.stage = Stage::Cancelling { epoch, owner, reason: reason.clone(), until };
                    step.orders.push(Order::Cancel { node, epoch, reason, deadline });
                }
                Stage::Waiting | Stage::Backoff { .. } => {
                    state.stage = match kind {
                        StopKind::HardFail => Stage::Skipped { epoch },
                        StopKind::Request => Stage::Cancelled { epoch, reason },
                    };
                }
                _ => continue,
            }
            step.changed = true;
        }
    }

    fn stopping(&self) -> bool {
        self.nodes.iter().any(|node| node.stage.stops_task())
    }

    fn longest_wait(&self, node: usize) -> Duration {
        match self.nodes[node].stage {
            Stage::Backoff { .. } => {
                self.graph.nodes()[node].retry.as_ref().map_or(Duration::ZERO, |r| r.backoff)
            }
            _ => CANCEL_WITHIN,
        }
    }
}

/// Why a task is stopped.
#[derive(Clone, Copy)]
enum StopKind {
    /// Somebody asked for it.
    Request,
    /// A node failed for good.
    HardFail,
}

impl Step {
    /// Adds what a later step asks for.
    pub fn append(&mut self, mut later: Self) {
        self.changed |= later.changed;
        self.orders.append(&mut later.orders);
    }
}

impl Outcome {
    /// As people and `--json` see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
