//! The loop: waits for the next event and says in a few lines what each one means.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context;
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::held::{Held, HeldRuns};
use super::{Event, Grant, Mine, Shutdown, announce, duties, listen};
use crate::bus::Topic;
use crate::discovery;
use crate::intake::Intake;
use crate::protocol::{Discover, LeaseInfo, RunAddress, RunEvent, Signal};
use crate::run::state::{CancelKind, StopCause};
use crate::run::{Deps, Slots};
use crate::store::NodeView;
use crate::tasks::{self, TaskHandle};
use crate::types::Fence;

/// Events that may wait for the loop.
const EVENTS: usize = 1_024;

/// Signals for runs that are not here (yet) which are remembered.
const REMEMBERED_SIGNALS: usize = 1_000;

/// A worker at work.
pub struct Loop {
    deps: Deps,
    slots: Slots,
    mine: Mine,
    held: HeldRuns,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    ticks: Ticks,
    early_signals: VecDeque<Signal>,
    claiming: bool,
    intakes: Vec<TaskHandle<()>>,
    listeners: Vec<TaskHandle<()>>,
    errands: Vec<TaskHandle<()>>,
}

/// What the clock demands.
#[derive(Debug, Clone, Copy)]
enum Tick {
    Renew,
    PollTasks,
    Claim,
    Announce,
}

struct Ticks {
    renew: Interval,
    poll_tasks: Interval,
    claim: Interval,
    announce: Interval,
}

impl Ticks {
    fn new(deps: &Deps) -> Self {
        let settings = &deps.settings;
        // Workers that start together must not look for runs together for ever.
        let spread = rand::rng().random_range(0.9..1.1);
        let every = |period: Duration| {
            let mut interval = interval(period.max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            renew: every(settings.hb_interval),
            poll_tasks: every(settings.cancel_poll),
            claim: every(settings.claim_poll.mul_f64(spread)),
            announce: every(settings.announce_interval),
        }
    }

    async fn next(&mut self) -> Tick {
        // Cancel-safe: a tick that was not returned is still due.
        tokio::select! {
            biased;
            _ = self.renew.tick() => Tick::Renew,
            _ = self.poll_tasks.tick() => Tick::PollTasks,
            _ = self.claim.tick() => Tick::Claim,
            _ = self.announce.tick() => Tick::Announce,
        }
    }
}

impl Loop {
    /// Opens what the worker reads from and begins to read.
    pub async fn start(deps: Deps) -> anyhow::Result<Self> {
        let topics = &deps.settings.topics;
        let roles = deps.handlers.roles();
        let mut all: Vec<Topic> = [&topics.announce, &topics.query, &topics.reply, &topics.signals]
            .into_iter()
            .chain([&topics.dead_letter])
            .cloned()
            .collect();
        all.extend(roles.iter().flat_map(|role| [topics.commands(role), topics.status(role)]));
        deps.bus.ensure_topics(&all).await.context("preparing the worker's topics")?;
        let signals = deps.bus.tail(std::slice::from_ref(&topics.signals)).await;
        let signals = signals.with_context(|| format!("listening on topic {}", topics.signals))?;
        let queries = deps.bus.tail(std::slice::from_ref(&topics.query)).await;
        let queries = queries.with_context(|| format!("listening on topic {}", topics.query))?;
        let slots = Slots::new(deps.settings.max_concurrent_tasks);
        let mine = Mine::default();
        let (sender, events) = mpsc::channel(EVENTS);
        let intakes = roles.into_iter().map(|role| {
            let (deps, slots, events) = (deps.clone(), slots.clone(), sender.clone());
            let mine = mine.clone();
            tasks::spawn("intake", Intake { deps, role, slots, mine, events }.run())
        });
        let intakes = intakes.collect();
        let listeners = vec![
            tasks::spawn("signals", listen::signals(deps.clone(), signals, sender.clone())),
            tasks::spawn("queries", listen::queries(deps.clone(), queries, sender.clone())),
        ];
        Ok(Self {
            ticks: Ticks::new(&deps),
            slots,
            mine,
            held: HeldRuns::default(),
            events,
            sender,
            early_signals: VecDeque::new(),
            claiming: false,
            intakes,
            listeners,
            errands: Vec::new(),
            deps,
        })
    }

