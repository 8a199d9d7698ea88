//! Documents: granted collections alone, read in pages, closed with the run.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flowkit::documents::{DocumentCursor, DocumentQuery, Documents, DocumentsError};
use flowkit::plugin::{HandlerConfig, Plugin, PluginConfig, Plugins};
use flowkit::protocol::RunEvent;
use flowkit::types::Role;
use insta::assert_snapshot;
use serde_json::json;

use super::contained::beside;
use super::support::{act, counter, engine, guest_file};
use super::worker::Trial;

/// A database whose collections are known by their names: `numbers` has a thousand
/// documents, `down` is out of reach, `stuck` never answers.
#[derive(Clone, Default)]
struct Database {
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Numbers {
    open: Arc<AtomicUsize>,
    collection: String,
    at: u64,
}

#[async_trait]
impl Documents for Database {
    async fn open(&self, query: DocumentQuery) -> Result<Box<dyn DocumentCursor>, DocumentsError> {
        if query.collection == "down" {
            return Err(DocumentsError::Unavailable("connection refused".into()));
        }
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        let (open, collection) = (Arc::clone(&self.open), query.collection);
        Ok(Box::new(Numbers { open, collection, at: 0 }))
    }
}

#[async_trait]
impl DocumentCursor for Numbers {
    async fn next(&mut self) -> Result<Option<String>, DocumentsError> {
        if self.collection == "stuck" {
            std::future::pending::<()>().await;
        }
        self.at += 1;
        Ok((self.at <= 1_000).then(|| json!({"n": self.at}).to_string()))
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The caller's configuration, with some of the database's collections.
fn granted() -> HandlerConfig {
    let mut config = HandlerConfig::new(guest_file("caller"));
    config.http.push("nowhere.invalid".parse().expect("a host"));
    config.documents = ["numbers", "down", "stuck"].map(String::from).to_vec();
    config
}

/// The caller, granted some of the database's collections.
async fn reader(database: &Database, change: impl FnOnce(&mut HandlerConfig)) -> Plugin {
    let mut config = granted();
    change(&mut config);
    let engine = engine().with_documents(Arc::new(database.clone()));
    engine.load(config).await.expect("loads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_granted_collection_is_read_in_pages() {
    let database = Database::default();
    let plugin = reader(&database, |_| {}).await;
    let read = act(&plugin, json!({"read": ["numbers", {"filter": {}, "batch_size": 300}]})).await;
    assert_eq!(read, Ok(json!({"pages": 4, "count": 1_000, "sum": 500_500})));
    assert_eq!(database.open.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_told_with_its_reason() {
    let database = Database::default();
    let plugin = reader(&database, |_| {}).await;
    let read = async |collection: &str, filter| {
        let deed = json!({"read": [collection, {"filter": filter}]});
        act(&plugin, deed).await.expect_err("fails")
    };
    assert_snapshot!(read("users", json!({})).await, @"documents_refused (permanent): the collection `users` is not granted to this role; add it to `handlers.ROLE.documents` of the worker's configuration");
    assert_snapshot!(read("down", json!({})).await, @"documents_unavailable (transient): the database does not answer: connection refused");
    assert_snapshot!(read("numbers", json!({"$where": "1"})).await, @"bad_query (permanent): the query uses $where, which runs code on the database");
    let nowhere = super::support::caller_with(|c| c.documents = vec!["numbers".into()]).await;
    let deed = json!({"read": ["numbers", {"filter": {}}]});
    assert_snapshot!(act(&nowhere, deed).await.expect_err("no database"), @"documents_refused (permanent): there is no database here to read documents from");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_bomb_stops_at_its_limit_and_is_closed_with_its_run() {
    let database = Database::default();
    let plugin = reader(&database, |_| {}).await;
    let before = counter(&engine(), "rogue", "cursor_limit");
    let told = beside(act(&plugin, json!({"hoard-cursors": "numbers"}))).await;
    assert_snapshot!(told.expect_err("refused"), @"cursor_limit (permanent): 8 were opened: 8 cursors are open, as many as limits.open_cursors allows; close one");
    assert_eq!(database.most.load(Ordering::SeqCst), 8);
    assert_eq!(database.open.load(Ordering::SeqCst), 0, "all are closed with the run");
    assert!(counter(&engine(), "rogue", "cursor_limit") > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_without_end_and_a_database_that_never_answers() {
    let database = Database::default();
    let plugin = reader(&database, |config| {
        config.limits.call_time_ms = NonZeroU32::new(300).expect("not zero");
    })
    .await;
    for deed in [json!({"read-for-ever": "numbers"}), json!({"read": ["stuck", {"filter": {}}]})] {
        let told = beside(act(&plugin, deed.clone())).await.expect_err("ended");
        assert!(told.contains("code: TimeLimit"), "{deed}: {told}");
        assert_eq!(database.open.load(Ordering::SeqCst), 0, "{deed}");
    }
    // Nothing is left that keeps the process from going on.
    tokio::time::timeout(Duration::from_secs(60), act(&plugin, json!("env")))
        .await
        .expect("goes on")
        .expect("works");
}

/// Cursors that a handler leaves open are closed with its run, on a worker too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_closes_what_its_runs_leave_open() {
    let database = Database::default();
    let engine = engine().with_documents(Arc::new(database.clone()));
    let role = Role::new("reader").expect("valid");
    let config = PluginConfig { role: role.clone(), handler: granted() };
    let plugins = Plugins::load(&engine, vec![config]).await.expect("loads");
    let mut trial = Trial::start(Arc::new(plugins), 2).await;
    let whole = json!({"read": ["numbers", {"filter": {}, "batch_size": 300}]});
    trial.command(&role, ("good", "n"), json!({"deeds": [whole, whole]})).await;
    trial.command(&role, ("greedy", "n"), json!({"deeds": [{"hoard-cursors": "numbers"}]})).await;
    let mut ends = BTreeMap::new();
    while ends.len() < 2 {
        let status = trial.event().await;
        let end = match status.event {
            RunEvent::TaskDone { metrics, .. } => json!(metrics)["sum"].to_string(),
            RunEvent::TaskFailed { reason_code, .. } => reason_code,
            _ => continue,
        };
        ends.insert(status.address.key.task_id.to_string(), end);
    }
    let expected = [("good", "1001000"), ("greedy", "cursor_limit")];
    assert_eq!(ends, expected.map(|(task, end)| (task.to_owned(), end.to_owned())).into());
    trial.stop().await;
    assert!(database.most.load(Ordering::SeqCst) >= 8);
    assert_eq!(database.open.load(Ordering::SeqCst), 0);
}
