//! The end of a worker: what it has in hand is brought to where others can go on.

use std::time::Duration;

use tokio::time::Instant;

use super::run_loop::Loop;
use super::ticks::Tick;
use super::{Event, announce};
use crate::run::state::StopCause;

/// The least time for saying goodbye.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Loop {
    /// No new commands; runs finish their batch or reach the grace and are released. What
    /// intake and claims are about to acquire is waited for and released as well.
    pub(super) async fn drain(mut self) {
        let grace = self.deps.settings.shutdown_grace;
        let last = self.deps.clock.now() + grace;
        // What the guests leave of the grace is for the last writes.
        let guests = self.deps.settings.cancel_grace.min(grace.mul_f64(0.75));
        let deadline = self.deps.clock.now() + guests;
        tracing::info!(runs = self.held.len(), grace_sec = grace.as_secs_f64(), "stopping");
        self.listeners.clear();
        self.intakes.stop_all();
        for held in self.held.iter() {
            held.stop(StopCause::Shutdown, deadline);
        }
        while self.held.len() > 0 || self.claiming || !self.intakes.is_empty() {
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
        self.intakes.clear();
        announce::leave(&self.deps, last.max(self.deps.clock.now() + LAST_WORDS)).await;
    }

    fn on_drain_event(&mut self, event: Event, deadline: Instant) {
        match event {
            Event::RunOver { key, lease_no, .. } => self.held.over(&key, lease_no),
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
            Event::Queued { key, epoch } => self.on_queued(&key, epoch),
            Event::CancelCommand { address, reason } => self.on_cancel_command(address, reason),
            Event::ClaimsDone => self.claiming = false,
            Event::IntakeOver(role) => self.intakes.over(&role),
            Event::Signal(_) | Event::Query(_) | Event::Broken(_) => {}
        }
    }
}
