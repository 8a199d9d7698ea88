//! The graph file's text taken apart: types and values, not yet what names refer to.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Map, Value};

use super::fields::{Fields, shown};
use super::report::{Place, Report};
use super::{FanIn, MAX_EDGES, MAX_NODES, RetryPolicy};
use crate::store::RunInput;
use crate::types::{NodeId, Role};

/// Attempts in all when a retry policy does not say.
const DEFAULT_MAX: NonZeroU32 = NonZeroU32::new(2).expect("two is not zero");

/// Seconds between two attempts when a retry policy does not say.
const DEFAULT_BACKOFF_SEC: f64 = 300.0;

/// Longest wait between two attempts, in seconds: a year.
const MAX_BACKOFF_SEC: f64 = 31_536_000.0;

/// A graph whose names are not resolved.
#[derive(Default)]
pub(super) struct RawGraph {
    pub(super) nodes: Vec<RawNode>,
    pub(super) edges: Vec<RawEdge>,
}

/// A node as the file describes it; what was wrong is noted and left out.
pub(super) struct RawNode {
    /// How problems name it.
    pub(super) label: String,
    pub(super) id: Option<NodeId>,
    pub(super) role: Option<Role>,
    pub(super) depends_on: Vec<String>,
    pub(super) fan_in: FanIn,
    pub(super) first_batch: bool,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) input: RunInput,
}

/// An entry of `edges`.
pub(super) struct RawEdge {
    /// How problems name it.
    pub(super) label: String,
    pub(super) src: String,
    pub(super) dst: String,
}

/// Takes a graph file apart.
pub(super) fn read(value: Value, report: &mut Report) -> RawGraph {
    if !value.is_object() {
        let text = format!("expected an object with `nodes` and `edges`, found {}", shown(&value));
        report.problem(Place::default(), text);
        return RawGraph::default();
    }
    let mut fields = Fields::of(value, None, report);
    let nodes: Vec<Value> = fields.take("nodes", "an array of nodes", report).unwrap_or_default();
    let edges: Vec<Value> =
        fields.take("edges", "an array of [src, dst] pairs", report).unwrap_or_default();
    if nodes.is_empty() && report.is_clean() {
        report.problem(fields.place("nodes"), "a graph needs at least one node");
    }
    if nodes.len() > MAX_NODES {
        let text = format!("{} nodes; at most {MAX_NODES} are allowed", nodes.len());
        report.problem(fields.place("nodes"), text);
        return RawGraph::default();
    }
    if edges.len() > MAX_EDGES {
        let text = format!("{} entries; at most {MAX_EDGES} are allowed", edges.len());
        report.problem(fields.place("edges"), text);
        return RawGraph::default();
    }
    fields.warn_of_rest(report);
    RawGraph {
        nodes: nodes.into_iter().enumerate().map(|(at, v)| read_node(at, v, report)).collect(),
        edges: edges.into_iter().enumerate().filter_map(|(at, v)| edge(at, &v, report)).collect(),
    }
}

fn edge(at: usize, value: &Value, report: &mut Report) -> Option<RawEdge> {
    let label = format!("edges[{at}]");
    if let Value::Array(pair) = value
        && let [Value::String(src), Value::String(dst)] = pair.as_slice()
    {
        return Some(RawEdge { label, src: src.clone(), dst: dst.clone() });
    }
    let text = "expected a pair of node ids, [src, dst]";
    report.problem(Place { node: Some(label), key: None }, text);
    None
}

