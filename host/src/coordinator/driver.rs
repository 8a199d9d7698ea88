//! Coordination as a process: of one task by itself, or of everything that was submitted.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::engine::Engine;
use super::state::Task;
use super::{Deps, Trouble, Watch};
use crate::store::TaskDoc;
use crate::types::{TaskId, WorkerId};

/// The consumer group of whoever coordinates what was submitted.
pub const GROUP: &str = "coordinator.v1";

/// How often new tasks and cancel flags are looked for.
const POLL: Duration = Duration::from_millis(200);

/// How long the right to coordinate lasts unless it is renewed.
const HOLD_TTL: Duration = Duration::from_secs(10);

/// How often the right is renewed, or tried to be had.
const HOLD_EVERY: Duration = Duration::from_secs(2);

/// How long a stopping host may take to store and send what is waiting.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A task of `flowkit run` is left alone for so long after its last change, even when
/// its process cannot be seen: it may just be starting.
const ADOPT_AFTER: Duration = Duration::from_secs(15);

/// Creates a task and coordinates it to its end, which is returned as it was stored.
/// Workers with its roles do the work; the task's cancel flag stops it. Dropping the
/// future leaves the task as it is.
pub async fn run_task(deps: Deps, task: Task, watch: &mut dyn Watch) -> anyhow::Result<TaskDoc> {
    let doc = task.to_doc(deps.clock.wall());
    let mut engine = Engine::new(deps.clone(), None);
    while let Err(trouble) = create(&deps, &doc).await {
        engine.wait_out(trouble).await?;
    }
    let mut poll = Poll::new(&deps);
    loop {
        if !engine.holds(&doc.id) {
            match begin(&deps, &mut engine, &doc.id, watch).await {
                Ok(None) => {}
                Ok(Some(ended)) => return Ok(ended),
                Err(trouble) => engine.wait_out(trouble).await?,
            }
            continue;
        }
        if poll.due() {
            match look_for_cancel(&deps, &mut engine, &doc.id, watch).await {
                Ok(()) => poll.done(),
                Err(trouble) => engine.wait_out(trouble).await?,
            }
        }
        let over = engine.turn(poll.next, watch).await?;
        if over.lost.contains(&doc.id) {
            anyhow::bail!(
                "another process has taken over task {id}; `flowkit status {id}` shows how it \
                 goes on",
                id = doc.id
            );
        }
    }
}

async fn create(deps: &Deps, doc: &TaskDoc) -> Result<(), Trouble> {
    if deps.store.create_task(doc).await? {
        return Ok(());
    }
    // Ours, if an outage answered the first try.
    match deps.store.task(&doc.id).await? {
        Some(stored) if stored.graph == doc.graph => Ok(()),
        _ => Err(Trouble::Stop(anyhow::anyhow!("the store has a task {} already", doc.id))),
    }
}

/// Takes the task up, or returns it when it has ended.
async fn begin(
    deps: &Deps,
    engine: &mut Engine,
    id: &TaskId,
    watch: &mut dyn Watch,
) -> Result<Option<TaskDoc>, Trouble> {
    let Some(doc) = deps.store.task(id).await? else {
        return Err(Trouble::Stop(anyhow::anyhow!("task {id} has vanished from the store")));
    };
    if doc.status.is_final() {
        return Ok(Some(doc));
    }
    match engine.take_up(&doc, false, watch).await? {
        Ok(()) => Ok(None),
        Err(bad) => Err(Trouble::Stop(anyhow::anyhow!("task {id} cannot be read back: {bad}"))),
    }
}

async fn look_for_cancel(
    deps: &Deps,
    engine: &mut Engine,
    id: &TaskId,
    watch: &mut dyn Watch,
) -> Result<(), Trouble> {
    if let Some(doc) = deps.store.task(id).await?
        && doc.coordinator.cancelled
    {
        engine.cancel(&doc, watch);
    }
    Ok(())
}

