//! The files that were not counted.

use flowkit_sdk::warn;
use serde::{Deserialize, Serialize};

/// Most files that are named; the others are only counted.
const MAX_NAMED: usize = 50;

/// Longest path that is named in full, in bytes.
const MAX_PATH: usize = 300;

/// Files that were not counted: all of them as a number, the first by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Skips {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub files: Vec<Skipped>,
}

/// One file that was not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Below the directory.
    pub path: String,
    /// For people.
    pub reason: String,
}

impl Skips {
    /// Adds a file, and says so in the log while it is named at all.
    pub fn add(&mut self, path: &str, reason: String) {
        self.count += 1;
        if self.files.len() < MAX_NAMED {
            let path = shortened(path);
            warn!("skipped {path}: {reason}");
            self.files.push(Skipped { path, reason });
        }
    }

    /// Adds what another part of the run found.
    pub fn extend(&mut self, other: Skips) {
        self.count += other.count;
        let room = MAX_NAMED.saturating_sub(self.files.len());
        self.files.extend(other.files.into_iter().take(room));
    }

    /// True when nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn shortened(path: &str) -> String {
    if path.len() <= MAX_PATH {
        return path.to_owned();
    }
    format!("…{}", &path[path.ceil_char_boundary(path.len() - MAX_PATH)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_first_and_counts_the_rest() {
        let mut skips = Skips::default();
        for i in 0..60 {
            skips.add(&format!("f{i}"), "binary".to_owned());
        }
        skips.extend(skips.clone());
        assert_eq!((skips.count, skips.files.len()), (120, MAX_NAMED));
        assert_eq!(skips.files[49].path, "f49");
    }

    #[test]
    fn long_paths_keep_their_end() {
        let path = shortened(&format!("{}/name", "é/".repeat(500)));
        assert!(path.starts_with('…') && path.ends_with("/name") && path.len() < 310);
    }
}
