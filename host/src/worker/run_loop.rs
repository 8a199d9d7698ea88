//! The loop: waits for the next event and says in a few lines what each one means.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::claims::Claims;
use super::duties::{self, Beat, Duty};
use super::held::{Held, HeldRuns};
use super::intakes::Intakes;
use super::refusals::Refusals;
use super::ticks::{Tick, Ticks};
use super::{Event, Grant, Mine, Parked, Shutdown, announce, ends, listen, opening};
use crate::discovery;
use crate::protocol::{Discover, LeaseInfo, RunAddress, RunEvent, Signal};
use crate::run::driver::Outcome;
use crate::run::state::{CancelKind, StopCause};
use crate::run::{Deps, Slots};
use crate::store::NodeView;
use crate::tasks::{self, TaskHandle};
use crate::types::{Epoch, Fence, LeaseNo, Role, RunKey};

/// Events that may wait for the loop.
const EVENTS: usize = 1_024;

/// Signals for runs that are not here (yet) which are remembered.
const REMEMBERED_SIGNALS: usize = 1_000;

/// How long a run is left alone that the bus or the store refused: at first, at most.
const REFUSED_WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// How long a run is left alone that found too many others waiting: at first, at most.
const CROWDED_WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// A worker at work.
pub struct Loop {
    pub(super) deps: Deps,
    slots: Slots,
    mine: Mine,
    pub(super) held: HeldRuns,
    pub(super) events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    pub(super) ticks: Ticks,
    early_signals: VecDeque<Signal>,
    refusals: Refusals,
    parked: Parked,
    pub(super) claiming: bool,
    shutdown: Shutdown,
    pub(super) intakes: Intakes,
    pub(super) listeners: Vec<TaskHandle<()>>,
    errands: Vec<TaskHandle<()>>,
    renewing: Duty,
    polling: Duty,
    announcing: Duty,
    looking_after_ends: Duty,
    changes: Option<watch::Receiver<()>>,
}

impl Loop {
    /// Opens what the worker reads from and begins to read, as soon as the bus is there;
    /// `None` when the worker is to stop before.
    pub async fn start(deps: Deps, shutdown: Shutdown) -> anyhow::Result<Option<Self>> {
        let roles = deps.handlers.roles();
        let Some(opened) = opening::open(&deps, &roles, &shutdown).await? else {
            return Ok(None);
        };
        let slots = Slots::new(deps.settings.max_concurrent_tasks);
        let mine = Mine::default();
        let (sender, events) = mpsc::channel(EVENTS);
        let intakes = Intakes::new(deps.clone(), slots.clone(), mine.clone(), sender.clone());
        let signals = listen::signals(deps.clone(), opened.signals, sender.clone());
        let queries = listen::queries(deps.clone(), opened.queries, sender.clone());
        let mut begun = Self {
            ticks: Ticks::new(&deps),
            slots,
            mine,
            held: HeldRuns::default(),
            events,
            sender,
            early_signals: VecDeque::new(),
            refusals: Refusals::default(),
            parked: Parked::default(),
            claiming: false,
            shutdown,
            intakes,
            listeners: vec![tasks::spawn("signals", signals), tasks::spawn("queries", queries)],
            errands: Vec::new(),
            renewing: Duty::default(),
            polling: Duty::default(),
            announcing: Duty::default(),
            looking_after_ends: Duty::default(),
            changes: deps.handlers.changes(),
            deps,
        };
        begun.serve(&roles);
        Ok(Some(begun))
    }

    /// Works until the shutdown begins, or until it cannot go on, then drains.
    pub async fn run(mut self) -> anyhow::Result<()> {
        tracing::info!(worker_id = %self.deps.settings.worker_id, "the worker is at work");
        let shutdown = self.shutdown.clone();
        let worked = loop {
            // Cancel-safe: receiving, ticks, changes and waiting for the shutdown lose nothing.
            let went = tokio::select! {
                biased;
                () = shutdown.begun() => break Ok(()),
                Some(event) = self.events.recv() => self.on_event(event),
                () = changed(&mut self.changes) => {
                    self.on_handlers_changed();
                    Ok(())
                }
                tick = self.ticks.next() => {
                    self.on_tick(tick);
                    Ok(())
                }
            };
            if went.is_err() {
                break went;
            }
        };
        shutdown.begin();
        self.drain().await;
        worked
    }

