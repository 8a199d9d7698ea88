//! A graph of nodes that has been checked: every name resolves, nothing waits in a circle.

mod check;
mod fields;
mod read;
mod report;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::store::RunInput;
use crate::types::{Invalid, NodeId, Role};

pub use report::{GraphError, Problem};

/// Largest graph file that is read, in bytes.
pub const MAX_GRAPH_BYTES: usize = 16 * 1024 * 1024;

/// Most nodes of one graph.
pub const MAX_NODES: usize = 10_000;

/// Most entries of `edges` and of all `depends_on` together.
pub const MAX_EDGES: usize = 100_000;

/// A checked graph: at least one node, all parents exist, no cycle.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    /// The reverse of [`Node::parents`], by index.
    children: Vec<Vec<usize>>,
    by_id: HashMap<NodeId, usize>,
}

/// A node of a checked graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// `node_id`.
    pub id: NodeId,
    /// `type`.
    pub role: Role,
    /// `depends_on` united with `edges`, as indices into [`Graph::nodes`], rising.
    pub parents: Vec<usize>,
    /// `fan_in`.
    pub fan_in: FanIn,
    /// `io.start_when` is `first_batch`: any parent's first artifact starts it.
    pub first_batch: bool,
    /// `retry_policy`; without one a node is tried once.
    pub retry: Option<RetryPolicy>,
    /// `io.input_ref`, `io.input_inline` and `io.batching`.
    pub input: RunInput,
    /// It may start before everything it could read is finished, and then waits for it
    /// while it runs.
    pub may_wait: bool,
}

/// How many finished parents start a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FanIn {
    /// `all`, the default.
    All,
    /// `any`: the first.
    Any,
    /// `count:n`: between one and the number of parents.
    Count(usize),
}

/// When a failed node is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; default 2.
    pub max: NonZeroU32,
    /// The wait between two attempts; default 300 s.
    pub backoff: Duration,
    /// Reason codes after which no further attempt is made.
    pub permanent_on: Vec<String>,
}

/// What checking a graph gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The graph.
    pub graph: Graph,
    /// What is odd about it but harmless, such as unknown keys.
    pub warnings: Vec<Problem>,
}

impl Graph {
    /// Reads and checks a graph file: `{"nodes": [...], "edges": [[src, dst], ...]}`.
    /// `roles` are those that somebody serves; `None` leaves roles unchecked. Every
    /// mistake is reported, not only the first.
    pub fn parse(text: &[u8], roles: Option<&BTreeSet<Role>>) -> Result<Checked, GraphError> {
        if text.len() > MAX_GRAPH_BYTES {
            return Err(GraphError::TooLarge(text.len()));
        }
        let value: Value = serde_json::from_slice(text).map_err(|e| GraphError::NotJson {
            line: e.line(),
            column: e.column(),
            // serde_json repeats the place at the end of its text.
            problem: e.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
        })?;
        Self::from_value(value, roles)
    }

    /// As [`parse`](Self::parse), from JSON that was read already.
    pub fn from_value(value: Value, roles: Option<&BTreeSet<Role>>) -> Result<Checked, GraphError> {
        let mut report = report::Report::default();
        let raw = read::read(value, &mut report);
        let nodes = check::resolve(raw, roles, &mut report);
        let warnings = report.finish()?;
        Ok(Checked { graph: Self::link(nodes), warnings })
    }

    /// A graph of one node, named after its role.
    pub fn single(role: Role, input: RunInput) -> Result<Self, Invalid> {
        let node = Node {
            id: NodeId::new(role.as_str())?,
            role,
            parents: Vec::new(),
            fan_in: FanIn::All,
            first_batch: false,
            retry: None,
            input,
            may_wait: false,
        };
        Ok(Self::link(vec![node]))
    }

    /// In the order of the file.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes that have `node` among their parents.
    pub fn children(&self, node: usize) -> &[usize] {
        &self.children[node]
    }

    /// The place of a node.
    pub fn find(&self, id: &NodeId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The roles of all nodes.
    pub fn roles(&self) -> BTreeSet<Role> {
        self.nodes.iter().map(|node| node.role.clone()).collect()
    }

    /// How many runs must be able to go on at once so that nodes which wait for others'
    /// artifacts while they run can never occupy every slot that those others need.
    pub fn slots_needed(&self) -> usize {
        1 + self.nodes.iter().filter(|node| node.may_wait).count()
    }

    fn link(nodes: Vec<Node>) -> Self {
        let mut children = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            for &parent in &node.parents {
                children[parent].push(index);
            }
        }
        let by_id = nodes.iter().enumerate().map(|(at, node)| (node.id.clone(), at)).collect();
        Self { nodes, children, by_id }
    }
}

impl Node {
    /// Whether this many finished parents start it.
    pub fn satisfied_by(&self, finished: usize) -> bool {
        match self.fan_in {
            // A node without parents has nothing to wait for.
            _ if self.parents.is_empty() => true,
            FanIn::All => finished == self.parents.len(),
            FanIn::Any => finished >= 1,
            FanIn::Count(n) => finished >= n,
        }
    }

    /// What the graph says of it beyond `node_id` and `type`, as a graph file would.
    pub(super) fn describe(&self, graph: &Graph) -> Map<String, Value> {
        let mut more = Map::new();
        let parents: Vec<&str> =
            self.parents.iter().map(|&parent| graph.nodes[parent].id.as_str()).collect();
        more.insert("depends_on".into(), json!(parents));
        more.insert("fan_in".into(), self.fan_in.to_string().into());
        let mut io = Map::new();
        let RunInput { input_ref, input_inline, batching } = &self.input;
        let parts =
            [("input_ref", input_ref), ("input_inline", input_inline), ("batching", batching)];
        for (key, part) in parts {
            if let Some(part) = part {
                io.insert(key.into(), Value::Object(part.clone()));
            }
        }
        if self.first_batch {
            io.insert("start_when".into(), "first_batch".into());
        }
        more.insert("io".into(), Value::Object(io));
        if let Some(retry) = &self.retry {
            let policy = json!({
                "max": retry.max,
                "backoff_sec": retry.backoff.as_secs_f64(),
                "permanent_on": retry.permanent_on,
            });
            more.insert("retry_policy".into(), policy);
        }
        more
    }
}

impl RetryPolicy {
    /// Whether attempt number `attempt`, which failed with `reason_code`, was the last.
    pub fn gives_up(&self, attempt: u32, reason_code: &str) -> bool {
        attempt >= self.max.get() || self.permanent_on.iter().any(|code| code == reason_code)
    }
}

impl std::fmt::Display for FanIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Any => f.write_str("any"),
            Self::Count(n) => write!(f, "count:{n}"),
        }
    }
}
