//! What the names of a graph refer to, and whether it can come to an end.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::read::{RawGraph, RawNode};
use super::report::{Place, Report};
use super::{FanIn, MAX_EDGES, Node};
use crate::types::Role;

/// How many cycles are reported.
const CYCLES_SHOWN: usize = 10;

/// How many of a cycle's nodes, or of the known roles, an error names.
const NAMES_SHOWN: usize = 20;

/// Resolves every name. The nodes mean nothing once `report` holds a problem.
pub(super) fn resolve(
    raw: RawGraph,
    roles: Option<&BTreeSet<Role>>,
    report: &mut Report,
) -> Vec<Node> {
    let by_id = index(&raw, report);
    let parents = parents(&raw, &by_id, report);
    for (node, parents) in raw.nodes.iter().zip(&parents) {
        check_role(node, roles, report);
        check_start(node, parents.len(), report);
    }
    let order = sort(&raw, &parents, report);
    let aside = order.map(|order| check_sources(&raw, &parents, &order, &by_id, report));
    if !report.is_clean() {
        return Vec::new();
    }
    let aside = aside.unwrap_or_default();
    let nodes = raw.nodes.into_iter().zip(parents).enumerate();
    nodes.filter_map(|(at, (raw, parents))| node(raw, parents, aside.contains(&at))).collect()
}

fn node(raw: RawNode, parents: Vec<usize>, aside: bool) -> Option<Node> {
    let early = raw.first_batch || raw.fan_in != FanIn::All;
    Some(Node {
        id: raw.id?,
        role: raw.role?,
        may_wait: aside || (early && !parents.is_empty()),
        parents,
        fan_in: raw.fan_in,
        first_batch: raw.first_batch,
        retry: raw.retry,
        input: raw.input,
    })
}

fn at(node: &RawNode, key: &str) -> Place {
    Place { node: Some(node.label.clone()), key: Some(key.to_owned()) }
}

fn index(raw: &RawGraph, report: &mut Report) -> HashMap<String, usize> {
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for (place, node) in raw.nodes.iter().enumerate() {
        let Some(id) = &node.id else { continue };
        if let Some(first) = by_id.get(id.as_str()) {
            let text = format!("used twice, by nodes[{first}] and nodes[{place}]");
            report.problem(at(node, "node_id"), text);
        } else {
            by_id.insert(id.to_string(), place);
        }
    }
    by_id
}

fn parents(raw: &RawGraph, by_id: &HashMap<String, usize>, report: &mut Report) -> Vec<Vec<usize>> {
    let mut parents = vec![BTreeSet::new(); raw.nodes.len()];
    let named: usize = raw.nodes.iter().map(|node| node.depends_on.len()).sum();
    if named > MAX_EDGES {
        let place = Place { node: None, key: Some("depends_on".into()) };
        let text = format!("{named} entries in all nodes; at most {MAX_EDGES} are allowed");
        report.problem(place, text);
        return vec![Vec::new(); raw.nodes.len()];
    }
    for (child, node) in raw.nodes.iter().enumerate() {
        for name in &node.depends_on {
            match by_id.get(name) {
                Some(&parent) => {
                    parents[child].insert(parent);
                }
                None => report.problem(at(node, "depends_on"), no_node(name)),
            }
        }
    }
    for edge in &raw.edges {
        if let (Some(&src), Some(&dst)) = (by_id.get(&edge.src), by_id.get(&edge.dst)) {
            parents[dst].insert(src);
        }
        for name in [&edge.src, &edge.dst] {
            if !by_id.contains_key(name) {
                let place = Place { node: Some(edge.label.clone()), key: None };
                report.problem(place, no_node(name));
            }
        }
    }
    parents.into_iter().map(|set| set.into_iter().collect()).collect()
}

fn no_node(name: &str) -> String {
    format!("names `{name}`, but no node has that id")
}

fn check_role(node: &RawNode, roles: Option<&BTreeSet<Role>>, report: &mut Report) {
    let (Some(role), Some(roles)) = (&node.role, roles) else { return };
    if roles.contains(role) {
        return;
    }
    let known: Vec<&str> = roles.iter().take(NAMES_SHOWN).map(Role::as_str).collect();
    let more = if roles.len() > NAMES_SHOWN { ", …" } else { "" };
    let known = match known.is_empty() {
        true => "no role has one".to_owned(),
        false => format!("roles with one: {}{more}", known.join(", ")),
    };
    report.problem(at(node, "type"), format!("no handler serves the role `{role}` ({known})"));
}

fn check_start(node: &RawNode, parents: usize, report: &mut Report) {
    match node.fan_in {
        FanIn::Count(0) => {
            report.problem(at(node, "fan_in"), "count:0 waits for nothing; the least is count:1");
        }
        FanIn::Count(n) if n > parents => {
            let text = format!("waits for {n} finished parents, but the node has {parents}");
            report.problem(at(node, "fan_in"), text);
        }
        FanIn::Any if parents == 0 => {
            let text = "the node has no parents to wait for; it starts at once";
            report.warning(at(node, "fan_in"), text);
        }
        _ => {}
    }
    if node.first_batch && parents == 0 {
        let text = "the node has no parents whose batch could start it; it starts at once";
        report.warning(at(node, "io.start_when"), text);
    }
}

