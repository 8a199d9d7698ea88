//! Collections read for plugins, through the worker's own connections.

use std::time::Duration;

use async_trait::async_trait;
use mongodb::Cursor;
use mongodb::bson::{Bson, Document};
use serde_json::Value;

use super::error::meaning;
use super::{MongoStore, json};
use crate::documents::{DocumentCursor, DocumentQuery, Documents, DocumentsError};
use crate::store::documents::language;

/// How long a query may keep the server at work, all its pages together.
const AT_WORK: Duration = Duration::from_secs(60);

/// What a query found. Dropping it ends the query on the server.
struct Found {
    cursor: Cursor<Document>,
    store: MongoStore,
}

#[async_trait]
impl Documents for MongoStore {
    async fn open(&self, query: DocumentQuery) -> Result<Box<dyn DocumentCursor>, DocumentsError> {
        let filter = language("filter", &query.filter)?;
        let collection = self.db.collection(&query.collection);
        let mut find = collection.find(filter).max_time(AT_WORK);
        if let Some(projection) = &query.projection {
            find = find.projection(language("projection", projection)?);
        }
        if !query.sort.is_empty() {
            let direction = |descending: bool| Bson::Int32(if descending { -1 } else { 1 });
            let keys = query.sort.iter();
            find = find.sort(
                keys.map(|(key, down)| (key.clone(), direction(*down))).collect::<Document>(),
            );
        }
        if let Some(limit) = query.limit {
            find = find.limit(i64::from(limit.get()));
        }
        let opened = self.within(find.batch_size(query.batch_size.max(1))).await;
        let cursor = opened.map_err(|error| meaning("reading documents", &error))?;
        Ok(Box::new(Found { cursor, store: self.clone() }))
    }
}

#[async_trait]
impl DocumentCursor for Found {
    async fn next(&mut self) -> Result<Option<String>, DocumentsError> {
        let Self { cursor, store } = self;
        let failed = |error| meaning("reading documents", &error);
        if !store.within(cursor.advance()).await.map_err(failed)? {
            return Ok(None);
        }
        let document = cursor.deserialize_current().map_err(failed)?;
        Ok(Some(Value::Object(json::from_document(document)).to_string()))
    }
}
