//! Tasks under coordination: applies what happened, stores it, carries out the orders.
//!
//! The order is always: store the tasks, then send the orders, then commit what was read.
//! A change that asks for nothing may wait a moment to be stored with others.
//! A process that dies in between repeats the later steps: its successor reads the same
//! messages again, and [`Task::on_begin`] repeats the orders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::feed::Feed;
use super::state::{BadTask, Order, Step, Task};
use super::wire;
use super::{Deps, Trouble, Watch};
use crate::bus::{BusError, InMessage, OutMessage};
use crate::protocol::Status;
use crate::store::{StoreError, TaskDoc};
use crate::types::{Role, TaskId};

/// Shortest and longest wait while the bus or the store is out of reach.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a change that asks for nothing may wait to be stored: a document holds a whole
/// graph, and a busy one changes hundreds of times a second.
const STORE_WITHIN: Duration = Duration::from_millis(250);

/// How often the runs' records are asked for what was never heard, such as an end that
/// was read by a coordinator that did not know yet that it had been replaced.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// The tasks that this process coordinates now.
pub(super) struct Engine {
    deps: Deps,
    group: Option<&'static str>,
    feed: Option<Feed>,
    tasks: BTreeMap<TaskId, Held>,
    /// When the records are next asked.
    ask_at: Instant,
    /// How long the present outage lets the next try wait; zero when there is none.
    outage: Duration,
}

struct Held {
    task: Task,
    /// Changed and not stored: since when.
    dirty: Option<Instant>,
    /// To be sent once it is stored.
    orders: Vec<Order>,
}

/// What became of tasks in a turn.
#[derive(Default)]
pub(super) struct Over {
    /// They have ended; nothing more is to be done.
    pub(super) ended: Vec<TaskId>,
    /// Somebody else has changed them.
    pub(super) lost: Vec<TaskId>,
}

impl Held {
    fn absorb(&mut self, step: Step, now: Instant) {
        if step.changed {
            self.dirty.get_or_insert(now);
        }
        self.orders.extend(step.orders);
    }

    /// Whether somebody waits for it to be stored.
    fn is_urgent(&self) -> bool {
        !self.orders.is_empty() || self.task.outcome().is_some()
    }
}

impl Engine {
    /// With a `group` what was read is remembered across processes.
    pub(super) fn new(deps: Deps, group: Option<&'static str>) -> Self {
        let ask_at = deps.clock.now() + ASK_EVERY;
        Self { deps, group, feed: None, tasks: BTreeMap::new(), ask_at, outage: Duration::ZERO }
    }

    /// Whether a task is coordinated here.
    pub(super) fn holds(&self, id: &TaskId) -> bool {
        self.tasks.contains_key(id)
    }

    /// Lets go of everything; another process may go on with it.
    pub(super) fn clear(&mut self) {
        self.feed = None;
        self.tasks.clear();
    }

    /// Takes up a task, new or left by another process, and learns what was missed.
    /// `adopt`: the process that coordinated it by itself is gone.
    pub(super) async fn take_up(
        &mut self,
        doc: &TaskDoc,
        adopt: bool,
        watch: &mut dyn Watch,
    ) -> Result<Result<(), BadTask>, Trouble> {
        let mut task = match Task::from_doc(doc) {
            Ok(task) => task,
            Err(bad) => return Ok(Err(bad)),
        };
        let mut dirty = None;
        if adopt && task.run_by().is_some() {
            task.adopt();
            dirty = Some(self.deps.clock.now());
        }
        let roles = task.graph().roles();
        let topics = wire::topics_of(&self.deps.topics, &roles);
        self.deps.bus.ensure_topics(&topics).await?;
        if self.feed.as_ref().is_none_or(|feed| !feed.covers(&roles)) {
            self.open_feed(roles, watch).await?;
        }
        // Only now: an end that is not in the records yet will be heard.
        let records = self.deps.store.runs_of_task(task.id()).await?;
        let now = self.deps.clock.wall();
        let mut step = task.on_records(&records, now);
        if doc.coordinator.cancelled {
            step.append(task.on_cancel(&reason_of(doc), now));
        }
        step.append(task.on_begin(now));
        watch.changed(&task);
        let mut held = Held { task, dirty, orders: Vec::new() };
        held.absorb(step, self.deps.clock.now());
        self.tasks.insert(doc.id.clone(), held);
        Ok(Ok(()))
    }

    /// A person wants the task stopped.
    pub(super) fn cancel(&mut self, doc: &TaskDoc, watch: &mut dyn Watch) {
        let now = self.deps.clock.wall();
        if let Some(held) = self.tasks.get_mut(&doc.id) {
            let step = held.task.on_cancel(&reason_of(doc), now);
            if step.changed {
                watch.changed(&held.task);
            }
            held.absorb(step, self.deps.clock.now());
        }
    }

