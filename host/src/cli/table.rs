//! Results as tables for people.

use comfy_table::{ContentArrangement, Table, presets};

use super::outcome::{TaskReport, metric_lines, node_word};
use super::printable::brief;

/// Most metrics of a node that a table lists.
const METRICS_SHOWN: usize = 8;

/// A table with these column titles.
pub fn new(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(titles);
    table
}

/// A task's nodes.
pub fn of_nodes(report: &TaskReport) -> Table {
    let mut table = new(&["node", "role", "status", "attempts", "batches", "metrics", "error"]);
    for node in &report.nodes {
        table.add_row(vec![
            brief(node.node_id.as_str(), 60),
            node.role.to_string(),
            node_word(node.status).to_owned(),
            node.epoch.to_string(),
            node.batches.to_string(),
            metric_lines(&node.metrics, METRICS_SHOWN),
            wrapped(node.error.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

/// A message in lines of a readable width, safe for a terminal.
fn wrapped(text: &str) -> String {
    let text = brief(text, 400);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > 60 {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
