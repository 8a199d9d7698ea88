//! What every handle of librdkafka has: its log, kept short and without secrets, and what
//! the log alone tells about a broker that does not answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// For how long the last trouble explains a question that got no answer, unless somebody
/// got one since: librdkafka repeats itself every 30 s.
const EXPLAINS_FOR: Duration = Duration::from_secs(40);

/// The shortest text that is taken for a secret in a line.
const SECRET: usize = 3;

/// librdkafka's log goes to `tracing`, target `kafka`. Clones share what was told: all
/// handles of a bus say the same of the same brokers.
#[derive(Clone)]
pub(super) struct Log(Arc<Shared>);

struct Shared {
    secrets: Vec<String>,
    /// Neither TLS nor a password was configured.
    is_plain: bool,
    told: Mutex<HashMap<String, Told>>,
    trouble: Mutex<Option<(Instant, Trouble)>>,
}

/// When lines of a kind were last told, and how many were not told since.
struct Told {
    at: Instant,
    kept_back: u64,
}

/// Why brokers do not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    /// As librdkafka says it.
    text: String,
    /// Only a change of something ends it.
    is_final: bool,
}

impl Trouble {
    /// What a line of the log says about it.
    fn in_line(kind: &str, text: &str) -> Option<Self> {
        const FINAL: [&str; 5] = [
            "authentication error",
            "Authentication failed",
            "mechanism handshake failed",
            "certificate verify failed",
            "certificate could not be verified",
        ];
        let is_final = FINAL.iter().any(|part| text.contains(part));
        // A broker that is stopped in the middle of a handshake looks like bad TLS.
        let tells = is_final || kind == "FAIL";
        let text = text.rsplit("]: ").next().unwrap_or(text).to_owned();
        tells.then_some(Self { text, is_final })
    }
}

