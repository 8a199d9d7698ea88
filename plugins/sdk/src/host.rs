//! What the worker offers while a handler's function runs: its cancel flag, waiting, the
//! run's totals, log and telemetry.
//!
//! In a component these are the imports of the world; in a native test they act on the
//! [`testing`](crate::testing) worker of the current thread.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::handler::RunInfo;

#[cfg(not(target_family = "wasm"))]
use crate::testing::worker as imports;
#[cfg(target_family = "wasm")]
mod imports {
    pub(crate) use crate::bindings::flowkit::worker::host::{
        cancelled, log, metric, run_info, run_totals, sleep,
    };

    pub(crate) fn save_checkpoint(checkpoint: &str) -> Result<(), String> {
        crate::bindings::flowkit::worker::host::save_checkpoint(checkpoint).map_err(|e| e.message)
    }

    pub(crate) fn upsert_partial(uid: &str, meta: &str) -> Result<(), String> {
        crate::bindings::flowkit::worker::host::upsert_partial(uid, meta).map_err(|e| e.message)
    }
}

pub(crate) use imports::{save_checkpoint, upsert_partial};

/// Why the run is being stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cancellation {
    /// Who wants it: `signal`, `command`, `database`, `lease`, `superseded`, `shutdown`,
    /// `time_limit`; more may come.
    pub source: String,
    /// For people; may be empty.
    pub reason: String,
    /// How long until the worker interrupts the handler wherever it is.
    pub remaining: Duration,
}

/// How urgent a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// For the author.
    Debug,
    /// For the operator.
    Info,
    /// Something was left out or put right.
    Warn,
    /// Something is lost.
    Error,
}

/// The run's identity.
pub fn run_info() -> Result<RunInfo> {
    Ok(serde_json::from_str(&imports::run_info())?)
}

/// The run's cancel flag: none while the run is wanted; once set it stays set.
pub fn cancelled() -> Option<Cancellation> {
    imports::cancelled().map(|c| Cancellation {
        source: c.source,
        reason: c.reason,
        remaining: Duration::from_millis(c.remaining_ms.into()),
    })
}

/// Fails when the run is cancelled, so that `check_cancelled()?` between pieces of work
/// is all a handler needs in order to stop in time.
pub fn check_cancelled() -> Result<()> {
    match cancelled() {
        None => Ok(()),
        Some(c) if c.reason.is_empty() => Err(stopped(&c.source)),
        Some(c) => Err(stopped(&format!("{}: {}", c.source, c.reason))),
    }
}

fn stopped(why: &str) -> Error {
    Error::transient("cancelled", format!("stopped because the run is cancelled ({why})"))
}

/// Waits. True when the wait was cut short because the run is cancelled. Rounded up to
/// whole milliseconds.
pub fn sleep(duration: Duration) -> bool {
    let mut left = duration.as_nanos().div_ceil(1_000_000);
    loop {
        let ms = u32::try_from(left).unwrap_or(u32::MAX);
        if imports::sleep(ms) {
            return true;
        }
        left -= u128::from(ms);
        if left == 0 {
            return false;
        }
    }
}

/// Waits; an error as soon as the run is cancelled. Even without a wait it looks.
pub fn pause(duration: Duration) -> Result<()> {
    if sleep(duration) { check_cancelled() } else { Ok(()) }
}

/// The run's numeric metrics summed over its finished batches, those before a crash
/// included: a map, or a struct of the numbers wanted (`#[serde(default)]`, since a metric
/// nobody reported is absent).
pub fn run_totals<T: DeserializeOwned>() -> Result<T> {
    Ok(serde_json::from_str(&imports::run_totals())?)
}

/// Adds to a counter of the worker's telemetry (not of the batch's result).
/// `name`: `[a-z0-9_.]{1,64}`.
pub fn counter(name: &str, value: f64) {
    imports::metric("counter", name, value);
}

/// Sets a gauge of the worker's telemetry. `name`: `[a-z0-9_.]{1,64}`.
pub fn gauge(name: &str, value: f64) {
    imports::metric("gauge", name, value);
}

/// Writes one line to the worker's log; the macros [`info!`](crate::info) and its like
/// format it as well.
pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    imports::log(level, message);
}

/// The command's `input_ref`, `input_inline` and `batching` as they came, once
/// `iter_batches` was called: for a handler that needs more than its `Input`.
pub fn command() -> Value {
    crate::session::command()
}

macro_rules! log_macro {
    ($d:tt $name:ident $level:ident) => {
        /// Writes a line to the worker's log, formatted like `format!`.
        #[macro_export]
        macro_rules! $name {
                            ($d($d arg:tt)+) => {
                                $crate::log($crate::Level::$level, &::std::format!($d($d arg)+))
                            };
                        }
    };
}

log_macro!($ trace Trace);
log_macro!($ debug Debug);
log_macro!($ info Info);
log_macro!($ warn Warn);
log_macro!($ error Error);
