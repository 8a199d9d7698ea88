//! Many writes as one command.

use mongodb::bson::{Document, doc};

use super::error::{DUPLICATE_KEY, TOO_LARGE, meaning, of_code};
use super::{MongoStore, decode};
use crate::store::StoreError;

/// Statements and bytes of one command; more take more than one. The server takes 48 MB.
const STATEMENTS: usize = 1_000;
const BYTES: usize = 12 << 20;

/// The largest document that is sent: MongoDB stores 16 MiB, of which names and the rest
/// of the artifact take a little.
const MAX_DOCUMENT: usize = 15 << 20;

/// Writes of one kind.
pub(super) enum Writes {
    /// New documents.
    Inserts(Vec<Document>),
    /// Changes of the documents that are found, or of new ones: `q`, `u`.
    Upserts(Vec<Document>),
}

/// A change of the document that `filter` finds, or of a new one.
pub(super) fn upsert(filter: Document, change: Document) -> Document {
    doc! {"q": filter, "u": change, "upsert": true}
}

impl Writes {
    fn into_parts(self) -> (&'static str, &'static str, Vec<Document>) {
        match self {
            Self::Inserts(documents) => ("insert", "documents", documents),
            Self::Upserts(statements) => ("update", "updates", statements),
        }
    }
}

impl MongoStore {
    /// Performs all writes and returns the places of those that met a document with the
    /// same key: one that was there, or one that an upsert's filter does not find.
    pub(super) async fn write_all(
        &self,
        collection: &str,
        writes: Writes,
    ) -> Result<Vec<usize>, StoreError> {
        let what = format!("writing to {collection}");
        let (command, list, statements) = writes.into_parts();
        let (mut taken, mut from) = (Vec::new(), 0);
        for group in grouped(&what, statements)? {
            let count = group.len();
            let command = doc! {command: collection, list: group, "ordered": false};
            taken.extend(self.send(&what, command).await?.into_iter().map(|at| at + from));
            from += count;
        }
        Ok(taken)
    }

    async fn send(&self, what: &str, mut command: Document) -> Result<Vec<usize>, StoreError> {
        if let Some(concern) = self.db.write_concern() {
            let concern = mongodb::bson::serialize_to_bson(concern)
                .map_err(|error| StoreError::Fatal(format!("{what}: {error}")))?;
            command.insert("writeConcern", concern);
        }
        let answer = self.within(self.db.run_command(command)).await;
        let answer = answer.map_err(|error| meaning(what, &error))?;
        let mut taken = Vec::new();
        let errors = answer.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        for error in errors.iter().filter_map(|error| error.as_document()) {
            let code = decode::number::<i32>(error, "code").unwrap_or(0);
            let at = decode::number::<usize>(error, "index").unwrap_or(0);
            if code != DUPLICATE_KEY {
                return Err(of_code(what, code, error.get_str("errmsg").unwrap_or_default()));
            }
            taken.push(at);
        }
        if let Ok(concern) = answer.get_document("writeConcernError") {
            let text = concern.get_str("errmsg").unwrap_or_default();
            return Err(StoreError::Unavailable(format!("{what}: not acknowledged yet: {text}")));
        }
        Ok(taken)
    }
}

/// The bytes of a document. One that no server stores is refused here: some servers answer
/// it by closing the connection, which looks like an outage.
pub(super) fn fitting(what: &str, document: &Document) -> Result<usize, StoreError> {
    let bytes = mongodb::bson::serialize_to_vec(document)
        .map_err(|error| StoreError::Fatal(format!("{what}: {error}")))?;
    if bytes.len() > MAX_DOCUMENT {
        return Err(of_code(what, TOO_LARGE, ""));
    }
    Ok(bytes.len())
}

/// Cut into what one command each takes.
fn grouped(what: &str, statements: Vec<Document>) -> Result<Vec<Vec<Document>>, StoreError> {
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for statement in statements {
        let size = fitting(what, &statement)?;
        if group.len() == STATEMENTS || bytes + size > BYTES && !group.is_empty() {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += size;
        group.push(statement);
    }
    if !group.is_empty() {
        groups.push(group);
    }
    Ok(groups)
}
