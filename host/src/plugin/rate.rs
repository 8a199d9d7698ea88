//! How many lines a guest may write.

use std::time::Duration;

use tokio::time::Instant;

/// So many lines in each second.
#[derive(Debug)]
pub(super) struct Rate {
    per_sec: u32,
    left: u32,
    since: Instant,
    dropped: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// So many were left out since the last that passed.
    PassAfter(u64),
    Drop,
}

impl Rate {
    /// A full first second.
    pub(super) fn new(per_sec: u32, now: Instant) -> Self {
        Self { per_sec, left: per_sec, since: now, dropped: 0 }
    }

    /// Whether a line may be written now.
    pub(super) fn take(&mut self, now: Instant) -> Verdict {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.left = self.per_sec;
        }
        match self.left.checked_sub(1) {
            None => {
                self.dropped += 1;
                Verdict::Drop
            }
            Some(left) => {
                self.left = left;
                match self.take_dropped() {
                    0 => Verdict::Pass,
                    dropped => Verdict::PassAfter(dropped),
                }
            }
        }
    }

    /// How many lines were left out since this was last asked.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_what_it_leaves_out() {
        let start = Instant::now();
        let mut rate = Rate::new(2, start);
        assert_eq!(rate.take(start), Verdict::Pass);
        assert_eq!(rate.take(start), Verdict::Pass);
        assert_eq!(rate.take(start), Verdict::Drop);
        assert_eq!(rate.take(start), Verdict::Drop);
        assert_eq!(rate.take(start + Duration::from_secs(1)), Verdict::PassAfter(2));
        assert_eq!(rate.take(start + Duration::from_secs(1)), Verdict::Pass);
    }
}