    fn on_event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Granted(grant) => self.on_granted(*grant),
            Event::Queued { key, epoch } => {
                self.on_queued(&key, epoch);
                self.look_for_runs(false);
            }
            Event::CancelCommand { address, reason } => self.on_cancel_command(address, reason),
            Event::Signal(signal) => self.on_signal(signal),
            Event::Query(query) => self.on_query(query),
            Event::RunOver { key, lease_no, outcome } => {
                self.on_run_over(&key, lease_no, outcome);
                self.look_for_runs(false);
            }
            Event::Renewed { asked_at, asked, lost } => self.on_renewed(asked_at, &asked, &lost),
            Event::Views(views) => self.on_views(&views),
            Event::ClaimsDone => self.claiming = false,
            Event::IntakeOver(role) => self.intakes.over(&role),
            Event::Broken(problem) => anyhow::bail!(problem),
        }
        Ok(())
    }

    /// Roles came or went, or have other versions: that is announced at once.
    fn on_handlers_changed(&mut self) {
        self.serve(&self.deps.handlers.roles());
        let troubles = self.parked.describe(self.deps.clock.now());
        let present = announce::present(self.deps.clone(), self.held.len(), troubles);
        self.announcing.anew("announce", present);
        self.look_for_runs(true);
    }

    /// Takes commands of exactly these roles. Runs of others go on to their end.
    fn serve(&mut self, roles: &[Role]) {
        for role in roles {
            self.slots.limit(role, self.deps.handlers.concurrency(role));
        }
        self.intakes.serve(roles);
    }

    pub(super) fn on_tick(&mut self, tick: Tick) {
        self.errands.retain(|errand| !errand.is_finished());
        let (deps, sender) = (self.deps.clone(), self.sender.clone());
        match tick {
            Tick::Renew => {
                let fences: Vec<Fence> = self.held.iter().map(|held| held.fence.clone()).collect();
                if !fences.is_empty() {
                    self.renewing.anew("renew", duties::renew(deps, fences, sender));
                }
            }
            Tick::PollTasks => {
                let keys: Vec<_> = self.held.iter().map(|held| held.fence.key.clone()).collect();
                if !keys.is_empty() {
                    self.polling.unless_busy("poll-tasks", duties::poll_tasks(deps, keys, sender));
                }
            }
            Tick::Claim => self.look_for_runs(true),
            Tick::LookAfterEnds => self.looking_after_ends.unless_busy("ends", ends::look(deps)),
            Tick::Probe if !deps.health.is_down() => {}
            Tick::Announce | Tick::Probe => {
                let troubles = self.parked.describe(deps.clock.now());
                let present = announce::present(deps, self.held.len(), troubles);
                self.announcing.unless_busy("announce", present);
            }
        }
    }

    pub(super) fn on_granted(&mut self, mut grant: Grant) {
        let address = RunAddress {
            key: grant.record.new.key.clone(),
            role: grant.record.new.role.clone(),
            epoch: grant.record.new.epoch,
        };
        if let Some(at) = self.early_signals.iter().position(|signal| signal.address == address) {
            let early = self.early_signals.remove(at).map(|signal| signal.reason);
            grant.cancelled = grant.cancelled.or(early);
        }
        if grant.cancelled.is_some() || grant.record.end.is_some() {
            grant.slot = self.slots.without();
        }
        if grant.cancelled.is_some() {
            grant.delay = self.refusals.next(&address.key);
        } else {
            self.refusals.forget(&address.key);
        }
        self.held.start(&self.deps, grant, self.sender.clone());
    }

    pub(super) fn on_queued(&mut self, key: &RunKey, epoch: Epoch) {
        self.parked.forget(key);
        self.held.supersede(key, epoch, self.deps.settings.cancel_grace);
    }

    fn on_run_over(&mut self, key: &RunKey, lease_no: LeaseNo, outcome: Outcome) {
        let now = self.deps.clock.now();
        match outcome {
            Outcome::Over => self.parked.forget(key),
            Outcome::Crowded => {
                let problem = "too many runs of this worker wait for upstream data";
                self.parked.park(key, CROWDED_WAITS, problem.into(), now);
            }
            Outcome::Refused(problem) => self.parked.park(key, REFUSED_WAITS, problem, now),
        }
        self.held.over(key, lease_no);
    }

    pub(super) fn on_cancel_command(&mut self, address: RunAddress, reason: String) {
        if !self.cancel(&address, CancelKind::Command, &reason, None) {
            self.remember(Signal { address, target_worker_id: None, reason, deadline: None });
        }
    }

    fn on_signal(&mut self, signal: Signal) {
        let me = self.deps.settings.worker_id.as_str();
        if signal.target_worker_id.as_deref().is_some_and(|target| target != me) {
            return;
        }
        let left = signal.deadline.map(|at| at.since(self.deps.clock.wall()));
        if !self.cancel(&signal.address, CancelKind::Signal, &signal.reason, left) {
            self.remember(signal);
        }
    }

    /// Between attempts a cancel may come before the command it is about.
    fn remember(&mut self, signal: Signal) {
        self.early_signals.push_back(signal);
        if self.early_signals.len() > REMEMBERED_SIGNALS {
            self.early_signals.pop_front();
        }
    }

    /// Cancels exactly this attempt; false when it is not here. `left` shortens the grace.
    fn cancel(
        &self,
        address: &RunAddress,
        source: CancelKind,
        reason: &str,
        left: Option<Duration>,
    ) -> bool {
        let same = |held: &&Held| held.address == *address;
        let Some(held) = self.held.get(&address.key).filter(same) else { return false };
        let grace = self.deps.settings.cancel_grace;
        let deadline = self.deps.clock.now() + left.map_or(grace, |left| left.min(grace));
        held.stop(StopCause::Cancel { source, reason: reason.to_owned() }, deadline);
        true
    }

    fn on_query(&mut self, query: Discover) {
        let deps = self.deps.clone();
        let now = deps.clock.now();
        if let Some(held) = self.held.get(&query.address.key).filter(|held| held.is_owned(now)) {
            let left = held.lease().deadline().saturating_duration_since(deps.clock.now());
            let snapshot = held.snapshot(deps.clock.wall().plus(left));
            self.errand("answer", async move { discovery::send(&deps, &query, &snapshot).await });
            return;
        }
        self.errand("answer", async move {
            let answer = discovery::idle_answer(&deps, &query);
            match tokio::time::timeout(discovery::WINDOW, answer).await {
                Ok(Ok(Some(snapshot))) => discovery::send(&deps, &query, &snapshot).await,
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => duties::note(&deps, "a question stays unanswered", &error),
            }
        });
    }

    pub(super) fn on_renewed(&mut self, asked_at: Instant, asked: &[Fence], lost: &[Fence]) {
        let now = self.deps.clock.now();
        let mut beats = Vec::new();
        for fence in asked {
            let Some(held) = self.held.get(&fence.key).filter(|held| held.fence == *fence) else {
                continue;
            };
            if lost.contains(fence) {
                held.stop(StopCause::LeaseLost, now + self.deps.settings.cancel_grace);
                continue;
            }
            held.renewed(asked_at);
            let until = held.lease().deadline();
            let left = until.saturating_duration_since(now);
            let event = RunEvent::TaskHeartbeat(LeaseInfo {
                worker_id: held.owner.worker_id.clone(),
                lease_id: held.owner.lease_id.clone(),
                lease_deadline_ts_ms: self.deps.clock.wall().plus(left),
            });
            let (address, view) = (held.address.clone(), held.view());
            beats.push(Beat { address, event, view, until });
        }
        if !beats.is_empty() {
            self.errand("heartbeats", duties::heartbeats(self.deps.clone(), beats));
        }
    }

    pub(super) fn on_views(&mut self, views: &[NodeView]) {
        for view in views {
            let grace = self.deps.settings.cancel_grace;
            self.held.supersede(&view.key, view.epoch, grace);
            let Some(reason) = &view.cancelled else { continue };
            if let Some(held) = self.held.get(&view.key) {
                let address = held.address.clone();
                self.cancel(&address, CancelKind::Database, reason, None);
            }
        }
    }

    /// By the clock it is `thorough`; after an event it is for the slot that got free.
    fn look_for_runs(&mut self, thorough: bool) {
        if self.claiming || self.shutdown.has_begun() {
            return;
        }
        self.claiming = true;
        let claims = Claims {
            deps: self.deps.clone(),
            slots: self.slots.clone(),
            mine: self.mine.clone(),
            parked: self.parked.clone(),
            events: self.sender.clone(),
            shutdown: self.shutdown.clone(),
            thorough,
        };
        self.errand("claim", claims.look());
    }

    fn errand(&mut self, name: &'static str, errand: impl Future<Output = ()> + Send + 'static) {
        self.errands.push(tasks::spawn(name, errand));
    }
}

/// Resolves once the handlers have changed. Cancel-safe: a change is seen once.
async fn changed(changes: &mut Option<watch::Receiver<()>>) {
    if let Some(told) = changes
        && told.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
