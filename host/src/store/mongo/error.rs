//! What the driver's errors mean for whoever called.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::store::StoreError;

/// A document with the same key exists.
pub(super) const DUPLICATE_KEY: i32 = 11_000;

/// A call that took longer than any may.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs_f64())]
pub(super) struct TooSlow(pub std::time::Duration);

/// What a server says for a while only: it steps down, shuts down, or is overloaded.
const PASSING: &[i32] = &[
    6, 7, 24, 43, 46, 50, 64, 89, 91, 112, 133, 134, 175, 189, 202, 237, 262, 317, 9_001, 10_107,
    11_600, 11_602, 13_435, 13_436, 14_031,
];

const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;
/// A document beyond the limit.
pub(super) const TOO_LARGE: i32 = 10_334;
/// The same, of one that a change or an upsert would make so large.
const GROWN_TOO_LARGE: [i32; 2] = [17_419, 17_420];

/// True when a document with the same key was there.
pub(super) fn is_duplicate(error: &Error) -> bool {
    code(error) == Some(DUPLICATE_KEY)
}

/// The server's number for what happened.
pub(super) fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        _ => None,
    }
}

/// An address that cannot be used. The driver's own text is not shown: it may repeat a
/// part of the address, which holds the password.
pub(super) fn of_uri(error: Error) -> StoreError {
    let why = match &*error.kind {
        ErrorKind::DnsResolve { .. } => "its host is not found in the DNS",
        ErrorKind::InvalidTlsConfig { .. } => "its TLS files cannot be used",
        _ => {
            "it is not a MongoDB address: mongodb://USER:PASSWORD@HOST:PORT/?OPTIONS, where special \
             characters in USER and PASSWORD are written as %XX"
        }
    };
    StoreError::Fatal(format!("`mongodb_uri`: {why}"))
}

/// The meaning of an error, `what` being what was tried.
pub(super) fn meaning(what: &str, error: &Error) -> StoreError {
    match &*error.kind {
        ErrorKind::Authentication { .. } => {
            return StoreError::Fatal(format!(
                "{what}: the database refuses the user or the password of `mongodb_uri`"
            ));
        }
        ErrorKind::BsonDeserialization(_) | ErrorKind::InvalidResponse { .. } => {
            return StoreError::Damaged { what: what.into(), problem: error.to_string() };
        }
        ErrorKind::BsonSerialization(_) | ErrorKind::InvalidArgument { .. } => {
            return StoreError::Fatal(format!("{what}: {error}"));
        }
        _ => {}
    }
    match code(error) {
        Some(code) => of_code(what, code, &text(error)),
        None => StoreError::Unavailable(format!("{what}: {}", text(error))),
    }
}

/// The error alone, without the driver's notes on it.
fn text(error: &Error) -> String {
    match error.get_custom::<TooSlow>() {
        Some(slow) => slow.to_string(),
        None => error.kind.to_string(),
    }
}

/// The same for a code alone.
pub(super) fn of_code(what: &str, code: i32, text: &str) -> StoreError {
    match code {
        UNAUTHORIZED => StoreError::Fatal(format!(
            "{what}: the user of `mongodb_uri` lacks the right to do it; it needs readWrite on \
             `mongodb_database`"
        )),
        AUTHENTICATION_FAILED => StoreError::Fatal(format!(
            "{what}: the database refuses the user or the password of `mongodb_uri`"
        )),
        TOO_LARGE => StoreError::Fatal(format!(
            "{what}: a document would be larger than the 16 MiB that MongoDB stores; lower \
             `limits.result_bytes` of the role, or put less into one batch"
        )),
        code if GROWN_TOO_LARGE.contains(&code) => of_code(what, TOO_LARGE, text),
        code if PASSING.contains(&code) => StoreError::Unavailable(format!("{what}: {text}")),
        _ => StoreError::Fatal(format!("{what}: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_waited_for_and_what_does_not_says_what_to_change() {
        for code in [189, 91, 11_600, 10_107] {
            assert!(matches!(of_code("x", code, "t"), StoreError::Unavailable(_)), "{code}");
        }
        for (code, named) in [
            (13, "readWrite"),
            (18, "mongodb_uri"),
            (10_334, "result_bytes"),
            (17_419, "result_bytes"),
        ] {
            let error = of_code("x", code, "t");
            assert!(matches!(&error, StoreError::Fatal(text) if text.contains(named)), "{error}");
        }
    }
}
