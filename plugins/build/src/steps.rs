//! What every recipe does: runs programs, writes files.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::BuildError;

/// A program a recipe starts, in words for whoever does not have it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub name: &'static str,
    /// A clause that says what to run.
    pub install: &'static str,
}

impl Tool {
    pub fn missing(self) -> BuildError {
        BuildError::MissingTool { tool: self.name.to_owned(), install: self.install.to_owned() }
    }

    /// Runs it to its end. A program that is not there is this tool missing.
    pub fn run(self, step: &str, command: &mut Command) -> Result<(), BuildError> {
        self.ask(step, command).map(drop)
    }

    /// Runs it to its end and takes what it prints to stdout, which only a failure shows:
    /// tools boast there of files that are gone a moment later.
    pub fn ask(self, step: &str, command: &mut Command) -> Result<String, BuildError> {
        let Output { status, stdout, .. } = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| self.not_started(command, error))?;
        let told = String::from_utf8_lossy(&stdout);
        if status.success() {
            return Ok(told.into_owned());
        }
        eprint!("{told}");
        Err(BuildError::Failed { step: step.to_owned(), status })
    }

    fn not_started(self, command: &Command, error: io::Error) -> BuildError {
        if error.kind() == ErrorKind::NotFound {
            return self.missing();
        }
        io("starting", Path::new(command.get_program()), error)
    }
}

pub fn io(doing: &'static str, path: &Path, source: io::Error) -> BuildError {
    BuildError::Io { doing, path: path.to_owned(), source }
}

pub fn make_dir(dir: &Path) -> Result<(), BuildError> {
    std::fs::create_dir_all(dir).map_err(|error| io("creating", dir, error))
}

pub fn read(from: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(from).map_err(|error| io("reading", from, error))
}

pub fn read_text(from: &Path) -> Result<String, BuildError> {
    std::fs::read_to_string(from).map_err(|error| io("reading", from, error))
}

/// Writes a file and the folders above it.
pub fn write(to: &Path, bytes: impl AsRef<[u8]>) -> Result<(), BuildError> {
    if let Some(dir) = to.parent() {
        make_dir(dir)?;
    }
    std::fs::write(to, bytes).map_err(|error| io("writing", to, error))
}

pub fn write_all(files: &[(&str, &str)], to: &Path) -> Result<(), BuildError> {
    files.iter().try_for_each(|(name, text)| write(&to.join(name), text))
}

pub fn copy(from: &Path, to: &Path) -> Result<(), BuildError> {
    std::fs::copy(from, to).map(drop).map_err(|error| io("copying to", to, error))
}

/// The files in a folder with this extension, sorted.
pub fn files_with(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, BuildError> {
    let entries: io::Result<Vec<PathBuf>> = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    let mut files = entries.map_err(|error| io("listing", dir, error))?;
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    Ok(files)
}
