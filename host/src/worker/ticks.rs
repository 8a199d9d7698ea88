//! What a worker does by the clock.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::ends;
use crate::run::Deps;

/// What the clock demands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tick {
    /// Leases are to be renewed.
    Renew,
    /// `tasks` is to be read.
    PollTasks,
    /// A look for runs to take over.
    Claim,
    /// WORKER_ONLINE is due.
    Announce,
    /// A look at ends that coordinators may have missed.
    LookAfterEnds,
}

/// The clock of a worker's loop.
pub(super) struct Ticks {
    pub(super) renew: Interval,
    poll_tasks: Interval,
    claim: Interval,
    announce: Interval,
    ends: Interval,
}

impl Ticks {
    /// All due at once, then each at its own pace.
    pub(super) fn new(deps: &Deps) -> Self {
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
            ends: every(ends::PERIOD.mul_f64(spread)),
        }
    }

    /// What is due next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Tick {
        // Cancel-safe: a tick that was not returned is still due.
        tokio::select! {
            biased;
            _ = self.renew.tick() => Tick::Renew,
            _ = self.poll_tasks.tick() => Tick::PollTasks,
            _ = self.claim.tick() => Tick::Claim,
            _ = self.announce.tick() => Tick::Announce,
            _ = self.ends.tick() => Tick::LookAfterEnds,
        }
    }
}
