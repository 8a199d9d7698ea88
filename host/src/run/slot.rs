//! A worker's capacity: as many slots as runs may work at once.
//!
//! A run that waits for upstream data gives its slot back and takes one again when there
//! is something to do. Otherwise runs that wait could hold all slots while the run they
//! wait for has none. How many may wait at once is bounded too ([`MAX_WAITING`]): one more
//! is not kept waiting but released, for a worker with room or for later.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most runs of a worker that wait for upstream data without a slot; each keeps an
/// instance of its handler.
pub const MAX_WAITING: usize = 64;

/// All slots of a worker.
#[derive(Debug, Clone)]
pub struct Slots {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// A run's slot. Clones are the same slot; it is given back when the last is dropped.
#[derive(Debug, Clone)]
pub struct Slot {
    all: Slots,
    held: Arc<Mutex<Option<Permit>>>,
}

#[derive(Debug)]
enum Permit {
    Working { _permit: OwnedSemaphorePermit },
    Waiting { _permit: OwnedSemaphorePermit },
}

impl Slots {
    /// `count` slots.
    pub fn new(count: usize) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(count));
        Self { working: semaphore(count), waiting: semaphore(MAX_WAITING) }
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.working.available_permits()
    }

    /// One that is free now.
    pub fn take(&self) -> Option<Slot> {
        let permit = self.working.clone().try_acquire_owned().ok()?;
        Some(self.slot(Some(Permit::Working { _permit: permit })))
    }

    /// None, for a run that only has to be answered: its handler is not started.
    pub fn without(&self) -> Slot {
        self.slot(None)
    }

    fn slot(&self, permit: Option<Permit>) -> Slot {
        Slot { all: self.clone(), held: Arc::new(Mutex::new(permit)) }
    }
}

impl Slot {
    /// Gives it back for the time being. False when too many runs wait already: then it is
    /// kept, and the run has to go.
    pub fn give_back(&self) -> bool {
        let mut held = self.lock();
        if matches!(*held, Some(Permit::Waiting { .. })) {
            return true;
        }
        let Ok(permit) = self.all.waiting.clone().try_acquire_owned() else { return false };
        *held = Some(Permit::Waiting { _permit: permit });
        true
    }

    /// Takes one again, in the order of asking. Cancel-safe.
    pub async fn take_again(&self) {
        if matches!(*self.lock(), Some(Permit::Working { .. })) {
            return;
        }
        let permit = self.all.working.clone().acquire_owned().await;
        *self.lock() = permit.ok().map(|permit| Permit::Working { _permit: permit });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Permit>> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
