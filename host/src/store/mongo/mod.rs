//! The store in a MongoDB database, shared with the coordinators.
//!
//! Written for MongoDB 4.4 and later without sessions, transactions or updates given as a
//! pipeline: every change is one conditional update of one document, and grouped writes are
//! one `update` command. `artifacts`, `stream_progress` and `tasks` are as `protocol.md`
//! describes them; `worker_states` and `flowkit_tasks` are ours alone.

mod artifacts;
mod complete;
mod decode;
mod documents;
mod error;
mod group;
mod index;
pub(super) mod run_doc;
mod runs;
mod tasks;
mod tasks_view;
pub(super) mod workers;

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Bson, DateTime, Document};
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, Collection, Database};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::{StoreError, json};
use crate::clock::{Clock, UnixMs};

/// How long a server is looked for, unless the URI says otherwise.
const FIND_SERVER: Duration = Duration::from_secs(5);

/// Which database.
#[derive(Clone)]
pub struct MongoOptions {
    /// Its server's address, with the password; never printed.
    pub uri: String,
    /// Its name.
    pub database: String,
    /// How long one call may take. A server that hangs holds nobody for longer; what the
    /// call was to change may have been changed all the same.
    pub within: Duration,
}

/// A MongoDB database. Clones share its connections.
#[derive(Clone)]
pub struct MongoStore {
    db: Database,
    artifacts: Collection<Document>,
    claims: Collection<Document>,
    worker_states: Collection<Document>,
    tasks: Collection<Document>,
    /// Tasks that `flowkit run` coordinates. A coordinator of the field would take them for
    /// its own if they were in `tasks`.
    own_tasks: Collection<Document>,
    clock: Clock,
    within: Duration,
    prepared: Arc<OnceCell<()>>,
}

impl MongoStore {
    /// Reads the address. The server need not answer yet; its indexes are ensured with the
    /// first write. [`StoreError::Fatal`] for an address that cannot be one.
    ///
    /// Writes are acknowledged by a majority and reads come from the primary, unless the
    /// URI says otherwise: a lease that a failover could undo would have two owners.
    pub async fn connect(options: MongoOptions, clock: Clock) -> Result<Self, StoreError> {
        let mut client = ClientOptions::parse(&options.uri).await.map_err(error::of_uri)?;
        client.app_name.get_or_insert_with(|| "flowkit".into());
        client.server_selection_timeout.get_or_insert(FIND_SERVER);
        client.connect_timeout.get_or_insert(FIND_SERVER);
        client.write_concern.get_or_insert_with(|| {
            let majority = WriteConcern::builder().w(Acknowledgment::Majority);
            majority.w_timeout(options.within).build()
        });
        let client = Client::with_options(client).map_err(error::of_uri)?;
        let db = client.database(&options.database);
        Ok(Self {
            artifacts: db.collection("artifacts"),
            claims: db.collection("stream_progress"),
            worker_states: db.collection("worker_states"),
            tasks: db.collection("tasks"),
            own_tasks: db.collection("flowkit_tasks"),
            db,
            clock,
            within: options.within,
            prepared: Arc::default(),
        })
    }

    /// Waits for a call, but not for ever.
    async fn within<T>(
        &self,
        call: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> mongodb::error::Result<T> {
        match tokio::time::timeout(self.within, call.into_future()).await {
            Ok(done) => done,
            Err(_) => Err(mongodb::error::Error::custom(error::TooSlow(self.within))),
        }
    }

    /// Everything that a query finds.
    async fn all<T: DeserializeOwned>(
        &self,
        find: impl IntoFuture<Output = mongodb::error::Result<mongodb::Cursor<T>>>,
    ) -> mongodb::error::Result<Vec<T>> {
        self.within(async {
            let mut cursor = find.into_future().await?;
            let mut found = Vec::new();
            while cursor.advance().await? {
                found.push(cursor.deserialize_current()?);
            }
            Ok(found)
        })
        .await
    }

    /// Every index of a collection; none of one that does not exist yet.
    async fn all_indexes(
        &self,
        collection: &Collection<Document>,
    ) -> mongodb::error::Result<Vec<mongodb::IndexModel>> {
        const NAMESPACE_NOT_FOUND: i32 = 26;
        match self.all(collection.list_indexes()).await {
            Err(error) if error::code(&error) == Some(NAMESPACE_NOT_FOUND) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Ensures the indexes, once.
    async fn prepared(&self) -> Result<(), StoreError> {
        self.prepared.get_or_try_init(|| index::ensure(self)).await.copied()
    }
}

pub(super) fn date(at: UnixMs) -> Bson {
    Bson::DateTime(DateTime::from_millis(at.0))
}

/// BSON's integers have a sign. What counts up from zero never gets that far.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// JSON text for what is ours alone: it reads back exactly.
fn text<T: serde::Serialize>(what: &str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Fatal(format!("{what} cannot be stored as JSON: {error}")))
}
