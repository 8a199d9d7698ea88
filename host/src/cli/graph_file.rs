//! A graph file named on the command line.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use super::printable::printable;
use super::{Usage, note};
use crate::coordinator::graph::{Graph, GraphError, MAX_GRAPH_BYTES};
use crate::types::Role;

/// Reads and checks a graph; what is odd about it is told on stderr. `roles` are those
/// that somebody serves; `None` leaves roles unchecked.
pub fn read(file: &Path, roles: Option<&BTreeSet<Role>>) -> Result<Graph, Usage> {
    let shown = file.display();
    let text = bytes(file).map_err(|error| Usage(format!("cannot read {shown}: {error}")))?;
    let checked = Graph::parse(&text, roles).map_err(|error| refusal(file, &error))?;
    for warning in &checked.warnings {
        note(format_args!("warning: {shown}: {}", printable(&warning.to_string())));
    }
    Ok(checked.graph)
}

/// Checks a graph but for its roles, and says nothing of what is odd about it.
pub fn read_quietly(file: &Path) -> Result<(), Usage> {
    let shown = file.display();
    let text = bytes(file).map_err(|error| Usage(format!("cannot read {shown}: {error}")))?;
    Graph::parse(&text, None).map(drop).map_err(|error| refusal(file, &error))
}

fn bytes(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // One byte more than is allowed tells that there is more.
    let most = MAX_GRAPH_BYTES as u64 + 1;
    std::fs::File::open(file)?.take(most).read_to_end(&mut text)?;
    Ok(text)
}

fn refusal(file: &Path, error: &GraphError) -> Usage {
    let text = error.to_string();
    // The line breaks are the list's own: ids in it are escaped line by line.
    let lines: Vec<_> = text.lines().map(printable).collect();
    Usage(format!("{}: {}", file.display(), lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_file_and_lists_everything_safely() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("graph.json");
        let text = r#"{"nodes": [{"node_id": "a", "depends_on": ["\u001b[2J"]}]}"#;
        std::fs::write(&file, text).unwrap();
        let said = read(&file, None).unwrap_err().0;
        let said = said.replace(&file.display().to_string(), "graph.json");
        insta::assert_snapshot!(said, @r"
        graph.json: 2 problems
          node `a`, key `type`: is missing
          node `a`, key `depends_on`: names `\u{1b}[2J`, but no node has that id
        ");
        let missing = dir.path().join("missing.json");
        assert!(read(&missing, None).unwrap_err().0.contains("missing.json: No such file"));
    }
}
