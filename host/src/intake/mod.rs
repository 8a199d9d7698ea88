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
use crate::health::{Oddity, Part};
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

/// The worker is to stop: what is in hand is not committed, and comes again to somebody.
struct Stopped;

impl Intake {
    /// Reads commands until the worker stops. The command at hand is taken to where it may
    /// be committed first, unless the bus or the store is out of reach.
    pub async fn run(self) {
        if let Err(Stopped) = self.read_on().await {
            tracing::debug!(role = %self.role, "no more commands are read");
        }
        let _ = self.events.send(Event::IntakeOver(self.role)).await;
    }

    async fn read_on(&self) -> Result<(), Stopped> {
        let settings = &self.deps.settings;
        let mut remembered = Remembered::new(settings.dedup_cache_size, settings.dedup_ttl);
        let topic = settings.topics.commands(&self.role);
        let group = Topics::group(&self.role);
        let mut consumer = loop {
            match self.deps.bus.subscribe(&group, std::slice::from_ref(&topic)).await {
                Ok(consumer) => break consumer,
                Err(error) => self.wait_out(&error).await?,
            }
        };
        loop {
            self.wait_for_room(consumer.as_mut()).await?;
            // Cancel-safe: so is waiting for a message, and for the shutdown.
            let message = tokio::select! {
                biased;
                () = self.shutdown.begun() => return Err(Stopped),
                message = consumer.next() => message,
            };
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    self.wait_out(&error).await?;
                    continue;
                }
            };
            self.deps.health.answered(Part::Bus, self.deps.clock.wall());
            self.take(&message, &mut remembered).await?;
            // The member stays one during an outage: leaving and joining would move every
            // member's partitions.
            while let Err(error) = consumer.commit(&message).await {
                self.wait_out(&error).await?;
            }
        }
    }

    /// Waits before the next try; gives the role up when the bus refuses for good.
    async fn wait_out(&self, error: &BusError) -> Result<(), Stopped> {
        if !matches!(error, BusError::Unavailable(_) | BusError::Expired) {
            let problem = format!("role `{}` cannot be consumed: {error}", self.role);
            let _ = self.events.send(Event::Broken(problem)).await;
            return Err(Stopped);
        }
        self.deps.health.failed(Part::Bus, &error.to_string(), self.deps.clock.wall());
        self.rest(RETRY).await
    }

    async fn rest(&self, time: Duration) -> Result<(), Stopped> {
        // Cancel-safe: both sides only wait.
        tokio::select! {
            biased;
            () = self.shutdown.begun() => Err(Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Backpressure: while the role has too many unowned runs, its commands stay in the
    /// topic, where another worker may fetch them. The member stays in its group.
    async fn wait_for_room(&self, consumer: &mut dyn GroupConsumer) -> Result<(), Stopped> {
        let mut paused = false;
        while self.slots.free_for(&self.role) == 0 && self.is_full().await? {
            if !paused {
                paused = true;
                tracing::info!(role = %self.role, "too many runs wait: no commands are fetched");
                self.pause(consumer, true).await?;
            }
            self.rest(self.deps.settings.claim_poll).await?;
        }
        if paused {
            self.pause(consumer, false).await?;
            tracing::info!(role = %self.role, "commands are fetched again");
        }
        Ok(())
    }

    async fn is_full(&self) -> Result<bool, Stopped> {
        let queued = self.patiently(|| self.deps.store.queued(&self.role)).await?;
        Ok(queued.is_ok_and(|queued| queued >= self.deps.settings.max_queued_runs))
    }

    async fn pause(&self, consumer: &mut dyn GroupConsumer, paused: bool) -> Result<(), Stopped> {
        let topic = self.deps.settings.topics.commands(&self.role);
        while let Err(error) = consumer.pause(&topic, paused).await {
            self.wait_out(&error).await?;
        }
        Ok(())
    }

    /// Takes one message to where it may be committed.
    async fn take(&self, message: &InMessage, remembered: &mut Remembered) -> Result<(), Stopped> {
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
        let view = self.view(&command).await?;
        match admission::decide(command, &self.role, view.as_ref(), self.deps.clock.wall()) {
            Decision::Admit { run, cancelled } => {
                if let Err(problem) = self.admit(run, cancelled).await? {
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

    async fn view(&self, command: &Command) -> Result<Option<NodeView>, Stopped> {
        let keys = [command.address.key.clone()];
        let views = self.patiently(|| self.deps.store.views(&keys)).await?.unwrap_or_default();
        Ok(views.into_iter().find(|view| view.key == keys[0]))
    }

    /// Records a run: as this worker's when it has a free slot or only has to answer it,
    /// else for whoever claims it. Or says why the store cannot hold it.
    async fn admit(
        &self,
        run: NewRun,
        cancelled: Option<String>,
    ) -> Result<Result<(), String>, Stopped> {
        let hold = self.mine.hold(&run.key);
        let slot = match &cancelled {
            Some(_) => Some(self.slots.without()),
            None => self.slots.take(&self.role),
        };
        let mut retried = false;
        let (asked_at, admitted) = loop {
            let asked_at = self.deps.clock.now();
            let owner = slot.as_ref().map(|_| self.owner());
            match self.deps.store.admit(&run, owner.as_ref()).await {
                Ok(admitted) => break (asked_at, admitted),
                Err(error @ StoreError::Damaged { .. }) => return Ok(Err(error.to_string())),
                // A store that refuses everything is no fault of this command.
                Err(error @ StoreError::Fatal(_)) if !self.store_refuses_all().await => {
                    return Ok(Err(error.to_string()));
                }
                Err(error) => self.wait_for_store(&error).await?,
            }
            retried = true;
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
                return Ok(Ok(()));
            }
            Admitted::Duplicate(_) | Admitted::Stale(_) => {
                tracing::debug!(run = %run.key, epoch = %run.epoch, "the command was recorded before");
                return Ok(Ok(()));
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
        Ok(Ok(()))
    }

    fn owner(&self) -> Owner {
        Owner {
            worker_id: self.deps.settings.worker_id.clone(),
            lease_id: LeaseId::fresh(),
            deadline: self.deps.clock.wall().plus(self.deps.settings.lease_ttl),
        }
    }

    async fn store_refuses_all(&self) -> bool {
        self.deps.store.queued(&self.role).await.is_err()
    }

    /// Takes a TASK_CANCEL to whoever can answer it: the loop when the run is here or not
    /// known yet, this worker when nobody owns it, else its owner, by a signal.
    async fn cancel(&self, address: RunAddress, reason: String) -> Result<(), Stopped> {
        let here = Event::CancelCommand { address: address.clone(), reason: reason.clone() };
        loop {
            let stored = self.patiently(|| self.deps.store.run(&address.key)).await?;
            let known = stored.ok().flatten().filter(|run| run.new.epoch >= address.epoch);
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
                Err(error) => self.wait_for_store(&error).await?,
            }
        }
    }

    async fn signal_owner(&self, address: &RunAddress, reason: &str) -> Result<(), Stopped> {
        let now = self.deps.clock.wall();
        let deadline = now.plus(SIGNAL_DEADLINE);
        let signal = OutMessage {
            topic: self.deps.settings.topics.signals.clone(),
            key: None,
            value: cancel_signal(address, reason, None, deadline, now).encode(),
            headers: Vec::new(),
        };
        if let Err(error) = self.publish(signal).await? {
            tracing::error!(run = %address.key, %error, "the run's owner was not told to stop");
        }
        Ok(())
    }

    /// Publishes as soon as the bus is in reach; the inner error is a refusal for good.
    async fn publish(&self, message: OutMessage) -> Result<Result<(), BusError>, Stopped> {
        let message = [message];
        loop {
            match self.deps.bus.publish(&message, None).await {
                Err(error @ (BusError::Unavailable(_) | BusError::Expired)) => {
                    self.wait_out(&error).await?;
                }
                done => return Ok(done),
            }
        }
    }

    /// Asks again while the store is out of reach; the inner error is a refusal for good.
    async fn patiently<T, F, Done>(&self, action: F) -> Result<Result<T, StoreError>, Stopped>
    where
        F: Fn() -> Done,
        Done: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match action().await {
                Err(error @ StoreError::Unavailable(_)) => self.wait_for_store(&error).await?,
                Err(error) => {
                    tracing::error!(role = %self.role, %error, "the store refuses");
                    return Ok(Err(error));
                }
                Ok(done) => {
                    self.deps.health.answered(Part::Store, self.deps.clock.wall());
                    return Ok(Ok(done));
                }
            }
        }
    }

    async fn wait_for_store(&self, error: &StoreError) -> Result<(), Stopped> {
        self.deps.health.failed(Part::Store, &error.to_string(), self.deps.clock.wall());
        self.rest(RETRY).await
    }

    /// Keeps what could not be used, with the reason, where a person finds it. A dead
    /// letter that is refused never stops the loop.
    async fn dead_letter(&self, message: &InMessage, error: &str) -> Result<(), Stopped> {
        tracing::warn!(
            topic = %message.topic, partition = message.partition, offset = message.offset, error,
            "a command went to the dead letters"
        );
        let now = self.deps.clock.wall();
        let mut letter = DeadLetter::about(message, error, now);
        loop {
            let kept = letter.value.len();
            let message = letter.to_message(&self.deps.settings.topics.dead_letter);
            match self.publish(message).await? {
                // What the broker takes is not told beforehand; a topic may have a limit of
                // its own.
                Err(BusError::TooLarge { limit, .. }) if kept > 0 => {
                    letter = letter.cut_to((kept / 2).min(limit.saturating_sub(LETTER_HEADERS)));
                }
                Err(error) => {
                    tracing::error!(%error, offset = letter.offset, "the dead letter was refused");
                    self.deps.health.met(Oddity::LostLetter, now);
                    return Ok(());
                }
                Ok(()) => {
                    self.deps.health.met(Oddity::DeadLetter, now);
                    return Ok(());
                }
            }
        }
    }
}
