//! Reading documents that anybody may have written.

use mongodb::bson::{Bson, Document};

use crate::clock::UnixMs;
use crate::store::StoreError;

/// What is wrong with a document, without its name.
pub(super) struct Problem(String);

pub(super) type Decoded<T> = Result<T, Problem>;

impl Problem {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// With the document's name.
    pub fn of(self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { what: what.into(), problem: self.0 }
    }
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<crate::types::Invalid> for Problem {
    fn from(error: crate::types::Invalid) -> Self {
        Self(error.to_string())
    }
}

/// A field that must be there; `null` counts as missing.
pub(super) fn needed<'a>(document: &'a Document, key: &str) -> Decoded<&'a Bson> {
    optional(document, key).ok_or_else(|| Problem(format!("`{key}` is missing")))
}

/// A field that may be missing or `null`.
pub(super) fn optional<'a>(document: &'a Document, key: &str) -> Option<&'a Bson> {
    document.get(key).filter(|value| !matches!(value, Bson::Null | Bson::Undefined))
}

/// A text.
pub(super) fn string<'a>(document: &'a Document, key: &str) -> Decoded<&'a str> {
    needed(document, key)?.as_str().ok_or_else(|| wrong(key, "a text"))
}

/// A text that is a name of ours.
pub(super) fn name<T: TryFrom<String, Error = crate::types::Invalid>>(
    document: &Document,
    key: &str,
) -> Decoded<T> {
    Ok(T::try_from(string(document, key)?.to_owned())?)
}

/// A whole number of any of BSON's types, from 0 to what fits.
pub(super) fn number<T: TryFrom<i64>>(document: &Document, key: &str) -> Decoded<T> {
    let number = whole(needed(document, key)?).ok_or_else(|| wrong(key, "a whole number"))?;
    T::try_from(number).map_err(|_| Problem(format!("`{key}` is {number}, which is out of range")))
}

/// A whole number, as drivers of different languages write it.
pub(super) fn whole(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
            Some(*number as i64)
        }
        _ => None,
    }
}

/// A date.
pub(super) fn time(document: &Document, key: &str) -> Decoded<UnixMs> {
    match needed(document, key)? {
        Bson::DateTime(at) => Ok(UnixMs(at.timestamp_millis())),
        _ => Err(wrong(key, "a date")),
    }
}

/// True or false; a missing one is false.
pub(super) fn flag(document: &Document, key: &str) -> Decoded<bool> {
    match optional(document, key) {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| wrong(key, "true or false")),
    }
}

/// JSON text.
pub(super) fn json<T: serde::de::DeserializeOwned>(document: &Document, key: &str) -> Decoded<T> {
    Ok(serde_json::from_str(string(document, key)?)?)
}

/// An embedded document that may be missing.
pub(super) fn document<'a>(parent: &'a Document, key: &str) -> Decoded<Option<&'a Document>> {
    match optional(parent, key) {
        None => Ok(None),
        Some(value) => value.as_document().map(Some).ok_or_else(|| wrong(key, "a document")),
    }
}

/// A field's text for an error message, whatever it holds.
pub(super) fn label(document: &Document, key: &str) -> String {
    let text = match document.get(key) {
        Some(Bson::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "?".into(),
    };
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

/// Sets a document aside that cannot be read: it is told of, and the others go on.
pub(super) fn readable<T>(decoded: Result<T, StoreError>) -> Option<T> {
    decoded
        .inspect_err(|error| {
            if crate::store::told::is_news(&error.to_string()) {
                tracing::error!(%error, "a damaged document is left out; mend or remove it");
            }
        })
        .ok()
}

fn wrong(key: &str, expected: &str) -> Problem {
    Problem(format!("`{key}` is not {expected}"))
}
