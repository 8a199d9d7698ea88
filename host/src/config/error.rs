//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use super::place::{KeyPath, Place};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The config file.
    File {
        /// As it was named.
        path: PathBuf,
        /// The key's place in it.
        place: Place,
    },
    /// An environment variable.
    Env(String),
    /// An option of the command line, such as `--set lease_ttl_sec`.
    Option(String),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, place } => {
                write!(f, "{}:{}:{}", path.display(), place.line, place.column)
            }
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Option(option) => f.write_str(option),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it comes from; `None` when it is nowhere, as a file that is missing.
    pub origin: Option<Origin>,
    /// The key it is about; `None` when it is about the whole.
    pub key: Option<KeyPath>,
    /// What is wrong and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(key) = &self.key {
            let said = Origin::Option(format!("--set {key}"));
            if self.origin.as_ref() != Some(&said) {
                write!(f, "`{key}`: ")?;
            }
        }
        f.write_str(&self.text)
    }
}

/// A configuration that cannot be used. Prints one line a problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl ConfigError {
    /// All problems as one error, or none.
    pub(super) fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

/// What to say of a name that is none of `known`.
pub(super) fn unknown_key(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None if known.len() <= 8 => {
            format!("unknown key; the keys here are `{}`", known.join("`, `"))
        }
        None => "unknown key; `flowkit config show` lists all keys".into(),
    }
}

/// The name that `wrong` is most likely a misspelling of.
fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let allowed = (wrong.chars().count() / 3).max(1);
    known
        .iter()
        .map(|name| {
            // A unit that was left out or added is the likeliest slip of all.
            let one_begins_other =
                wrong.len() >= 4 && (name.starts_with(&wrong) || wrong.starts_with(name));
            (if one_begins_other { 0 } else { distance(&wrong, name) }, *name)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, delete, replace or swap with their neighbour to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_finds_its_name() {
        let known = ["lease_ttl_sec", "db", "roles", "worker_id", "handlers"];
        for (wrong, right) in [
            ("lease_ttl", Some("lease_ttl_sec")),
            ("lease_tll_sec", Some("lease_ttl_sec")),
            ("leaseTtlSec", Some("lease_ttl_sec")),
            ("bd", Some("db")),
            ("role", Some("roles")),
            ("worker_ids", Some("worker_id")),
            ("handler", Some("handlers")),
            ("mongodb_uri", None),
            ("x", None),
        ] {
            assert_eq!(nearest(wrong, &known), right, "{wrong}");
        }
    }
}
