//! Reads a role's commands: each is recorded in the store, or refused for a stated reason,
//! and only then committed. Intake never waits for capacity.

pub mod admission;
mod dedup;

use std::time::Duration;

use tokio::sync::mpsc;

use self::admission::Decision;
use self::dedup::Remembered;
use crate::bus::{BusError, GroupConsumer, InMessage, OutMessage};
use crate::dead_letter::DeadLetter;
use crate::health::Part;
use crate::protocol::{Command, RunAddress, Topics, cancel_signal};
use crate::run::{Deps, Slots};
use crate::store::{Admitted, NewRun, NodeView, Owner, StoreError};
use crate::types::{LeaseId, Role};
use crate::worker::{Event, Grant, Mine, Shutdown, claim};

/// The wait between two tries while the bus or the store is out of reach.
const RETRY: Duration = Duration::from_millis(500);

/// The time a cancelled run's owner is given, as coordinators give it.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(30);

/// The room that a dead letter's headers and key take, in bytes, beside what its value does.
const LETTER_HEADERS: usize = 8 * 1024;

/// One role's intake. Ends when the worker stops, or when the bus refuses for good.
pub struct Intake {
    /// What it works with.
    pub deps: Deps,
    /// Whose commands.
    pub role: Role,
    /// The worker's capacity.
    pub slots: Slots,
    /// Which runs are this worker's.
    pub mine: Mine,
    /// The worker's loop.
    pub events: mpsc::Sender<Event>,
    /// Once it has begun, no further command is read.
    pub shutdown: Shutdown,
}

impl Intake {
    /// Reads commands until the worker stops. The command at hand is taken to where it may
    /// be committed first.
    pub async fn run(self) {
        self.read_on().await;
        let _ = self.events.send(Event::IntakeOver).await;
    }

