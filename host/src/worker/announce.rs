//! What a worker says about itself, to coordinators and to `flowkit status`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use crate::bus::OutMessage;
use crate::handler::Handlers;
use crate::health::Part;
use crate::protocol::{Envelope, Online, offline, online};
use crate::run::Deps;
use crate::store::WorkerRecord;
use crate::types::Role;

/// Sends WORKER_ONLINE and writes the worker's record; `troubles` is for people. Neither
/// waits for the other: one of the two may be out of reach.
pub async fn present(deps: Deps, running: usize, troubles: Value) {
    let settings = &deps.settings;
    let roles = deps.handlers.roles();
    let contents = Online {
        capacity: capacity(settings.max_concurrent_tasks, &*deps.handlers, &roles),
        roles,
        version: settings.version.clone(),
        extra: extra(deps.handlers.digests()),
    };
    let envelope = online(&settings.worker_id, &contents, deps.clock.wall());
    let deadline = deps.clock.now() + settings.announce_interval;
    tokio::join!(describe(&deps, running, troubles), publish(&deps, &envelope, deadline));
}

/// Writes the worker's record.
pub async fn describe(deps: &Deps, running: usize, troubles: Value) {
    let settings = &deps.settings;
    let roles = deps.handlers.roles();
    let record = WorkerRecord {
        worker_id: settings.worker_id.clone(),
        version: settings.version.clone(),
        capacity: capacity(settings.max_concurrent_tasks, &*deps.handlers, &roles),
        roles,
        running,
        updated_at: deps.clock.wall(),
        health: json!({
            "parts": deps.health.describe(),
            "passed_over": deps.health.oddities(),
            "troubles": troubles,
            "plugins": deps.handlers.describe(),
            "counters": deps.handlers.counters(),
        }),
    };
    match deps.store.put_worker(&record).await {
        Ok(()) => deps.health.answered(Part::Store, deps.clock.wall()),
        Err(error) => deps.health.failed(Part::Store, &error.to_string(), deps.clock.wall()),
    }
}

/// Removes the worker's record and sends WORKER_OFFLINE, the last thing it says, if both
/// can be done until `deadline`.
pub async fn leave(deps: &Deps, deadline: Instant) {
    let settings = &deps.settings;
    match timeout_at(deadline, deps.store.remove_worker(&settings.worker_id)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the worker's record stays behind"),
        Err(_) => tracing::warn!("the store did not answer; the worker's record stays behind"),
    }
    publish(deps, &offline(&settings.worker_id, deps.clock.wall()), deadline).await;
}

async fn publish(deps: &Deps, envelope: &Envelope, deadline: Instant) {
    let message = OutMessage {
        topic: deps.settings.topics.announce.clone(),
        key: None,
        value: envelope.encode(),
        headers: Vec::new(),
    };
    match deps.bus.publish(&[message], Some(deadline)).await {
        Ok(()) => deps.health.answered(Part::Bus, deps.clock.wall()),
        Err(error) => deps.health.failed(Part::Bus, &error.to_string(), deps.clock.wall()),
    }
}

/// Which version of its plugin serves each role, in a field of our own.
fn extra(digests: BTreeMap<Role, String>) -> Map<String, Value> {
    Map::from_iter([("plugins".to_owned(), json!(digests))])
}

/// How many runs a worker of these roles has at once, at most: what it announces.
fn capacity(slots: usize, handlers: &dyn Handlers, roles: &[Role]) -> usize {
    let of_role = |role| handlers.concurrency(role).unwrap_or(usize::MAX);
    roles.iter().map(of_role).fold(0, usize::saturating_add).min(slots)
}
