//! A piece's counts as metrics, and the file name extensions they are counted under.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::count::Counts;

/// A batch's metrics.
pub type Metrics = BTreeMap<String, u64>;

/// Most extensions counted apart; later ones are counted as `other`, since every one adds
/// three metrics to the run's totals.
const MAX_EXTENSIONS: usize = 100;

/// Longest name of an extension.
const MAX_NAME: usize = 16;

/// One line of what downstream nodes get under `items`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// As in the metrics' names.
    pub ext: String,
    /// Files that begin in this batch.
    pub files: u64,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Item {
    /// `files`, `lines`, `words`, `bytes`, and the last three again for the extension:
    /// `lines_rs`, …
    pub fn metrics(&self) -> Metrics {
        let Self { ext, files, counts: Counts { lines, words, bytes } } = self;
        let mut metrics = Metrics::from([("files".to_owned(), *files)]);
        for (what, count) in [("lines", *lines), ("words", *words), ("bytes", *bytes)] {
            metrics.insert(what.to_owned(), count);
            metrics.insert(format!("{what}_{ext}"), count);
        }
        metrics
    }
}

/// The extensions counted apart so far.
#[derive(Debug)]
pub struct Extensions(BTreeSet<String>);

impl Extensions {
    /// Goes on from the names of a run's totals.
    pub fn resume<'n>(totals: impl IntoIterator<Item = &'n String>) -> Self {
        let known = totals.into_iter().filter_map(|name| name.strip_prefix("lines_"));
        Self(known.map(str::to_owned).collect())
    }

    /// What a file is counted under: its extension in lower case, with `_` for everything
    /// but letters and digits; `none` without one.
    pub fn name(&mut self, path: &str) -> String {
        let name = match Path::new(path).extension() {
            Some(extension) => tidy(&extension.to_string_lossy()),
            None => "none".to_owned(),
        };
        if !self.0.contains(&name) {
            if self.0.len() >= MAX_EXTENSIONS {
                return "other".to_owned();
            }
            self.0.insert(name.clone());
        }
        name
    }
}

fn tidy(extension: &str) -> String {
    if extension.is_empty() {
        return "none".to_owned();
    }
    let tidy = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    extension.chars().take(MAX_NAME).map(tidy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_plain_names() {
        let mut extensions = Extensions::resume([]);
        let names =
            ["a/b.RS", "x.tar.gz", "Makefile", ".profile", "c.c++", "dot.", "é.ünï", "a.b/c"]
                .map(|path| extensions.name(path));
        assert_eq!(names, ["rs", "gz", "none", "none", "c__", "none", "_n_", "none"]);
        assert_eq!(extensions.name(&format!("x.{}", "y".repeat(99))), "y".repeat(16));
    }

    #[test]
    fn there_are_not_too_many_even_after_a_resume() {
        let mut extensions = Extensions::resume([]);
        let name = |i: u32| format!("f.e{i}");
        for i in 0..100 {
            assert_eq!(extensions.name(&name(i)), format!("e{i}"));
        }
        assert_eq!(extensions.name(&name(100)), "other");
        let totals: Vec<_> = extensions.0.iter().map(|ext| format!("lines_{ext}")).collect();
        let mut extensions = Extensions::resume(&totals);
        assert_eq!(extensions.name(&name(7)), "e7");
        assert_eq!(extensions.name(&name(101)), "other");
    }

    #[test]
    fn metrics_are_named_after_what_they_count() {
        let item = Item {
            ext: "rs".to_owned(),
            files: 1,
            counts: Counts { lines: 2, words: 3, bytes: 4 },
        };
        let json = serde_json::to_string(&item.metrics()).unwrap();
        assert_eq!(
            json,
            r#"{"bytes":4,"bytes_rs":4,"files":1,"lines":2,"lines_rs":2,"words":3,"words_rs":3}"#
        );
        let json = serde_json::to_value(&item).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"ext": "rs", "files": 1, "lines": 2, "words": 3, "bytes": 4})
        );
    }
}
