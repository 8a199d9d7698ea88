//! The suite on the embedded backend: two handles on one file, as two processes have them.

use std::sync::Arc;

use async_trait::async_trait;
use contract::Backend;
use flowkit::bus::Bus;
use flowkit::bus::embedded::EmbeddedBus;
use flowkit::clock::Clock;
use flowkit::sqlite::Database;
use flowkit::store::Store;
use flowkit::store::embedded::EmbeddedStore;
use flowkit::types::{BatchUid, RunKey, WorkerId};
use tempfile::TempDir;

struct Embedded {
    first: Database,
    second: Database,
    directory: TempDir,
}

#[async_trait]
impl Backend for Embedded {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flowkit.db");
        let (first, second) = (Database::open(&path).unwrap(), Database::open(&path).unwrap());
        Self { first, second, directory }
    }

    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(EmbeddedBus::new(self.first.clone()))
    }

    fn other_bus(&self) -> Arc<dyn Bus> {
        Arc::new(EmbeddedBus::new(self.second.clone()))
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(EmbeddedStore::new(self.first.clone(), Clock::system()))
    }

    fn other_store(&self) -> Arc<dyn Store> {
        Arc::new(EmbeddedStore::new(self.second.clone(), Clock::system()))
    }

    async fn end_worker(&self, worker_id: &WorkerId) -> bool {
        let its_own = Database::open(self.first.path()).unwrap();
        its_own.register_worker(worker_id).await.unwrap();
        true
    }

    async fn leave_failed_batch(&self, key: &RunKey, batch_uid: &BatchUid) {
        let file = rusqlite::Connection::open(self.directory.path().join("flowkit.db")).unwrap();
        let names = [key.task_id.as_str(), key.node_id.as_str()];
        file.execute("INSERT OR IGNORE INTO nodes (task_id, node_id) VALUES (?1, ?2)", names)
            .unwrap();
        file.execute(
            "INSERT INTO partials (node, batch_uid, status, updated_at)
             SELECT id, ?3, 'failed', 0 FROM nodes WHERE task_id = ?1 AND node_id = ?2",
            [names[0], names[1], batch_uid.as_str()],
        )
        .unwrap();
    }
}

contract::suite!(Embedded, tokio::test);
