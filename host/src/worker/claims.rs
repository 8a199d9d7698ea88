//! Takes over runs that nobody owns any more.

use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::mpsc;

use super::duties::note;
use super::ticks::jitter;
use super::{Event, Grant, Mine, Parked, Shutdown};
use crate::health::Part;
use crate::run::{Deps, Slot, Slots};
use crate::store::{ClaimQuery, NodeView, Owner, RunRecord, StoreError};
use crate::types::{LeaseId, Role, RunKey};

/// Runs looked at beyond the free slots, by the clock and after an event: some only have
/// to be answered.
const LOOK_BEYOND: (usize, usize) = (64, 8);

/// Runs that others may take before this worker's eyes until it leaves the rest to them.
const MAX_LOST: u32 = 3;

/// How long a superseded run is left alone that its newer attempt has not replaced yet: at
/// first, at most.
const SUPERSEDED_WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// A look for runs to take over.
pub(super) struct Claims {
    /// What it works with.
    pub(super) deps: Deps,
    /// The worker's capacity.
    pub(super) slots: Slots,
    /// Which runs are this worker's.
    pub(super) mine: Mine,
    /// Which are left alone for now.
    pub(super) parked: Parked,
    /// Where acquired runs go.
    pub(super) events: mpsc::Sender<Event>,
    /// Nothing is claimed once it has begun.
    pub(super) shutdown: Shutdown,
    /// Also for runs that only have to be answered, of roles that have no free slot.
    pub(super) thorough: bool,
}

impl Claims {
    /// One look: no more runs than there are free slots, and those that need none because
    /// they ended or are cancelled and only have to be answered.
    pub(super) async fn look(self) {
        match self.try_look().await {
            Ok(()) => {}
            Err(error) => note(&self.deps, "no look for runs to take over", &error),
        }
        let _ = self.events.send(Event::ClaimsDone).await;
    }

    async fn try_look(&self) -> Result<(), StoreError> {
        let roles = self.deps.handlers.roles();
        // Apart, so that what waits for a role without a slot never hides what another role
        // has one for.
        let (free, full): (Vec<Role>, Vec<Role>) =
            roles.into_iter().partition(|role| self.slots.free_for(role) > 0);
        self.look_at(free, self.slots.free()).await?;
        if self.thorough { self.look_at(full, 0).await } else { Ok(()) }
    }

    async fn look_at(&self, roles: Vec<Role>, free: usize) -> Result<(), StoreError> {
        if roles.is_empty() {
            return Ok(());
        }
        let beyond = if self.thorough { LOOK_BEYOND.0 } else { LOOK_BEYOND.1 };
        let query = ClaimQuery {
            worker_id: self.deps.settings.worker_id.clone(),
            roles,
            held: self.mine.keys(),
            now: self.deps.clock.wall(),
            max_clock_skew: self.deps.settings.max_clock_skew,
            limit: free + self.parked.count() + beyond,
        };
        let mut seen = self.deps.store.claimable(&query).await?;
        self.deps.health.answered(Part::Store, self.deps.clock.wall());
        let now = self.deps.clock.now();
        // What was acquired since the question was asked, and what is to be left alone.
        seen.retain(|run| !self.mine.contains(&run.new.key));
        seen.retain(|run| !self.parked.contains(&run.new.key, now));
        if seen.is_empty() {
            return Ok(());
        }
        let keys: Vec<RunKey> = seen.iter().map(|run| run.new.key.clone()).collect();
        let views = self.deps.store.views(&keys).await?;
        self.take(seen, &views).await
    }

    /// Takes what it can, oldest first. Where another worker was faster, it leaves that one
    /// the next few; where several were, it leaves them the rest.
    async fn take(&self, seen: Vec<RunRecord>, views: &[NodeView]) -> Result<(), StoreError> {
        let mut rng = jitter(&self.deps);
        let (mut at, mut lost) = (0, 0);
        while let Some(run) = seen.get(at) {
            at += 1;
            if self.shutdown.has_begun() {
                return Ok(());
            }
            let view = views.iter().find(|view| view.key == run.new.key);
            if view.is_some_and(|view| view.epoch > run.new.epoch) {
                // Whoever took it over would only find that it has to be silent.
                let problem = "superseded: the command of the newer attempt has not come yet";
                let now = self.deps.clock.now();
                self.parked.park(&run.new.key, SUPERSEDED_WAITS, problem.into(), now);
                continue;
            }
            let cancelled = view.and_then(|view| view.cancelled.clone());
            let slot = if run.end.is_some() || cancelled.is_some() {
                self.slots.without()
            } else {
                let Some(slot) = self.slots.take(&run.new.role) else { continue };
                slot
            };
            if !self.claim(run, slot, cancelled).await? {
                lost += 1;
                if lost == MAX_LOST {
                    return Ok(());
                }
                at += rng.random_range(0..=(seen.len() - at) / 2);
            }
        }
        Ok(())
    }

    /// False when another worker was faster.
    async fn claim(
        &self,
        seen: &RunRecord,
        slot: Slot,
        cancelled: Option<String>,
    ) -> Result<bool, StoreError> {
        let Some(mut grant) = claim(&self.deps, &self.mine, seen, slot).await? else {
            return Ok(false);
        };
        grant.cancelled = cancelled;
        let _ = self.events.send(Event::Granted(Box::new(grant))).await;
        Ok(true)
    }
}

/// Acquires one run as it was `seen`, unless it has changed since.
pub(crate) async fn claim(
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
