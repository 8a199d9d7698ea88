//! Answers a coordinator that asks who runs a node (`protocol.md`, "Discovery").

use std::time::Duration;

use crate::bus::OutMessage;
use crate::health::Part;
use crate::protocol::{Discover, Snapshot};
use crate::run::Deps;
use crate::store::StoreError;

/// How long a coordinator waits for an answer; a later one would only disturb.
pub const WINDOW: Duration = Duration::from_secs(8);

/// The answer of a worker that does not own the run, or `None` to stay silent: when its
/// role is another, or when somebody else may own it and will answer.
pub async fn idle_answer(deps: &Deps, query: &Discover) -> Result<Option<Snapshot>, StoreError> {
    if !deps.handlers.roles().contains(&query.address.role) {
        return Ok(None);
    }
    let key = &query.address.key;
    // A run whose end was not sent is live, whoever owns it: an unowned one waits for a
    // claim, and one whose lease has ended is taken over soon.
    if deps.store.run(key).await?.is_some_and(|run| !run.end_sent) {
        return Ok(None);
    }
    let nodes = [key.node_id.clone()];
    let complete = !deps.store.complete_nodes(&key.task_id, &nodes).await?.is_empty();
    Ok(Some(Snapshot::Idle { complete }))
}

/// Sends an answer; one that cannot be sent is only logged, since the coordinator asks
/// every worker and waits for no particular one.
pub async fn send(deps: &Deps, query: &Discover, snapshot: &Snapshot) {
    let reply = query.reply(&deps.settings.worker_id, snapshot, deps.clock.wall());
    let message = OutMessage {
        topic: deps.settings.topics.reply.clone(),
        key: Some(query.address.key.task_id.to_string()),
        value: reply.encode(),
        headers: Vec::new(),
    };
    let deadline = deps.clock.now() + WINDOW;
    if let Err(error) = deps.bus.publish(&[message], Some(deadline)).await {
        deps.health.failed(Part::Bus, &error.to_string(), deps.clock.wall());
    }
}