    async fn read_on(&self) {
        let settings = &self.deps.settings;
        let mut remembered = Remembered::new(settings.dedup_cache_size, settings.dedup_ttl);
        loop {
            let error = match self.read(&mut remembered).await {
                Err(error @ BusError::Unavailable(_)) | Err(error @ BusError::Expired) => error,
                Err(error) => {
                    let problem = format!("role `{}` cannot be consumed: {error}", self.role);
                    let _ = self.events.send(Event::Broken(problem)).await;
                    return;
                }
                Ok(()) => return,
            };
            self.deps.health.failed(Part::Bus, &error.to_string(), self.deps.clock.wall());
            if self.shutdown.has_begun() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn read(&self, remembered: &mut Remembered) -> Result<(), BusError> {
        let topic = self.deps.settings.topics.commands(&self.role);
        let mut consumer = self
            .deps
            .bus
            .subscribe(&Topics::group(&self.role), std::slice::from_ref(&topic))
            .await?;
        loop {
            self.wait_for_room(consumer.as_mut()).await?;
            // Cancel-safe: so is waiting for a message, and for the shutdown.
            let message = tokio::select! {
                biased;
                () = self.shutdown.begun() => return Ok(()),
                message = consumer.next() => message?,
            };
            self.deps.health.answered(Part::Bus, self.deps.clock.wall());
            self.take(&message, remembered).await?;
            consumer.commit(&message).await?;
        }
    }

    /// Backpressure: while the role has too many unowned runs, its commands stay in the
    /// topic, where another worker may fetch them.
    async fn wait_for_room(&self, consumer: &mut dyn GroupConsumer) -> Result<(), BusError> {
        let topic = self.deps.settings.topics.commands(&self.role);
        let full = async || {
            let queued = self.patiently(|| self.deps.store.queued(&self.role)).await;
            queued.is_some_and(|queued| queued >= self.deps.settings.max_queued_runs)
        };
        if self.slots.free() > 0 || !full().await {
            return Ok(());
        }
        consumer.pause(&topic, true).await?;
        while self.slots.free() == 0 && !self.shutdown.has_begun() && full().await {
            tokio::time::sleep(self.deps.settings.claim_poll).await;
        }
        consumer.pause(&topic, false).await
    }

    /// Takes one message to where it may be committed.
    async fn take(&self, message: &InMessage, remembered: &mut Remembered) -> Result<(), BusError> {
        let command = match Command::decode(&message.value) {
            Ok(command) => command,
            Err(malformed) => return self.dead_letter(message, &malformed.to_string()).await,
        };
        let dedup_id = command.dedup_id.clone();
        if remembered.contains(&dedup_id, self.deps.clock.now()) {
            tracing::debug!(role = %self.role, dedup_id, "a command came again");
            return Ok(());
        }
        let address = command.address.clone();
        let view = self.view(&command).await;
        match admission::decide(command, &self.role, view.as_ref(), self.deps.clock.wall()) {
            Decision::Admit { run, cancelled } => {
                if let Err(problem) = self.admit(run, cancelled).await {
                    return self.dead_letter(message, &problem).await;
                }
            }
            Decision::Cancel { reason } => self.cancel(address, reason).await?,
            Decision::Ignore(why) => tracing::info!(run = %address.key, why, "command ignored"),
            Decision::Refuse(why) => return self.dead_letter(message, &why).await,
        }
        remembered.insert(dedup_id, self.deps.clock.now());
        Ok(())
    }

    async fn view(&self, command: &Command) -> Option<NodeView> {
        let keys = [command.address.key.clone()];
        let views = self.patiently(|| self.deps.store.views(&keys)).await.unwrap_or_default();
        views.into_iter().find(|view| view.key == keys[0])
    }

    /// Records a run: as this worker's when it has a free slot, else for whoever claims it.
    async fn admit(&self, run: NewRun, cancelled: Option<String>) -> Result<(), String> {
        let hold = self.mine.hold(&run.key);
        let slot = self.slots.take();
        let settings = &self.deps.settings;
        let mut retried = false;
        let (asked_at, admitted) = loop {
            let asked_at = self.deps.clock.now();
            let owner = slot.as_ref().map(|_| Owner {
                worker_id: settings.worker_id.clone(),
                lease_id: LeaseId::fresh(),
                deadline: self.deps.clock.wall().plus(settings.lease_ttl),
            });
            match self.deps.store.admit(&run, owner.as_ref()).await {
                Ok(admitted) => break (asked_at, admitted),
                Err(StoreError::Unavailable(error)) => {
                    retried = true;
                    self.deps.health.failed(Part::Store, &error, self.deps.clock.wall());
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        };
        self.deps.health.answered(Part::Store, self.deps.clock.wall());
        let record = match admitted {
            Admitted::Recorded(record) => record,
            // A try whose answer was lost may have recorded it, under a lease that is too
            // old to be trusted: the run is claimed like one that an earlier life left.
            Admitted::Duplicate(_) if retried => {
                drop((hold, slot));
                let queued = Event::Queued { key: run.key, epoch: run.epoch };
                let _ = self.events.send(queued).await;
                return Ok(());
            }
            Admitted::Duplicate(_) | Admitted::Stale(_) => {
                tracing::debug!(run = %run.key, epoch = %run.epoch, "the command was recorded before");
                return Ok(());
            }
        };
        let event = match slot.filter(|_| record.owner.is_some()) {
            Some(slot) => {
                let delay = Duration::ZERO;
                Event::Granted(Box::new(Grant { record, hold, slot, asked_at, cancelled, delay }))
            }
            None => Event::Queued { key: record.new.key, epoch: record.new.epoch },
        };
        let _ = self.events.send(event).await;
        Ok(())
    }

    /// Takes a TASK_CANCEL to whoever can answer it: the loop when the run is here or not
    /// known yet, this worker when nobody owns it, else its owner, by a signal.
    async fn cancel(&self, address: RunAddress, reason: String) -> Result<(), BusError> {
        let here = Event::CancelCommand { address: address.clone(), reason: reason.clone() };
        loop {
            let stored = self.patiently(|| self.deps.store.run(&address.key)).await.flatten();
            let known = stored.filter(|run| run.new.epoch >= address.epoch);
            if self.mine.contains(&address.key) || known.is_none() {
                let _ = self.events.send(here).await;
                return Ok(());
            }
            let Some(run) = known.filter(|r| r.new.epoch == address.epoch && r.end.is_none())
            else {
                return Ok(());
            };
            if run.owner.is_some() {
                return self.signal_owner(&address, &reason).await;
            }
            let slot = self.slots.without();
            match claim(&self.deps, &self.mine, &run, slot).await {
                Ok(Some(mut grant)) => {
                    grant.cancelled = Some(reason);
                    let _ = self.events.send(Event::Granted(Box::new(grant))).await;
                    return Ok(());
                }
                // Somebody else was faster: look again.
                Ok(None) => {}
                Err(error) => {
                    self.deps.health.failed(
                        Part::Store,
                        &error.to_string(),
                        self.deps.clock.wall(),
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn signal_owner(&self, address: &RunAddress, reason: &str) -> Result<(), BusError> {
        let now = self.deps.clock.wall();
        let deadline = now.plus(SIGNAL_DEADLINE);
        let signal = OutMessage {
            topic: self.deps.settings.topics.signals.clone(),
            key: None,
            value: cancel_signal(address, reason, None, deadline, now).encode(),
            headers: Vec::new(),
        };
        self.deps.bus.publish(&[signal], None).await
    }

    /// Retries while the store is out of reach; `None` when it refuses for good.
    async fn patiently<T, F, Done>(&self, action: F) -> Option<T>
    where
        F: Fn() -> Done,
        Done: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match action().await {
                Ok(done) => return Some(done),
                Err(StoreError::Unavailable(error)) => {
                    self.deps.health.failed(Part::Store, &error, self.deps.clock.wall());
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    tracing::error!(role = %self.role, %error, "the store refuses");
                    return None;
                }
            }
        }
    }

    /// Keeps what could not be used, with the reason, where a person finds it. A dead
    /// letter that is refused never stops the loop.
    async fn dead_letter(&self, message: &InMessage, error: &str) -> Result<(), BusError> {
        tracing::warn!(
            topic = %message.topic, partition = message.partition, offset = message.offset, error,
            "a command went to the dead letters"
        );
        let mut letter = DeadLetter::about(message, error, self.deps.clock.wall());
        loop {
            let kept = letter.value.len();
            let message = letter.to_message(&self.deps.settings.topics.dead_letter);
            match self.deps.bus.publish(&[message], None).await {
                // What the broker takes is not told beforehand; a topic may have a limit of
                // its own.
                Err(BusError::TooLarge { limit, .. }) if kept > 0 => {
                    letter = letter.cut_to((kept / 2).min(limit.saturating_sub(LETTER_HEADERS)));
                }
                Err(error @ (BusError::TooLarge { .. } | BusError::Fatal(_))) => {
                    tracing::error!(%error, offset = letter.offset, "the dead letter was refused");
                    return Ok(());
                }
                published => return published,
            }
        }
    }
}
