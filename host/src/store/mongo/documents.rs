//! Collections read for plugins, through the worker's own connections.

use std::num::NonZeroU32;
use std::time::Duration;

use mongodb::Cursor;
use mongodb::bson::{Bson, Document};
use serde_json::{Map, Value};

use super::MongoStore;
use super::error::meaning;
use crate::store::StoreError;

/// How long a query may keep the server at work, all its pages together.
const AT_WORK: Duration = Duration::from_secs(60);

/// Operators that run a query's own program on the server.
const PROGRAMS: [&str; 4] = ["$where", "$function", "$accumulator", "$code"];

/// A query in MongoDB's language; values may be Extended JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DocumentQuery {
    /// The collection, in the worker's database.
    pub collection: String,
    /// Empty for all documents.
    pub filter: Map<String, Value>,
    /// None for whole documents.
    pub projection: Option<Map<String, Value>>,
    /// Fields, the most significant first; true for descending.
    pub sort: Vec<(String, bool)>,
    /// Most documents in all; none for no limit.
    pub limit: Option<NonZeroU32>,
    /// Documents that are fetched at once.
    pub batch_size: u32,
}

/// A query's documents, in order. Dropping it ends the query on the server.
pub struct FoundDocuments {
    cursor: Cursor<Document>,
    store: MongoStore,
}

impl MongoStore {
    /// Begins a query. [`StoreError::Fatal`] for one that the server refuses or that would
    /// run a program there.
    pub async fn find_documents(
        &self,
        query: &DocumentQuery,
    ) -> Result<FoundDocuments, StoreError> {
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
        Ok(FoundDocuments { cursor, store: self.clone() })
    }
}

impl FoundDocuments {
    /// The next one as JSON text, relaxed Extended JSON where JSON has no such value; none
    /// at the end. Not to be called again after an error.
    pub async fn next(&mut self) -> Result<Option<String>, StoreError> {
        let Self { cursor, store } = self;
        let failed = |error| meaning("reading documents", &error);
        if !store.within(cursor.advance()).await.map_err(failed)? {
            return Ok(None);
        }
        let document = cursor.deserialize_current().map_err(failed)?;
        Ok(Some(Value::Object(super::json::from_document(document)).to_string()))
    }
}

/// A part of a query as the server takes it.
fn language(part: &str, object: &Map<String, Value>) -> Result<Document, StoreError> {
    if let Some(program) = programs(object) {
        return Err(StoreError::Fatal(format!(
            "the {part} has `{program}`, which runs a program on the database; it is not allowed"
        )));
    }
    serde_json::from_value(Value::Object(object.clone()))
        .map_err(|error| StoreError::Fatal(format!("the {part} is no MongoDB document: {error}")))
}

/// The first operator that runs a program, however deep.
fn programs(object: &Map<String, Value>) -> Option<&str> {
    let mut left: Vec<&Value> = Vec::new();
    let named = |object: &Map<String, Value>| {
        PROGRAMS.into_iter().find(|program| object.contains_key(*program))
    };
    if let Some(program) = named(object) {
        return Some(program);
    }
    left.extend(object.values());
    while let Some(value) = left.pop() {
        match value {
            Value::Object(object) => match named(object) {
                Some(program) => return Some(program),
                None => left.extend(object.values()),
            },
            Value::Array(elements) => left.extend(elements),
            _ => {}
        }
    }
    None
}
