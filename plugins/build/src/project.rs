//! New projects: the example of the language, under the author's name.

use std::path::{Path, PathBuf};

use crate::embedded;
use crate::error::BuildError;
use crate::language::Language;
use crate::steps::{io, write};

/// The name of the handlers in the examples.
const EXAMPLE: &str = "wordcount";

/// Longest name, as crates, npm packages and roles are named.
const MAX_NAME: usize = 64;

/// Names that mean something else to a language's tools.
const TAKEN: [&str; 12] = [
    "alloc",
    "build",
    "core",
    "deps",
    "flowkit",
    "flowkit-sdk",
    "handler",
    "proc-macro",
    "rust",
    "std",
    "test",
    "target",
];

/// A project that is about to be written.
#[derive(Debug)]
pub struct Project {
    dir: PathBuf,
    files: Vec<(String, String)>,
}

impl Project {
    /// The handler `name` in `language`, to be written to the folder `dir`.
    pub fn new(name: &str, language: Language, dir: &Path) -> Result<Self, BuildError> {
        check_name(name)?;
        let mut files = authors(language);
        for (_, text) in &mut files {
            *text = text.replace(EXAMPLE, name);
        }
        files.extend(sdk(language));
        files.push((".gitignore".to_owned(), ignored(language).to_owned()));
        Ok(Self { dir: dir.to_owned(), files })
    }

    /// Writes it. A folder that is there already must be empty.
    pub fn write(&self) -> Result<(), BuildError> {
        match std::fs::read_dir(&self.dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(BuildError::NotAHandler {
                        dir: self.dir.clone(),
                        reason: "is not empty, and nothing is overwritten; give another folder \
                                 with --dir"
                            .to_owned(),
                    });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("looking into", &self.dir, error)),
        }
        self.files.iter().try_for_each(|(name, text)| write(&self.dir.join(name), text))
    }

    /// The names of its files, the author's own first.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }
}

/// Whether a handler can have this name in every language: lower-case letters, digits and
/// single hyphens, a letter first, at most 64.
pub fn check_name(name: &str) -> Result<(), BuildError> {
    let bad = |why| Err(BuildError::BadName(name.to_owned(), why));
    if name.is_empty() || name.len() > MAX_NAME {
        return bad("it must have 1 to 64 characters");
    }
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return bad("it must begin with a lower-case letter");
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.chars().all(fits) || name.ends_with('-') || name.contains("--") {
        return bad("it may have lower-case letters, digits, and single hyphens between them");
    }
    if TAKEN.contains(&name) {
        return bad("that means something else to the languages' tools");
    }
    Ok(())
}

/// Writes those files of the SDK that a project in this language does not have.
pub fn restore_sdk(dir: &Path, language: Language) -> Result<(), BuildError> {
    if language == Language::Rust {
        return Ok(()); // cargo says where its own is expected
    }
    for (name, text) in sdk(language) {
        let file = dir.join(&name);
        if !file.exists() {
            eprintln!(
                "writing {}, the SDK of flowkit {}",
                file.display(),
                env!("CARGO_PKG_VERSION")
            );
            write(&file, text)?;
        }
    }
    Ok(())
}

/// The files an author changes.
fn authors(language: Language) -> Vec<(String, String)> {
    if language == Language::Rust {
        let manifest = ("Cargo.toml".to_owned(), embedded::RUST_MANIFEST.to_owned());
        return std::iter::once(manifest).chain(below("src", embedded::RUST)).collect();
    }
    example(language).filter(|(name, _)| !is_sdk(name)).map(owned).collect()
}

/// The files of the language's SDK.
fn sdk(language: Language) -> Vec<(String, String)> {
    if language != Language::Rust {
        return example(language).filter(|(name, _)| is_sdk(name)).map(owned).collect();
    }
    let mut files: Vec<_> = below("flowkit-sdk/src", embedded::RUST_SDK).collect();
    for (_, text) in &mut files {
        *text = text.replace("\"../../wit\"", "\"wit\"");
    }
    files.extend(below("flowkit-sdk/wit", embedded::WIT));
    files.push(("flowkit-sdk/Cargo.toml".to_owned(), embedded::RUST_SDK_MANIFEST.to_owned()));
    files
}

fn example(language: Language) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    match language {
        Language::Rust => embedded::RUST,
        Language::JavaScript => embedded::JAVASCRIPT,
        Language::Python => embedded::PYTHON,
        Language::Go => embedded::GO,
        Language::C => embedded::C,
    }
    .iter()
}

fn is_sdk(name: &str) -> bool {
    name.starts_with("flowkit.") || name.starts_with("flowkit/")
}

fn owned((name, text): &(&str, &str)) -> (String, String) {
    ((*name).to_owned(), (*text).to_owned())
}

fn below(
    folder: &'static str,
    files: &'static [(&'static str, &'static str)],
) -> impl Iterator<Item = (String, String)> {
    files.iter().map(move |(name, text)| (format!("{folder}/{name}"), (*text).to_owned()))
}

fn ignored(language: Language) -> &'static str {
    match language {
        Language::Rust => "/target\n*.wasm\n",
        Language::JavaScript => "/node_modules\n*.wasm\n",
        Language::Python => "__pycache__/\n*.wasm\n",
        Language::Go | Language::C => "*.wasm\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_in_every_language() {
        for name in ["a", "word-count", "count2", &"x".repeat(64)] {
            check_name(name).expect(name);
        }
        let long = "x".repeat(65);
        let bad =
            ["", "A", "2x", "-a", "a-", "a--b", "a_b", "a/b", "../a", "a b", "ä", "std", &long];
        for name in bad {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_project_is_written_once_under_its_name() {
        for language in Language::ALL {
            let dir = tempfile::tempdir().expect("a folder");
            let dir = dir.path().join("fruit");
            let project = Project::new("fruit-count", language, &dir).expect("a good name");
            project.write().expect("written");
            assert_eq!(Language::detect(&dir).expect("detected"), language);
            let mut named = false;
            for file in project.files() {
                let text = std::fs::read_to_string(dir.join(file)).expect("written");
                assert!(!text.contains(EXAMPLE), "{language}: {file}");
                named |= text.contains("fruit-count");
            }
            assert!(named, "{language}");
            let again = project.write().expect_err("there is one already");
            assert!(again.to_string().contains("is not empty"), "{again}");
        }
    }

    #[test]
    fn what_a_project_lacks_of_its_sdk_is_put_back() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("flowkit.py"), "# mine").expect("written");
        restore_sdk(dir.path(), Language::Python).expect("nothing to write");
        let kept = std::fs::read_to_string(dir.path().join("flowkit.py")).expect("there");
        assert_eq!(kept, "# mine");
        restore_sdk(dir.path(), Language::JavaScript).expect("written");
        assert!(dir.path().join("flowkit.js").exists());
        assert!(!dir.path().join("handler.js").exists());
    }
}
