//! Every folder of `tests/cases/graphs` holds a graph file and what checking it says.
//! `UPDATE_EXPECTED=1` writes the expectations anew; read the difference before you
//! commit it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use flowkit::coordinator::graph::{Checked, Graph};
use flowkit::types::Role;

#[test]
fn graph_files_are_checked_as_expected() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/graphs");
    let roles = ["echo", "report", "steps", "textstats"];
    let roles: BTreeSet<Role> = roles.into_iter().map(|role| Role::new(role).unwrap()).collect();
    let mut wrong = String::new();
    let mut seen = 0;
    for case in std::fs::read_dir(&cases).unwrap() {
        let case = case.unwrap().path();
        let text = std::fs::read(case.join("graph.json")).unwrap();
        let said = match Graph::parse(&text, Some(&roles)) {
            Ok(checked) => describe(&checked),
            Err(error) => format!("refused: {error}\n"),
        };
        let expected = case.join("expected.txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        if said != expected {
            let name = case.file_name().unwrap().display();
            let _ = write!(wrong, "== {name}\nexpected:\n{expected}\nfound:\n{said}\n");
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(seen >= 20, "only {seen} cases in {}", cases.display());
}

/// A graph as it was understood.
fn describe(checked: &Checked) -> String {
    let mut text = String::from("accepted\n");
    for warning in &checked.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for node in checked.graph.nodes() {
        let parents: Vec<&str> =
            node.parents.iter().map(|p| checked.graph.nodes()[*p].id.as_str()).collect();
        let _ = write!(text, "{} ({}) after {} of {parents:?}", node.id, node.role, node.fan_in);
        if node.first_batch {
            text.push_str(" or any first batch");
        }
        if let Some(retry) = &node.retry {
            let _ = write!(
                text,
                ", {} attempts {:?} apart unless {:?}",
                retry.max, retry.backoff, retry.permanent_on
            );
        }
        text.push('\n');
    }
    text
}
