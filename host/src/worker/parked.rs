//! Runs that this worker leaves alone for a while, because the last try came to nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::types::RunKey;

/// Most runs remembered; beyond it those whose wait is over are forgotten.
const MAX_PARKED: usize = 1_000;

/// Most runs named in the worker's record.
const MAX_SHOWN: usize = 20;

/// All of them. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Parked(Arc<Mutex<BTreeMap<RunKey, Parking>>>);

#[derive(Debug)]
struct Parking {
    until: Instant,
    wait: Duration,
    problem: String,
}

impl Parked {
    /// Leaves a run alone from `now` on: for the first of `waits`, and twice as long each
    /// time this happens again, up to the second.
    pub fn park(&self, key: &RunKey, waits: (Duration, Duration), problem: String, now: Instant) {
        let mut parked = self.lock();
        if parked.len() >= MAX_PARKED {
            parked.retain(|_, parking| parking.until > now);
        }
        let before = parked.get(key).map(|parking| parking.wait);
        let wait = before.map_or(waits.0, |wait| (wait * 2).min(waits.1));
        parked.insert(key.clone(), Parking { until: now + wait, wait, problem });
    }

    /// Whether a run is to be left alone at `now`.
    pub fn contains(&self, key: &RunKey, now: Instant) -> bool {
        self.lock().get(key).is_some_and(|parking| parking.until > now)
    }

    /// The run went well, or is another attempt now.
    pub fn forget(&self, key: &RunKey) {
        self.lock().remove(key);
    }

    /// How many are remembered, left alone or not.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// For people: what is wrong with which run.
    pub fn describe(&self, now: Instant) -> Value {
        let parked = self.lock();
        let shown = parked.iter().take(MAX_SHOWN).map(|(key, parking)| {
            let left = parking.until.saturating_duration_since(now).as_millis();
            let left = u64::try_from(left).unwrap_or(u64::MAX);
            json!({"run": key.to_string(), "problem": parking.problem, "again_in_ms": left})
        });
        Value::Array(shown.collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunKey, Parking>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NodeId, TaskId};

    #[test]
    fn waits_double_until_the_run_is_forgotten() {
        let key = RunKey { task_id: TaskId::new("t").unwrap(), node_id: NodeId::new("n").unwrap() };
        let waits = (Duration::from_secs(5), Duration::from_secs(12));
        let (parked, start) = (Parked::default(), Instant::now());
        for seconds in [5, 10, 12, 12] {
            parked.park(&key, waits, "odd".into(), start);
            assert!(parked.contains(&key, start + Duration::from_millis(seconds * 1000 - 1)));
            assert!(!parked.contains(&key, start + Duration::from_secs(seconds)));
        }
        assert_eq!(parked.describe(start)[0]["problem"], "odd");
        parked.forget(&key);
        assert!(!parked.contains(&key, start) && parked.count() == 0);
    }
}
