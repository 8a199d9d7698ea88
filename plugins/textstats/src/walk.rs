//! The files of a directory tree, in an order that stays the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::vec;

/// Most unreadable entries of one directory before the rest of it is given up.
const MAX_BAD_ENTRIES: usize = 100;

/// Which entries are left out.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Whether names that begin with a dot are taken.
    pub hidden: bool,
    /// Names that are left out wherever they occur.
    pub skip: Vec<String>,
}

impl Filter {
    fn takes(&self, name: &str) -> bool {
        (self.hidden || !name.starts_with('.')) && !self.skip.iter().any(|s| s == name)
    }
}

/// What a walk comes across.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A regular file; its path below the root, with `/` between names.
    File(String),
    /// Something that should have been a file, and why it is not one.
    Unreadable {
        /// As above, as far as it can be told.
        path: String,
        /// For people.
        reason: String,
    },
}

/// A walk through a tree: names in byte order, directories where their name stands, one
/// open listing for each level. Symbolic links and devices are left out.
#[derive(Debug)]
pub struct Walk {
    root: PathBuf,
    filter: Filter,
    levels: Vec<Level>,
}

/// The entries of one directory that are still to come.
#[derive(Debug)]
struct Level {
    /// The directory's path below the root, with a `/` at its end unless it is the root.
    prefix: String,
    entries: vec::IntoIter<Entry>,
}

#[derive(Debug)]
enum Entry {
    File(String),
    Dir(String),
    Bad { name: String, reason: String },
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::File(name) | Self::Dir(name) | Self::Bad { name, .. } => name,
        }
    }
}

impl Walk {
    /// Begins at the beginning. Fails when the root itself cannot be listed.
    pub fn new(root: PathBuf, filter: Filter) -> io::Result<Self> {
        let entries = list(&root, &filter)?.into_iter();
        let levels = vec![Level { prefix: String::new(), entries }];
        Ok(Self { root, filter, levels })
    }

    /// Begins after the file at `path`, as an earlier walk yielded it; it need not exist
    /// any more.
    pub fn after(root: PathBuf, filter: Filter, path: &str) -> io::Result<Self> {
        let mut walk = Self::new(root, filter)?;
        for name in path.split('/') {
            if !walk.enter(name) {
                break;
            }
        }
        Ok(walk)
    }

    /// Drops what comes before `name` in the deepest listing, and `name` itself; true when
    /// it is a directory, which then is the deepest.
    fn enter(&mut self, name: &str) -> bool {
        let Some(level) = self.levels.last_mut() else { return false };
        let path = format!("{}{name}", level.prefix);
        let mut entries = std::mem::take(&mut level.entries).peekable();
        while entries.next_if(|e| e.name().as_bytes() < name.as_bytes()).is_some() {}
        let is_dir = matches!(entries.next_if(|e| e.name() == name), Some(Entry::Dir(_)));
        level.entries = entries.collect::<Vec<_>>().into_iter();
        if !is_dir {
            return false;
        }
        if let Err(error) = self.descend(format!("{path}/")) {
            let bad = Entry::Bad { name: String::new(), reason: error.to_string() };
            self.levels.push(Level { prefix: path, entries: vec![bad].into_iter() });
            return false;
        }
        true
    }

    fn descend(&mut self, prefix: String) -> io::Result<()> {
        let entries = list(&self.root.join(&prefix), &self.filter)?.into_iter();
        self.levels.push(Level { prefix, entries });
        Ok(())
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let level = self.levels.last_mut()?;
            let Some(entry) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let path = format!("{}{}", level.prefix, entry.name());
            match entry {
                Entry::File(_) => return Some(Found::File(path)),
                Entry::Bad { reason, .. } => return Some(Found::Unreadable { path, reason }),
                Entry::Dir(_) => {
                    if let Err(error) = self.descend(format!("{path}/")) {
                        return Some(Found::Unreadable { path, reason: error.to_string() });
                    }
                }
            }
        }
    }
}

/// A directory's entries that `filter` takes, in order.
fn list(dir: &Path, filter: &Filter) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut bad = 0;
    for entry in fs::read_dir(dir)? {
        if bad == MAX_BAD_ENTRIES {
            break;
        }
        match entry.and_then(|entry| read(&entry, filter)) {
            Ok(entry) => entries.extend(entry),
            Err(error) => {
                bad += 1;
                entries.push(Entry::Bad { name: "?".to_owned(), reason: error.to_string() });
            }
        }
    }
    entries.sort_by(|a, b| a.name().as_bytes().cmp(b.name().as_bytes()));
    Ok(entries)
}

/// None for what is left out without a word.
fn read(entry: &fs::DirEntry, filter: &Filter) -> io::Result<Option<Entry>> {
    let name = match entry.file_name().into_string() {
        Ok(name) => name,
        Err(name) => {
            let name = name.to_string_lossy().into_owned();
            return Ok(filter
                .takes(&name)
                .then(|| Entry::Bad { name, reason: "its name is not UTF-8".to_owned() }));
        }
    };
    if !filter.takes(&name) {
        return Ok(None);
    }
    let kind = entry.file_type()?;
    Ok(match (kind.is_file(), kind.is_dir()) {
        (true, _) => Some(Entry::File(name)),
        (_, true) => Some(Entry::Dir(name)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        dir
    }

    fn filter(hidden: bool) -> Filter {
        Filter { hidden, skip: vec!["target".to_owned()] }
    }

    fn files(walk: Walk) -> Vec<String> {
        walk.map(|found| match found {
            Found::File(path) => path,
            other => panic!("{other:?}"),
        })
        .collect()
    }

    const FILES: [&str; 7] =
        ["a/b/c.txt", "a/b.txt", "a-b", "a.txt", "z/target/x", "z/.git/y", "Ω"];

    #[test]
    fn goes_in_order_and_leaves_out_what_it_should() {
        let dir = tree(&FILES);
        let walk = |hidden| files(Walk::new(dir.path().to_owned(), filter(hidden)).unwrap());
        assert_eq!(walk(false), ["a/b/c.txt", "a/b.txt", "a-b", "a.txt", "Ω"]);
        assert_eq!(walk(true), ["a/b/c.txt", "a/b.txt", "a-b", "a.txt", "z/.git/y", "Ω"]);
    }

    #[test]
    fn goes_on_after_any_file_even_a_vanished_one() {
        let dir = tree(&FILES);
        let all = files(Walk::new(dir.path().to_owned(), filter(true)).unwrap());
        let after =
            |path: &str| files(Walk::after(dir.path().to_owned(), filter(true), path).unwrap());
        for (i, path) in all.iter().enumerate() {
            assert_eq!(after(path), all[i + 1..], "after {path}");
        }
        fs::remove_file(dir.path().join("a/b/c.txt")).unwrap();
        assert_eq!(after("a/b/c.txt"), all[1..]);
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert_eq!(after("a/b.txt"), all[2..]);
        assert_eq!(after("zz"), all[5..]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed_and_odd_names_are_told() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let dir = tree(&["real/file"]);
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        fs::write(dir.path().join(OsStr::from_bytes(b"bad\xff")), "x").unwrap();
        let found: Vec<_> = Walk::new(dir.path().to_owned(), filter(true)).unwrap().collect();
        let [Found::Unreadable { path, .. }, Found::File(file)] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((path.as_str(), file.as_str()), ("bad\u{fffd}", "real/file"));
    }

    #[test]
    fn a_missing_root_is_an_error() {
        let dir = tree(&[]);
        assert!(Walk::new(dir.path().join("none"), filter(true)).is_err());
    }
}