    /// Waits for something to happen, until `until` at the latest, and deals with it.
    /// Waits out an outage by itself. Cancel-safe: what was read is applied before the
    /// next wait, and is neither committed nor lost before it is stored.
    pub(super) async fn turn(
        &mut self,
        until: Instant,
        watch: &mut dyn Watch,
    ) -> anyhow::Result<Over> {
        let mut over = Over::default();
        match self.try_turn(until, watch, &mut over).await {
            Ok(()) => self.outage = Duration::ZERO,
            Err(trouble) => self.wait_out(trouble).await?,
        }
        Ok(over)
    }

    /// Stores and sends everything that is waiting.
    pub(super) async fn flush(&mut self) -> Result<(), Trouble> {
        self.store_and_send(true, &mut (), &mut Over::default()).await
    }

    /// Waits before the same is tried again; gives up where waiting cannot help.
    pub(super) async fn wait_out(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::Stop(error) => Err(error),
            Trouble::Damaged(error) => Err(error.into()),
            Trouble::Wait(reason) => {
                if self.outage.is_zero() {
                    tracing::warn!(%reason, "coordination waits");
                }
                self.outage = (self.outage * 2).clamp(RETRY.0, RETRY.1);
                tokio::time::sleep(self.outage).await;
                Ok(())
            }
        }
    }

    async fn try_turn(
        &mut self,
        until: Instant,
        watch: &mut dyn Watch,
        over: &mut Over,
    ) -> Result<(), Trouble> {
        // What an earlier turn could not store comes first: nothing more is read meanwhile.
        self.store_and_send(false, watch, over).await?;
        if self.feed.is_none() && !self.tasks.is_empty() {
            self.open_feed(BTreeSet::new(), watch).await?;
        }
        if self.ask_at <= self.deps.clock.now() {
            self.ask_records(watch).await?;
        }
        let wake = self.wake_at().min(until);
        let heard = match &mut self.feed {
            None => {
                tokio::time::sleep_until(wake).await;
                Ok(Vec::new())
            }
            // Cancel-safe: `take` is, and so is a sleep.
            Some(feed) => tokio::select! {
                heard = feed.take() => heard,
                () = tokio::time::sleep_until(wake) => Ok(Vec::new()),
            },
        };
        match heard {
            Ok(messages) => {
                for message in &messages {
                    self.on_message(message, watch);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "status topics are opened anew");
                self.feed = None;
            }
        }
        self.on_tick(watch);
        self.store_and_send(false, watch, over).await
    }

    /// Opens the status topics of all tasks and of `more` roles, anew if need be, and asks
    /// the records for what was missed.
    async fn open_feed(
        &mut self,
        more: BTreeSet<Role>,
        watch: &mut dyn Watch,
    ) -> Result<(), Trouble> {
        // A member that waits for its own successor would keep its messages from it. What
        // it had read was applied here already, and is read again.
        self.feed = None;
        let held = self.tasks.values().flat_map(|held| held.task.graph().roles());
        let roles = held.chain(more).collect();
        let feed = Feed::open(&self.deps, self.group, roles).await?;
        self.ask_records(watch).await?;
        // Only with the records read: until then it counts as not opened.
        self.feed = Some(feed);
        Ok(())
    }

    async fn ask_records(&mut self, watch: &mut dyn Watch) -> Result<(), Trouble> {
        for (id, held) in &mut self.tasks {
            let records = match self.deps.store.runs_of_task(id).await {
                // The other tasks go on, and this one does with what is heard.
                Err(error @ StoreError::Damaged { .. }) => {
                    tracing::error!(task_id = %id, %error, "runs cannot be read");
                    continue;
                }
                records => records?,
            };
            let step = held.task.on_records(&records, self.deps.clock.wall());
            if step.changed {
                watch.changed(&held.task);
            }
            held.absorb(step, self.deps.clock.now());
        }
        self.ask_at = self.deps.clock.now() + ASK_EVERY;
        Ok(())
    }

    fn on_message(&mut self, message: &InMessage, watch: &mut dyn Watch) {
        let status = match Status::decode(&message.value) {
            Ok(status) => status,
            Err(error) => {
                let (topic, offset) = (&message.topic, message.offset);
                tracing::warn!(%topic, offset, %error, "a status message is left out");
                return;
            }
        };
        let (key, epoch) = (status.address.key, status.address.epoch);
        let Some(held) = self.tasks.get_mut(&key.task_id) else { return };
        let Some(node) = held.task.graph().find(&key.node_id) else { return };
        if held.task.nodes()[node].stage.epoch() == epoch {
            watch.event(node, epoch, &status.event);
        }
        let Some(event) = wire::node_event(status.event) else { return };
        let step = held.task.on_event(node, epoch, event, self.deps.clock.wall());
        if step.changed {
            watch.changed(&held.task);
        }
        held.absorb(step, self.deps.clock.now());
    }

    fn on_tick(&mut self, watch: &mut dyn Watch) {
        let now = self.deps.clock.wall();
        for held in self.tasks.values_mut() {
            let step = held.task.on_tick(now);
            if step.changed {
                watch.changed(&held.task);
            }
            held.absorb(step, self.deps.clock.now());
        }
    }

    async fn store_and_send(
        &mut self,
        at_once: bool,
        watch: &mut dyn Watch,
        over: &mut Over,
    ) -> Result<(), Trouble> {
        // All that wait are stored at once when the first is due, so that what was read
        // can be committed: it may concern any of them.
        let now = self.deps.clock.now();
        let due = at_once || self.stored_by().is_some_and(|at| at <= now);
        let ids: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, held)| held.is_urgent() || (due && held.dirty.is_some()))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            let Some(held) = self.tasks.get_mut(&id) else { continue };
            let mut kept = true;
            // A refused order changes the task once more.
            while kept && (held.dirty.is_some() || !held.orders.is_empty()) {
                kept = save(&self.deps, held).await?;
                if kept {
                    send(&self.deps, held, watch).await?;
                }
            }
            if !kept {
                // Whoever has it now has to hear what was read here and not committed.
                self.feed = None;
                over.lost.push(id.clone());
                self.tasks.remove(&id);
            } else if held.task.outcome().is_some() {
                over.ended.push(id.clone());
                self.tasks.remove(&id);
            }
        }
        let stored = self.tasks.values().all(|held| held.dirty.is_none());
        if let Some(feed) = self.feed.as_mut().filter(|_| stored) {
            feed.commit().await?;
        }
        Ok(())
    }

    /// When the change that has waited longest must be stored.
    fn stored_by(&self) -> Option<Instant> {
        let first = self.tasks.values().filter_map(|held| held.dirty).min()?;
        Some(first + STORE_WITHIN)
    }

    fn wake_at(&self) -> Instant {
        let clock = &self.deps.clock;
        let wake = self.tasks.values().filter_map(|held| held.task.next_wake()).min();
        let wake = wake.map(|wake| clock.now() + wake.since(clock.wall()));
        wake.into_iter().chain(self.stored_by()).fold(self.ask_at, Instant::min)
    }
}

