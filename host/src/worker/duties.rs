//! What a worker does by the clock, each as a task of its own that answers with an event.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Event;
use crate::bus::OutMessage;
use crate::health::Part;
use crate::protocol::{RunAddress, RunEvent, ServedBy};
use crate::run::Deps;
use crate::run::driver::RunView;
use crate::store::StoreError;
use crate::tasks::{self, TaskHandle};
use crate::types::{Fence, RunKey};

/// The wait between two tries to renew leases.
const RENEW_RETRY: Duration = Duration::from_secs(1);

/// Something that is done again and again, by one task at a time.
#[derive(Default)]
pub struct Duty(Option<TaskHandle<()>>);

impl Duty {
    /// Begins unless the last time is not over yet: a slow store is not asked more and more.
    pub fn unless_busy(
        &mut self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        if self.0.as_ref().is_none_or(TaskHandle::is_finished) {
            self.0 = Some(tasks::spawn(name, work));
        }
    }

    /// Begins anew; what the last time has not got done is given up.
    pub fn anew(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0 = Some(tasks::spawn(name, work));
    }
}

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
    /// Until when this worker may say so.
    pub until: Instant,
}

/// Sends heartbeats; one that cannot be sent now is followed by the next.
pub async fn heartbeats(deps: Deps, beats: Vec<Beat>) {
    let now = deps.clock.wall();
    let settings = &deps.settings;
    let next = deps.clock.now() + settings.hb_interval;
    let deadline = beats.iter().map(|beat| beat.until).fold(next, Instant::min);
    let messages: Vec<OutMessage> = beats
        .iter()
        .filter(|beat| beat.view.borrow().beats)
        .map(|Beat { address, event, .. }| OutMessage {
            topic: settings.topics.status(&address.role),
            key: Some(address.key.message_key()),
            value: event
                .envelope(address, &ServedBy::default(), now, settings.hb_interval)
                .encode(),
            headers: Vec::new(),
        })
        .collect();
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

/// Remembers, and says where it is new, that the store did not do something.
pub(super) fn note(deps: &Deps, what: &'static str, error: &StoreError) {
    match error {
        StoreError::Damaged { .. } => tracing::error!(%error, what),
        StoreError::Unavailable(_) | StoreError::Fatal(_) => {
            deps.health.failed(Part::Store, &error.to_string(), deps.clock.wall());
        }
    }
}