/// An order in which every node comes after its parents; `None`, and a problem for each
/// cycle, when there is none.
fn sort(raw: &RawGraph, parents: &[Vec<usize>], report: &mut Report) -> Option<Vec<usize>> {
    let mut alive = vec![true; parents.len()];
    let mut order = order_of(parents, &alive);
    if order.len() == parents.len() {
        return Some(order);
    }
    for _ in 0..CYCLES_SHOWN {
        for &node in &order {
            alive[node] = false;
        }
        let Some(start) = alive.iter().position(|alive| *alive) else { break };
        let cycle = cycle_above(start, parents, &alive);
        report_cycle(raw, &cycle, report);
        for &node in &cycle {
            alive[node] = false;
        }
        order = order_of(parents, &alive);
    }
    None
}

/// The nodes among `alive` that no cycle among them holds back, parents first.
fn order_of(parents: &[Vec<usize>], alive: &[bool]) -> Vec<usize> {
    let mut children = vec![Vec::new(); parents.len()];
    let mut waiting = vec![0usize; parents.len()];
    for (child, parents) in parents.iter().enumerate().filter(|(child, _)| alive[*child]) {
        for &parent in parents.iter().filter(|parent| alive[**parent]) {
            children[parent].push(child);
            waiting[child] += 1;
        }
    }
    let mut order: Vec<usize> =
        (0..parents.len()).filter(|node| alive[*node] && waiting[*node] == 0).collect();
    let mut next = 0;
    while let Some(&node) = order.get(next) {
        next += 1;
        for &child in &children[node] {
            waiting[child] -= 1;
            if waiting[child] == 0 {
                order.push(child);
            }
        }
    }
    order
}

/// A cycle that is met on the way up from `start`, each node followed by one that waits
/// for it. Every node in `alive` has a parent in it.
fn cycle_above(start: usize, parents: &[Vec<usize>], alive: &[bool]) -> Vec<usize> {
    let mut path = Vec::new();
    let mut seen_at = HashMap::new();
    let mut node = start;
    while !seen_at.contains_key(&node) {
        seen_at.insert(node, path.len());
        path.push(node);
        let Some(&parent) = parents[node].iter().find(|parent| alive[**parent]) else { break };
        node = parent;
    }
    let mut cycle = path.split_off(seen_at.get(&node).copied().unwrap_or(0));
    cycle.reverse();
    cycle
}

fn report_cycle(raw: &RawGraph, cycle: &[usize], report: &mut Report) {
    let name = |node: &usize| raw.nodes[*node].id.as_ref().map_or("?", |id| id.as_str());
    let mut names: Vec<&str> = cycle.iter().take(NAMES_SHOWN).map(name).collect();
    if cycle.len() > NAMES_SHOWN {
        names.push("…");
    }
    names.extend(cycle.first().map(name));
    let text = format!("these nodes wait for each other in a circle: {}", names.join(" → "));
    let node = cycle.first().map(|&first| raw.nodes[first].label.clone());
    report.problem(Place { node, key: Some("depends_on".into()) }, text);
}

/// Checks what input adapters read from. Returns the nodes that read from one which need
/// not have ended before they start.
fn check_sources(
    raw: &RawGraph,
    parents: &[Vec<usize>],
    order: &[usize],
    by_id: &HashMap<String, usize>,
    report: &mut Report,
) -> BTreeSet<usize> {
    let mut aside = BTreeSet::new();
    let mut ancestors = None;
    for (reader, node) in raw.nodes.iter().enumerate() {
        for (key, name) in sources(node) {
            let place = at(node, key);
            let Some(&source) = by_id.get(name) else {
                report.problem(place, no_node(name));
                continue;
            };
            if source == reader {
                report.problem(place, "the node reads from itself and would wait for ever");
                continue;
            }
            if parents[reader].contains(&source) {
                continue;
            }
            let ancestors = ancestors.get_or_insert_with(|| Ancestors::of(parents, order));
            if ancestors.has(source, reader) {
                let text = format!("reads from `{name}`, which waits for this node itself");
                report.problem(place, text);
            } else if !ancestors.has(reader, source) {
                let text =
                    format!("reads from `{name}`, which is not upstream: add it to `depends_on`");
                report.warning(place, text);
                aside.insert(reader);
            }
        }
    }
    aside
}

/// The node ids that a node's input adapter names. Arguments of another shape are left
/// for the adapter to refuse.
fn sources(node: &RawNode) -> Vec<(&'static str, &str)> {
    let Some(inline) = &node.input.input_inline else { return Vec::new() };
    if !inline.contains_key("input_adapter") {
        return Vec::new();
    }
    let Some(Value::Object(args)) = inline.get("input_args") else { return Vec::new() };
    let one = args.get("from_node").into_iter();
    let many = args.get("from_nodes").and_then(Value::as_array).into_iter().flatten();
    one.map(|name| ("io.input_inline.input_args.from_node", name))
        .chain(many.map(|name| ("io.input_inline.input_args.from_nodes", name)))
        .filter_map(|(key, name)| Some((key, name.as_str()?)))
        .collect()
}

/// Who is above whom: a bit for each pair of nodes.
struct Ancestors {
    words: usize,
    bits: Vec<u64>,
}

impl Ancestors {
    fn of(parents: &[Vec<usize>], order: &[usize]) -> Self {
        let words = parents.len().div_ceil(64);
        let mut bits = vec![0u64; words * parents.len()];
        for &node in order {
            for &parent in &parents[node] {
                for word in 0..words {
                    bits[node * words + word] |= bits[parent * words + word];
                }
                bits[node * words + parent / 64] |= 1 << (parent % 64);
            }
        }
        Self { words, bits }
    }

    /// Whether `ancestor` is above `node`.
    fn has(&self, node: usize, ancestor: usize) -> bool {
        self.bits[node * self.words + ancestor / 64] >> (ancestor % 64) & 1 == 1
    }
}
