//! Which of the processes that share a database are still there.
//!
//! Each has a file beside the database with a name that is never used again, and keeps it
//! locked. The operating system releases the lock when the process ends, however it ends:
//! a file that can be locked, or is not there, stands for a process that is gone.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How old an unfinished lock file is when nobody can be finishing it any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The processes of one database.
pub(crate) struct Processes {
    directory: PathBuf,
}

/// This process's own lock. Dropping it says that the process is gone.
pub(super) struct Presence {
    name: String,
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Presence {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Only to be tidy: without it the file is removed by another process.
        let _ = fs::remove_file(&self.path);
    }
}

impl Processes {
    pub(super) fn beside(database: &Path) -> Self {
        let mut directory = database.as_os_str().to_owned();
        directory.push(".workers");
        Self { directory: directory.into() }
    }

    /// Takes the lock that stands for this process.
    pub(super) fn enter(&self) -> Result<Presence, String> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        self.lock(&name).map_err(|error| {
            format!(
                "cannot keep a lock file in {}, which tells other processes that this one is alive: {error}; make the directory writable for the user that runs flowkit",
                self.directory.display()
            )
        })
    }

    fn lock(&self, name: &str) -> io::Result<Presence> {
        fs::create_dir_all(&self.directory)?;
        // Whoever looks for this process looks for `path`, which exists only locked.
        let unfinished = self.directory.join(format!("{name}.new"));
        let path = self.path(name);
        let file = File::create_new(&unfinished)?;
        file.try_lock().map_err(io::Error::from)?;
        fs::rename(&unfinished, &path)?;
        Ok(Presence { name: name.to_owned(), path, _file: file })
    }

    /// Whether the process of this name is certainly gone.
    pub(crate) fn gone(&self, name: &str) -> bool {
        gone(&self.path(name))
    }

    /// Removes the files of processes that are gone.
    pub(super) fn clean(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let left_over = match path.extension().and_then(|kind| kind.to_str()) {
                Some("lock") => gone(&path),
                Some("new") => entry.metadata()?.modified()?.elapsed().is_ok_and(|a| a > ABANDONED),
                _ => false,
            };
            if left_over {
                match fs::remove_file(&path) {
                    // Another process cleans up, too.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.lock"))
    }
}

fn gone(path: &Path) -> bool {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    };
    // Shared, so that two who look at once do not take each other for the process.
    match file.try_lock_shared() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
    }
}
