//! Makes a handler component of a source folder in Rust, JavaScript, Python, Go or C.
//!
//! What the folder's language needs is found on the system or installed, once, in a folder
//! of its own ([`Toolbox`]); the world, the SDKs and the code that joins a language to the
//! world are in this crate. Nothing is looked for in FlowKit's own sources.

mod component;
mod embedded;
mod error;
mod language;
mod project;
mod recipes;
mod steps;
mod tools;

use std::path::{Path, PathBuf};

pub use error::BuildError;
pub use language::Language;
pub use project::{Project, check_name};
pub use tools::Toolbox;

/// A source folder to be built.
#[derive(Debug, Clone)]
pub struct Source {
    dir: PathBuf,
    language: Language,
}

impl Source {
    /// The folder `dir`, in the language its files tell, or in `language` where that is
    /// given. Fails when there is no such folder, or its files tell no language or several.
    pub fn find(dir: &Path, language: Option<Language>) -> Result<Self, BuildError> {
        let dir = dir.canonicalize().map_err(|error| steps::io("looking for", dir, error))?;
        let language = match language {
            Some(language) => language,
            None => Language::detect(&dir)?,
        };
        Ok(Self { dir, language })
    }

    /// What it is written in.
    pub fn language(&self) -> Language {
        self.language
    }

    /// The component's file unless another is asked for: in the folder, with its name.
    pub fn default_out(&self) -> PathBuf {
        let name = self.dir.file_name().unwrap_or("handler".as_ref());
        self.dir.join(name).with_added_extension("wasm")
    }

    /// Builds the component and puts it at `out`, whole or not at all. Whatever the tools
    /// say goes to stderr.
    pub fn build(&self, toolbox: &Toolbox, out: &Path) -> Result<(), BuildError> {
        project::restore_sdk(&self.dir, self.language)?;
        let out_dir = match out.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        steps::make_dir(out_dir)?;
        let work = toolbox.work_dir()?;
        let built = recipes::Recipe { source: &self.dir, work: work.path(), toolbox };
        let component = match self.language {
            Language::Rust => built.rust()?,
            Language::JavaScript => built.javascript()?,
            Language::Python => built.python()?,
            Language::Go => built.go()?,
            Language::C => built.c()?,
        };
        let half = out.with_added_extension("new");
        steps::copy(&component, &half)?;
        std::fs::rename(&half, out).map_err(|error| steps::io("writing", out, error))
    }
}
