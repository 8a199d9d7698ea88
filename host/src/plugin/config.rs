//! What a configuration says about one role's handler.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::env::EnvValue;
use super::http_grant::HttpGrant;

/// `handlers.ROLE` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerConfig {
    /// The component's file. Whoever reads the configuration makes it absolute, or relative
    /// to the process's directory.
    pub component: PathBuf,
    /// The only content that may serve the role: lowercase hex SHA-256. Where the file has
    /// another one, a version with this digest is taken from the cache.
    #[serde(default, deserialize_with = "pin")]
    pub sha256: Option<String>,
    /// The file of the component's signature, which must then be a trusted one; by default
    /// the component's name with `.sig` after it, if signatures are required at all.
    #[serde(default)]
    pub signature: Option<PathBuf>,
    /// How many runs of the role a worker has at once, at most; by default as many as
    /// `max_concurrent_tasks` allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
    /// Directories the handler may use; none by default.
    #[serde(default)]
    pub dirs: Vec<DirGrant>,
    /// Environment variables the handler sees, by the names it sees; none by default.
    #[serde(default)]
    pub env: BTreeMap<String, EnvValue>,
    /// Hosts it may send HTTP requests to; none by default.
    #[serde(default)]
    pub http: Vec<HttpGrant>,
    /// Collections it may read with the interface `documents`; none by default.
    #[serde(default)]
    pub documents: Vec<String>,
    /// What one instance may use.
    #[serde(default)]
    pub limits: Limits,
}

impl HandlerConfig {
    /// A handler that is granted nothing and has the default limits.
    pub fn new(component: impl Into<PathBuf>) -> Self {
        Self {
            component: component.into(),
            sha256: None,
            signature: None,
            concurrency: None,
            dirs: Vec::new(),
            env: BTreeMap::new(),
            http: Vec::new(),
            documents: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// A digest as the host writes them, so that comparing texts compares digests.
fn pin<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let given = Option::<String>::deserialize(input)?;
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    match given {
        Some(text) if text.len() != 64 || !text.bytes().all(hex) => Err(D::Error::custom(
            "not a SHA-256: expected 64 lowercase hexadecimal digits, as `flowkit plugin inspect \
             FILE.wasm` shows them",
        )),
        given => Ok(given),
    }
}

/// A directory that a handler sees, with everything below it. Neither `..` nor a symbolic
/// link leads out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirGrant {
    /// The directory on this machine; resolved like [`HandlerConfig::component`].
    pub host: PathBuf,
    /// Its name for the handler, such as `/data`.
    pub guest: String,
    /// True to let the handler create, change and delete files there.
    #[serde(default)]
    pub write: bool,
}

/// What one instance of a handler may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of all linear memories and tables together; default 256 MiB. A refused growth
    /// that ends the handler is reported as `memory_limit`.
    pub memory_bytes: NonZeroU64,
    /// Elements of all tables together; default 100,000. A refused growth that ends the
    /// handler is reported as `memory_limit`.
    pub table_elements: NonZeroU32,
    /// Milliseconds one call of a handler's function may take; default 300,000. Shortly
    /// before (5 s, or half of the limit where that is less) `cancelled` shows the source
    /// `time_limit`; at the limit the instance is ended with `time_limit`.
    pub call_time_ms: NonZeroU32,
    /// Milliseconds of processor time one call may take; default 120,000. Counted is the
    /// time the guest's code, or a host function on its behalf, occupies a thread; not
    /// counted is what it waits for (a sleep, an answer, its turn). Looked at every 5 ms;
    /// the instance is ended with `cpu_limit`.
    pub call_cpu_ms: NonZeroU32,
    /// Milliseconds a run may take on this worker from its first call on; default 0: no
    /// limit, since a run over a stream has no end of its own. The instance is ended with
    /// `time_limit`, or the next call refused with it.
    pub run_time_ms: u32,
    /// Bytes of one JSON text from the handler: a batch's payload, a result, an artifact's
    /// `meta`; default 16 MiB, at most 256 MiB.
    pub result_bytes: NonZeroU32,
    /// Lines a second that one run may write to the log by `log`, stdout and stderr
    /// together; default 200. What is above is counted and left out. Zero: none.
    pub log_lines_per_sec: u32,
    /// Document cursors a run may have open at once; default 8. One more is refused with
    /// `cursor_limit`, an error to the handler.
    pub open_cursors: NonZeroU32,
    /// HTTP requests a run may have under way at once, their answers' bodies included;
    /// default 8. One more is refused with `connection-limit-reached`, an error to the
    /// handler.
    pub http_requests: NonZeroU32,
    /// Milliseconds to connect, to wait for an answer's head, and between two pieces of its
    /// body, each; default 30,000. A handler may ask for less.
    pub http_time_ms: NonZeroU32,
    /// Bytes of a request's body, and of an answer's; default 64 MiB.
    pub http_body_bytes: NonZeroU64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: large(256 << 20),
            table_elements: some(100_000),
            call_time_ms: some(300_000),
            call_cpu_ms: some(120_000),
            run_time_ms: 0,
            result_bytes: some(16 << 20),
            log_lines_per_sec: 200,
            open_cursors: some(8),
            http_requests: some(8),
            http_time_ms: some(30_000),
            http_body_bytes: large(64 << 20),
        }
    }
}

