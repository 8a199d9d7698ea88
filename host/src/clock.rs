//! Time, injected: the wall clock for what is stored and sent, the monotonic clock for
//! what is compared with a lease this process holds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Unix time in milliseconds.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// This time moved forward; stays at the end of time instead of wrapping.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A source of both times. A simulation derives the wall clock from tokio's (paused)
/// monotonic one, so that one `advance` moves both.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Virtual { wall_at_start: UnixMs, start: Instant },
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A wall clock that stands at `wall` now and moves with tokio's time only.
    pub fn starting_at(wall: UnixMs) -> Self {
        Self(Source::Virtual { wall_at_start: wall, start: Instant::now() })
    }

    /// The wall clock. May jump; never used to decide whether this process holds a lease.
    pub fn wall(&self) -> UnixMs {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                UnixMs(0).plus(since)
            }
            Source::Virtual { wall_at_start, start } => wall_at_start.plus(start.elapsed()),
        }
    }

    /// The monotonic clock.
    pub fn now(&self) -> Instant {
        Instant::now()
    }
}
