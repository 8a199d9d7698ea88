//! A worker's capacity: as many slots as runs may work at once, and of some roles fewer.
//!
//! A run that waits for upstream data gives its slot back and takes one again when there
//! is something to do. Otherwise runs that wait could hold all slots while the run they
//! wait for has none. How many may wait at once is bounded too ([`MAX_WAITING`]): one more
//! is not kept waiting but released, for a worker with room or for later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::types::Role;

/// Most runs of a worker that wait for upstream data without a slot; each keeps an
/// instance of its handler.
pub const MAX_WAITING: usize = 64;

/// All slots of a worker.
#[derive(Debug, Clone)]
pub struct Slots {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    limited: Arc<BTreeMap<Role, Arc<Semaphore>>>,
}

/// A run's slot. Clones are the same slot; it is given back when the last is dropped.
#[derive(Debug, Clone)]
pub struct Slot {
    all: Slots,
    /// Those of its role, if the role has a limit.
    of_role: Option<Arc<Semaphore>>,
    held: Arc<Mutex<Option<Permit>>>,
}

#[derive(Debug)]
enum Permit {
    Working { _permit: OwnedSemaphorePermit, _of_role: Option<OwnedSemaphorePermit> },
    Waiting { _permit: OwnedSemaphorePermit },
}

impl Slots {
    /// `count` slots, of which the runs of a role may have no more than its limit.
    pub fn new(count: usize, limits: &BTreeMap<Role, usize>) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(count));
        let limited = limits.iter().map(|(role, limit)| (role.clone(), semaphore(*limit)));
        Self {
            working: semaphore(count),
            waiting: semaphore(MAX_WAITING),
            limited: Arc::new(limited.collect()),
        }
    }

    /// How many are free, of whatever role.
    pub fn free(&self) -> usize {
        self.working.available_permits()
    }

    /// How many are free for runs of a role.
    pub fn free_for(&self, role: &Role) -> usize {
        let of_role = self.limited.get(role).map_or(usize::MAX, |slots| slots.available_permits());
        of_role.min(self.free())
    }

    /// One for a run of `role` that is free now.
    pub fn take(&self, role: &Role) -> Option<Slot> {
        let of_role = self.limited.get(role).cloned();
        let of_role_permit = match &of_role {
            Some(slots) => Some(slots.clone().try_acquire_owned().ok()?),
            None => None,
        };
        let permit = self.working.clone().try_acquire_owned().ok()?;
        let held = Permit::Working { _permit: permit, _of_role: of_role_permit };
        Some(self.slot(of_role, Some(held)))
    }

    /// None, for a run that only has to be answered: its handler is not started.
    pub fn without(&self) -> Slot {
        self.slot(None, None)
    }

    fn slot(&self, of_role: Option<Arc<Semaphore>>, permit: Option<Permit>) -> Slot {
        Slot { all: self.clone(), of_role, held: Arc::new(Mutex::new(permit)) }
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
        // Everybody takes them in this order, and nobody waits for a role's slot with one of
        // the worker's in hand.
        let of_role = match &self.of_role {
            Some(slots) => slots.clone().acquire_owned().await.ok(),
            None => None,
        };
        let permit = self.all.working.clone().acquire_owned().await;
        *self.lock() =
            permit.ok().map(|permit| Permit::Working { _permit: permit, _of_role: of_role });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Permit>> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn both_limits_hold_also_for_who_waited() {
        let (few, many) = (Role::new("few").unwrap(), Role::new("many").unwrap());
        let slots = Slots::new(3, &BTreeMap::from([(few.clone(), 1)]));
        assert_eq!((slots.free_for(&few), slots.free_for(&many)), (1, 3));
        let first = slots.take(&few).unwrap();
        assert!(slots.take(&few).is_none());
        assert_eq!((slots.free_for(&few), slots.free_for(&many)), (0, 2));
        let others = [slots.take(&many).unwrap(), slots.take(&many).unwrap()];
        assert!(slots.take(&many).is_none());

        assert!(first.give_back());
        let second = slots.take(&few).unwrap();
        let mut again = Box::pin(first.take_again());
        let a_while = std::time::Duration::from_secs(9);
        assert!(tokio::time::timeout(a_while, &mut again).await.is_err());
        drop(others);
        assert!(tokio::time::timeout(a_while, &mut again).await.is_err());
        drop(second);
        again.await;
        assert_eq!((slots.free_for(&few), slots.free_for(&many)), (0, 2));
        drop(first);
        assert_eq!((slots.free_for(&few), slots.free_for(&many)), (1, 3));
    }
}
