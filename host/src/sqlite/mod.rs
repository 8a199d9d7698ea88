//! The embedded backend's database: one SQLite file that several processes of one machine
//! share. The bus and the store of that backend are two views of it.
//!
//! What survives: every write is a transaction in SQLite's write-ahead log, handed to the
//! operating system before it is acknowledged. A process that is killed at any point
//! loses nothing that was acknowledged to it. A power failure may take back the last
//! moments before it (the log is flushed to the disk at checkpoints, not at each commit),
//! never damages the file, and takes back whole transactions, the latest first.
//!
//! A thread of its own owns the connection that writes and works through jobs in their
//! order, many of them in one transaction when they come fast; a second one reads. Both
//! end, and the file is closed, when the last [`Database`] handle is dropped.

mod error;
mod open;
mod presence;
mod schema;
mod threads;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

pub(crate) use error::{Abort, Failure};
pub use error::{OpenError, RegisterError};
pub(crate) use schema::gone_workers;
pub(crate) use threads::Tx;

use crate::types::WorkerId;
use presence::{Presence, Processes};
use threads::{Message, Reader, Writer};

/// How long a write waits for other processes' writes before it gives up.
const BUSY: Duration = Duration::from_secs(5);

/// Jobs that may wait for a thread; more of them wait in their callers.
const MAX_WAITING: usize = 1024;

/// A handle to an open database. Clones share it.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    // Dropped in this order: the last connection to close tidies the log up, and only
    // then may others think that this process is gone.
    reads: Lane,
    writes: Lane,
    process: Mutex<Option<Presence>>,
    numbers: AtomicI64,
}

/// What handles and threads share.
pub(crate) struct Shared {
    path: PathBuf,
    /// Raised when there may be something new to read on the bus.
    changed: watch::Sender<u64>,
    processes: Processes,
}

/// The way to one of the threads.
struct Lane {
    jobs: Option<mpsc::Sender<Message>>,
    room: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

impl Database {
    /// Opens a database, or creates one where there is no file or an empty one. A file
    /// that is not FlowKit's is refused and left untouched. Blocks, for at most a few
    /// seconds while another program has the file locked.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_waiting(path, BUSY)
    }

    /// [`open`](Self::open) that waits at most `busy` for other programs' locks, then and
    /// at each later write.
    pub fn open_waiting(path: impl AsRef<Path>, busy: Duration) -> Result<Self, OpenError> {
        let (path, connections) = open::open(path.as_ref(), busy)?;
        let shared = Arc::new(Shared {
            processes: Processes::beside(&path),
            changed: watch::Sender::new(0),
            path,
        });
        let writer = Writer::new(connections.writer, shared.clone(), busy);
        let writes = Lane::start("sqlite-write", &shared, |jobs| writer.run(jobs))?;
        let reader = Reader::new(connections.reader, shared.clone());
        let reads = Lane::start("sqlite-read", &shared, |jobs| reader.run(jobs))?;
        Ok(Self(Arc::new(Inner {
            shared,
            writes,
            reads,
            process: Mutex::new(None),
            numbers: AtomicI64::new(1),
        })))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.shared.path
    }

    /// Says that this process is the worker `worker_id`, for as long as a handle lives:
    /// other processes know by an operating system's lock beside the database when it is
    /// gone. Refused while another process is that worker.
    pub async fn register_worker(&self, worker_id: &WorkerId) -> Result<(), RegisterError> {
        let process = self.process()?;
        let shared = self.0.shared.clone();
        let id = worker_id.clone();
        let registered = self.write(move |tx| {
            let holder = schema::process_of(tx, &id)?;
            let taken = |holder: &String| *holder != process && !shared.processes().gone(holder);
            if holder.as_ref().is_some_and(taken) {
                return Ok(false);
            }
            schema::set_process_of(tx, &id, &process)?;
            Ok(true)
        });
        match registered.await.map_err(RegisterError::from)? {
            true => Ok(()),
            false => Err(RegisterError::Running {
                worker_id: worker_id.clone(),
                path: self.path().to_owned(),
            }),
        }
    }

    /// This process's name among those that share the file. The first call takes the lock
    /// that stands for it.
    pub(crate) fn process(&self) -> Result<String, Failure> {
        let mut process = self.0.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(presence) = &*process {
            return Ok(presence.name().to_owned());
        }
        let presence = self.0.shared.processes().enter().map_err(Failure::Fatal)?;
        let name = presence.name().to_owned();
        *process = Some(presence);
        Ok(name)
    }

    /// A number that nobody else in this [`process`](Self::process) got.
    pub(crate) fn number(&self) -> i64 {
        self.0.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// What tells which processes are gone.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.0.shared.clone()
    }

    /// Notes changes on the bus, of this process and of others.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        let changes = self.0.shared.changed.subscribe();
        // The thread asks for other processes' changes only while somebody waits for them,
        // and may have gone to sleep for long.
        if let Some(jobs) = &self.0.writes.jobs {
            let _ = jobs.send(Message::Listening);
        }
        changes
    }

    /// Runs `job` in a write transaction and returns once that is committed. An error of
    /// the job undoes what it did, and nothing else.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Abort> + Send + 'static,
    ) -> Result<T, Failure> {
        self.write_before(None, job).await
    }

    /// [`write`](Self::write) that does not begin, nor wait for others' locks, once
    /// `deadline` has passed.
    pub(crate) async fn write_before<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Abort> + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, result) = oneshot::channel();
        let job = threads::job(&self.0.shared, deadline, job, reply);
        self.0.writes.send(|room| Message::Job { job, _room: room }).await;
        result.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Runs `job` on one state of the database.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Tx<'_>) -> Result<T, Abort> + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, result) = oneshot::channel();
        let job = threads::job(&self.0.shared, None, job, reply);
        self.0.reads.send(|room| Message::Job { job, _room: room }).await;
        result.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Leaves something to be written without waiting for it. It is tried until it
    /// succeeds or the last handle is dropped.
    pub(crate) fn write_later(
        &self,
        chore: impl FnMut(&Tx<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) {
        if let Some(jobs) = &self.0.writes.jobs {
            // Fails only when the thread is gone, and with it everything else.
            let _ = jobs.send(Message::Chore(Box::new(chore)));
        }
    }

    fn stopped(&self) -> Failure {
        Failure::Fatal(format!(
            "the thread that works on the database {} has stopped; restart this program",
            self.path().display()
        ))
    }
}

impl Shared {
    /// The processes that share the file.
    pub(crate) fn processes(&self) -> &Processes {
        &self.processes
    }

    fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

impl Lane {
    fn start(
        name: &str,
        shared: &Shared,
        run: impl FnOnce(mpsc::Receiver<Message>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(queue))
            .map_err(|error| OpenError::Other {
                path: shared.path.clone(),
                problem: format!("no thread could be started: {error}"),
            })?;
        let room = Arc::new(Semaphore::new(MAX_WAITING));
        Ok(Self { jobs: Some(jobs), room, thread: Some(thread) })
    }

    async fn send(&self, message: impl FnOnce(OwnedSemaphorePermit) -> Message) {
        // The semaphore is never closed. A job that cannot be sent is dropped, and its
        // caller sees that the reply will not come.
        if let (Some(jobs), Ok(permit)) = (&self.jobs, self.room.clone().acquire_owned().await) {
            let _ = jobs.send(message(permit));
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // What was sent is done before the thread ends; a panic was reported already.
            let _ = thread.join();
        }
    }
}
