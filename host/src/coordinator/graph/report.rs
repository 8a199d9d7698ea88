//! What is wrong with a graph: every mistake, each with its place.

use std::fmt;

/// How many problems an error's text lists.
const LISTED: usize = 50;

/// Why a graph was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// More than [`MAX_GRAPH_BYTES`](super::MAX_GRAPH_BYTES).
    #[error("the graph has {0} bytes; at most {max} are read", max = super::MAX_GRAPH_BYTES)]
    TooLarge(usize),
    /// Not JSON.
    #[error("not JSON: line {line}, column {column}: {problem}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What was expected there.
        problem: String,
    },
    /// JSON, but not a graph that can be run; at least one problem.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

/// Something wrong or odd at one place of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a node by its id (or its place, when it has none) and a key, as far as they
    /// are known. May hold any text that the file holds.
    pub place: Place,
    /// What is wrong and what would be right.
    pub text: String,
}

/// A place in a graph file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Such as ``node `count` `` or `nodes[3]`.
    pub node: Option<String>,
    /// Such as `retry_policy.max`.
    pub key: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place.node, &self.place.key) {
            (Some(node), Some(key)) => write!(f, "{node}, key `{key}`: ")?,
            (Some(place), None) => write!(f, "{place}: ")?,
            (None, Some(key)) => write!(f, "key `{key}`: ")?,
            (None, None) => {}
        }
        f.write_str(&self.text)
    }
}

/// One problem stays on the line, several get a line each.
fn list(problems: &[Problem]) -> String {
    let [only] = problems else {
        let mut text = format!("{} problems", problems.len());
        for problem in problems.iter().take(LISTED) {
            text.push_str(&format!("\n  {problem}"));
        }
        if problems.len() > LISTED {
            text.push_str(&format!("\n  and {} more", problems.len() - LISTED));
        }
        return text;
    };
    only.to_string()
}

/// Collects problems and warnings while a graph is read.
#[derive(Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Report {
    /// Notes a mistake: the graph will be refused.
    pub(super) fn problem(&mut self, place: Place, text: impl Into<String>) {
        self.problems.push(Problem { place, text: text.into() });
    }

    /// Notes an oddity.
    pub(super) fn warning(&mut self, place: Place, text: impl Into<String>) {
        self.warnings.push(Problem { place, text: text.into() });
    }

    /// True while no mistake was found.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// The warnings, if there is nothing worse.
    pub(super) fn finish(self) -> Result<Vec<Problem>, GraphError> {
        if self.problems.is_empty() {
            return Ok(self.warnings);
        }
        Err(GraphError::Invalid(self.problems))
    }
}
