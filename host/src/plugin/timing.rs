//! How long a call may take, and what ends it.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::handler::{CancelFlag, CancelSource, Cancellation};

/// How long before a call's limit the guest is told, at most.
const WARNING: Duration = Duration::from_secs(5);
/// How long an interrupt may take to reach the guest before the call is dropped under it.
/// A guest that computes is stopped by the engine's clock, within two of its ticks; one
/// that waits in a host function never sees that clock.
const LAST_RESORT: Duration = Duration::from_millis(50);

/// One call's time.
#[derive(Debug, Clone)]
pub(super) struct Timing {
    /// The WIT function, for messages.
    pub(super) function: &'static str,
    limit: Duration,
    deadline: Instant,
    warn_at: Instant,
    cancel: CancelFlag,
    obeys_cancel: bool,
}

/// Why a guest was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The call's own limit.
    TimeLimit,
    /// The cancel flag's deadline.
    Cancelled,
}

impl Timing {
    /// A call that begins now and ends at `limit` or at the cancel flag's deadline.
    pub(super) fn new(function: &'static str, limit: Duration, cancel: CancelFlag) -> Self {
        let now = Instant::now();
        let deadline = now + limit;
        let warn_at = deadline - WARNING.min(limit / 2);
        Self { function, limit, deadline, warn_at, cancel, obeys_cancel: true }
    }

    /// The same, but only `limit` ends it: `cleanup` has its time on every end.
    pub(super) fn whatever_is_cancelled(mut self) -> Self {
        self.obeys_cancel = false;
        self
    }

    /// The call's limit.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether the guest has to be stopped now.
    pub(super) fn stop(&self, now: Instant) -> Option<Stopped> {
        if self.obeys_cancel && self.cancel.overdue(now) {
            Some(Stopped::Cancelled)
        } else if self.deadline <= now {
            Some(Stopped::TimeLimit)
        } else {
            None
        }
    }

    /// What the guest is shown: the run's flag, or the limit that draws near.
    pub(super) fn cancellation(&self, now: Instant) -> Option<Cancellation> {
        if let Some(mut set) = self.cancel.observe() {
            set.deadline =
                if self.obeys_cancel { set.deadline.min(self.deadline) } else { self.deadline };
            return Some(set);
        }
        (self.warn_at <= now).then(|| Cancellation {
            source: CancelSource::TimeLimit,
            reason: format!("{} may take {} ms", self.function, self.limit.as_millis()),
            deadline: self.deadline,
        })
    }

    /// Waits; true when cut short because `cancelled` shows something now.
    pub(super) async fn sleep(&self, duration: Duration) -> bool {
        let now = Instant::now();
        if self.cancellation(now).is_some() {
            return true;
        }
        if duration.is_zero() {
            // A timer would round it up to its next tick, a millisecond for nothing.
            tokio::task::yield_now().await;
            return false;
        }
        let until = now + duration;
        let warned = self.warn_at <= until;
        // Cancel-safe: both sides only wait.
        tokio::select! {
            () = self.cancel.wait() => self.cancel.observe().is_some(),
            () = tokio::time::sleep_until(until.min(self.warn_at)) => warned,
        }
    }

    /// Runs the call. A guest that computes ends by [`Timing::stop`]; where that cannot
    /// reach it, the call is dropped a little later.
    pub(super) async fn watch<F: Future>(&self, call: F) -> Result<F::Output, Stopped> {
        // Cancel-safe: when a wait wins the call is given up for good, with its instance.
        tokio::select! {
            biased;
            result = call => Ok(result),
            () = tokio::time::sleep_until(self.deadline + LAST_RESORT) => Err(Stopped::TimeLimit),
            () = self.overdue(), if self.obeys_cancel => Err(Stopped::Cancelled),
        }
    }

    async fn overdue(&self) {
        self.cancel.wait_overdue().await;
        tokio::time::sleep(LAST_RESORT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancelled_in(ms: u64) -> CancelFlag {
        let flag = CancelFlag::default();
        flag.cancel(Cancellation {
            source: CancelSource::Signal,
            reason: "enough".to_owned(),
            deadline: Instant::now() + Duration::from_millis(ms),
        });
        flag
    }

    #[tokio::test(start_paused = true)]
    async fn the_guest_is_warned_before_its_limit() {
        for (limit, warned) in [(20_000, 15_000), (2_000, 1_000)] {
            let call = Timing::new("init", Duration::from_millis(limit), CancelFlag::default());
            let start = Instant::now();
            assert!(call.sleep(Duration::from_secs(60)).await);
            assert_eq!(start.elapsed(), Duration::from_millis(warned));
            let shown = call.cancellation(Instant::now()).expect("warned");
            assert_eq!(shown.source, CancelSource::TimeLimit);
            assert_eq!(shown.deadline, start + Duration::from_millis(limit));
            assert!(call.sleep(Duration::from_secs(1)).await, "no more waiting");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_is_no_wait() {
        let start = Instant::now();
        let call = Timing::new("init", Duration::from_secs(20), CancelFlag::default());
        assert!(!call.sleep(Duration::ZERO).await);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_sleep_is_not_cut_short() {
        let call = Timing::new("init", Duration::from_secs(20), CancelFlag::default());
        assert!(!call.sleep(Duration::from_secs(14)).await);
        assert_eq!(call.cancellation(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_is_shown_at_once_and_stops_at_its_deadline() {
        let call = Timing::new("init", Duration::from_secs(20), cancelled_in(300));
        let start = Instant::now();
        assert!(call.sleep(Duration::from_secs(1)).await);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(call.cancel.observed(), "the guest knows");
        assert_eq!(call.stop(start + Duration::from_millis(299)), None);
        assert_eq!(call.stop(start + Duration::from_millis(300)), Some(Stopped::Cancelled));
        let given_up = call.watch(std::future::pending::<()>()).await;
        assert_eq!(given_up, Err(Stopped::Cancelled));
        assert_eq!(start.elapsed(), Duration::from_millis(350));
    }

    #[tokio::test(start_paused = true)]
    async fn cleanup_keeps_its_time_after_the_grace() {
        let call =
            Timing::new("cleanup", Duration::from_secs(5), cancelled_in(0)).whatever_is_cancelled();
        let start = Instant::now();
        assert_eq!(call.stop(start), None);
        let shown = call.cancellation(start).expect("still cancelled");
        assert_eq!(shown.deadline, start + Duration::from_secs(5));
        let given_up = call.watch(std::future::pending::<()>()).await;
        assert_eq!(given_up, Err(Stopped::TimeLimit));
        assert_eq!(start.elapsed(), Duration::from_millis(5_050));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_was_shown_the_flag_or_woken_by_it_has_seen_it() {
        let flag = CancelFlag::default();
        let timing = Timing::new("process-batch", Duration::from_secs(60), flag.clone());
        assert!(timing.cancellation(Instant::now()).is_none() && !flag.observed());
        let sleeping = timing.sleep(Duration::from_secs(30));
        let cancelling = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            flag.cancel(Cancellation {
                source: CancelSource::Signal,
                reason: String::new(),
                deadline: Instant::now() + Duration::from_secs(5),
            });
        };
        assert!(tokio::join!(sleeping, cancelling).0);
        assert!(flag.observed());
        let shown = cancelled_in(5_000);
        let timing = Timing::new("process-batch", Duration::from_secs(60), shown.clone());
        assert!(timing.cancellation(Instant::now()).is_some() && shown.observed());
    }
}
