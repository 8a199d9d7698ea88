//! Processor time of a call.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Not in a poll.
const OUTSIDE: u64 = u64::MAX;

/// How long a call has occupied a thread: the time inside the polls of its future, which is
/// the guest's code and host functions that do not wait. A call that waits is not polled.
/// Where the machine has fewer processors than busy threads, the time in which the system
/// ran another thread counts as well.
#[derive(Debug, Clone)]
pub(super) struct Meter(Arc<Times>);

#[derive(Debug)]
struct Times {
    began: Instant,
    /// Nanoseconds of the polls that are over.
    spent: AtomicU64,
    /// When the poll under way began, in nanoseconds since `began`.
    entered: AtomicU64,
}

impl Meter {
    /// A call that has taken nothing yet.
    pub fn new() -> Self {
        Self(Arc::new(Times {
            began: Instant::now(),
            spent: AtomicU64::new(0),
            entered: AtomicU64::new(OUTSIDE),
        }))
    }

    /// What the call has taken until now; may be asked from inside a poll.
    pub fn spent(&self) -> Duration {
        let entered = self.0.entered.load(Ordering::Relaxed);
        let now = if entered == OUTSIDE { 0 } else { self.now().saturating_sub(entered) };
        Duration::from_nanos(self.0.spent.load(Ordering::Relaxed) + now)
    }

    /// The same future, measured. As cancel-safe as `call` is.
    pub async fn measure<F: Future>(&self, call: F) -> F::Output {
        let mut call = pin!(call);
        poll_fn(|context| {
            let entered = self.now();
            self.0.entered.store(entered, Ordering::Relaxed);
            let polled = call.as_mut().poll(context);
            self.0.entered.store(OUTSIDE, Ordering::Relaxed);
            self.0.spent.fetch_add(self.now().saturating_sub(entered), Ordering::Relaxed);
            polled
        })
        .await
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn computing_counts_and_waiting_does_not() {
        let meter = Meter::new();
        let began = Instant::now();
        let inside = meter
            .measure(async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let computing = Instant::now();
                while computing.elapsed() < Duration::from_millis(40) {}
                meter.spent()
            })
            .await;
        assert!(began.elapsed() >= Duration::from_millis(340));
        assert!(inside >= Duration::from_millis(40), "{inside:?}");
        // What is asked during the poll is what stays after it, and the wait is not in it.
        assert!(
            meter.spent() >= inside
                && meter.spent() <= began.elapsed() - Duration::from_millis(290)
        );
    }
}
