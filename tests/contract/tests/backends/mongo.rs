//! The store's suite on a MongoDB-wire server: two stores on one database, as two processes
//! have them.

mod damage;
mod foreign;
mod odd_documents;
mod outage;

use std::sync::Arc;

use async_trait::async_trait;
use contract::{Backend, DocumentsBackend, StoreBackend};
use flowkit::clock::{Clock, UnixMs};
use flowkit::documents::Documents;
use flowkit::store::mongo::{MongoOptions, MongoStore};
use flowkit::store::{Claim, Store};
use flowkit::types::{BatchUid, NodeId, RunKey, TaskId, WorkerId};
use mongodb::bson::{DateTime, Document, doc};

struct Mongo {
    first: MongoStore,
    second: MongoStore,
    /// The same database, as a coordinator has it.
    db: mongodb::Database,
}

async fn connect(uri: &str, database: &str) -> MongoStore {
    let (uri, database) = (uri.to_owned(), database.to_owned());
    let options = MongoOptions { uri, database, within: contract::SOON };
    MongoStore::connect(options, Clock::system()).await.unwrap()
}

#[async_trait]
impl Backend for Mongo {
    async fn start() -> Self {
        let uri = &flowkit_servers::shared().mongodb;
        let database = contract::unique("test");
        let db = mongodb::Client::with_uri_str(uri).await.unwrap().database(&database);
        Self { first: connect(uri, &database).await, second: connect(uri, &database).await, db }
    }

    fn available(test: &str) -> bool {
        flowkit_servers::available(test)
    }
}

#[async_trait]
impl StoreBackend for Mongo {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.first.clone())
    }

    fn other_store(&self) -> Arc<dyn Store> {
        Arc::new(self.second.clone())
    }

    async fn end_worker(&self, _: &WorkerId) -> bool {
        false
    }

    async fn leave_failed_batch(&self, key: &RunKey, batch_uid: &BatchUid) {
        let left = doc! {
            "task_id": key.task_id.as_str(),
            "node_id": key.node_id.as_str(),
            "batch_uid": batch_uid.as_str(),
            "status": "failed",
            "error": "boom",
            "updated_at": DateTime::now(),
        };
        self.db.collection("artifacts").insert_one(left).await.unwrap();
    }

    async fn claims(&self, task_id: &TaskId) -> Vec<Claim> {
        let claims = self.db.collection::<Document>("stream_progress");
        let mut cursor = claims.find(doc! {"task_id": task_id.as_str()}).await.unwrap();
        let mut found = Vec::new();
        while cursor.advance().await.unwrap() {
            let claim = cursor.deserialize_current().unwrap();
            let text = |key| claim.get_str(key).unwrap().to_owned();
            let at = claim.get_datetime("claimed_at").unwrap();
            found.push(Claim {
                task_id: task_id.clone(),
                consumer_node: NodeId::new(text("consumer_node")).unwrap(),
                from_node: NodeId::new(text("from_node")).unwrap(),
                batch_uid: contract::uid(text("batch_uid")),
                claimed_at: UnixMs(at.timestamp_millis()),
            });
        }
        found
    }
}

impl DocumentsBackend for Mongo {
    fn documents(&self) -> Arc<dyn Documents> {
        Arc::new(self.second.clone())
    }
}

contract::store_suite!(Mongo, tokio::test);
contract::documents_suite!(Mongo, tokio::test);
