//! Opening the file: what is ours is brought into shape, everything else is refused
//! before anything is written.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::OpenError;
use super::schema;

/// How long the pause between two tries for a lock that SQLite does not wait for is.
const RETRY: Duration = Duration::from_millis(10);

/// Pages the log may hold after a checkpoint before it is cut, in bytes.
const LOG_LIMIT_BYTES: i64 = 64 * 1024 * 1024;

/// Statements that stay compiled.
const STATEMENTS: usize = 128;

pub(super) struct Connections {
    pub(super) writer: Connection,
    pub(super) reader: Connection,
}

/// Opens or creates the file; returns its full path, too.
pub(super) fn open(path: &Path, busy: Duration) -> Result<(PathBuf, Connections), OpenError> {
    let path = full_path(path)?;
    refuse_lost_content(&path)?;
    let connections = connect(&path, busy).map_err(|problem| match problem {
        Problem::Sql(error) => explain(&path, &error),
        Problem::Open(error) => error,
    })?;
    Ok((path, connections))
}

enum Problem {
    Sql(rusqlite::Error),
    Open(OpenError),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Names that lead to one file must lead to one directory of lock files.
fn full_path(path: &Path) -> Result<PathBuf, OpenError> {
    if path.is_dir() {
        return Err(OpenError::IsDirectory(path.to_owned()));
    }
    if let Ok(full) = path.canonicalize() {
        return Ok(full);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let no_directory =
        || OpenError::NoDirectory { path: path.to_owned(), directory: directory.to_owned() };
    let name = path.file_name().ok_or_else(|| OpenError::IsDirectory(path.to_owned()))?;
    match directory.canonicalize() {
        Ok(full) if full.is_dir() => Ok(full.join(name)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let problem = error.to_string();
            Err(OpenError::ReadOnlyDirectory { path: path.to_owned(), problem })
        }
        Ok(_) | Err(_) => Err(no_directory()),
    }
}

/// An empty file becomes a new database, and SQLite would throw away the log beside it.
fn refuse_lost_content(path: &Path) -> Result<(), OpenError> {
    let size = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if size(path) == 0 && size(Path::new(&log)) > 0 {
        let problem = "it is missing or empty although its -wal file is not".into();
        return Err(OpenError::Damaged { path: path.to_owned(), problem });
    }
    Ok(())
}

fn connect(path: &Path, busy: Duration) -> Result<Connections, Problem> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writer = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_CREATE)?;
    writer.busy_timeout(busy)?;
    if writer.is_readonly("main")? {
        let problem = "it is read-only".into();
        return Err(Problem::Open(OpenError::ReadOnlyFile { path: path.to_owned(), problem }));
    }
    schema::ensure(path, &writer).map_err(|problem| match problem {
        schema::Unfit::Sql(error) => Problem::Sql(error),
        schema::Unfit::Refused(error) => Problem::Open(error),
    })?;
    use_log(&writer, busy)?;
    configure(&writer)?;
    let reader = Connection::open_with_flags(path, flags)?;
    reader.busy_timeout(busy)?;
    configure(&reader)?;
    reader.pragma_update(None, "query_only", true)?;
    Ok(Connections { writer, reader })
}

/// Switches to the write-ahead log. SQLite does not wait for others who do the same.
fn use_log(connection: &Connection, busy: Duration) -> rusqlite::Result<()> {
    let until = Instant::now() + busy;
    loop {
        let switched = connection.pragma_update(None, "journal_mode", "WAL");
        let busy = switched.as_ref().err().and_then(|error| error.sqlite_error_code());
        if busy != Some(ErrorCode::DatabaseBusy) || until <= Instant::now() {
            return switched;
        }
        std::thread::sleep(RETRY);
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_LIMIT_BYTES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Says what keeps SQLite from opening the file.
fn explain(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    let problem = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotADatabase(path),
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path, problem },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked(path),
        Some(ErrorCode::DiskFull) => OpenError::DiskFull(path),
        _ => explain_permissions(&path).unwrap_or(OpenError::Other { path, problem }),
    }
}

fn explain_permissions(path: &Path) -> Option<OpenError> {
    let denied = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    };
    if let Err(error) = OpenOptions::new().read(true).write(true).open(path)
        && denied(&error)
    {
        let problem = error.to_string();
        return Some(OpenError::ReadOnlyFile { path: path.to_owned(), problem });
    }
    let error = tempfile::tempfile_in(path.parent()?).err()?;
    let problem = error.to_string();
    match error.kind() {
        io::ErrorKind::StorageFull => Some(OpenError::DiskFull(path.to_owned())),
        _ => Some(OpenError::ReadOnlyDirectory { path: path.to_owned(), problem }),
    }
}
