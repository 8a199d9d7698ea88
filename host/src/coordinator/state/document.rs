//! A task as its document in `tasks`, and back, so that another process can go on with it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Outcome, Task};
use crate::clock::UnixMs;
use crate::coordinator::graph::{Graph, GraphError};
use crate::coordinator::node::NodeState;
use crate::store::{CancelState, GraphDoc, NodeDoc, NodeStatus, TaskDoc};
use crate::types::NodeId;

/// Where a node's document keeps what only this coordinator reads.
const OURS: &str = "flowkit";

/// The keys of a node's document that its graph file may have held.
const GRAPH_KEYS: [&str; 4] = ["depends_on", "fan_in", "io", "retry_policy"];

/// Why a document is no task that can be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTask {
    /// Its graph is none.
    #[error("its graph: {0}")]
    Graph(#[from] GraphError),
    /// A node's state is missing or damaged.
    #[error("node `{node}`: {problem}")]
    Node {
        /// Which.
        node: NodeId,
        /// What is wrong with it.
        problem: String,
    },
}

impl Task {
    /// The task's document. The task's cancel flag is not part of it: the store keeps it.
    pub fn to_doc(&self, now: UnixMs) -> TaskDoc {
        let nodes = self.graph.nodes().iter().zip(&self.nodes).map(|(node, state)| {
            let mut more = node.describe(&self.graph);
            let ours = serde_json::to_value(state).expect("a node's state is plain JSON");
            more.insert(OURS.into(), ours);
            NodeDoc {
                node_id: node.id.clone(),
                role: node.role.clone(),
                status: state.stage.status(),
                attempt_epoch: state.stage.epoch(),
                lease: state.stage.owner().map(|owner| json!(owner)),
                coordinator: state.stage.cancel_flag(),
                more,
            }
        });
        TaskDoc {
            id: self.id.clone(),
            status: self.status(),
            coordinator: CancelState::default(),
            graph: GraphDoc { nodes: nodes.collect(), run_by: self.run_by.clone() },
            version: self.version,
            created_at: self.created_at,
            updated_at: now,
        }
    }

    /// Reads a task back.
    pub fn from_doc(doc: &TaskDoc) -> Result<Self, BadTask> {
        let nodes: Vec<Value> = doc.graph.nodes.iter().map(graph_node).collect();
        let graph = Graph::from_value(json!({"nodes": nodes}), None)?.graph;
        let nodes = doc.graph.nodes.iter().map(node_state).collect::<Result<_, _>>()?;
        Ok(Self {
            id: doc.id.clone(),
            graph,
            nodes,
            run_by: doc.graph.run_by.clone(),
            version: doc.version,
            created_at: doc.created_at,
        })
    }

    /// The document was stored: the next one follows it.
    pub fn saved(&mut self) {
        self.version += 1;
    }

    /// From now on the worker that coordinates what was submitted goes on with it.
    pub fn adopt(&mut self) {
        self.run_by = None;
    }
}

/// How a task with such nodes ended; `None` while one of them has not.
pub fn outcome_of(nodes: impl IntoIterator<Item = NodeStatus>) -> Option<Outcome> {
    let mut outcome = Outcome::Finished;
    for status in nodes {
        match status {
            NodeStatus::Finished => {}
            NodeStatus::Failed => outcome = Outcome::Failed,
            NodeStatus::Cancelled | NodeStatus::Skipped => {
                if outcome == Outcome::Finished {
                    outcome = Outcome::Cancelled;
                }
            }
            NodeStatus::Queued
            | NodeStatus::Running
            | NodeStatus::Deferred
            | NodeStatus::Cancelling => return None,
        }
    }
    Some(outcome)
}

/// A node as a graph file would describe it.
fn graph_node(doc: &NodeDoc) -> Value {
    let mut node = Map::new();
    node.insert("node_id".into(), doc.node_id.as_str().into());
    node.insert("type".into(), doc.role.as_str().into());
    for key in GRAPH_KEYS {
        if let Some(value) = doc.more.get(key) {
            node.insert(key.into(), value.clone());
        }
    }
    Value::Object(node)
}

fn node_state(doc: &NodeDoc) -> Result<NodeState, BadTask> {
    let bad = |problem| BadTask::Node { node: doc.node_id.clone(), problem };
    match doc.more.get(OURS) {
        Some(ours) => NodeState::deserialize(ours).map_err(|e| bad(e.to_string())),
        None if doc.status == NodeStatus::Queued => Ok(NodeState::new()),
        None => Err(bad(format!("`{OURS}` is missing: another coordinator has begun it"))),
    }
}
