//! The languages, and how a folder tells its own.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::BuildError;

/// A language that handlers are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// Built by cargo.
    Rust,
    /// On QuickJS, built by jco.
    JavaScript,
    /// On CPython, built by componentize-py.
    Python,
    /// Built by the standard toolchain.
    Go,
    /// Built by clang with wasi-libc.
    C,
}

impl Language {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Rust, Self::JavaScript, Self::Python, Self::Go, Self::C];

    /// As in `describe` and in the names of the examples.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::JavaScript => "javascript",
            Self::Python => "python",
            Self::Go => "go",
            Self::C => "c",
        }
    }

    /// The file that tells a folder's language.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml",
            Self::JavaScript => "package.json",
            Self::Python => "handler.py",
            Self::Go => "go.mod",
            Self::C => "handler.c",
        }
    }

    /// The language whose mark is in the folder; an error for none or several.
    pub fn detect(dir: &Path) -> Result<Self, BuildError> {
        let found: Vec<Self> =
            Self::ALL.into_iter().filter(|language| dir.join(language.mark()).is_file()).collect();
        let reason = match found[..] {
            [language] => return Ok(language),
            [] => {
                let marks = Self::ALL.map(|language| format!("{} ({language})", language.mark()));
                format!("no handler's sources: it has none of {}", marks.join(", "))
            }
            _ => {
                let marks: Vec<_> = found.iter().map(|language| language.mark()).collect();
                format!("it has {}: say which language with --lang", marks.join(" and "))
            }
        };
        Err(BuildError::NotAHandler { dir: dir.to_owned(), reason })
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "rust" | "rs" => Self::Rust,
            "javascript" | "js" => Self::JavaScript,
            "python" | "py" => Self::Python,
            "go" => Self::Go,
            "c" => Self::C,
            _ => return Err("the languages are rust, js, python, go and c".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(files: &[&str]) -> Result<Language, String> {
        let dir = tempfile::tempdir().expect("a folder");
        for file in files {
            std::fs::write(dir.path().join(file), "").expect("written");
        }
        Language::detect(dir.path()).map_err(|error| match error {
            BuildError::NotAHandler { reason, .. } => reason,
            other => panic!("{other}"),
        })
    }

    #[test]
    fn a_folder_tells_its_language() {
        for language in Language::ALL {
            assert_eq!(detected(&[language.mark(), "README.md"]), Ok(language));
            assert_eq!(language.name().parse(), Ok(language));
        }
        assert_eq!(
            detected(&["handler.js"]).expect_err("none"),
            "no handler's sources: it has none of Cargo.toml (rust), package.json (javascript), \
             handler.py (python), go.mod (go), handler.c (c)"
        );
        assert_eq!(
            detected(&["handler.py", "package.json"]).expect_err("two"),
            "it has package.json and handler.py: say which language with --lang"
        );
    }
}
