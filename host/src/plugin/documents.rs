//! `flowkit:worker/documents`: a handler's cursors on the collections it is granted.
//!
//! Where the documents are is somebody else's business: whoever builds the engine hands it
//! something that is [`Documents`].

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::counts::{Count, Tally};
use super::text;
use crate::documents::{DocumentCursor, DocumentQuery, Documents, DocumentsError};

/// Longest query.
const MAX_QUERY: usize = 256 << 10;
/// A page ends after the document that reaches this many bytes, however many were wanted.
const PAGE: usize = 1 << 20;
/// Operators that run code of the query's author on the database.
const CODE: [&str; 4] = ["$where", "$function", "$accumulator", "$code"];

/// A failure as the guest is told it: the SDKs report `code` unless the handler says
/// otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: &'static str,
    permanent: bool,
    message: String,
}

impl Refusal {
    fn new(code: &'static str, permanent: bool, message: impl Into<String>) -> Self {
        Self { code, permanent, message: message.into() }
    }

    /// The two texts of a `handler-error`.
    pub fn into_wire(self) -> (String, Option<String>) {
        let detail = json!({"reason_code": self.code, "permanent": self.permanent});
        (text::message(&self.message), Some(detail.to_string()))
    }
}

impl From<DocumentsError> for Refusal {
    fn from(error: DocumentsError) -> Self {
        match &error {
            DocumentsError::Unavailable(_) => {
                Self::new("documents_unavailable", false, error.to_string())
            }
            DocumentsError::Refused(_) => Self::new("bad_query", true, error.to_string()),
        }
    }
}

/// One instance's cursors. All are closed with it.
pub(super) struct Cursors {
    reader: Option<Arc<dyn Documents>>,
    granted: Arc<[String]>,
    open: BTreeMap<u32, Cursor>,
    last: u32,
    most: usize,
    max_document: usize,
    tally: Tally,
}

struct Cursor {
    documents: Box<dyn DocumentCursor>,
    page: u32,
}

impl Cursors {
    /// None open; at most `most` at once, and no document above `max_document` bytes.
    pub fn new(
        reader: Option<Arc<dyn Documents>>,
        granted: Arc<[String]>,
        (most, max_document): (usize, usize),
        tally: Tally,
    ) -> Self {
        Self { reader, granted, open: BTreeMap::new(), last: 0, most, max_document, tally }
    }

    /// `open`.
    pub async fn open(&mut self, collection: &str, query: &str) -> Result<u32, Refusal> {
        let reader = self.admit(collection)?;
        let query = parse(collection, query)?;
        let page = query.batch_size;
        let documents = reader.open(query).await?;
        self.last += 1;
        self.open.insert(self.last, Cursor { documents, page });
        Ok(self.last)
    }

    /// `next`: a page as a JSON array. A cursor that is at its end, or has failed, is
    /// closed.
    pub async fn next(&mut self, id: u32) -> Result<Option<String>, Refusal> {
        let Some(mut cursor) = self.open.remove(&id) else {
            return Err(Refusal::new(
                "bad_cursor",
                true,
                format!("there is no open cursor {id}; it was closed, or has come to its end"),
            ));
        };
        let (page, ended) = cursor.page(self.max_document).await?;
        if !ended {
            self.open.insert(id, cursor);
        } else if page.is_some() {
            // The next call says that nothing is left, and then it is gone.
            self.open.insert(id, Cursor { documents: Box::new(Ended), page: 1 });
        }
        Ok(page)
    }

    /// `close`; closing one that is closed does nothing.
    pub fn close(&mut self, id: u32) {
        self.open.remove(&id);
    }