    /// Works until `shutdown` begins, then drains.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        tracing::info!(worker_id = %self.deps.settings.worker_id, "the worker is at work");
        loop {
            // Cancel-safe: receiving, ticks and waiting for the shutdown lose nothing.
            tokio::select! {
                biased;
                () = shutdown.begun() => break,
                Some(event) = self.events.recv() => self.on_event(event)?,
                tick = self.ticks.next() => self.on_tick(tick),
            }
        }
        self.drain().await;
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Granted(grant) => self.on_granted(*grant),
            Event::Queued { key, epoch } => {
                self.held.supersede(&key, epoch, self.deps.settings.cancel_grace);
            }
            Event::CancelCommand { address, reason } => {
                self.cancel(&address, CancelKind::Command, &reason, None);
            }
            Event::Signal(signal) => self.on_signal(signal),
            Event::Query(query) => self.on_query(query),
            Event::RunOver { key, lease_no } => {
                self.held.over(&key, lease_no);
                self.look_for_runs();
            }
            Event::Renewed { asked_at, asked, lost } => self.on_renewed(asked_at, &asked, &lost),
            Event::Views(views) => self.on_views(&views),
            Event::ClaimsDone => self.claiming = false,
            Event::Broken(problem) => anyhow::bail!(problem),
        }
        Ok(())
    }

    fn on_tick(&mut self, tick: Tick) {
        self.errands.retain(|errand| !errand.is_finished());
        match tick {
            Tick::Renew => {
                let fences: Vec<Fence> = self.held.iter().map(|held| held.fence.clone()).collect();
                if !fences.is_empty() {
                    let (deps, sender) = (self.deps.clone(), self.sender.clone());
                    self.errand("renew", duties::renew(deps, fences, sender));
                }
            }
            Tick::PollTasks => {
                let keys: Vec<_> = self.held.iter().map(|held| held.fence.key.clone()).collect();
                if !keys.is_empty() {
                    let (deps, sender) = (self.deps.clone(), self.sender.clone());
                    self.errand("poll-tasks", duties::poll_tasks(deps, keys, sender));
                }
            }
            Tick::Claim => self.look_for_runs(),
            Tick::Announce => {
                self.errand("announce", announce::present(self.deps.clone(), self.held.len()));
            }
        }
    }

    fn on_granted(&mut self, mut grant: Grant) {
        let address = RunAddress {
            key: grant.record.new.key.clone(),
            role: grant.record.new.role.clone(),
            epoch: grant.record.new.epoch,
        };
        if let Some(at) = self.early_signals.iter().position(|signal| signal.address == address) {
            let early = self.early_signals.remove(at).map(|signal| signal.reason);
            grant.cancelled = grant.cancelled.or(early);
        }
        self.held.start(&self.deps, grant, self.sender.clone());
    }

    fn on_signal(&mut self, signal: Signal) {
        let me = self.deps.settings.worker_id.as_str();
        if signal.target_worker_id.as_deref().is_some_and(|target| target != me) {
            return;
        }
        let left = signal.deadline.map(|at| at.since(self.deps.clock.wall()));
        if !self.cancel(&signal.address, CancelKind::Signal, &signal.reason, left) {
            // Between attempts it may come before the command it is about.
            self.early_signals.push_back(signal);
            if self.early_signals.len() > REMEMBERED_SIGNALS {
                self.early_signals.pop_front();
            }
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
        if let Some(held) = self.held.get(&query.address.key) {
            let left = held.lease().deadline().saturating_duration_since(deps.clock.now());
            let snapshot = held.snapshot(deps.clock.wall().plus(left));
            self.errand("answer", async move { discovery::send(&deps, &query, &snapshot).await });
            return;
        }
        self.errand("answer", async move {
            match discovery::idle_answer(&deps, &query).await {
                Ok(Some(snapshot)) => discovery::send(&deps, &query, &snapshot).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "a question stays unanswered"),
            }
        });
    }

    fn on_renewed(&mut self, asked_at: Instant, asked: &[Fence], lost: &[Fence]) {
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
            let left = held.lease().deadline().saturating_duration_since(now);
            let beat = RunEvent::TaskHeartbeat(LeaseInfo {
                worker_id: held.owner.worker_id.clone(),
                lease_id: held.owner.lease_id.clone(),
                lease_deadline_ts_ms: self.deps.clock.wall().plus(left),
            });
            beats.push((held.address.clone(), beat));
        }
        if !beats.is_empty() {
            self.errand("heartbeats", duties::heartbeats(self.deps.clone(), beats));
        }
    }

    fn on_views(&mut self, views: &[NodeView]) {
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

    fn look_for_runs(&mut self) {
        if self.claiming || self.slots.free() == 0 {
            return;
        }
        self.claiming = true;
        let (slots, mine) = (self.slots.clone(), self.mine.clone());
        let claim = duties::claim(self.deps.clone(), slots, mine, self.sender.clone());
        self.errand("claim", claim);
    }

    /// No new commands; runs finish their batch or reach the grace and are released.
    async fn drain(mut self) {
        let grace = self.deps.settings.shutdown_grace;
        let deadline = self.deps.clock.now() + grace;
        tracing::info!(runs = self.held.len(), grace_sec = grace.as_secs_f64(), "stopping");
        self.intakes.clear();
        self.listeners.clear();
        for held in self.held.iter() {
            held.stop(StopCause::Shutdown, deadline);
        }
        // What the guests leave of the grace is for the last writes, and a little more.
        let last = deadline + Duration::from_secs(2);
        while self.held.len() > 0 {
            // Cancel-safe: receiving and ticks lose nothing.
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.on_drain_event(event, deadline),
                _ = self.ticks.renew.tick() => self.on_tick(Tick::Renew),
                () = tokio::time::sleep_until(last) => {
                    tracing::warn!(runs = self.held.len(), "runs are left to their leases' end");
                    break;
                }
            }
        }
        announce::leave(&self.deps).await;
    }

    fn on_drain_event(&mut self, event: Event, deadline: Instant) {
        match event {
            Event::RunOver { key, lease_no } => self.held.over(&key, lease_no),
            Event::Renewed { asked_at, asked, lost } => self.on_renewed(asked_at, &asked, &lost),
            Event::Views(views) => self.on_views(&views),
            // Acquired while stopping: it is started to be released at once.
            Event::Granted(grant) => {
                let key = grant.record.new.key.clone();
                self.on_granted(*grant);
                if let Some(held) = self.held.get(&key) {
                    held.stop(StopCause::Shutdown, deadline);
                }
            }
            Event::Queued { .. }
            | Event::CancelCommand { .. }
            | Event::Signal(_)
            | Event::Query(_)
            | Event::ClaimsDone
            | Event::Broken(_) => {}
        }
    }

    fn errand(&mut self, name: &'static str, errand: impl Future<Output = ()> + Send + 'static) {
        self.errands.push(tasks::spawn(name, errand));
    }
}
