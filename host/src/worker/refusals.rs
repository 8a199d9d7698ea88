//! How fast a cancelled node is answered that a coordinator starts again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::RunKey;

/// Nodes whose refusals are counted.
const MAX_NODES: usize = 10_000;

/// The wait before a node's second refusal, and the longest.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often which node was answered with CANCELLED without being started.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<RunKey, u32>);

impl Refusals {
    /// Counts one more, and says how long to wait with it: the first is answered at once.
    pub(super) fn next(&mut self, key: &RunKey) -> Duration {
        if self.0.len() >= MAX_NODES {
            self.0.clear();
        }
        let times = self.0.entry(key.clone()).or_default();
        let delay = match times.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => (DELAYS.0 * 2u32.pow(doublings.min(16))).min(DELAYS.1),
        };
        *times = times.saturating_add(1);
        delay
    }

    /// The node was started.
    pub(super) fn forget(&mut self, key: &RunKey) {
        self.0.remove(key);
    }
}