fn read_node(at: usize, value: Value, report: &mut Report) -> RawNode {
    let mut label = format!("nodes[{at}]");
    let mut fields = Fields::of(value, Some(label.clone()), report);
    let id = required(&mut fields, "node_id", report).and_then(|text| {
        let id = NodeId::new(text).map_err(|e| report.problem(fields.place("node_id"), e.problem));
        id.ok()
    });
    if let Some(id) = &id {
        label = format!("node `{id}`");
        fields.name(label.clone());
    }
    let type_name = required(&mut fields, "type", report);
    let of_coordinator = type_name.as_deref() == Some("coordinator_fn");
    let role = type_name.and_then(|text| read_role(&fields, text, report));
    let depends_on = fields.take("depends_on", "an array of node ids", report).unwrap_or_default();
    let fan_in = read_fan_in(&mut fields, report).unwrap_or(FanIn::All);
    let mut io = fields.nested("io", report);
    let input = io.as_mut().map(|io| read_input(io, report)).unwrap_or_default();
    let first_batch = io.as_mut().is_some_and(|io| read_start_when(io, report));
    let retry = read_retry(&mut fields, report);
    if !of_coordinator {
        if let Some(io) = io {
            io.warn_of_rest(report);
        }
        fields.warn_of_rest(report);
    }
    RawNode { label, id, role, depends_on, fan_in, first_batch, retry, input }
}

fn required(fields: &mut Fields, key: &str, report: &mut Report) -> Option<String> {
    match fields.raw(key) {
        Some(Value::String(text)) => return Some(text),
        Some(other) => {
            let text = format!("expected a string, found {}", shown(&other));
            report.problem(fields.place(key), text);
        }
        None => report.problem(fields.place(key), "is missing"),
    }
    None
}

fn read_role(fields: &Fields, text: String, report: &mut Report) -> Option<Role> {
    if text == "coordinator_fn" {
        let text = "`coordinator_fn` nodes are functions inside another coordinator and cannot \
                    run here; make it a handler with a role of its own";
        report.problem(fields.place("type"), text);
        return None;
    }
    Role::new(text).map_err(|e| report.problem(fields.place("type"), e.problem)).ok()
}

fn read_fan_in(fields: &mut Fields, report: &mut Report) -> Option<FanIn> {
    let value = fields.raw("fan_in")?;
    let fan_in = match value.as_str() {
        Some("all") => Some(FanIn::All),
        Some("any") => Some(FanIn::Any),
        Some(text) => text
            .strip_prefix("count:")
            .filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            .map(|n| FanIn::Count(n.parse().unwrap_or(usize::MAX))),
        None => None,
    };
    if fan_in.is_none() {
        let text = format!(
            "expected \"all\", \"any\" or \"count:n\" with a whole number n, found {}",
            shown(&value)
        );
        report.problem(fields.place("fan_in"), text);
    }
    fan_in
}

fn read_input(io: &mut Fields, report: &mut Report) -> RunInput {
    let mut object = |key| io.take::<Map<String, Value>>(key, "an object", report);
    RunInput {
        input_ref: object("input_ref"),
        input_inline: object("input_inline"),
        batching: object("batching"),
    }
}

fn read_start_when(io: &mut Fields, report: &mut Report) -> bool {
    let Some(value) = io.raw("start_when") else { return false };
    let known = value == "first_batch";
    if !known {
        let text = format!(
            "expected \"first_batch\" (or leave it out to start when fan_in says so), found {}",
            shown(&value)
        );
        report.problem(io.place("start_when"), text);
    }
    known
}

fn read_retry(fields: &mut Fields, report: &mut Report) -> Option<RetryPolicy> {
    let mut policy = fields.nested("retry_policy", report)?;
    let max = policy.take("max", "a whole number of attempts from 1 to 4294967295", report);
    let backoff = policy.take::<f64>("backoff_sec", "a number of seconds", report);
    let backoff = backoff.unwrap_or(DEFAULT_BACKOFF_SEC);
    if !(0.0..=MAX_BACKOFF_SEC).contains(&backoff) {
        let text = format!("expected seconds from 0 to {MAX_BACKOFF_SEC}, found {backoff}");
        report.problem(policy.place("backoff_sec"), text);
    }
    let permanent_on =
        policy.take("permanent_on", "an array of reason codes", report).unwrap_or_default();
    policy.warn_of_rest(report);
    Some(RetryPolicy {
        max: max.unwrap_or(DEFAULT_MAX),
        // The bounds were checked: what is out of them was reported and goes nowhere.
        backoff: Duration::try_from_secs_f64(backoff).unwrap_or_default(),
        permanent_on,
    })
}