impl Log {
    /// A log that never says one of the `secrets`.
    pub fn new(secrets: Vec<String>, is_plain: bool) -> Self {
        let secrets = secrets.into_iter().filter(|secret| secret.len() >= SECRET).collect();
        let (told, trouble) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { secrets, is_plain, told, trouble }))
    }

    /// A broker has answered: what was wrong before explains nothing any more.
    pub fn answered(&self) {
        *lock(&self.0.trouble) = None;
    }

    /// True when waiting longer for an answer is of no use.
    pub fn is_refused(&self) -> bool {
        lock(&self.0.trouble).as_ref().is_some_and(|(_, trouble)| trouble.is_final)
    }

    /// An error without secrets and with its cause, where that is known from the log alone:
    /// a question to a broker that refuses this client just runs out of time.
    pub fn explain(&self, error: BusError) -> BusError {
        let text = match error {
            BusError::Unavailable(text) => self.masked(&text),
            BusError::Fatal(text) => return BusError::Fatal(self.masked(&text)),
            error @ (BusError::Expired | BusError::TooLarge { .. }) => return error,
        };
        let trouble = lock(&self.0.trouble).clone();
        match trouble.filter(|(at, _)| at.elapsed() < EXPLAINS_FOR) {
            Some((_, Trouble { text: why, is_final: true })) => BusError::Fatal(format!(
                "{text}: {why}; see `kafka.\"security.protocol\"`, `kafka.\"sasl.*\"` and \
                 `kafka.\"ssl.*\"`"
            )),
            Some((_, trouble)) => BusError::Unavailable(format!("{text}: {}", trouble.text)),
            // librdkafka has no word for a broker that just hangs up.
            None if self.0.is_plain && text.contains("TransportFailure") => {
                BusError::Unavailable(format!(
                    "{text}; if the brokers want TLS or a password, set `kafka.\"security.protocol\"`"
                ))
            }
            None => BusError::Unavailable(text),
        }
    }

    /// Passes a line on unless its kind was told of a moment ago.
    fn line(&self, level: Level, kind: &str, text: &str) {
        let text = self.masked(text);
        if let Some(trouble) = Trouble::in_line(kind, &text) {
            self.meet(trouble);
        }
        let quiet = !matches!(
            level,
            Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning
        );
        match if quiet { None } else { self.due(kind, Instant::now()) } {
            Some(0) => tracing::warn!(target: "kafka", kind, "{text}"),
            Some(kept_back) => tracing::warn!(target: "kafka", kind, kept_back, "{text}"),
            None => tracing::debug!(target: "kafka", kind, "{text}"),
        }
    }

    /// A refusal is not forgotten for what comes of it.
    fn meet(&self, new: Trouble) {
        let mut trouble = lock(&self.0.trouble);
        let keeps = |(at, old): &(Instant, Trouble)| old.is_final && at.elapsed() < EXPLAINS_FOR;
        if new.is_final || !trouble.as_ref().is_some_and(keeps) {
            *trouble = Some((Instant::now(), new));
        }
    }

    /// How many lines of a kind were kept back, when it is time for another one.
    fn due(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut told = lock(&self.0.told);
        if let Some(told) = told.get_mut(kind) {
            if now.saturating_duration_since(told.at) < ONCE_IN {
                told.kept_back += 1;
                return None;
            }
            told.at = now;
            return Some(std::mem::take(&mut told.kept_back));
        }
        if told.len() >= KINDS {
            told.clear();
        }
        told.insert(kind.to_owned(), Told { at: now, kept_back: 0 });
        Some(0)
    }

    fn masked(&self, text: &str) -> String {
        let secrets = self.0.secrets.iter();
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one; a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> BusError {
        BusError::Unavailable("asking".into())
    }

    #[test]
    fn an_outage_is_a_line_now_and_then_for_all_handles() {
        let (log, now) = (Log::new(Vec::new(), false), Instant::now());
        let another = log.clone();
        assert_eq!(log.due("FAIL", now), Some(0));
        for _ in 0..1000 {
            assert_eq!(another.due("FAIL", now + ONCE_IN / 2), None);
        }
        assert_eq!(log.due("ERROR", now), Some(0), "another kind");
        assert_eq!(another.due("FAIL", now + ONCE_IN), Some(1000));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (log, now) = (Log::new(Vec::new(), false), Instant::now());
        for n in 0..10 * KINDS {
            let _ = log.due(&n.to_string(), now);
        }
        assert!(lock(&log.0.told).len() <= KINDS);
    }

    #[test]
    fn a_refusal_is_final_and_a_broken_handshake_is_not() {
        let log = Log::new(Vec::new(), false);
        assert!(matches!(log.explain(unavailable()), BusError::Unavailable(t) if t == "asking"));
        log.line(Level::Info, "INIT", "a new client");
        assert!(matches!(log.explain(unavailable()), BusError::Unavailable(t) if t == "asking"));
        let line = "[thrd:sasl_ssl://b:1/1]: sasl_ssl://b:1/1: SSL handshake failed: Disconnected";
        log.line(Level::Error, "FAIL", line);
        match log.explain(unavailable()) {
            BusError::Unavailable(text) => assert!(text.contains("SSL handshake"), "{text}"),
            other => panic!("{other:?}"),
        }
        log.line(Level::Error, "FAIL", "[thrd:x]: SASL authentication error: no such user");
        log.line(Level::Error, "FAIL", "[thrd:x]: Connection refused");
        match log.explain(unavailable()) {
            BusError::Fatal(text) => {
                assert!(text.starts_with("asking: SASL authentication error: no such user; see"));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(log.explain(BusError::Expired), BusError::Expired) && log.is_refused());
        log.answered();
        assert!(matches!(log.explain(unavailable()), BusError::Unavailable(t) if t == "asking"));
    }

    #[test]
    fn a_client_without_security_is_told_of_it() {
        let log = Log::new(Vec::new(), true);
        let hung_up = BusError::Unavailable("asking: BrokerTransportFailure".into());
        let text = log.explain(hung_up).to_string();
        assert!(text.contains("security.protocol"), "{text}");
        assert!(!log.explain(unavailable()).to_string().contains("security.protocol"));
    }

    #[test]
    fn a_secret_is_in_no_explanation() {
        let log = Log::new(vec!["swordfish".into(), String::new(), "ab".into()], false);
        log.line(Level::Error, "FAIL", "authentication error: swordfish is not about right");
        let text = log.explain(unavailable()).to_string();
        assert!(!text.contains("swordfish") && text.contains("about right"), "{text}");
        let fatal = log.explain(BusError::Fatal("bad value swordfish".into())).to_string();
        assert!(!fatal.contains("swordfish"), "{fatal}");
    }
}
