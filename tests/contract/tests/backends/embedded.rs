//! The suite on the embedded backend: two handles on one file, as two processes have them.

mod pages;

use std::sync::Arc;

use async_trait::async_trait;
use contract::artifacts::partial;
use contract::leases::{claimable, query};
use contract::runs::recorded;
use contract::{
    Backend, BusBackend, DocumentsBackend, NOW, StoreBackend, fence, key, new_role, new_run,
};
use flowkit::bus::Bus;
use flowkit::bus::embedded::EmbeddedBus;
use flowkit::clock::{Clock, UnixMs};
use flowkit::documents::Documents;
use flowkit::sqlite::Database;
use flowkit::store::embedded::EmbeddedStore;
use flowkit::store::{Claim, Cursor, Fenced, Store, StoreError, TaskDoc, TaskStatus};
use flowkit::types::{BatchUid, Epoch, NodeId, RunKey, TaskId, WorkerId};
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
}

impl BusBackend for Embedded {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(EmbeddedBus::new(self.first.clone()))
    }

    fn other_bus(&self) -> Arc<dyn Bus> {
        Arc::new(EmbeddedBus::new(self.second.clone()))
    }
}

#[async_trait]
impl StoreBackend for Embedded {
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

    async fn claims(&self, task_id: &TaskId) -> Vec<Claim> {
        let file = rusqlite::Connection::open(self.first.path()).unwrap();
        let mut statement = file
            .prepare(
                "SELECT consumer_node, from_node, batch_uid, claimed_at FROM claims
                 WHERE task_id = ?1",
            )
            .unwrap();
        let node = |text: String| NodeId::new(text).unwrap();
        let claim = |row: &rusqlite::Row<'_>| {
            Ok(Claim {
                task_id: task_id.clone(),
                consumer_node: node(row.get(0)?),
                from_node: node(row.get(1)?),
                batch_uid: contract::uid(row.get::<_, String>(2)?),
                claimed_at: UnixMs(row.get(3)?),
            })
        };
        let claims = statement.query_map([task_id.as_str()], claim).unwrap();
        claims.map(Result::unwrap).collect()
    }
}

impl DocumentsBackend for Embedded {
    fn documents(&self) -> Arc<dyn Documents> {
        Arc::new(EmbeddedStore::new(self.second.clone(), Clock::system()))
    }
}

contract::bus_suite!(Embedded, tokio::test);
contract::store_suite!(Embedded, tokio::test);
contract::documents_suite!(Embedded, tokio::test);

/// Spoils one column of the file.
fn spoil(backend: &Embedded, statement: &str) {
    let file = rusqlite::Connection::open(backend.first.path()).unwrap();
    assert_eq!(file.execute(statement, []).unwrap(), 1);
}

#[track_caller]
fn assert_damaged<T: std::fmt::Debug>(result: Result<T, StoreError>, document: &str) {
    match result {
        Err(StoreError::Damaged { what, .. }) => assert_eq!(what, document),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_damaged_run_hurts_no_other() {
    let backend = Embedded::start().await;
    let (store, role) = (backend.store(), new_role());
    let (bad, good) = (key("t-1", "n"), key("t-2", "n"));
    recorded(&*store, &new_run(&bad, 1, &role), None).await;
    recorded(&*store, &new_run(&good, 1, &role), None).await;
    for column in ["totals = '{'", "epoch = -1", "finished = -1", "ending = '7'", "lease_no = -3"] {
        spoil(&backend, &format!("UPDATE runs SET {column} WHERE task_id = 't-1'"));
        assert_damaged(store.run(&bad).await, "run t-1/n");
        assert_damaged(store.runs_of_task(&bad.task_id).await, "run t-1/n");
        assert_eq!(claimable(&*store, &query("w", &role, NOW)).await, std::slice::from_ref(&good));
        spoil(&backend, "DELETE FROM runs WHERE task_id = 't-1'");
        recorded(&*store, &new_run(&bad, 1, &role), None).await;
    }
    assert_eq!(claimable(&*store, &query("w", &role, NOW)).await.len(), 2);
}

#[tokio::test]
async fn a_damaged_artifact_is_not_passed_over() {
    let backend = Embedded::start().await;
    let (store, key) = (backend.store(), key("t", "n"));
    let held = fence(&key, 1, 1, "w");
    let both = [partial("b-1", 0, 1), partial("b-2", 1, 2)];
    assert_eq!(store.write_partials(&held, &both).await.unwrap(), Fenced::Written);
    spoil(&backend, "UPDATE partials SET meta = '[]', metrics = '' WHERE batch_uid = 'b-2'");
    let scanned = store.partials(&key, &Cursor::start(), 9).await;
    assert_damaged(scanned, "artifact b-2 of t/n");
    assert_damaged(store.finished(&key, Epoch(1), 0..9, 9).await, "artifact b-2 of t/n");
    assert_eq!(store.finished(&key, Epoch(1), 0..1, 9).await.unwrap().len(), 1);
    let stranger = Cursor(Some("65a1".into()));
    assert_damaged(store.partials(&key, &stranger, 9).await, "a cursor of partial artifacts");
}

#[tokio::test]
async fn a_damaged_task_hurts_no_other() {
    let backend = Embedded::start().await;
    let store = backend.store();
    let (bad, good) = (
        contract::tasks::task(0, TaskStatus::Running),
        contract::tasks::task(1, TaskStatus::Running),
    );
    for doc in [&bad, &good] {
        assert!(store.create_task(doc).await.unwrap());
    }
    spoil(&backend, &format!("UPDATE tasks SET graph = '{{}}' WHERE id = '{}'", bad.id));
    assert_damaged(store.task(&bad.id).await, &format!("task {}", bad.id));
    assert_eq!(store.open_tasks().await.unwrap(), std::slice::from_ref(&good));
    assert_eq!(store.list_tasks(9).await.unwrap(), std::slice::from_ref(&good));
    let of = |doc: &TaskDoc| RunKey { task_id: doc.id.clone(), ..key("t", "n-1") };
    assert_eq!(store.views(&[of(&bad), of(&good)]).await.unwrap().len(), 1);
}

/// Nothing but another process's message wakes a reader that has waited for a while.
#[tokio::test]
async fn a_sleeping_reader_is_woken_by_another_process() {
    let backend = Embedded::start().await;
    let topics = [contract::bus::new_topic()];
    for _ in 0..5 {
        let mut tail = backend.other_bus().tail(&topics).await.unwrap();
        let publish = async {
            tokio::time::sleep(contract::QUIET / 3).await;
            let message = contract::bus::message(&topics[0], None, "wake up");
            backend.bus().publish(&[message], None).await.unwrap();
        };
        tokio::join!(contract::bus::tail_next(&mut *tail), publish);
    }
}