/// Coordinates what was submitted, as long as this worker has the right to and until
/// `shutdown` resolves. At most one worker does so at a time; the others wait for their
/// turn. An error means that it cannot go on, and says what to change.
pub async fn host(
    deps: Deps,
    worker_id: WorkerId,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let mut host = Host {
        engine: Engine::new(deps.clone(), Some(GROUP)),
        worker_id,
        holding: false,
        hold_at: deps.clock.now(),
        poll: Poll::new(&deps),
        refused: BTreeSet::new(),
        deps,
    };
    tokio::pin!(shutdown);
    loop {
        // Cancel-safe: `round` loses nothing when it is dropped, see `Engine::turn`; it is
        // dropped only to stop.
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            round = host.round() => round?,
        }
    }
    host.stop().await;
    Ok(())
}

struct Host {
    deps: Deps,
    worker_id: WorkerId,
    engine: Engine,
    holding: bool,
    /// When the right is next renewed or tried.
    hold_at: Instant,
    poll: Poll,
    /// Tasks that cannot be read back; said once.
    refused: BTreeSet<TaskId>,
}

impl Host {
    async fn round(&mut self) -> anyhow::Result<()> {
        if let Err(trouble) = self.prepare().await {
            return self.engine.wait_out(trouble).await;
        }
        if self.holding {
            let until = self.poll.next.min(self.hold_at);
            // A lost task is taken up again at the next look, if it is still open.
            self.engine.turn(until, &mut ()).await?;
        } else {
            tokio::time::sleep_until(self.hold_at).await;
        }
        Ok(())
    }

    async fn prepare(&mut self) -> Result<(), Trouble> {
        let now = self.deps.clock.now();
        if now >= self.hold_at {
            self.hold_at = now + HOLD_EVERY;
            let wall = self.deps.clock.wall();
            let held = self.deps.store.hold_coordination(&self.worker_id, wall, HOLD_TTL).await?;
            if held != self.holding {
                tracing::info!(held, "coordination of submitted tasks");
                self.engine.clear();
                self.holding = held;
            }
        }
        if self.holding && self.poll.due() {
            self.look().await?;
            self.poll.done();
        }
        Ok(())
    }

    /// Takes up new tasks and passes cancel flags on.
    async fn look(&mut self) -> Result<(), Trouble> {
        for doc in self.deps.store.open_tasks().await? {
            if self.engine.holds(&doc.id) {
                if doc.coordinator.cancelled {
                    self.engine.cancel(&doc, &mut ());
                }
                continue;
            }
            if self.refused.contains(&doc.id) || !is_ours(&self.deps, &doc).await? {
                continue;
            }
            let bad = match self.engine.take_up(&doc, true, &mut ()).await {
                Ok(Ok(())) => continue,
                Ok(Err(bad)) => bad.to_string(),
                Err(Trouble::Damaged(error)) => error.to_string(),
                Err(trouble) => return Err(trouble),
            };
            tracing::error!(task_id = %doc.id, error = %bad, "a task cannot be coordinated");
            self.refused.insert(doc.id);
        }
        Ok(())
    }

    /// Stores what is waiting and lets another worker go on at once.
    async fn stop(mut self) {
        if !self.holding {
            return;
        }
        let last = async {
            self.engine.flush().await?;
            let now = self.deps.clock.wall();
            self.deps.store.hold_coordination(&self.worker_id, now, Duration::ZERO).await?;
            Ok::<_, Trouble>(())
        };
        if !matches!(tokio::time::timeout(LAST_WORDS, last).await, Ok(Ok(()))) {
            tracing::warn!("coordination stopped in an outage; its successor repeats the rest");
        }
    }
}

/// Not while the `flowkit run` that began it goes on.
async fn is_ours(deps: &Deps, doc: &TaskDoc) -> Result<bool, Trouble> {
    let Some(runner) = &doc.graph.run_by else { return Ok(true) };
    if deps.clock.wall().since(doc.updated_at) < ADOPT_AFTER {
        return Ok(false);
    }
    let alive = deps.store.workers().await?;
    Ok(!alive.iter().any(|worker| worker.worker_id == *runner))
}

/// When the store is looked at next. A look that takes long is taken less often.
struct Poll {
    clock: crate::clock::Clock,
    next: Instant,
    began: Instant,
}

impl Poll {
    fn new(deps: &Deps) -> Self {
        let now = deps.clock.now();
        Self { clock: deps.clock.clone(), next: now, began: now }
    }

    fn due(&mut self) -> bool {
        self.began = self.clock.now();
        self.began >= self.next
    }

    fn done(&mut self) {
        let now = self.clock.now();
        self.next = now + POLL.max((now - self.began) * 10);
    }
}
