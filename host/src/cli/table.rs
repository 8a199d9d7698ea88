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
pub fn wrapped(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::failed_task;
    use super::*;

    #[test]
    fn a_table_tells_what_happened_and_nothing_steers_the_terminal() {
        let shown = of_nodes(&failed_task()).to_string();
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
         node    role   status     attempts   batches   metrics                error
        ════════════════════════════════════════════════════════════════════════════════════════════════════════════════════
         done    r      finished   1          3         lines = 9
                                                        note = with finalize
        ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
         bad     r      failed     2          1         lines = 7              step_failed: a \u{1b}[31mred row in data.csv
        ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
         after   r      skipped    0          0
        ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
        "#);
    }

    #[test]
    fn long_messages_are_broken_between_words() {
        let text = wrapped(&"word ".repeat(40));
        assert!(text.lines().count() > 2);
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }
}
