//! Whether the bus and the store answer, and what was passed over: said once when it
//! changes, shown in `status`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::UnixMs;

/// The least time between two lines of the log about the same thing: an outage that comes
/// and goes is one outage.
const QUIET: Duration = Duration::from_secs(10);

/// What a worker depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The message bus.
    Bus,
    /// The store.
    Store,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::Store => "store",
        }
    }
}

/// What a worker passes over without stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// A signal that cannot be read.
    MalformedSignal,
    /// A question that cannot be read.
    MalformedQuery,
    /// A command that went to the dead letters.
    DeadLetter,
    /// A dead letter that the bus refused: it is in the log alone.
    LostLetter,
}

/// How often which oddity was met since the worker began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Oddities {
    /// Signals that could not be read.
    pub malformed_signals: u64,
    /// Questions that could not be read.
    pub malformed_queries: u64,
    /// Commands that went to the dead letters.
    pub dead_letters: u64,
    /// Dead letters that the bus refused.
    pub lost_letters: u64,
}

/// Since when which part does not answer, and what was passed over.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    parts: [PartState; 2],
    oddities: Oddities,
    lines: [Lines; 2],
}

#[derive(Debug, Default)]
struct PartState {
    outage: Option<Outage>,
    /// When the log was last told that it answers again.
    back_since: Option<UnixMs>,
}

#[derive(Debug, Clone)]
struct Outage {
    since: UnixMs,
    error: String,
    logged: bool,
}

/// Lines of the log about one kind of message.
#[derive(Debug, Default)]
struct Lines {
    last: Option<UnixMs>,
    kept_back: u64,
}

impl Health {
    /// A call failed in a way that may pass. Logged when the part answered before.
    pub fn failed(&self, part: Part, error: &str, now: UnixMs) {
        let mut state = self.lock();
        let part_state = &mut state.parts[part as usize];
        // One that has just come back is not yet worth a line.
        let quiet = part_state.back_since.is_some_and(|back| now.since(back) < QUIET);
        let outage = part_state.outage.get_or_insert_with(|| Outage {
            since: now,
            error: error.to_owned(),
            logged: false,
        });
        if !outage.logged && !quiet {
            outage.logged = true;
            tracing::warn!(part = part.name(), error, "out of reach; waiting for it to return");
        }
    }

    /// A call succeeded. Logged when the part was said to be out of reach before.
    pub fn answered(&self, part: Part, now: UnixMs) {
        let mut state = self.lock();
        let part_state = &mut state.parts[part as usize];
        let Some(outage) = part_state.outage.take().filter(|outage| outage.logged) else { return };
        let seconds = now.since(outage.since).as_secs();
        part_state.back_since = Some(now);
        tracing::info!(part = part.name(), seconds, "in reach again");
    }

    /// Whether a part does not answer.
    pub fn is_down(&self) -> bool {
        self.lock().parts.iter().any(|part| part.outage.is_some())
    }

    /// Counts what is passed over. For what can be read by nobody: how many lines were kept
    /// back since the last one when it is time for a line, else `None`.
    pub fn met(&self, oddity: Oddity, now: UnixMs) -> Option<u64> {
        let mut state = self.lock();
        let State { oddities, lines, .. } = &mut *state;
        let (count, lines) = match oddity {
            Oddity::MalformedSignal => (&mut oddities.malformed_signals, &mut lines[0]),
            Oddity::MalformedQuery => (&mut oddities.malformed_queries, &mut lines[1]),
            Oddity::DeadLetter => {
                oddities.dead_letters += 1;
                return Some(0);
            }
            Oddity::LostLetter => {
                oddities.lost_letters += 1;
                return Some(0);
            }
        };
        *count += 1;
        if lines.last.is_some_and(|last| now.since(last) < QUIET) {
            lines.kept_back += 1;
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.kept_back))
    }

    /// How often which oddity was met.
    pub fn oddities(&self) -> Oddities {
        self.lock().oddities
    }

    /// For people: `"ok"` or since when and why not, for each part.
    pub fn describe(&self) -> Value {
        let state = self.lock();
        let one = |part: Part| match &state.parts[part as usize].outage {
            None => json!("ok"),
            Some(outage) => json!({"down_since_ms": outage.since, "error": outage.error}),
        };
        json!({"bus": one(Part::Bus), "store": one(Part::Store)})
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UnixMs {
        UnixMs(1_000_000 + seconds * 1_000)
    }

    fn logged(health: &Health) -> Option<bool> {
        health.lock().parts[0].outage.as_ref().map(|outage| outage.logged)
    }

    #[test]
    fn an_outage_that_comes_and_goes_is_said_once() {
        let health = Health::default();
        health.failed(Part::Bus, "gone", at(0));
        assert_eq!(logged(&health), Some(true));
        assert_eq!(health.describe()["bus"]["down_since_ms"], at(0).0);
        health.answered(Part::Bus, at(60));
        assert!(!health.is_down());
        for second in 61..70 {
            health.failed(Part::Bus, "gone", at(second));
            assert_eq!((logged(&health), health.is_down()), (Some(false), true));
            health.answered(Part::Bus, at(second));
        }
        health.failed(Part::Bus, "gone", at(69));
        health.failed(Part::Bus, "gone", at(70));
        assert_eq!(logged(&health), Some(true));
        assert_eq!(health.describe()["store"], "ok");
    }

    #[test]
    fn what_is_malformed_is_counted_and_logged_now_and_then() {
        let health = Health::default();
        let lines: Vec<_> =
            (0..25).filter_map(|s| health.met(Oddity::MalformedSignal, at(s))).collect();
        assert_eq!(lines, [0, 9, 9]);
        assert_eq!(health.met(Oddity::MalformedQuery, at(25)), Some(0));
        let counts =
            Oddities { malformed_signals: 25, malformed_queries: 1, ..Oddities::default() };
        assert_eq!(health.oddities(), counts);
    }
}
