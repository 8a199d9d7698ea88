//! The projection: what of a document is wanted.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document};

use super::{path, refused};
use crate::documents::DocumentsError;

/// The key that is there unless it is taken out.
const ID: &str = "_id";

/// Which fields are wanted.
pub(super) enum Projection {
    Whole,
    /// These.
    Keep(Fields),
    /// All but these.
    Drop(Fields),
}

/// Fields by the steps of their paths; no further steps for a whole field.
#[derive(Default)]
pub(super) struct Fields(BTreeMap<String, Fields>);

impl Projection {
    /// Understands a projection.
    pub(super) fn new(projection: Option<&Document>) -> Result<Self, DocumentsError> {
        let mut keep = None;
        let (mut fields, mut id) = (Fields::default(), None);
        for (key, value) in projection.into_iter().flatten() {
            let kept = wanted(key, value)?;
            if key == ID {
                id = Some(kept);
                continue;
            }
            if *keep.get_or_insert(kept) != kept {
                return Err(refused(format!(
                    "the projection keeps some fields and leaves others out; `{key}` should be \
                     like those before it"
                )));
            }
            fields.add(key)?;
        }
        let keep = match (keep, id) {
            (None, None) => return Ok(Self::Whole),
            (Some(keep), _) | (None, Some(keep)) => keep,
        };
        if id.unwrap_or(true) == keep {
            fields.0.entry(ID.into()).or_default();
        }
        Ok(if keep { Self::Keep(fields) } else { Self::Drop(fields) })
    }

    /// What is wanted of a document.
    pub(super) fn of(&self, document: Document) -> Document {
        match self {
            Self::Whole => document,
            Self::Keep(fields) => fields.kept(document),
            Self::Drop(fields) => fields.dropped(document),
        }
    }
}

impl Fields {
    fn add(&mut self, key: &str) -> Result<(), DocumentsError> {
        let steps = path::parse("projection", key)?;
        let (mut fields, mut new) = (self, false);
        for (at, step) in steps.iter().enumerate() {
            // A field without further steps is wanted whole already.
            if at > 0 && !new && fields.0.is_empty() {
                return Err(twice(key));
            }
            new = !fields.0.contains_key(step);
            fields = fields.0.entry(step.clone()).or_default();
        }
        if new { Ok(()) } else { Err(twice(key)) }
    }

    fn kept(&self, document: Document) -> Document {
        let mut kept = Document::new();
        for (key, value) in document {
            match self.0.get(&key) {
                None => {}
                Some(whole) if whole.0.is_empty() => drop(kept.insert(key, value)),
                Some(within) => match value {
                    Bson::Document(inner) => drop(kept.insert(key, within.kept(inner))),
                    Bson::Array(elements) => drop(kept.insert(key, within.kept_of(elements))),
                    _ => {}
                },
            }
        }
        kept
    }

    fn kept_of(&self, elements: Vec<Bson>) -> Vec<Bson> {
        let kept = elements.into_iter().filter_map(|element| match element {
            Bson::Document(inner) => Some(Bson::Document(self.kept(inner))),
            Bson::Array(elements) => Some(Bson::Array(self.kept_of(elements))),
            _ => None,
        });
        kept.collect()
    }

    fn dropped(&self, document: Document) -> Document {
        let left = document.into_iter().filter_map(|(key, value)| match self.0.get(&key) {
            None => Some((key, value)),
            Some(whole) if whole.0.is_empty() => None,
            Some(within) => Some((key, within.dropped_of(value))),
        });
        left.collect()
    }

    fn dropped_of(&self, value: Bson) -> Bson {
        match value {
            Bson::Document(inner) => Bson::Document(self.dropped(inner)),
            Bson::Array(elements) => {
                Bson::Array(elements.into_iter().map(|element| self.dropped_of(element)).collect())
            }
            other => other,
        }
    }
}

fn wanted(key: &str, value: &Bson) -> Result<bool, DocumentsError> {
    match value {
        Bson::Boolean(wanted) => Ok(*wanted),
        Bson::Int32(number) => Ok(*number != 0),
        Bson::Int64(number) => Ok(*number != 0),
        Bson::Double(number) => Ok(*number != 0.0),
        Bson::Document(inner) => {
            let named = inner.keys().find(|key| key.starts_with('$'));
            Err(match named {
                Some(operator) => refused(format!(
                    "the projection uses `{operator}`; without MongoDB a field is kept (1) or \
                     left out (0)"
                )),
                None => refused(format!(
                    "the projection has an object for `{key}`; write the fields in it as \
                     `{key}.FIELD`"
                )),
            })
        }
        _ => Err(refused(format!("the projection of `{key}` is neither 1 nor 0"))),
    }
}

fn twice(key: &str) -> DocumentsError {
    refused(format!("the projection names `{key}` twice, or with a field that holds it"))
}
