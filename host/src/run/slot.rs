//! A worker's capacity: as many slots as runs may work at once.
//!
//! A run that waits for upstream data gives its slot back and takes one again when there
//! is something to do. Otherwise runs that wait could hold all slots while the run they
//! wait for has none.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All slots of a worker.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Semaphore>);

impl Slots {
    /// `count` slots.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.0.available_permits()
    }

    /// One that is free now.
    pub fn take(&self) -> Option<Slot> {
        let permit = self.0.clone().try_acquire_owned().ok()?;
        Some(Slot { all: self.clone(), held: Arc::new(Mutex::new(Some(permit))) })
    }
}

/// A run's slot. Clones are the same slot; it is given back when the last is dropped.
#[derive(Debug, Clone)]
pub struct Slot {
    all: Slots,
    held: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Slot {
    /// Gives it back for the time being.
    pub fn give_back(&self) {
        self.lock().take();
    }

    /// Takes one again, in the order of asking. Cancel-safe.
    pub async fn take_again(&self) {
        if self.lock().is_some() {
            return;
        }
        let permit = self.all.0.clone().acquire_owned().await;
        *self.lock() = permit.ok();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
