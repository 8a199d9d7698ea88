//! Whether this process may still speak for a run: pure arithmetic on the monotonic clock.

use std::time::Duration;

use tokio::time::Instant;

/// A lease this process holds. Its deadline counts from before the request that acquired
/// or renewed it was sent, so it ends here no later than in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    ttl: Duration,
    deadline: Instant,
}

impl Lease {
    /// A lease of `ttl` that the store granted to a request sent at `asked_at`.
    pub fn granted(asked_at: Instant, ttl: Duration) -> Self {
        Self { ttl, deadline: asked_at + ttl }
    }

    /// The store renewed it for a request sent at `asked_at`. Answers may overtake each
    /// other; the latest deadline counts.
    pub fn renew(&mut self, asked_at: Instant) {
        self.deadline = self.deadline.max(asked_at + self.ttl);
    }

    /// Whether it is held at `now`.
    pub fn holds(&self, now: Instant) -> bool {
        now < self.deadline
    }

    /// When it ends unless renewed.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn counts_from_the_request_not_from_the_answer() {
        let asked_at = Instant::now();
        let lease = Lease::granted(asked_at, TTL);
        assert!(lease.holds(asked_at + TTL - Duration::from_nanos(1)));
        assert!(!lease.holds(asked_at + TTL));
    }

    #[test]
    fn an_answer_that_comes_late_does_not_shorten_it() {
        let start = Instant::now();
        let mut lease = Lease::granted(start, TTL);
        lease.renew(start + Duration::from_secs(20));
        lease.renew(start + Duration::from_secs(10));
        assert_eq!(lease.deadline(), start + Duration::from_secs(80));
    }
}
