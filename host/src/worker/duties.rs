//! What a worker does by the clock, each as a task of its own that answers with an event.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Event, Grant, Mine, Parked, Shutdown};
use crate::bus::OutMessage;
use crate::health::Part;
use crate::protocol::{RunAddress, RunEvent};
use crate::run::driver::RunView;
use crate::run::{Deps, Slot, Slots};
use crate::store::{ClaimQuery, Owner, RunRecord, StoreError};
use crate::types::{Fence, LeaseId, RunKey};

/// The wait between two tries to renew leases.
const RENEW_RETRY: Duration = Duration::from_secs(1);

/// Runs looked at beyond the free slots: some only have to be answered.
const LOOK_BEYOND: usize = 64;

/// How long a superseded run is left alone that its newer attempt has not replaced yet: at
/// first, at most.
const SUPERSEDED_WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Renews the leases of all runs here, as one write; tries until the next renewal is due,
/// so that an outage shorter than a lease costs none.
pub async fn renew(deps: Deps, asked: Vec<Fence>, events: mpsc::Sender<Event>) {
    let begun = deps.clock.now();
    loop {
        let asked_at = deps.clock.now();
        let deadline = deps.clock.wall().plus(deps.settings.lease_ttl);
        match deps.store.renew(&asked, deadline).await {
            Ok(lost) => {
                deps.health.answered(Part::Store, deps.clock.wall());
                let _ = events.send(Event::Renewed { asked_at, asked, lost }).await;
                return;
            }
            // A run whose lease is not renewed in time stops by itself.
            Err(error) => note(&deps, "leases were not renewed", &error),
        }
        if deps.clock.now() + RENEW_RETRY >= begun + deps.settings.hb_interval {
            return;
        }
        tokio::time::sleep(RENEW_RETRY).await;
    }
}

/// A heartbeat to be sent.
pub struct Beat {
    /// Whose.
    pub address: RunAddress,
    /// The event.
    pub event: RunEvent,
    /// How the run is: a heartbeat must neither precede its first word nor follow its end.
    pub view: watch::Receiver<RunView>,
}

/// Sends heartbeats; one that cannot be sent now is followed by the next.
pub async fn heartbeats(deps: Deps, beats: Vec<Beat>) {
    let now = deps.clock.wall();
    let settings = &deps.settings;
    let messages: Vec<OutMessage> = beats
        .iter()
        .filter(|beat| beat.view.borrow().beats)
        .map(|Beat { address, event, .. }| OutMessage {
            topic: settings.topics.status(&address.role),
            key: Some(address.key.message_key()),
            value: event.envelope(address, now, settings.hb_interval).encode(),
            headers: Vec::new(),
        })
        .collect();
    let deadline = deps.clock.now() + settings.hb_interval;
    match deps.bus.publish(&messages, Some(deadline)).await {
        Ok(()) => deps.health.answered(Part::Bus, deps.clock.wall()),
        Err(error) => deps.health.failed(Part::Bus, &error.to_string(), deps.clock.wall()),
    }
}

/// Reads what `tasks` says of the runs here.
pub async fn poll_tasks(deps: Deps, keys: Vec<RunKey>, events: mpsc::Sender<Event>) {
    match deps.store.views(&keys).await {
        Ok(views) => {
            deps.health.answered(Part::Store, deps.clock.wall());
            let _ = events.send(Event::Views(views)).await;
        }
        Err(error) => note(&deps, "cancel flags were not read", &error),
    }
}

/// Takes over runs that nobody owns any more.
pub struct Claims {
    /// What it works with.
    pub deps: Deps,
    /// The worker's capacity.
    pub slots: Slots,
    /// Which runs are this worker's.
    pub mine: Mine,
    /// Which are left alone for now.
    pub parked: Parked,
    /// Where acquired runs go.
    pub events: mpsc::Sender<Event>,
    /// Nothing is claimed once it has begun.
    pub shutdown: Shutdown,
}

impl Claims {
    /// One look: no more runs than there are free slots, and those that need none because
    /// they ended or are cancelled and only have to be answered.
    pub async fn look(self) {
        if let Err(error) = self.try_look().await {
            note(&self.deps, "no look for runs to take over", &error);
        }
        let _ = self.events.send(Event::ClaimsDone).await;
    }

    async fn try_look(&self) -> Result<(), StoreError> {
        let store = &self.deps.store;
        let query = ClaimQuery {
            worker_id: self.deps.settings.worker_id.clone(),
            roles: self.deps.handlers.roles(),
            held: self.mine.keys(),
            now: self.deps.clock.wall(),
            max_clock_skew: self.deps.settings.max_clock_skew,
            limit: self.slots.free() + self.parked.count() + LOOK_BEYOND,
        };
        let mut seen = store.claimable(&query).await?;
        let now = self.deps.clock.now();
        // What was acquired since the question was asked, and what is to be left alone.
        seen.retain(|run| !self.mine.contains(&run.new.key));
        seen.retain(|run| !self.parked.contains(&run.new.key, now));
        let keys: Vec<RunKey> = seen.iter().map(|run| run.new.key.clone()).collect();
        let views = if keys.is_empty() { vec![] } else { store.views(&keys).await? };
        for run in seen {
            if self.shutdown.has_begun() {
                return Ok(());
            }
            let view = views.iter().find(|view| view.key == run.new.key);
            if view.is_some_and(|view| view.epoch > run.new.epoch) {
                // Whoever took it over would only find that it has to be silent.
                let problem = "superseded: the command of the newer attempt has not come yet";
                self.parked.park(&run.new.key, SUPERSEDED_WAITS, problem.into(), now);
                continue;
            }
            let cancelled = view.and_then(|view| view.cancelled.clone());
            let slot = if run.end.is_some() || cancelled.is_some() {
                self.slots.without()
            } else {
                let Some(slot) = self.slots.take() else { continue };
                slot
            };
            self.claim(&run, slot, cancelled).await?;
        }
        Ok(())
    }

    async fn claim(
        &self,
        seen: &RunRecord,
        slot: Slot,
        cancelled: Option<String>,
    ) -> Result<(), StoreError> {
        let grant = claim(&self.deps, &self.mine, seen, slot).await?;
        if let Some(mut grant) = grant {
            grant.cancelled = cancelled;
            let _ = self.events.send(Event::Granted(Box::new(grant))).await;
        }
        Ok(())
    }
}

/// Acquires one run as it was `seen`, unless it has changed since.
pub async fn claim(
    deps: &Deps,
    mine: &Mine,
    seen: &RunRecord,
    slot: Slot,
) -> Result<Option<Grant>, StoreError> {
    let hold = mine.hold(&seen.new.key);
    let asked_at = deps.clock.now();
    let owner = Owner {
        worker_id: deps.settings.worker_id.clone(),
        lease_id: LeaseId::fresh(),
        deadline: deps.clock.wall().plus(deps.settings.lease_ttl),
    };
    let record = deps.store.claim(seen, &owner).await?;
    Ok(record.map(|record| Grant {
        record,
        hold,
        slot,
        asked_at,
        cancelled: None,
        delay: Duration::ZERO,
    }))
}

pub(super) fn note(deps: &Deps, what: &'static str, error: &StoreError) {
    match error {
        StoreError::Unavailable(error) => {
            deps.health.failed(Part::Store, error, deps.clock.wall());
        }
        error => tracing::error!(%error, what),
    }
}
