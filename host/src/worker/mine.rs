//! Which runs are this worker's, from before the store is asked until their drivers are
//! gone. The store lists a worker's own runs as claimable when it does not hold them (they
//! were left by an earlier life); this is how the worker knows its present ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::types::RunKey;

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Mine(Arc<Mutex<BTreeMap<RunKey, usize>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    key: RunKey,
    all: Mine,
}

impl Mine {
    /// From now on the run is this worker's, or about to be.
    pub fn hold(&self, key: &RunKey) -> Hold {
        *self.lock().entry(key.clone()).or_default() += 1;
        Hold { key: key.clone(), all: self.clone() }
    }

    /// Whether it is.
    pub fn contains(&self, key: &RunKey) -> bool {
        self.lock().contains_key(key)
    }

    /// All keys.
    pub fn keys(&self) -> Vec<RunKey> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunKey, usize>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.all.lock();
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}
