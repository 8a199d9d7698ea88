//! Whether the bus and the store answer: said once when it changes, shown in `status`.

use std::sync::Mutex;

use serde_json::{Value, json};

use crate::clock::UnixMs;

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

/// Since when which part does not answer.
#[derive(Debug, Default)]
pub struct Health(Mutex<[Option<Outage>; 2]>);

#[derive(Debug, Clone)]
struct Outage {
    since: UnixMs,
    error: String,
}

impl Health {
    /// A call failed in a way that may pass. Logged when the part answered before.
    pub fn failed(&self, part: Part, error: &str, now: UnixMs) {
        let mut parts = self.lock();
        let outage = &mut parts[part as usize];
        if outage.is_none() {
            tracing::warn!(part = part.name(), error, "out of reach; waiting for it to return");
            *outage = Some(Outage { since: now, error: error.to_owned() });
        }
    }

    /// A call succeeded. Logged when the part was out of reach before.
    pub fn answered(&self, part: Part, now: UnixMs) {
        let mut parts = self.lock();
        if let Some(outage) = parts[part as usize].take() {
            let seconds = now.since(outage.since).as_secs();
            tracing::info!(part = part.name(), seconds, "in reach again");
        }
    }

    /// For people: `"ok"` or since when and why not, for each part.
    pub fn describe(&self) -> Value {
        let parts = self.lock();
        let one = |part: Part| match &parts[part as usize] {
            None => json!("ok"),
            Some(outage) => json!({"down_since_ms": outage.since, "error": outage.error}),
        };
        json!({"bus": one(Part::Bus), "store": one(Part::Store)})
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Option<Outage>; 2]> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
