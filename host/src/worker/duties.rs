//! What a worker does by the clock, each as a task of its own that answers with an event.

use tokio::sync::mpsc;

use super::{Event, Grant, Mine};
use crate::bus::OutMessage;
use crate::health::Part;
use crate::protocol::{RunAddress, RunEvent};
use crate::run::{Deps, Slots};
use crate::store::{ClaimQuery, Owner, RunRecord, StoreError};
use crate::types::{Fence, LeaseId, RunKey};

/// Renews the leases of all runs here, as one write.
pub async fn renew(deps: Deps, asked: Vec<Fence>, events: mpsc::Sender<Event>) {
    let asked_at = deps.clock.now();
    let deadline = deps.clock.wall().plus(deps.settings.lease_ttl);
    match deps.store.renew(&asked, deadline).await {
        Ok(lost) => {
            deps.health.answered(Part::Store, deps.clock.wall());
            let _ = events.send(Event::Renewed { asked_at, asked, lost }).await;
        }
        // A run whose lease is not renewed in time stops by itself.
        Err(error) => note(&deps, "leases were not renewed", &error),
    }
}

/// Sends heartbeats; one that cannot be sent now is followed by the next.
pub async fn heartbeats(deps: Deps, beats: Vec<(RunAddress, RunEvent)>) {
    let now = deps.clock.wall();
    let settings = &deps.settings;
    let messages: Vec<OutMessage> = beats
        .iter()
        .map(|(address, event)| OutMessage {
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

/// Takes over runs that nobody owns any more, no more than there are free slots.
pub async fn claim(deps: Deps, slots: Slots, mine: Mine, events: mpsc::Sender<Event>) {
    if let Err(error) = try_claim(&deps, &slots, &mine, &events).await {
        note(&deps, "no look for runs to take over", &error);
    }
    let _ = events.send(Event::ClaimsDone).await;
}

async fn try_claim(
    deps: &Deps,
    slots: &Slots,
    mine: &Mine,
    events: &mpsc::Sender<Event>,
) -> Result<(), StoreError> {
    let free = slots.free();
    if free == 0 {
        return Ok(());
    }
    let query = ClaimQuery {
        worker_id: deps.settings.worker_id.clone(),
        roles: deps.handlers.roles(),
        held: mine.keys(),
        now: deps.clock.wall(),
        max_clock_skew: deps.settings.max_clock_skew,
        limit: free,
    };
    let mut seen = deps.store.claimable(&query).await?;
    // What was acquired since the question was asked.
    seen.retain(|run| !mine.contains(&run.new.key));
    let keys: Vec<RunKey> = seen.iter().map(|run| run.new.key.clone()).collect();
    let views = if keys.is_empty() { vec![] } else { deps.store.views(&keys).await? };
    for run in seen {
        let Some(slot) = slots.take() else { return Ok(()) };
        let hold = mine.hold(&run.new.key);
        let asked_at = deps.clock.now();
        let Some(record) = claim_one(deps, &run).await? else { continue };
        let view = views.iter().find(|view| view.key == record.new.key);
        let cancelled = view.and_then(|view| view.cancelled.clone());
        let grant = Grant { record, hold, slot, asked_at, cancelled };
        let _ = events.send(Event::Granted(Box::new(grant))).await;
    }
    Ok(())
}

async fn claim_one(deps: &Deps, seen: &RunRecord) -> Result<Option<RunRecord>, StoreError> {
    let owner = Owner {
        worker_id: deps.settings.worker_id.clone(),
        lease_id: LeaseId::fresh(),
        deadline: deps.clock.wall().plus(deps.settings.lease_ttl),
    };
    deps.store.claim(seen, &owner).await
}

fn note(deps: &Deps, what: &'static str, error: &StoreError) {
    match error {
        StoreError::Unavailable(error) => {
            deps.health.failed(Part::Store, error, deps.clock.wall());
        }
        error => tracing::error!(%error, what),
    }
}
