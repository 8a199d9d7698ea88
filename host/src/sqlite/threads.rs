//! The two threads that work on the file: one writes, one reads.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::{Abort, Failure};
use super::{Shared, schema};
use crate::clock::Clock;

/// How often the file is asked whether another process has changed it.
const POLL: Duration = Duration::from_millis(20);

/// How often what is too old is removed.
const UPKEEP: Duration = Duration::from_secs(3600);

/// The pause between two tries to begin a transaction. SQLite's own pauses grow to 100 ms,
/// in which another process that writes all the time takes every turn.
const RETRY: Duration = Duration::from_millis(1);

/// Jobs of one transaction.
const MAX_GROUP: usize = 64;

/// What a job sees of the database: the connection, within a transaction.
pub(crate) struct Tx<'a> {
    connection: &'a Connection,
    wake: Cell<bool>,
}

impl Tx<'_> {
    /// Once this transaction is committed, readers of the bus look again.
    pub(crate) fn wake_readers(&self) {
        self.wake.set(true);
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// What is sent to a thread.
pub(super) enum Message {
    /// A job with the room it takes up while it waits.
    Job {
        job: Job,
        _room: OwnedSemaphorePermit,
    },
    Chore(Chore),
    /// Somebody waits for changes from now on.
    Listening,
}

impl Message {
    fn expired(&self) -> bool {
        matches!(self, Self::Job { job, .. } if job.expired())
    }
}

type Chore = Box<dyn FnMut(&Tx<'_>) -> rusqlite::Result<()> + Send>;

/// A closure with its way back to who waits for it.
pub(super) struct Job {
    /// Not begun after this.
    deadline: Option<Instant>,
    run: Run,
}

/// Does the job, or answers without having done it.
type Run = Box<dyn FnOnce(Option<&Tx<'_>>) -> Ran + Send>;

/// A job that ran. It is answered when its transaction has ended.
struct Ran {
    failed: Option<Failure>,
    answer: Box<dyn FnOnce(Option<Failure>) + Send>,
}

/// Packs a closure as a [`Job`].
pub(super) fn job<T: Send + 'static>(
    shared: &Arc<Shared>,
    deadline: Option<Instant>,
    job: impl FnOnce(&Tx<'_>) -> Result<T, Abort> + Send + 'static,
    reply: oneshot::Sender<Result<T, Failure>>,
) -> Job {
    let shared = shared.clone();
    let run = move |tx: Option<&Tx<'_>>| {
        let result = match tx {
            Some(tx) => job(tx).map_err(|abort| Failure::of(&shared.path, &abort)),
            None => Err(Failure::Refused),
        };
        let failed = result.as_ref().err().cloned();
        // Nobody may be waiting any more; what was done stays done.
        let answer = move |group: Option<Failure>| {
            let _ = reply.send(group.map_or(result, Err));
        };
        Ran { failed, answer: Box::new(answer) }
    };
    Job { deadline, run: Box::new(run) }
}

impl Job {
    fn expired(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Answers without having run.
    fn refuse(self, failure: Failure) {
        let ran = (self.run)(None);
        (ran.answer)(Some(failure));
    }
}

/// Owns the connection that writes.
pub(super) struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    busy: Duration,
    chores: Vec<Chore>,
    data_version: i64,
    polled: Instant,
    upkeep: Instant,
}

impl Writer {
    pub(super) fn new(connection: Connection, shared: Arc<Shared>, busy: Duration) -> Self {
        let now = Instant::now();
        let (chores, data_version) = (Vec::new(), 0);
        Self { connection, shared, busy, chores, data_version, polled: now, upkeep: now }
    }

    /// Works until nobody can send any more and everything sent is done.
    pub(super) fn run(mut self, queue: Receiver<Message>) {
        loop {
            match queue.recv_timeout(self.patience()) {
                Ok(first) => {
                    let rest = queue.try_iter().take(MAX_GROUP - 1);
                    let group: Vec<_> = std::iter::once(first).chain(rest).collect();
                    self.on_group(group);
                }
                Err(RecvTimeoutError::Timeout) => self.on_group(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.poll();
            if self.upkeep <= Instant::now() {
                self.upkeep();
            }
        }
        self.on_group(Vec::new());
    }

    fn patience(&self) -> Duration {
        let listened_to = self.shared.changed.receiver_count() > 0;
        if listened_to || !self.chores.is_empty() {
            return POLL;
        }
        self.upkeep.saturating_duration_since(Instant::now())
    }

    fn on_group(&mut self, messages: Vec<Message>) {
        let left_over = std::mem::take(&mut self.chores).into_iter().map(Message::Chore);
        let work = |message: &Message| !matches!(message, Message::Listening);
        let messages: Vec<_> = left_over.chain(messages).filter(work).collect();
        if let Some(messages) = self.begin(messages) {
            self.work(messages);
        }
    }

    /// Begins a transaction for those whose deadline does not pass first.
    fn begin(&mut self, mut messages: Vec<Message>) -> Option<Vec<Message>> {
        let until = Instant::now() + self.busy;
        loop {
            for expired in messages.extract_if(.., |message| message.expired()) {
                self.refuse(expired, Failure::Refused);
            }
            if messages.is_empty() {
                return None;
            }
            let begun = self
                .connection
                .busy_timeout(Duration::ZERO)
                .and_then(|()| execute(&self.connection, "BEGIN IMMEDIATE"));
            match begun {
                Ok(()) => return Some(messages),
                Err(error) if is_busy(&error) && Instant::now() < until => {
                    std::thread::sleep(RETRY);
                }
                Err(error) => {
                    let failure = Failure::of_sql(&self.shared.path, &error);
                    for message in messages {
                        self.refuse(message, failure.clone());
                    }
                    return None;
                }
            }
        }
    }

    /// Puts a chore off, answers a job.
    fn refuse(&mut self, message: Message, failure: Failure) {
        match message {
            Message::Job { job, .. } => job.refuse(failure),
            Message::Chore(chore) => self.chores.push(chore),
            Message::Listening => {}
        }
    }

    fn work(&mut self, messages: Vec<Message>) {
        let tx = Tx { connection: &self.connection, wake: Cell::new(false) };
        let (mut done, mut chores) = (Vec::with_capacity(messages.len()), Vec::new());
        let mut broken: Option<Failure> = None;
        for message in messages {
            match (message, &broken) {
                (Message::Job { job, .. }, Some(failure)) => job.refuse(failure.clone()),
                (Message::Job { job, .. }, None) => {
                    let ran = run_apart(&self.shared, &tx, job);
                    // After some errors SQLite has undone the whole transaction by itself.
                    if tx.is_autocommit() {
                        broken = ran.failed.clone();
                    }
                    done.push(ran);
                }
                (Message::Chore(mut chore), None) => {
                    let failed = chore(&tx).is_err();
                    chores.push((chore, failed));
                }
                (Message::Chore(chore), Some(_)) => chores.push((chore, true)),
                (Message::Listening, _) => {}
            }
        }
        if broken.is_none() {
            broken = execute(&tx, "COMMIT").err().map(|error| {
                if !tx.is_autocommit() {
                    let _ = execute(&tx, "ROLLBACK");
                }
                Failure::of_sql(&self.shared.path, &error)
            });
        }
        let undone = broken.is_some();
        let wake = tx.wake.get() && !undone;
        let put_off = chores.into_iter().filter(|(_, failed)| *failed || undone);
        self.chores = put_off.map(|(chore, _)| chore).collect();
        for ran in done {
            let group = if ran.failed.is_some() { None } else { broken.clone() };
            (ran.answer)(group);
        }
        if wake {
            self.shared.wake();
        }
    }

    /// Notices what other processes wrote.
    fn poll(&mut self) {
        if self.polled.elapsed() < POLL || self.shared.changed.receiver_count() == 0 {
            return;
        }
        self.polled = Instant::now();
        let version = self
            .connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        if let Ok(version) = version
            && version != self.data_version
        {
            self.data_version = version;
            self.shared.wake();
        }
    }

    fn upkeep(&mut self) {
        let _ = self.connection.busy_timeout(self.busy);
        let done = schema::prune(&self.connection, &self.shared, Clock::system().wall());
        // What could not be removed now is too old an hour later, too.
        let more = done.unwrap_or_else(|error| {
            tracing::warn!(path = %self.shared.path.display(), %error, "old data was not removed");
            false
        });
        let pause = if more { POLL } else { UPKEEP };
        self.upkeep = Instant::now() + pause;
    }
}

/// Runs a job so that its failure undoes its own writes alone.
fn run_apart(shared: &Shared, tx: &Tx<'_>, job: Job) -> Ran {
    if job.expired() {
        return (job.run)(None);
    }
    if let Err(error) = execute(tx, "SAVEPOINT job") {
        let failure = Failure::of_sql(&shared.path, &error);
        let answer = (job.run)(None).answer;
        let failed = Some(failure.clone());
        return Ran { failed, answer: Box::new(move |_| answer(Some(failure))) };
    }
    let ran = (job.run)(Some(tx));
    if !tx.is_autocommit() {
        if ran.failed.is_some() {
            let _ = execute(tx, "ROLLBACK TO job");
        }
        let _ = execute(tx, "RELEASE job");
    }
    ran
}

/// Owns a connection that reads.
pub(super) struct Reader {
    connection: Connection,
    shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(connection: Connection, shared: Arc<Shared>) -> Self {
        Self { connection, shared }
    }

    /// Works until nobody can send any more and everything sent is done.
    pub(super) fn run(self, queue: Receiver<Message>) {
        for message in queue {
            let Message::Job { job, .. } = message else { continue };
            if let Err(error) = execute(&self.connection, "BEGIN") {
                job.refuse(Failure::of_sql(&self.shared.path, &error));
                continue;
            }
            let tx = Tx { connection: &self.connection, wake: Cell::new(false) };
            let ran = (job.run)(Some(&tx));
            if !self.connection.is_autocommit() {
                let _ = execute(&self.connection, "COMMIT");
            }
            (ran.answer)(None);
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
