//! The suite in memory, under paused time.

use std::sync::Arc;

use async_trait::async_trait;
use contract::{Backend, BusBackend, NOW, StoreBackend};
use flowkit::bus::Bus;
use flowkit::bus::memory::MemoryBus;
use flowkit::clock::Clock;
use flowkit::store::memory::MemoryStore;
use flowkit::store::{Claim, Store};
use flowkit::types::{BatchUid, RunKey, TaskId, WorkerId};

struct Memory {
    bus: MemoryBus,
    store: MemoryStore,
}

#[async_trait]
impl Backend for Memory {
    async fn start() -> Self {
        let clock = Clock::starting_at(NOW);
        Self { bus: MemoryBus::new(clock.clone()), store: MemoryStore::new(clock) }
    }
}

impl BusBackend for Memory {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.bus.clone())
    }

    fn other_bus(&self) -> Arc<dyn Bus> {
        self.bus()
    }
}

#[async_trait]
impl StoreBackend for Memory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn other_store(&self) -> Arc<dyn Store> {
        self.store()
    }

    async fn end_worker(&self, worker_id: &WorkerId) -> bool {
        self.store.set_gone(worker_id, true);
        true
    }

    async fn leave_failed_batch(&self, key: &RunKey, batch_uid: &BatchUid) {
        self.store.leave_failed_batch(key, batch_uid);
    }

    async fn claims(&self, task_id: &TaskId) -> Vec<Claim> {
        let claims = self.store.recorded_claims().into_iter();
        claims.filter(|claim| claim.task_id == *task_id).collect()
    }
}

contract::bus_suite!(Memory, tokio::test(start_paused = true));
contract::store_suite!(Memory, tokio::test(start_paused = true));
