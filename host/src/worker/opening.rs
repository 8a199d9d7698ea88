//! What a worker reads from, opened once the bus is there.

use std::time::Duration;

use anyhow::Context as _;

use super::{Shutdown, announce};
use crate::bus::{BusError, Tail, Topic};
use crate::health::Part;
use crate::run::Deps;
use crate::types::Role;

/// The wait between two tries while the bus is out of reach: at first, at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// What is said to every worker.
pub(super) struct Opened {
    pub(super) signals: Box<dyn Tail>,
    pub(super) queries: Box<dyn Tail>,
}

/// Makes the topics and opens the tails. Waits while the bus is out of reach, with a word
/// in the log and in the worker's record; `None` when the worker is to stop before.
pub(super) async fn open(
    deps: &Deps,
    roles: &[Role],
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Opened>> {
    // Cancel-safe: what was opened is closed again.
    tokio::select! {
        biased;
        () = shutdown.begun() => Ok(None),
        opened = patiently(deps, roles) => opened.map(Some),
    }
}

async fn patiently(deps: &Deps, roles: &[Role]) -> anyhow::Result<Opened> {
    let mut wait = WAITS.0;
    loop {
        match try_open(deps, roles).await {
            Ok(opened) => {
                deps.health.answered(Part::Bus, deps.clock.wall());
                return Ok(opened);
            }
            Err((_, error @ (BusError::Unavailable(_) | BusError::Expired))) => {
                deps.health.failed(Part::Bus, &error.to_string(), deps.clock.wall());
            }
            Err((what, error)) => return Err(error).context(what),
        }
        let next_try = deps.clock.now() + wait;
        announce::describe(deps, 0, serde_json::Value::Array(vec![])).await;
        tokio::time::sleep_until(next_try).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

async fn try_open(deps: &Deps, roles: &[Role]) -> Result<Opened, (String, BusError)> {
    let topics = &deps.settings.topics;
    let mut all: Vec<Topic> = [&topics.announce, &topics.query, &topics.reply, &topics.signals]
        .into_iter()
        .chain([&topics.dead_letter])
        .cloned()
        .collect();
    all.extend(roles.iter().flat_map(|role| [topics.commands(role), topics.status(role)]));
    let prepared = deps.bus.ensure_topics(&all).await;
    prepared.map_err(|error| ("preparing the worker's topics".to_owned(), error))?;
    let listen = async |topic: &Topic| {
        let tail = deps.bus.tail(std::slice::from_ref(topic)).await;
        tail.map_err(|error| (format!("listening on topic {topic}"), error))
    };
    Ok(Opened { signals: listen(&topics.signals).await?, queries: listen(&topics.query).await? })
}
