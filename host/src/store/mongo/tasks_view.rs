//! Coordinators' tasks, as far as a worker looks at them. Another program writes them:
//! what cannot be read is left out, and hurts nothing else.

use mongodb::bson::{Bson, Document, doc};
use serde_json::{Map, Value};

use super::decode::{self, Decoded, Problem, readable};
use crate::clock::UnixMs;
use crate::store::{
    CancelState, GraphDoc, NodeDoc, NodeStatus, NodeView, StoreError, TaskDoc, TaskStatus,
};
use crate::types::{Epoch, Role, RunKey};

/// The fields that the views are made of.
pub(super) fn projection() -> Document {
    doc! {
        "id": 1,
        "coordinator.cancelled": 1,
        "coordinator.cancel_reason": 1,
        "graph.nodes.node_id": 1,
        "graph.nodes.status": 1,
        "graph.nodes.attempt_epoch": 1,
        "graph.nodes.coordinator": 1,
    }
}

/// What these tasks say of these runs.
pub(super) fn of(tasks: &[Document], keys: &[RunKey]) -> Vec<NodeView> {
    let view = |key: &RunKey| {
        let task = tasks.iter().find(|t| t.get_str("id").ok() == Some(key.task_id.as_str()))?;
        let decoded = node_view(task, key);
        readable(decoded.map_err(|problem| problem.of(format!("task {} (tasks)", key.task_id))))?
    };
    keys.iter().filter_map(view).collect()
}

fn node_view(task: &Document, key: &RunKey) -> Decoded<Option<NodeView>> {
    let nodes = nodes(task)?;
    let named = |node: &&Document| node.get_str("node_id").ok() == Some(key.node_id.as_str());
    let Some(node) = nodes.into_iter().find(named) else { return Ok(None) };
    let flags = [cancel_state(node)?, cancel_state(task)?];
    let cancelled = flags.iter().any(|flag| flag.cancelled).then(|| {
        // Coordinators write the reason for a node into its task.
        flags.iter().find_map(|flag| flag.cancel_reason.clone()).unwrap_or_default()
    });
    Ok(Some(NodeView { key: key.clone(), epoch: epoch(node)?, status: status(node), cancelled }))
}

fn nodes(task: &Document) -> Decoded<Vec<&Document>> {
    let Some(graph) = decode::document(task, "graph")? else { return Ok(Vec::new()) };
    match decode::optional(graph, "nodes") {
        None => Ok(Vec::new()),
        Some(Bson::Array(nodes)) => Ok(nodes.iter().filter_map(Bson::as_document).collect()),
        Some(_) => Err(Problem::new("`graph.nodes` is not a list")),
    }
}

/// A flag that is not there is not set; Python writes some as numbers.
fn cancel_state(parent: &Document) -> Decoded<CancelState> {
    let Some(state) = decode::document(parent, "coordinator")? else {
        return Ok(CancelState::default());
    };
    let cancelled = match decode::optional(state, "cancelled") {
        None => false,
        Some(Bson::Boolean(flag)) => *flag,
        Some(other) => decode::whole(other)
            .map(|number| number != 0)
            .ok_or_else(|| Problem::new("`coordinator.cancelled` is neither true nor false"))?,
    };
    let cancel_reason = state.get_str("cancel_reason").ok().map(str::to_owned);
    Ok(CancelState { cancelled, cancel_reason })
}

fn epoch(node: &Document) -> Decoded<Epoch> {
    match decode::optional(node, "attempt_epoch") {
        None => Ok(Epoch(0)),
        Some(_) => Ok(Epoch(decode::number(node, "attempt_epoch")?)),
    }
}

/// A status that this version does not know is one in which nothing is expected of a
/// worker.
fn status(node: &Document) -> NodeStatus {
    let text = node.get_str("status").unwrap_or_default();
    serde_json::from_value(Value::from(text)).unwrap_or(NodeStatus::Deferred)
}

/// A whole task, for people.
pub(super) fn whole(task: &Document) -> Result<TaskDoc, StoreError> {
    decode_whole(task)
        .map_err(|problem| problem.of(format!("task {} (tasks)", decode::label(task, "id"))))
}

fn decode_whole(task: &Document) -> Decoded<TaskDoc> {
    let time = |key| decode::time(task, key).unwrap_or(UnixMs(0));
    let text = task.get_str("status").unwrap_or_default();
    let status = serde_json::from_value(Value::from(text)).unwrap_or(TaskStatus::Running);
    let mut read = Vec::new();
    for node in nodes(task)? {
        let named = decode_node(node).map_err(|problem| {
            problem.of(format!("a node of the task {} (tasks)", decode::label(task, "id")))
        });
        read.extend(readable(named));
    }
    Ok(TaskDoc {
        id: decode::name(task, "id")?,
        status,
        coordinator: cancel_state(task)?,
        graph: GraphDoc { nodes: read, run_by: None },
        version: 0,
        created_at: time("created_at"),
        updated_at: time("updated_at"),
    })
}

fn decode_node(node: &Document) -> Decoded<NodeDoc> {
    Ok(NodeDoc {
        node_id: decode::name(node, "node_id")?,
        role: decode::name::<Role>(node, "type")?,
        status: status(node),
        attempt_epoch: epoch(node)?,
        lease: None,
        coordinator: cancel_state(node)?,
        more: Map::new(),
    })
}