fn some(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap_or(NonZeroU32::MAX)
}

fn large(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).unwrap_or(NonZeroU64::MAX)
}

/// A limit outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limits.{key} is {value}; it must be between {min} and {max}")]
pub struct BadLimit {
    /// Which limit.
    pub key: &'static str,
    /// What it was set to.
    pub value: u64,
    /// The least that works.
    pub min: u64,
    /// The most that is allowed.
    pub max: u64,
}

impl Limits {
    /// Whether every limit is in its range.
    pub fn check(&self) -> Result<(), BadLimit> {
        // A component's first memory alone takes about 1 MiB; 4 GiB is all it can address.
        within("memory_bytes", self.memory_bytes.get(), 1 << 20, 4 << 30)?;
        within("table_elements", self.table_elements.get().into(), 1_000, 10_000_000)?;
        within("result_bytes", self.result_bytes.get().into(), 1 << 10, 256 << 20)?;
        within("open_cursors", self.open_cursors.get().into(), 1, 1_000)?;
        within("http_requests", self.http_requests.get().into(), 1, 256)?;
        within("http_body_bytes", self.http_body_bytes.get(), 1 << 10, 16 << 30)
    }

    /// [`Limits::call_time_ms`] as a duration.
    pub fn call_time(&self) -> Duration {
        Duration::from_millis(u64::from(self.call_time_ms.get()))
    }

    /// [`Limits::call_cpu_ms`] as a duration.
    pub fn call_cpu(&self) -> Duration {
        Duration::from_millis(u64::from(self.call_cpu_ms.get()))
    }

    /// [`Limits::run_time_ms`] as a duration; none for no limit.
    pub fn run_time(&self) -> Option<Duration> {
        (self.run_time_ms > 0).then(|| Duration::from_millis(u64::from(self.run_time_ms)))
    }

    /// [`Limits::result_bytes`] as a length.
    pub fn result_len(&self) -> usize {
        usize::try_from(self.result_bytes.get()).unwrap_or(usize::MAX)
    }
}

fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), BadLimit> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(BadLimit { key, value, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_needs_only_its_component() {
        let config: HandlerConfig =
            serde_json::from_str(r#"{"component": "echo.wasm"}"#).expect("parses");
        assert_eq!(config, HandlerConfig::new("echo.wasm"));
        config.limits.check().expect("the defaults are in range");
    }

    #[test]
    fn unknown_keys_are_refused_at_every_level() {
        for text in [
            r#"{"component": "a.wasm", "net": {}}"#,
            r#"{"component": "a.wasm", "dirs": [{"host": "/d", "guest": "/d", "mode": "rw"}]}"#,
            r#"{"component": "a.wasm", "limits": {"memory": 5}}"#,
        ] {
            let error = serde_json::from_str::<HandlerConfig>(text).expect_err(text);
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn limits_name_their_range() {
        let limits = Limits { memory_bytes: NonZeroU64::MIN, ..Limits::default() };
        insta::assert_snapshot!(
            limits.check().expect_err("too small"),
            @"limits.memory_bytes is 1; it must be between 1048576 and 4294967296"
        );
        let zero = serde_json::from_str::<Limits>(r#"{"call_time_ms": 0}"#).expect_err("zero");
        insta::assert_snapshot!(
            zero,
            @"invalid value: integer `0`, expected a nonzero u32 at line 1 column 18"
        );
    }
}
