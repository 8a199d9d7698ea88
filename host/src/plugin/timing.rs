//! How long a call may take, and what ends it.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::faults;
use super::meter::Meter;
use crate::handler::{CancelFlag, CancelSource, Cancellation, HostFault};

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
    /// What is reached at the deadline.
    end: Stopped,
    warn_at: Instant,
    cpu: Option<Duration>,
    meter: Meter,
    cancel: CancelFlag,
    obeys_cancel: bool,
}

/// A run's own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunTime {
    limit: Duration,
    deadline: Instant,
}

impl RunTime {
    /// A run that begins now.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, deadline: Instant::now() + limit }
    }
}

/// Why a guest was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The call's own limit.
    TimeLimit,
    /// The run's.
    RunTime,
    /// The call's processor time.
    CpuTime,
    /// The cancel flag's deadline.
    Cancelled,
}

impl Timing {
    /// A call that begins now and ends at `limit` or at the cancel flag's deadline.
    pub(super) fn new(function: &'static str, limit: Duration, cancel: CancelFlag) -> Self {
        let now = Instant::now();
        let deadline = now + limit;
        let warn_at = deadline - WARNING.min(limit / 2);
        Self {
            function,
            limit,
            deadline,
            end: Stopped::TimeLimit,
            warn_at,
            cpu: None,
            meter: Meter::new(),
            cancel,
            obeys_cancel: true,
        }
    }

    /// The same, stopped after this much processor time as well.
    pub(super) fn within_cpu(mut self, limit: Duration) -> Self {
        self.cpu = Some(limit);
        self
    }

    /// The same, stopped at the end of the run's time as well.
    pub(super) fn within_run(mut self, run: Option<RunTime>) -> Self {
        if let Some(run) = run.filter(|run| run.deadline < self.deadline) {
            self.limit = run.limit;
            self.deadline = run.deadline;
            self.end = Stopped::RunTime;
            let left = run.deadline.saturating_duration_since(Instant::now());
            self.warn_at = run.deadline - WARNING.min(left / 2);
        }
        self
    }

    /// The fault for it; none for a cancel.
    pub(super) fn fault(&self, stopped: Stopped) -> Option<HostFault> {
        match stopped {
            Stopped::TimeLimit => Some(faults::time_limit(self.function, self.limit)),
            Stopped::RunTime => Some(faults::run_time_limit(self.function, self.limit)),
            Stopped::CpuTime => {
                Some(faults::cpu_limit(self.function, self.cpu.unwrap_or_default()))
            }
            Stopped::Cancelled => None,
        }
    }

    /// The processor time that the call has taken.
    pub(super) fn spent(&self) -> Duration {
        self.meter.spent()
    }

    /// The same, but only `limit` ends it: `cleanup` has its time on every end.
    pub(super) fn whatever_is_cancelled(mut self) -> Self {
        self.obeys_cancel = false;
        self
    }

    /// Whether the guest has to be stopped now.
    pub(super) fn stop(&self, now: Instant) -> Option<Stopped> {
        if self.obeys_cancel && self.cancel.overdue(now) {
            Some(Stopped::Cancelled)
        } else if self.deadline <= now {
            Some(self.end)
        } else if self.cpu.is_some_and(|limit| limit <= self.meter.spent()) {
            Some(Stopped::CpuTime)
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
            result = self.meter.measure(call) => Ok(result),
            () = tokio::time::sleep_until(self.deadline + LAST_RESORT) => Err(self.end),
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
    async fn a_run_ends_in_the_call_that_reaches_its_time() {
        let call = |run| {
            let call = Timing::new("init", Duration::from_secs(20), CancelFlag::default());
            call.within_run(Some(run))
        };
        let run = RunTime::new(Duration::from_secs(30));
        assert_eq!(call(run).end, Stopped::TimeLimit, "the call's own limit is nearer");
        tokio::time::advance(Duration::from_secs(20)).await;
        let last = call(run);
        assert_eq!(last.warn_at - Instant::now(), Duration::from_secs(5));
        let given_up = last.watch(std::future::pending::<()>()).await;
        assert_eq!(given_up, Err(Stopped::RunTime));
        let fault = last.fault(Stopped::RunTime).expect("a fault");
        insta::assert_snapshot!(fault, @"time_limit: the run reached its limit of 30000 ms in init; raise limits.run_time_ms, or give a task less to do");
        assert_eq!(call(run).stop(Instant::now()), Some(Stopped::RunTime), "and so does the next");
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