    fn admit(&self, collection: &str) -> Result<Arc<dyn Documents>, Refusal> {
        let refused = |message: String| {
            self.tally.add(Count::DocumentsRefused, 1);
            Refusal::new("documents_refused", true, message)
        };
        if !self.granted.iter().any(|granted| granted == collection) {
            return Err(refused(format!(
                "the collection `{}` is not granted to this role; add it to \
                 `handlers.ROLE.documents` of the worker's configuration",
                text::cut(collection, 100)
            )));
        }
        if self.open.len() >= self.most {
            self.tally.add(Count::CursorLimit, 1);
            return Err(Refusal::new(
                "cursor_limit",
                true,
                format!(
                    "{} cursors are open, as many as limits.open_cursors allows; close one",
                    self.open.len()
                ),
            ));
        }
        self.reader
            .clone()
            .ok_or_else(|| refused("there is no database here to read documents from".to_owned()))
    }
}

impl Cursor {
    /// The next page, and whether it was the last.
    async fn page(&mut self, max: usize) -> Result<(Option<String>, bool), Refusal> {
        let mut page = String::new();
        for _ in 0..self.page {
            let Some(document) = self.documents.next().await? else {
                return Ok((closed(page), true));
            };
            if document.len() > max {
                return Err(Refusal::new(
                    "result_too_large",
                    true,
                    format!(
                        "a document has {} bytes as JSON; limits.result_bytes allows {max}. Leave \
                         fields out with `projection`",
                        document.len()
                    ),
                ));
            }
            page.push(if page.is_empty() { '[' } else { ',' });
            page.push_str(&document);
            if page.len() >= PAGE {
                break;
            }
        }
        Ok((closed(page), false))
    }
}

fn closed(mut page: String) -> Option<String> {
    if page.is_empty() {
        return None;
    }
    page.push(']');
    Some(page)
}

/// What is left of a cursor whose last page is out.
struct Ended;

#[async_trait]
impl DocumentCursor for Ended {
    async fn next(&mut self) -> Result<Option<String>, DocumentsError> {
        Ok(None)
    }
}

fn parse(collection: &str, text: &str) -> Result<DocumentQuery, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Query {
        #[serde(default)]
        filter: Map<String, Value>,
        projection: Option<Map<String, Value>>,
        #[serde(default)]
        sort: Vec<(String, i8)>,
        limit: Option<u32>,
        batch_size: Option<u32>,
    }
    let bad = |what: String| Refusal::new("bad_query", true, format!("the query {what}"));
    if text.len() > MAX_QUERY {
        return Err(bad(format!("has {} bytes; at most {MAX_QUERY} are allowed", text.len())));
    }
    let query: Query =
        serde_json::from_str(text).map_err(|error| bad(format!("cannot be used: {error}")))?;
    if let Some(operator) = code_in(&query.filter).or(query.projection.as_ref().and_then(code_in)) {
        return Err(bad(format!("uses {operator}, which runs code on the database")));
    }
    let batch_size = query.batch_size.unwrap_or(100);
    if !(1..=10_000).contains(&batch_size) {
        return Err(bad(format!("has the batch_size {batch_size}; it must be from 1 to 10000")));
    }
    let sort = query.sort.into_iter().map(|(field, direction)| match direction {
        1 => Ok((field, false)),
        -1 => Ok((field, true)),
        _ => Err(bad(format!("sorts by {direction}; 1 is ascending, -1 descending"))),
    });
    Ok(DocumentQuery {
        collection: collection.to_owned(),
        filter: query.filter,
        projection: query.projection,
        sort: sort.collect::<Result<_, _>>()?,
        limit: query.limit.and_then(NonZeroU32::new),
        batch_size,
    })
}

/// An operator that runs code, at any depth. The parser bounds the depth.
fn code_in(object: &Map<String, Value>) -> Option<&'static str> {
    object.iter().find_map(|(key, value)| {
        CODE.into_iter().find(|operator| operator == key).or_else(|| code_in_value(value))
    })
}

fn code_in_value(value: &Value) -> Option<&'static str> {
    match value {
        Value::Object(object) => code_in(object),
        Value::Array(values) => values.iter().find_map(code_in_value),
        _ => None,
    }
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
