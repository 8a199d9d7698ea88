//! Many upserts as one `update` command.

use mongodb::bson::{Document, doc};

use super::error::{DUPLICATE_KEY, meaning, of_code};
use super::{MongoStore, within};
use crate::store::StoreError;

/// Statements and bytes of one command; more take more than one. The server takes 48 MB.
const STATEMENTS: usize = 1_000;
const BYTES: usize = 12 << 20;

/// The largest document that is sent: MongoDB stores 16 MiB, of which names and the rest
/// of the artifact take a little.
const MAX_DOCUMENT: usize = 15 << 20;

/// One upsert: the document that `filter` finds, or a new one, is changed.
pub(super) struct Upsert {
    /// What finds it.
    pub filter: Document,
    /// What is done to it.
    pub change: Document,
}

impl MongoStore {
    /// Performs all upserts and returns the places of those that found a document with the
    /// same key that their filter does not find.
    pub(super) async fn upsert_all(
        &self,
        collection: &str,
        upserts: &[Upsert],
    ) -> Result<Vec<usize>, StoreError> {
        let what = format!("writing to {collection}");
        let mut taken = Vec::new();
        let (mut from, mut statements, mut bytes) = (0, Vec::new(), 0);
        for (at, upsert) in upserts.iter().enumerate() {
            let statement =
                doc! {"q": upsert.filter.clone(), "u": upsert.change.clone(), "upsert": true};
            let size = mongodb::bson::serialize_to_vec(&statement)
                .map_err(|error| StoreError::Fatal(format!("{what}: {error}")))?
                .len();
            if size > MAX_DOCUMENT {
                return Err(of_code(&what, 10_334, ""));
            }
            if statements.len() == STATEMENTS || bytes + size > BYTES && !statements.is_empty() {
                let sent = std::mem::take(&mut statements);
                taken.extend(self.send(collection, &what, sent).await?.map(|n| n + from));
                (from, bytes) = (at, 0);
            }
            bytes += size;
            statements.push(statement);
        }
        if !statements.is_empty() {
            taken.extend(self.send(collection, &what, statements).await?.map(|n| n + from));
        }
        Ok(taken)
    }

    async fn send(
        &self,
        collection: &str,
        what: &str,
        statements: Vec<Document>,
    ) -> Result<impl Iterator<Item = usize> + use<>, StoreError> {
        let mut command = doc! {"update": collection, "updates": statements, "ordered": false};
        if let Some(concern) = self.db.write_concern() {
            let concern = mongodb::bson::serialize_to_bson(concern)
                .map_err(|error| StoreError::Fatal(format!("{what}: {error}")))?;
            command.insert("writeConcern", concern);
        }
        let answer = within(self.db.run_command(command)).await;
        let answer = answer.map_err(|error| meaning(what, &error))?;
        let mut taken = Vec::new();
        let errors = answer.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        for error in errors.iter().filter_map(|error| error.as_document()) {
            let code = super::decode::number::<i32>(error, "code").unwrap_or(0);
            let at = super::decode::number::<usize>(error, "index").unwrap_or(0);
            if code != DUPLICATE_KEY {
                return Err(of_code(what, code, error.get_str("errmsg").unwrap_or_default()));
            }
            taken.push(at);
        }
        if let Ok(concern) = answer.get_document("writeConcernError") {
            let text = concern.get_str("errmsg").unwrap_or_default();
            return Err(StoreError::Unavailable(format!("{what}: not acknowledged yet: {text}")));
        }
        Ok(taken.into_iter())
    }
}
