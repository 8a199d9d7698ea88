//! Reads what is said to every worker: signals and questions.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Event;
use crate::bus::{BusError, Tail, Topic};
use crate::health::Part;
use crate::protocol::{Discover, Malformed, Signal};
use crate::run::Deps;

/// The wait between two tries while the bus is out of reach.
const RETRY: Duration = Duration::from_millis(500);

/// Passes signals on to the loop for ever. `tail` was opened before the worker began.
pub async fn signals(deps: Deps, tail: Box<dyn Tail>, events: mpsc::Sender<Event>) {
    let topic = deps.settings.topics.signals.clone();
    let decode = |bytes: &[u8]| Signal::decode(bytes).map(Event::Signal);
    listen(deps, topic, tail, events, decode).await;
}

/// Passes questions on to the loop for ever.
pub async fn queries(deps: Deps, tail: Box<dyn Tail>, events: mpsc::Sender<Event>) {
    let topic = deps.settings.topics.query.clone();
    let decode = |bytes: &[u8]| Discover::decode(bytes).map(Event::Query);
    listen(deps, topic, tail, events, decode).await;
}

async fn listen(
    deps: Deps,
    topic: Topic,
    mut tail: Box<dyn Tail>,
    events: mpsc::Sender<Event>,
    decode: impl Fn(&[u8]) -> Result<Event, Malformed>,
) {
    loop {
        match tail.next().await {
            Ok(message) => match decode(&message.value) {
                Ok(event) => {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                Err(malformed) => tracing::warn!(
                    %topic, partition = message.partition, offset = message.offset,
                    error = %malformed, "a malformed message was passed over"
                ),
            },
            Err(error) => {
                deps.health.failed(Part::Bus, &error.to_string(), deps.clock.wall());
                tokio::time::sleep(RETRY).await;
                // What is missed meanwhile is in `tasks`, which is read anyway.
                if !matches!(error, BusError::Unavailable(_))
                    && let Ok(again) = deps.bus.tail(std::slice::from_ref(&topic)).await
                {
                    tail = again;
                }
            }
        }
    }
}
