//! Errors that know what they mean for the task.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the SDK's and a handler's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Longest reason code the worker accepts.
const MAX_REASON: usize = 64;

/// A failure with the reason code it is reported under and whether another attempt can help.
///
/// `?` converts the common errors of the standard library and of `serde_json`, classified as
/// their `From` implementations say. For an error type of your own, implement
/// `From<YourError> for Error`; for a foreign one use [`ResultExt`].
///
/// ```
/// use flowkit_sdk::{Error, Result};
///
/// fn port(text: &str) -> Result<u16> {
///     let port = text.parse()?; // permanent, `validation_error`
///     match port {
///         0 => Err(Error::invalid("port 0 cannot be listened on")),
///         port => Ok(port),
///     }
/// }
/// assert!(port("x").unwrap_err().is_permanent());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    message: String,
    class: Classification,
}

/// What a failure means for the task; the `detail` of a `handler-error` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classification {
    /// Short and machine-readable, `[a-z0-9_]{1,64}`.
    pub reason_code: String,
    /// True when another attempt with the same input would fail the same way.
    pub permanent: bool,
}

impl Error {
    /// A failure that every attempt with this input will meet: the task ends.
    pub fn permanent(reason_code: &str, message: impl Into<String>) -> Self {
        Self::new(reason_code, true, message)
    }

    /// A failure that may be gone at the next attempt: the coordinator tries again.
    pub fn transient(reason_code: &str, message: impl Into<String>) -> Self {
        Self::new(reason_code, false, message)
    }

    /// Input that is wrong: permanent, `validation_error`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::permanent("validation_error", message)
    }

    /// Says in front of the message what was being done.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The name it is reported under.
    pub fn reason_code(&self) -> &str {
        &self.class.reason_code
    }

    /// True when no other attempt can help.
    pub fn is_permanent(&self) -> bool {
        self.class.permanent
    }

    /// What it means for the task.
    pub fn classification(&self) -> &Classification {
        &self.class
    }

    /// A failure that is permanent or not.
    pub fn new(reason_code: &str, permanent: bool, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { message, class: Classification { reason_code: tidy(reason_code), permanent } }
    }

    /// The two texts of a `handler-error`.
    pub(crate) fn into_wire(self) -> (String, Option<String>) {
        let detail = serde_json::to_string(&self.class).ok();
        (self.message, detail)
    }

    /// The reverse of [`Error::into_wire`]. A detail this SDK did not write means nothing
    /// to it, so such an error is the seed's `unknown_error`: worth another attempt.
    pub(crate) fn from_wire(message: String, detail: Option<&str>) -> Self {
        let class: Option<Classification> = detail.and_then(|d| serde_json::from_str(d).ok());
        match class {
            Some(class) => Self::new(&class.reason_code, class.permanent, message),
            None => Self::transient("unknown_error", message),
        }
    }

    /// What the worker says when it refuses a value: the next attempt would offer the same.
    pub(crate) fn refused(message: String) -> Self {
        Self::permanent("bad_output", message)
    }
}

/// The worker reports a code only if it is `[a-z0-9_]{1,64}`.
fn tidy(reason_code: &str) -> String {
    let code: String = reason_code
        .chars()
        .take(MAX_REASON)
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' })
        .collect();
    if code.is_empty() { "unknown_error".to_owned() } else { code }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// `connection_error` for a connection that failed, else `io_error`. Permanent where only
/// another input or another grant in the worker's config would help.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        let message = error.to_string();
        match error.kind() {
            Kind::NotFound
            | Kind::PermissionDenied
            | Kind::InvalidInput
            | Kind::InvalidData
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::Unsupported => Self::permanent("io_error", message),
            Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::BrokenPipe
            | Kind::TimedOut => Self::transient("connection_error", message),
            _ => Self::transient("io_error", message),
        }
    }
}

macro_rules! invalid_input {
    ($($error:ty),+ $(,)?) => {$(
        /// Permanent, `validation_error`.
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::invalid(error.to_string())
            }
        }
    )+};
}

invalid_input!(
    serde_json::Error,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::num::ParseIntError,
    std::num::ParseFloatError,
    std::num::TryFromIntError,
    std::str::ParseBoolError,
    std::char::ParseCharError,
);

/// Turns the error of any `Result` into an [`Error`].
pub trait ResultExt<T, E> {
    /// Says in front of the message what was being done; the classification stays.
    fn context(self, doing: impl fmt::Display) -> Result<T>
    where
        E: Into<Error>;

    /// Every attempt would fail like this: the task ends with `reason_code`.
    fn permanent(self, reason_code: &str) -> Result<T>
    where
        E: fmt::Display;

    /// Another attempt may succeed; until then the failure is reported as `reason_code`.
    fn transient(self, reason_code: &str) -> Result<T>
    where
        E: fmt::Display;
}

impl<T, E> ResultExt<T, E> for std::result::Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Result<T>
    where
        E: Into<Error>,
    {
        self.map_err(|error| error.into().context(doing))
    }

    fn permanent(self, reason_code: &str) -> Result<T>
    where
        E: fmt::Display,
    {
        self.map_err(|error| Error::permanent(reason_code, error.to_string()))
    }

    fn transient(self, reason_code: &str) -> Result<T>
    where
        E: fmt::Display,
    {
        self.map_err(|error| Error::transient(reason_code, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn io_errors_classify_themselves() {
        let class = |kind| Error::from(io::Error::from(kind)).classification().clone();
        let of = |reason_code: &str, permanent| Classification {
            reason_code: reason_code.to_owned(),
            permanent,
        };
        assert_eq!(class(io::ErrorKind::NotFound), of("io_error", true));
        assert_eq!(class(io::ErrorKind::Interrupted), of("io_error", false));
        assert_eq!(class(io::ErrorKind::ConnectionRefused), of("connection_error", false));
    }

    #[test]
    fn survives_the_wire() {
        let error = Error::permanent("validation_error", "line 3").context("reading rows.csv");
        let (message, detail) = error.clone().into_wire();
        assert_eq!(message, "reading rows.csv: line 3");
        assert_eq!(Error::from_wire(message, detail.as_deref()), error);
    }

    #[test]
    fn a_foreign_detail_is_unknown_and_transient() {
        for detail in [None, Some("not json"), Some("{}"), Some("[1]")] {
            let error = Error::from_wire("?".to_owned(), detail);
            assert_eq!((error.reason_code(), error.is_permanent()), ("unknown_error", false));
        }
    }

    #[test]
    fn reason_codes_are_made_acceptable() {
        assert_eq!(Error::transient("Disk Full!", "").reason_code(), "disk_full_");
        assert_eq!(Error::transient("", "").reason_code(), "unknown_error");
        assert_eq!(Error::transient(&"é".repeat(100), "").reason_code(), "_".repeat(64));
    }

    #[test]
    fn foreign_errors_are_classified_where_they_are_met() {
        let lost: std::result::Result<(), &str> = Err("no route");
        let error = lost.transient("connection_error").context("fetching").unwrap_err();
        assert_eq!(error.to_string(), "fetching: no route");
        assert!(!error.is_permanent());
        assert!(lost.permanent("bad_host").unwrap_err().is_permanent());
    }
}
