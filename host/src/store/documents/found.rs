//! A query's documents where the backend has no query language of its own.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document};
use serde_json::Value;

use super::order::compare;
use super::{Effort, Plan, path, refused};
use crate::documents::{DocumentCursor, DocumentsError};
use crate::store::{StoreError, json};
use crate::tasks;

/// Most bytes that a sort may hold.
const MAX_SORTED: usize = 16 << 20;

/// Steps and bytes after which other tasks of the thread have their turn.
const TURN: usize = 50_000;

/// A collection, read once from its beginning to its end.
#[async_trait]
pub(in crate::store) trait Source: Send + 'static {
    /// A document as it is stored.
    type Row: Send;

    /// The next ones; none at the end. Never called again after that.
    async fn rows(&mut self) -> Result<Vec<Self::Row>, StoreError>;

    /// How much there is of it, about, in bytes.
    fn weight(row: &Self::Row) -> usize;

    /// The document; none for one that is damaged, which is said elsewhere.
    fn document(row: Self::Row) -> Option<Document>;
}

/// What a plan finds in a source.
pub(in crate::store) struct Found<S: Source> {
    plan: Plan,
    source: S,
    rows: std::vec::IntoIter<S::Row>,
    ended: bool,
    sorted: Option<std::vec::IntoIter<Entry>>,
    given: u32,
    /// Since others had their turn.
    spent: usize,
}

/// A document with what it is sorted by.
struct Entry {
    key: Vec<Bson>,
    text: String,
}

impl<S: Source> Found<S> {
    pub(in crate::store) fn new(plan: Plan, source: S) -> Self {
        let rows = Vec::new().into_iter();
        Self { plan, source, rows, ended: false, sorted: None, given: 0, spent: 0 }
    }

    /// The next document that is wanted, whole.
    async fn find(&mut self) -> Result<Option<Document>, DocumentsError> {
        loop {
            let Some(row) = self.rows.next() else {
                if self.ended {
                    return Ok(None);
                }
                self.rows = self.source.rows().await?.into_iter();
                self.ended = self.rows.len() == 0;
                continue;
            };
            self.spent += S::weight(&row);
            let mut effort = Effort::new();
            let wanted = match S::document(row) {
                Some(document) if self.plan.filter.wants(&document, &mut effort)? => Some(document),
                _ => None,
            };
            self.spent += effort.spent() as usize;
            if self.spent > TURN {
                self.spent = 0;
                tokio::task::yield_now().await;
            }
            if wanted.is_some() {
                return Ok(wanted);
            }
        }
    }

    fn text(&self, document: Document) -> String {
        Value::Object(json::from_document(self.plan.projection.of(document))).to_string()
    }

    /// All that is wanted, in order.
    async fn sort(&mut self) -> Result<std::vec::IntoIter<Entry>, DocumentsError> {
        let (mut entries, mut held) = (Vec::new(), 0);
        while let Some(document) = self.find().await? {
            let key = self.key(&document)?;
            let text = self.text(document);
            held += weight(&text, &key);
            entries.push(Entry { key, text });
            let most = self.plan.limit.map(|limit| limit as usize);
            if held > MAX_SORTED && most.is_some_and(|most| most < entries.len()) {
                entries = ordered(&self.plan, entries).await?;
                held = entries.iter().map(|entry| weight(&entry.text, &entry.key)).sum();
            }
            if held > MAX_SORTED {
                return Err(refused(format!(
                    "the sort would hold more than {} MiB; filter more out, keep fewer fields, or \
                     set a `limit`",
                    MAX_SORTED >> 20
                )));
            }
        }
        Ok(ordered(&self.plan, entries).await?.into_iter())
    }

    fn key(&self, document: &Document) -> Result<Vec<Bson>, DocumentsError> {
        let mut effort = Effort::new();
        let fields = self.plan.sort.iter();
        fields.map(|(path, falling)| extreme(document, path, *falling, &mut effort)).collect()
    }
}

/// The first ones, as many as are wanted; on another thread, as there may be many.
async fn ordered(plan: &Plan, mut entries: Vec<Entry>) -> Result<Vec<Entry>, DocumentsError> {
    let falling: Vec<bool> = plan.sort.iter().map(|(_, falling)| *falling).collect();
    let most = plan.limit.map_or(usize::MAX, |limit| limit as usize);
    let sorting = tasks::spawn_blocking("sort-documents", move || {
        entries.sort_by(|a, b| {
            let keys = a.key.iter().zip(&b.key).zip(&falling);
            let order = |((a, b), falling): ((&Bson, &Bson), &bool)| {
                if *falling { compare(b, a) } else { compare(a, b) }
            };
            keys.map(order).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        });
        entries.truncate(most);
        entries
    });
    sorting.await.ok_or_else(|| DocumentsError::Unavailable("this process is ending".into()))
}

/// What a document is sorted by: of a list its least element, or its greatest where the
/// order is a falling one.
fn extreme(
    document: &Document,
    path: &[String],
    falling: bool,
    effort: &mut Effort,
) -> Result<Bson, DocumentsError> {
    let mut best: Option<Bson> = None;
    let mut take = |value: &Bson| {
        let order = best.as_ref().map(|best| compare(value, best));
        let better = order.is_none_or(|o| if falling { o.is_gt() } else { o.is_lt() });
        if better {
            best = Some(value.clone());
        }
    };
    path::walk(document, path, effort, |value, effort| {
        match value {
            Some(Bson::Array(elements)) if elements.is_empty() => take(&Bson::Undefined),
            Some(Bson::Array(elements)) => {
                if let Err(error) = effort.spend(elements.len()) {
                    return ControlFlow::Break(Err(error));
                }
                elements.iter().for_each(&mut take);
            }
            Some(value) => take(value),
            None => take(&Bson::Null),
        }
        ControlFlow::Continue(())
    })?;
    Ok(best.unwrap_or(Bson::Null))
}

fn weight(text: &str, key: &[Bson]) -> usize {
    const EMPTY: usize = size_of::<Entry>() + size_of::<Bson>();
    EMPTY + text.len() + key.iter().map(key_weight).sum::<usize>()
}

fn key_weight(value: &Bson) -> usize {
    let more = match value {
        Bson::String(text) => text.len(),
        Bson::Array(elements) => elements.iter().map(key_weight).sum(),
        Bson::Document(document) => {
            document.iter().map(|(key, value)| 2 * key.len() + key_weight(value)).sum()
        }
        _ => 0,
    };
    size_of::<Bson>() + more
}

#[async_trait]
impl<S: Source> DocumentCursor for Found<S> {
    async fn next(&mut self) -> Result<Option<String>, DocumentsError> {
        if self.plan.limit.is_some_and(|limit| self.given >= limit) {
            return Ok(None);
        }
        let text = if self.plan.sort.is_empty() {
            let document = self.find().await?;
            document.map(|document| self.text(document))
        } else {
            let mut sorted = match self.sorted.take() {
                Some(sorted) => sorted,
                None => self.sort().await?,
            };
            let next = sorted.next();
            self.sorted = Some(sorted);
            next.map(|entry| entry.text)
        };
        self.given += u32::from(text.is_some());
        Ok(text)
    }
}