fn reason_of(doc: &TaskDoc) -> String {
    doc.coordinator.cancel_reason.clone().unwrap_or_default()
}

/// Stores a task. False when somebody else has.
async fn save(deps: &Deps, held: &mut Held) -> Result<bool, Trouble> {
    if held.dirty.is_none() {
        return Ok(true);
    }
    let doc = held.task.to_doc(deps.clock.wall());
    let saved = deps.store.save_task(&doc).await? || was_saved(deps, &doc).await?;
    if saved {
        held.task.saved();
        held.dirty = None;
    }
    Ok(saved)
}

/// Whether what is stored is `doc` itself: a save that was answered by an outage may have
/// taken place.
async fn was_saved(deps: &Deps, doc: &TaskDoc) -> Result<bool, Trouble> {
    let Some(stored) = deps.store.task(&doc.id).await? else { return Ok(false) };
    let same = stored.status == doc.status && stored.graph == doc.graph;
    Ok(same && stored.version == doc.version + 1)
}

async fn send(deps: &Deps, held: &mut Held, watch: &mut dyn Watch) -> Result<(), Trouble> {
    let now = deps.clock.wall();
    let message = |order: &Order| wire::message(&held.task, order, &deps.topics, now);
    let messages: Vec<OutMessage> = held.orders.iter().map(message).collect();
    match deps.bus.publish(&messages, None).await {
        Err(BusError::TooLarge { .. }) => {}
        sent => {
            sent?;
            held.orders.clear();
            return Ok(());
        }
    }
    // One of them is too large: one after another, to know which.
    for (order, message) in held.orders.clone().iter().zip(messages) {
        match deps.bus.publish(&[message], None).await {
            Err(BusError::TooLarge { size, limit }) => {
                let (node, epoch, event) = wire::refused(order, size, limit);
                held.orders.retain(|other| other != order);
                let step = held.task.on_event(node, epoch, event, now);
                watch.changed(&held.task);
                held.absorb(step, deps.clock.now());
            }
            sent => {
                sent?;
                held.orders.retain(|other| other != order);
            }
        }
    }
    Ok(())
}
