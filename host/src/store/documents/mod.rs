//! Queries of plugins, on every backend.
//!
//! MongoDB answers them itself. The other backends have [`Found`], which knows the part of
//! MongoDB's query language that its documentation describes for comparisons, logic,
//! presence, projection and sort, and refuses the rest by name: a handler that works here
//! works there. BSON is what the language is about, so the values are BSON here too.

mod collections;
mod filter;
mod found;
mod order;
mod path;
mod projection;

use mongodb::bson::Document;
use serde_json::{Map, Value};

pub use collections::{BadLine, Collections};
pub(super) use found::{Found, Source};

use super::StoreError;
use crate::documents::{DocumentQuery, DocumentsError};
use filter::Filter;
use projection::Projection;

/// Operators that run a query's own program on a server.
const PROGRAMS: [&str; 4] = ["$where", "$function", "$accumulator", "$code"];

/// Most fields of a sort, as MongoDB has it.
const MAX_SORT: usize = 32;

impl From<StoreError> for DocumentsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Unavailable(why),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// A part of a query as BSON.
pub(super) fn language(
    part: &str,
    object: &Map<String, Value>,
) -> Result<Document, DocumentsError> {
    if let Some(program) = programs(object) {
        return Err(refused(format!(
            "the {part} has `{program}`, which runs a program on the database; it is not allowed"
        )));
    }
    serde_json::from_value(Value::Object(object.clone()))
        .map_err(|error| refused(format!("the {part} is no MongoDB document: {error}")))
}

fn refused(why: String) -> DocumentsError {
    DocumentsError::Refused(why)
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

/// A query that can be answered here.
pub(super) struct Plan {
    filter: Filter,
    projection: Projection,
    /// Paths; true for descending.
    sort: Vec<(Vec<String>, bool)>,
    limit: Option<u32>,
}

impl Plan {
    /// Refuses what only MongoDB can answer, by its name.
    pub(super) fn new(query: &DocumentQuery) -> Result<Self, DocumentsError> {
        let projection = query.projection.as_ref();
        let projection = projection.map(|object| language("projection", object)).transpose()?;
        if query.sort.len() > MAX_SORT {
            return Err(refused(format!("the sort has more than {MAX_SORT} fields")));
        }
        let sort = query.sort.iter().map(|(field, down)| Ok((path::parse("sort", field)?, *down)));
        Ok(Self {
            filter: Filter::new(&language("filter", &query.filter)?)?,
            projection: Projection::new(projection.as_ref())?,
            sort: sort.collect::<Result<_, DocumentsError>>()?,
            limit: query.limit.map(std::num::NonZeroU32::get),
        })
    }

    /// The text that the filter wants a field to equal, if that is what it wants: a backend
    /// need look at no other documents.
    pub(super) fn pinned(&self, field: &str) -> Option<&str> {
        self.filter.pinned(field)
    }
}

/// What is spent on one document. A filter and a document of a hostile author can be made
/// to be compared for hours.
pub(super) struct Effort(u32);

impl Effort {
    /// About a tenth of a second's.
    const MOST: u32 = 1_000_000;

    pub(super) fn new() -> Self {
        Self(0)
    }

    pub(super) fn spent(&self) -> u32 {
        self.0
    }

    /// Fails once it is too much.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), DocumentsError> {
        self.0 = self.0.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX));
        if self.0 <= Self::MOST {
            return Ok(());
        }
        Err(refused(
            "comparing one document with the query takes too long; use fewer values, or fields \
             with shorter lists"
                .into(),
        ))
    }
}
