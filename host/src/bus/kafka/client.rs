//! What every handle of librdkafka has: its log, kept short.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::bus::BusError;

/// One line of a kind in this time; an outage is not a thousand lines.
const ONCE_IN: Duration = Duration::from_secs(30);

/// Kinds of lines that are remembered.
const KINDS: usize = 64;

/// librdkafka's log goes to `tracing`, target `kafka`.
#[derive(Default)]
pub(super) struct Log {
    last: Mutex<HashMap<String, Instant>>,
    refusal: Mutex<Option<String>>,
}

impl Log {
    /// An error with its cause, where the broker's refusal is known from the log alone: a
    /// question to a broker that refuses this client just runs out of time.
    pub fn explain(&self, error: BusError) -> BusError {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        match (error, &*refusal) {
            (BusError::Unavailable(text), Some(refusal)) => BusError::Fatal(format!(
                "{text}: {refusal}; see `kafka.\"security.protocol\"`, `kafka.\"sasl.*\"` and \
                 `kafka.\"ssl.*\"`"
            )),
            (error, _) => error,
        }
    }

    /// Passes a line on unless its kind was told of a moment ago.
    fn line(&self, level: Level, kind: &str, text: &str) {
        if text.contains("authentication error") || text.contains("SSL handshake failed") {
            let refusal = text.rsplit("]: ").next().unwrap_or(text).to_owned();
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        }
        let quiet = !matches!(
            level,
            Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning
        );
        if quiet || !self.is_due(kind) {
            tracing::debug!(target: "kafka", kind, "{text}");
        } else {
            tracing::warn!(target: "kafka", kind, "{text}");
        }
    }

    fn is_due(&self, kind: &str) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.get(kind).is_some_and(|told| now.duration_since(*told) < ONCE_IN) {
            return false;
        }
        if last.len() >= KINDS {
            last.clear();
        }
        last.insert(kind.to_owned(), now);
        true
    }
}

impl ClientContext for Log {
    fn log(&self, level: Level, kind: &str, text: &str) {
        self.line(level, kind, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is what a reader waits for.
        if matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PartitionEOF)) {
            return;
        }
        self.line(Level::Error, &error.to_string(), reason);
    }
}

impl ConsumerContext for Log {}
