//! Why a component was not built.

use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a component was not built, or a project not begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The folder is not a handler's.
    #[error("{}: {reason}", dir.display())]
    NotAHandler {
        /// Which.
        dir: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A program or a library the language needs is not on this machine.
    #[error("{tool} is missing; {install}")]
    MissingTool {
        /// What, with its lowest version.
        tool: String,
        /// What to run to have it.
        install: String,
    },
    /// A tool refused the sources, or could not be installed. Its own words went to stderr.
    #[error("{step} failed ({status}): see what it said above")]
    Failed {
        /// Which step.
        step: String,
        /// How its process ended.
        status: ExitStatus,
    },
    /// The core module is not what the world asks for.
    #[error("the compiled code does not make a component")]
    Component(#[source] anyhow::Error),
    /// A new project's name is none.
    #[error("{0:?} is not a handler's name: {1}")]
    BadName(String, &'static str),
    /// A file could not be read or written.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}
