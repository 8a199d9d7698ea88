//! Reading collections with a query: plugins ask, stores answer, and neither knows the
//! other.

use std::num::NonZeroU32;

use async_trait::async_trait;
use serde_json::{Map, Value};

/// Reads collections.
#[async_trait]
pub trait Documents: Send + Sync + 'static {
    /// Begins a query. `batch_size` documents at a time are asked of the database, so
    /// that an implementation need not hold more.
    async fn open(&self, query: DocumentQuery) -> Result<Box<dyn DocumentCursor>, DocumentsError>;
}

/// A query's documents, in order. Dropping it ends the query.
#[async_trait]
pub trait DocumentCursor: Send {
    /// The next one as JSON text (relaxed Extended JSON where JSON has no such value), or
    /// none at the end. Never called again after an error or the end.
    async fn next(&mut self) -> Result<Option<String>, DocumentsError>;
}

/// What to read, in MongoDB's query language; values may be Extended JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DocumentQuery {
    /// The collection.
    pub collection: String,
    /// Empty for all documents.
    pub filter: Map<String, Value>,
    /// None for whole documents.
    pub projection: Option<Map<String, Value>>,
    /// Fields, the most significant first; true for descending.
    pub sort: Vec<(String, bool)>,
    /// Most documents in all; none for no limit.
    pub limit: Option<NonZeroU32>,
    /// Documents that are fetched at once; 0 counts as 1.
    pub batch_size: u32,
}

/// Why no document came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentsError {
    /// Another attempt may succeed.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// The database refuses the query; the same one would be refused again.
    #[error("the database refuses the query: {0}")]
    Refused(String),
}
