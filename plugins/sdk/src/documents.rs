//! Reading the collections that the worker's configuration grants to the role.
//!
//! ```no_run
//! # use flowkit_sdk::{documents, Result};
//! # use serde_json::{json, Value};
//! # fn read() -> Result<()> {
//! let open = documents::find("orders")
//!     .filter(json!({"state": "open"}))
//!     .sort("created_at", documents::Order::Descending)
//!     .batch_size(500);
//! for page in open.read::<Value>()? {
//!     for order in page? {
//!         // …
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::Result;

#[cfg(not(target_family = "wasm"))]
use crate::testing::documents as imports;
#[cfg(target_family = "wasm")]
mod imports {
    use crate::bindings::flowkit::worker::documents;
    use crate::bindings::flowkit::worker::types::HandlerError;
    use crate::error::Error;

    pub(crate) use documents::close;

    fn told(error: HandlerError) -> Error {
        Error::from_wire(error.message, error.detail.as_deref())
    }

    pub(crate) fn open(collection: &str, query: &str) -> Result<u32, Error> {
        documents::open(collection, query).map_err(told)
    }

    pub(crate) fn next(cursor: u32) -> Result<Option<String>, Error> {
        documents::next(cursor).map_err(told)
    }
}

/// Which way to sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The least first.
    Ascending,
    /// The greatest first.
    Descending,
}

/// A query to be made; by default of whole documents, all of them.
#[derive(Debug, Clone)]
#[must_use = "a query reads nothing until `read`"]
pub struct Find {
    collection: String,
    query: Map<String, Value>,
    sort: Vec<Value>,
}

/// A query of a collection.
pub fn find(collection: impl Into<String>) -> Find {
    Find { collection: collection.into(), query: Map::new(), sort: Vec::new() }
}

impl Find {
    /// Only documents that fit, in MongoDB's query language.
    pub fn filter(self, filter: Value) -> Self {
        self.with("filter", filter)
    }

    /// Only these fields, as MongoDB's projection.
    pub fn projection(self, projection: Value) -> Self {
        self.with("projection", projection)
    }

    /// Sorted by this field; where it is equal, by the field of the next call.
    pub fn sort(mut self, field: &str, order: Order) -> Self {
        self.sort.push(json!([field, if order == Order::Ascending { 1 } else { -1 }]));
        self
    }

    /// At most so many documents in all.
    pub fn limit(self, documents: u32) -> Self {
        self.with("limit", documents.into())
    }

    /// So many documents a page, 1 to 10,000; by default 100.
    pub fn batch_size(self, documents: u32) -> Self {
        self.with("batch_size", documents.into())
    }

    /// Begins to read.
    pub fn read<T: DeserializeOwned>(mut self) -> Result<Pages<T>> {
        if !self.sort.is_empty() {
            self.query.insert("sort".to_owned(), Value::Array(self.sort));
        }
        let query = Value::Object(self.query).to_string();
        let cursor = imports::open(&self.collection, &query)?;
        Ok(Pages { cursor: Some(cursor), documents: PhantomData })
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.query.insert(key.to_owned(), value);
        self
    }
}

/// The pages of a query's documents. It ends after the first error. Dropping it ends the
/// query.
#[derive(Debug)]
pub struct Pages<T> {
    cursor: Option<u32>,
    documents: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Iterator for Pages<T> {
    type Item = Result<Vec<T>>;

    fn next(&mut self) -> Option<Result<Vec<T>>> {
        let page = match imports::next(self.cursor?) {
            Ok(None) => {
                self.cursor = None;
                return None;
            }
            Ok(Some(page)) => serde_json::from_str(&page).map_err(Into::into),
            Err(error) => Err(error),
        };
        if page.is_err() {
            self.end();
        }
        Some(page)
    }
}

impl<T> Pages<T> {
    fn end(&mut self) {
        if let Some(cursor) = self.cursor.take() {
            imports::close(cursor);
        }
    }
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::give_documents;

    #[test]
    fn a_query_is_read_page_by_page() {
        give_documents("orders", (0..5).map(|n| json!({"n": n})).collect());
        let pages: Vec<Vec<Value>> =
            find("orders").batch_size(2).read().unwrap().map(Result::unwrap).collect();
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(pages[2][0], json!({"n": 4}));
        let limited = find("orders").limit(3).sort("n", Order::Ascending).read::<Value>().unwrap();
        assert_eq!(limited.map(|page| page.unwrap().len()).sum::<usize>(), 3);
    }

    #[test]
    fn what_is_not_there_is_refused_as_a_worker_would() {
        let error = find("users").read::<Value>().unwrap_err();
        assert_eq!((error.reason_code(), error.is_permanent()), ("documents_refused", true));
    }

    #[test]
    fn a_document_of_another_shape_ends_the_reading() {
        give_documents("odd", vec![json!({"n": 1}), json!("text")]);
        let mut pages = find("odd").batch_size(1).read::<Map<String, Value>>().unwrap();
        assert!(pages.next().unwrap().is_ok());
        assert_eq!(pages.next().unwrap().unwrap_err().reason_code(), "validation_error");
        assert!(pages.next().is_none());
    }
}
