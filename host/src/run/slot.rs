//! A worker's capacity: as many slots as runs may work at once, and of some roles fewer.
//!
//! A run that waits for upstream data gives its slot back and takes one again when there
//! is something to do. Otherwise runs that wait could hold all slots while the run they
//! wait for has none. How many may wait at once is bounded too ([`MAX_WAITING`]): one more
//! is not kept waiting but released, for a worker with room or for later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::types::Role;

/// Most runs of a worker that wait for upstream data without a slot; each keeps an
/// instance of its handler.
pub const MAX_WAITING: usize = 64;

/// More than any worker has: a role without a limit of its own.
const UNLIMITED: usize = Semaphore::MAX_PERMITS / 2;

/// All slots of a worker.
#[derive(Debug, Clone)]
pub struct Slots {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    by_role: Arc<Mutex<HashMap<Role, Arc<RoleSlots>>>>,
}

/// The slots of one role, whose number may change while they are in use.
#[derive(Debug)]
struct RoleSlots {
    free: Arc<Semaphore>,
    limit: AtomicUsize,
    /// How many are to vanish when they are given back: they were in use when the limit
    /// was lowered.
    owed: AtomicUsize,
}

/// A run's slot. Clones are the same slot; it is given back when the last is dropped.
#[derive(Debug, Clone)]
pub struct Slot {
    all: Slots,
    /// Those of its role, if it has one at all.
    of_role: Option<Arc<RoleSlots>>,
    held: Arc<Mutex<Option<Permit>>>,
}

#[derive(Debug)]
enum Permit {
    Working { _permit: OwnedSemaphorePermit, _of_role: RolePermit },
    Waiting { _permit: OwnedSemaphorePermit },
}

/// One of a role's slots, in use.
#[derive(Debug)]
struct RolePermit {
    slots: Arc<RoleSlots>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for RolePermit {
    fn drop(&mut self) {
        let paid = self
            .slots
            .owed
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| owed.checked_sub(1));
        if let (Ok(_), Some(permit)) = (paid, self.permit.take()) {
            permit.forget();
        }
    }
}

impl RoleSlots {
    fn new(limit: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(limit));
        Arc::new(Self { free, limit: AtomicUsize::new(limit), owed: AtomicUsize::new(0) })
    }

    fn change(&self, limit: usize) {
        let before = self.limit.swap(limit, Ordering::AcqRel);
        if limit < before {
            let gone = self.free.forget_permits(before - limit);
            self.owed.fetch_add(before - limit - gone, Ordering::AcqRel);
            return;
        }
        let more = limit - before;
        let owed = self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| {
            Some(owed.saturating_sub(more))
        });
        self.free.add_permits(more.saturating_sub(owed.unwrap_or_default()));
    }

    fn permit(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> RolePermit {
        RolePermit { slots: self.clone(), permit: Some(permit) }
    }
}

impl Slots {
    /// `count` slots.
    pub fn new(count: usize) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(count));
        Self { working: semaphore(count), waiting: semaphore(MAX_WAITING), by_role: Arc::default() }
    }

    /// From now on the runs of a role may have no more than `limit` of them; those that
    /// have more keep them to their end.
    pub fn limit(&self, role: &Role, limit: Option<usize>) {
        self.of_role(role).change(limit.unwrap_or(UNLIMITED).min(UNLIMITED));
    }

    /// How many are free, of whatever role.
    pub fn free(&self) -> usize {
        self.working.available_permits()
    }

    /// How many are free for runs of a role.
    pub fn free_for(&self, role: &Role) -> usize {
        self.of_role(role).free.available_permits().min(self.free())
    }

    /// One for a run of `role` that is free now.
    pub fn take(&self, role: &Role) -> Option<Slot> {
        let of_role = self.of_role(role);
        let of_role_permit = of_role.permit(of_role.free.clone().try_acquire_owned().ok()?);
        let permit = self.working.clone().try_acquire_owned().ok()?;
        let held = Permit::Working { _permit: permit, _of_role: of_role_permit };
        Some(self.slot(Some(of_role), Some(held)))
    }

    fn of_role(&self, role: &Role) -> Arc<RoleSlots> {
        let mut by_role = lock(&self.by_role);
        match by_role.get(role) {
            Some(slots) => slots.clone(),
            None => by_role.entry(role.clone()).or_insert(RoleSlots::new(UNLIMITED)).clone(),
        }
    }

    /// None, for a run that only has to be answered: its handler is not started.
    pub fn without(&self) -> Slot {
        self.slot(None, None)
    }

    fn slot(&self, of_role: Option<Arc<RoleSlots>>, permit: Option<Permit>) -> Slot {
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
        let Some(of_role) = &self.of_role else { return };
        // The semaphores are never closed.
        let Ok(of_role_permit) = of_role.free.clone().acquire_owned().await else { return };
        let of_role_permit = of_role.permit(of_role_permit);
        let Ok(permit) = self.all.working.clone().acquire_owned().await else { return };
        *self.lock() = Some(Permit::Working { _permit: permit, _of_role: of_role_permit });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Permit>> {
        lock(&self.held)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn both_limits_hold_also_for_who_waited() {
        let (few, many) = (Role::new("few").unwrap(), Role::new("many").unwrap());
        let slots = Slots::new(3);
        slots.limit(&few, Some(1));
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

    #[test]
    fn a_limit_can_be_changed_while_slots_are_in_use() {
        let role = Role::new("r").unwrap();
        let slots = Slots::new(9);
        let taken: Vec<Slot> = (0..4).map(|_| slots.take(&role).unwrap()).collect();
        assert_eq!(slots.free_for(&role), 5);
        slots.limit(&role, Some(2));
        assert_eq!(slots.free_for(&role), 0);
        let mut taken = taken.into_iter();
        drop((taken.next(), taken.next()));
        assert_eq!(slots.free_for(&role), 0, "two are still in use");
        slots.limit(&role, Some(3));
        assert_eq!(slots.free_for(&role), 1);
        slots.limit(&role, Some(1));
        slots.limit(&role, Some(2));
        assert_eq!(slots.free_for(&role), 0);
        drop(taken);
        assert_eq!(slots.free_for(&role), 2);
        slots.limit(&role, None);
        assert_eq!(slots.free_for(&role), 9);
    }
}
