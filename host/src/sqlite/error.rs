//! What can go wrong with the file, in words that say what to do about it.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::bus::BusError;
use crate::store::StoreError;
use crate::types::WorkerId;

/// Why a database could not be opened. Nothing in the file was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// There is no directory to keep it in.
    #[error(
        "cannot open the database {}: the directory {} does not exist; create it, or give another path with the config key `db` or with --db",
        path.display(), directory.display()
    )]
    NoDirectory {
        /// The file.
        path: PathBuf,
        /// Where it would be.
        directory: PathBuf,
    },
    /// The path leads to a directory.
    #[error(
        "cannot open the database {}: it is a directory; give the path of a file, such as {}",
        .0.display(), .0.join("flowkit.db").display()
    )]
    IsDirectory(PathBuf),
    /// Some other kind of file.
    #[error(
        "{} is not a database; nothing in it was changed; give another path with the config key `db` or with --db",
        .0.display()
    )]
    NotADatabase(PathBuf),
    /// An SQLite file of somebody else.
    #[error(
        "{} is the database of another program; nothing in it was changed; give another path with the config key `db` or with --db",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// Its format is not known yet.
    #[error(
        "the database {} has format {found}, this flowkit knows formats up to {known}: it was written by a newer one; upgrade this flowkit, or use another file; nothing was changed",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format that is understood.
        known: i64,
    },
    /// It cannot be read, or a part of it is missing.
    #[error(
        "the database {} is damaged ({problem}); nothing in it was changed; stop every flowkit that uses it, keep a copy of it together with its -wal file, then restore a backup, save what is readable with `sqlite3 {} .recover`, or start with a new file",
        path.display(), path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        problem: String,
    },
    /// Another program keeps it for itself.
    #[error(
        "the database {} is locked by another program; close whatever has it open exclusively, such as a database browser or a backup, and try again",
        .0.display()
    )]
    Locked(PathBuf),
    /// No permission to write, or to read, the file.
    #[error(
        "cannot write the database {}: {problem}; make it readable and writable for the user that runs flowkit, or give another path with the config key `db` or with --db",
        path.display()
    )]
    ReadOnlyFile {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        problem: String,
    },
    /// No permission to write beside the file.
    #[error(
        "cannot use the database {}: in its directory, where SQLite keeps files beside it, nothing can be created: {problem}; make the directory writable for the user that runs flowkit, or give another path with the config key `db` or with --db",
        path.display()
    )]
    ReadOnlyDirectory {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        problem: String,
    },
    /// No room to create it.
    #[error("the disk that holds the database {} is full; free some space and try again", .0.display())]
    DiskFull(PathBuf),
    /// Anything else.
    #[error("cannot open the database {}: {problem}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What SQLite or the operating system says.
        problem: String,
    },
}

/// Why a process could not become a worker.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegisterError {
    /// Another process is that worker.
    #[error(
        "another process already is the worker `{worker_id}` on the database {}; stop it, or give this one another `worker_id`",
        path.display()
    )]
    Running {
        /// The worker.
        worker_id: WorkerId,
        /// The file both work on.
        path: PathBuf,
    },
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Failure> for RegisterError {
    fn from(failure: Failure) -> Self {
        Self::Store(failure.into())
    }
}

/// Why a job stopped.
#[derive(Debug)]
pub(crate) enum Abort {
    Sql(rusqlite::Error),
    Damaged {
        what: String,
        problem: String,
    },
    /// The job itself wants what it did undone.
    Refused,
}

impl From<rusqlite::Error> for Abort {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Why a job was not done, for its caller.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    Unavailable(String),
    Damaged { what: String, problem: String },
    Refused,
    Fatal(String),
}

impl Failure {
    pub(super) fn of(path: &Path, abort: &Abort) -> Self {
        match abort {
            Abort::Sql(error) => Self::of_sql(path, error),
            Abort::Damaged { what, problem } => {
                Self::Damaged { what: what.clone(), problem: problem.clone() }
            }
            Abort::Refused => Self::Refused,
        }
    }

    pub(super) fn of_sql(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        let problem = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Unavailable(OpenError::Locked(path).to_string())
            }
            Some(ErrorCode::DiskFull) => Self::Unavailable(OpenError::DiskFull(path).to_string()),
            Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => Self::Unavailable(
                format!("the database {} could not be read or written: {problem}", path.display()),
            ),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Fatal(OpenError::Damaged { path, problem }.to_string())
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::Fatal(OpenError::ReadOnlyFile { path, problem }.to_string())
            }
            _ => Self::Fatal(format!("the database {}: {problem}", path.display())),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(problem) => Self::Unavailable(problem),
            Failure::Damaged { what, problem } => Self::Damaged { what, problem },
            Failure::Refused => Self::Fatal("a write was undone without a reason".into()),
            Failure::Fatal(problem) => Self::Fatal(problem),
        }
    }
}

impl From<Failure> for BusError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(problem) => Self::Unavailable(problem),
            Failure::Damaged { what, problem } => Self::Fatal(format!("{what}: {problem}")),
            Failure::Refused => Self::Expired,
            Failure::Fatal(problem) => Self::Fatal(problem),
        }
    }
}
