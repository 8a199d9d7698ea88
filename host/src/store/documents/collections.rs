//! Collections in memory, for trying a handler without a database.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use mongodb::bson::Document;

use super::{Found, Plan, Source, refused};
use crate::documents::{DocumentCursor, DocumentQuery, Documents, DocumentsError};
use crate::store::StoreError;

/// Documents of one page.
const PAGE: usize = 100;

/// Collections of documents that do not change.
#[derive(Debug, Clone, Default)]
pub struct Collections(BTreeMap<String, Arc<[Document]>>);

/// A line that is no document.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no JSON object: {problem}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl Collections {
    /// Adds a collection, or replaces it: a line for each document, a JSON object, as
    /// `mongoexport` writes them. Values may be Extended JSON; empty lines are passed over.
    pub fn insert(&mut self, name: impl Into<String>, lines: &str) -> Result<(), BadLine> {
        let lines = lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let documents = lines.map(|(at, line)| {
            serde_json::from_str(line)
                .map_err(|error| BadLine { line: at + 1, problem: error.to_string() })
        });
        self.0.insert(name.into(), documents.collect::<Result<_, _>>()?);
        Ok(())
    }
}

#[async_trait]
impl Documents for Collections {
    async fn open(&self, query: DocumentQuery) -> Result<Box<dyn DocumentCursor>, DocumentsError> {
        let Some(documents) = self.0.get(&query.collection) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let text =
                format!("there is no collection `{}` here; there are {known}", query.collection);
            return Err(refused(text));
        };
        let all = All { documents: Arc::clone(documents), at: 0 };
        Ok(Box::new(Found::new(Plan::new(&query)?, all)))
    }
}

/// A place in a collection.
struct All {
    documents: Arc<[Document]>,
    at: usize,
}

#[async_trait]
impl Source for All {
    type Row = Document;

    async fn rows(&mut self) -> Result<Vec<Document>, StoreError> {
        let rest = self.documents.get(self.at..).unwrap_or_default();
        self.at += PAGE;
        Ok(rest.iter().take(PAGE).cloned().collect())
    }

    fn weight(_: &Document) -> usize {
        // In memory already.
        PAGE
    }

    fn document(row: Document) -> Option<Document> {
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    async fn numbers(collections: &Collections, filter: Value) -> Vec<i64> {
        let filter = filter.as_object().cloned().unwrap_or_default();
        let query = DocumentQuery { collection: "c".into(), filter, ..DocumentQuery::default() };
        let mut cursor = collections.open(query).await.expect("opens");
        let mut found = Vec::new();
        while let Some(text) = cursor.next().await.expect("reads") {
            let document: Value = serde_json::from_str(&text).expect("JSON");
            found.extend(document["n"].as_i64());
        }
        found
    }

    fn listed(documents: &[Value]) -> Collections {
        let lines: Vec<String> = documents.iter().map(Value::to_string).collect();
        let mut collections = Collections::default();
        collections.insert("c", &lines.join("\n\n")).expect("are documents");
        collections
    }

    #[tokio::test]
    async fn null_is_what_is_not_there_and_a_list_has_what_one_of_its_elements_has() {
        let collections = listed(&[
            json!({"n": 0}),
            json!({"n": 1, "a": null}),
            json!({"n": 2, "a": [{"b": 1}, {"c": 1}]}),
            json!({"n": 3, "a": [{"c": 1}]}),
        ]);
        for operator in ["$eq", "$gte", "$lte"] {
            assert_eq!(numbers(&collections, json!({"a": {operator: null}})).await, [0, 1]);
        }
        let without = json!({"a.b": {"$exists": false}});
        assert_eq!(numbers(&collections, without).await, [0, 1, 3]);
    }

    #[tokio::test]
    async fn pages_end_and_a_collection_without_documents_is_one() {
        let many: Vec<Value> = (0..250).map(|n| json!({"n": n})).collect();
        assert_eq!(numbers(&listed(&many), json!({})).await.len(), 250);
        assert!(numbers(&listed(&[]), json!({})).await.is_empty());
    }

    #[test]
    fn a_line_that_is_no_document_is_told_by_its_number() {
        let bad = Collections::default().insert("c", "{}\n\n[1]\n").expect_err("a list");
        assert_eq!(bad.line, 3);
    }
}
