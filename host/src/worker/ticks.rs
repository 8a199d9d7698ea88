//! What a worker does by the clock.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::ends;
use crate::run::Deps;

/// How often a worker that is cut off looks whether it still is.
const PROBE: Duration = Duration::from_secs(5);

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
    /// WORKER_ONLINE, if the bus or the store does not answer.
    Probe,
}

/// The clock of a worker's loop.
pub(super) struct Ticks {
    pub(super) renew: Interval,
    poll_tasks: Interval,
    announce: Interval,
    probe: Interval,
    claim: Jittered,
    ends: Jittered,
}

/// Due again and again after waits that are never quite the same: workers that begin
/// together must not look for runs together. Never later than the period says.
struct Jittered {
    period: Duration,
    due: Instant,
    rng: StdRng,
}

impl Jittered {
    fn new(period: Duration, mut rng: StdRng) -> Self {
        let due = Instant::now() + period.mul_f64(rng.random_range(0.0..0.25));
        Self { period, due, rng }
    }

    fn again(&mut self) {
        self.due = Instant::now() + self.period.mul_f64(self.rng.random_range(0.6..0.95));
    }
}

impl Ticks {
    /// All due at once or soon, then each at its own pace.
    pub(super) fn new(deps: &Deps) -> Self {
        let settings = &deps.settings;
        let every = |period: Duration| {
            let mut interval = interval(period.max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            renew: every(settings.hb_interval),
            poll_tasks: every(settings.cancel_poll),
            announce: every(settings.announce_interval),
            probe: every(PROBE),
            claim: Jittered::new(settings.claim_poll.max(Duration::from_millis(1)), jitter(deps)),
            ends: Jittered::new(ends::PERIOD, jitter(deps)),
        }
    }

    /// What is due next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Tick {
        // Cancel-safe: a tick that was not returned is still due.
        tokio::select! {
            biased;
            _ = self.renew.tick() => Tick::Renew,
            _ = self.poll_tasks.tick() => Tick::PollTasks,
            () = sleep_until(self.claim.due) => {
                self.claim.again();
                Tick::Claim
            }
            _ = self.announce.tick() => Tick::Announce,
            () = sleep_until(self.ends.due) => {
                self.ends.again();
                Tick::LookAfterEnds
            }
            _ = self.probe.tick() => Tick::Probe,
        }
    }
}

/// Chance that differs between workers and moments, and is the same again for the same two,
/// so that a simulation can be replayed.
pub(super) fn jitter(deps: &Deps) -> StdRng {
    let mut hasher = DefaultHasher::new();
    (deps.settings.worker_id.as_str(), deps.clock.wall()).hash(&mut hasher);
    StdRng::seed_from_u64(hasher.finish())
}
