//! Reading columns back into checked types. Whatever is wrong with a value is wrong with
//! its document alone.

use rusqlite::Row;
use serde::de::DeserializeOwned;

use crate::sqlite::Abort;
use crate::types::Invalid;

/// What is wrong with a column.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Problem(String);

impl Problem {
    /// With the document it was found in.
    pub(super) fn of(self, what: String) -> Abort {
        Abort::Damaged { what, problem: self.0 }
    }
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Self {
        Self(error.to_string())
    }
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

pub(super) type Decoded<T> = Result<T, Problem>;

/// A text for people, to say which document it is when nothing else can be read.
pub(super) fn label(row: &Row<'_>, column: usize) -> String {
    row.get(column).unwrap_or_else(|_| "?".to_owned())
}

pub(super) fn name<T: TryFrom<String, Error = Invalid>>(
    row: &Row<'_>,
    column: usize,
) -> Decoded<T> {
    Ok(row.get::<_, String>(column)?.try_into()?)
}

pub(super) fn optional_name<T: TryFrom<String, Error = Invalid>>(
    row: &Row<'_>,
    column: usize,
) -> Decoded<Option<T>> {
    Ok(row.get::<_, Option<String>>(column)?.map(T::try_from).transpose()?)
}

pub(super) fn number<T: TryFrom<i64>>(row: &Row<'_>, column: usize) -> Decoded<T> {
    let number = row.get::<_, i64>(column)?;
    number.try_into().map_err(|_| in_column(row, column, "is out of range"))
}

pub(super) fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Decoded<T> {
    let text = row.get::<_, String>(column)?;
    serde_json::from_str(&text).map_err(|error| in_column(row, column, error))
}

pub(super) fn optional_json<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> Decoded<Option<T>> {
    let text = row.get::<_, Option<String>>(column)?;
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| in_column(row, column, error))
}

fn in_column(row: &Row<'_>, column: usize, problem: impl std::fmt::Display) -> Problem {
    let name = row.as_ref().column_name(column).unwrap_or("?");
    Problem(format!("its {name}: {problem}"))
}

/// Leaves a document out of a list because of what is wrong with it, so that the others
/// can be used.
pub(super) fn readable<T>(decoded: Result<T, Abort>) -> Option<T> {
    match decoded {
        Ok(value) => Some(value),
        Err(Abort::Damaged { what, problem }) => {
            tracing::error!(%what, %problem, "a damaged document is left out");
            None
        }
        Err(_) => None,
    }
}
