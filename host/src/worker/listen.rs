//! Reads what is said to every worker: signals and questions.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Event;
use crate::bus::{BusError, Tail, Topic};
use crate::health::{Oddity, Part};
use crate::protocol::{Discover, Malformed, Signal};
use crate::run::Deps;

/// The wait between two tries while the bus is out of reach.
const RETRY: Duration = Duration::from_millis(500);

/// Passes signals on to the loop for ever. `tail` was opened before the worker began.
pub async fn signals(deps: Deps, tail: Box<dyn Tail>, events: mpsc::Sender<Event>) {
    let topic = deps.settings.topics.signals.clone();
    let decode = |bytes: &[u8]| Signal::decode(bytes).map(Event::Signal);
    Listener { deps, topic, oddity: Oddity::MalformedSignal, events, decode }.listen(tail).await;
}

/// Passes questions on to the loop for ever.
pub async fn queries(deps: Deps, tail: Box<dyn Tail>, events: mpsc::Sender<Event>) {
    let topic = deps.settings.topics.query.clone();
    let decode = |bytes: &[u8]| Discover::decode(bytes).map(Event::Query);
    Listener { deps, topic, oddity: Oddity::MalformedQuery, events, decode }.listen(tail).await;
}

struct Listener<Decode> {
    deps: Deps,
    topic: Topic,
    oddity: Oddity,
    events: mpsc::Sender<Event>,
    decode: Decode,
}

impl<Decode: Fn(&[u8]) -> Result<Event, Malformed>> Listener<Decode> {
    async fn listen(self, mut tail: Box<dyn Tail>) {
        loop {
            let error = match tail.next().await {
                Ok(message) => {
                    match (self.decode)(&message.value) {
                        Ok(event) => {
                            if self.events.send(event).await.is_err() {
                                return;
                            }
                        }
                        Err(malformed) => {
                            self.pass_over(message.partition, message.offset, &malformed);
                        }
                    }
                    continue;
                }
                Err(error) => error,
            };
            self.deps.health.failed(Part::Bus, &error.to_string(), self.deps.clock.wall());
            tokio::time::sleep(RETRY).await;
            if matches!(error, BusError::Unavailable(_)) {
                continue;
            }
            // What is missed meanwhile is in `tasks`, which is read anyway.
            match self.deps.bus.tail(std::slice::from_ref(&self.topic)).await {
                Ok(again) => tail = again,
                Err(error @ BusError::Fatal(_)) => {
                    let problem = format!("topic {} cannot be read: {error}", self.topic);
                    let _ = self.events.send(Event::Broken(problem)).await;
                    return;
                }
                Err(_) => {}
            }
        }
    }

    fn pass_over(&self, partition: i32, offset: i64, malformed: &Malformed) {
        let Some(kept_back) = self.deps.health.met(self.oddity, self.deps.clock.wall()) else {
            return;
        };
        tracing::warn!(
            topic = %self.topic, partition, offset, error = %malformed, kept_back,
            "a malformed message was passed over"
        );
    }
}
