//! What lies between a worker and its bus and store in these tests: every call takes
//! time, may be refused, may lose its answer, and may be the last one before a crash.

mod bus;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use flowkit::bus::{BusError, Topic};
use flowkit::clock::UnixMs;
use flowkit::store::memory::MemoryStore;
use flowkit::store::*;
use flowkit::types::{Epoch, Fence, NodeId, Role, RunKey, TaskId, WorkerId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

pub use self::bus::FarBus;
use crate::sim::witness::Witness;

/// One worker's line to the world. Clones are the same line.
#[derive(Clone)]
pub struct Line(Arc<Mutex<State>>);

struct State {
    rng: StdRng,
    /// Longest time a call takes on its way there, and on its way back.
    delay: Duration,
    store_down: bool,
    bus_down: bool,
    /// Whatever is under way arrives only when this has passed.
    frozen: bool,
    /// Raised when the worker's partitions are taken away and handed out anew.
    assignment: u64,
    /// Groups joined.
    joined: u64,
    /// A topic to which nothing may be written.
    closed_topic: Option<Topic>,
    /// A topic with a limit of its own, in bytes of a value.
    small_topic: Option<(Topic, usize)>,
    /// Of a thousand answers, how many are lost after the call took effect.
    lost_answers: u32,
    effects: u64,
    crash_at: Option<u64>,
    witness: Option<Witness>,
    /// What is published leaves in the order in which it was handed over, as with a producer.
    wire: Arc<tokio::sync::Mutex<()>>,
    refused: Option<(&'static str, StoreError)>,
    all_refused: Option<StoreError>,
    /// How often which call of the store was made.
    asked: HashMap<&'static str, u64>,
}

impl Line {
    /// A line on which every call takes up to `delay` each way.
    pub fn new(seed: u64, delay: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            delay,
            store_down: false,
            bus_down: false,
            frozen: false,
            assignment: 0,
            joined: 0,
            closed_topic: None,
            small_topic: None,
            lost_answers: 0,
            effects: 0,
            crash_at: None,
            witness: None,
            wire: Arc::default(),
            refused: None,
            all_refused: None,
            asked: HashMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn store_down(&self, down: bool) {
        self.state().store_down = down;
    }

    pub fn bus_down(&self, down: bool) {
        self.state().bus_down = down;
    }

    /// The process stands still, as far as anybody else can see: what it does meanwhile
    /// arrives when it goes on.
    pub fn freeze(&self, frozen: bool) {
        self.state().frozen = frozen;
    }

    /// What the worker was handed and has not committed goes to whoever asks first.
    pub fn rebalance(&self) {
        self.state().assignment += 1;
    }

    /// How often it joined a consumer group.
    pub fn joined(&self) -> u64 {
        self.state().joined
    }

    /// The bus refuses for good to write to this topic.
    pub fn close_topic(&self, topic: &Topic) {
        self.state().closed_topic = Some(topic.clone());
    }

    /// This topic takes values of so many bytes at most, and does not say how many.
    pub fn limit_topic(&self, topic: &Topic, bytes: usize) {
        self.state().small_topic = Some((topic.clone(), bytes));
    }

    /// How long a call takes each way from now on, at most.
    pub fn slow_down(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Of a thousand answers, this many are lost after the call took effect.
    pub fn lose_answers(&self, of_a_thousand: u32) {
        self.state().lost_answers = of_a_thousand;
    }

    /// The worker gets no further than to the `at`-th change it makes: an even number
    /// stops it before change `at / 2`, an odd one after it.
    pub fn crash_at(&self, at: u64) {
        self.state().crash_at = Some(at);
    }

    /// It lives on if it has not got there yet.
    pub fn never_dies(&self) {
        self.state().crash_at = None;
    }

    /// Whether it is to be stopped at a change.
    pub fn dies(&self) -> bool {
        self.state().crash_at.is_some()
    }

    /// Somebody looks at what gets out.
    pub fn watch(&self, witness: &Witness) {
        self.state().witness = Some(witness.clone());
    }

    /// Whether it has got there.
    pub fn crashed(&self) -> bool {
        let state = self.state();
        state.crash_at.is_some_and(|at| state.effects > at)
    }

    /// One kind of call is refused for good.
    pub fn refuse(&self, call: &'static str, why: Option<StoreError>) {
        self.state().refused = why.map(|why| (call, why));
    }

    /// Every call of the store is refused for good.
    pub fn refuse_all(&self, why: Option<StoreError>) {
        self.state().all_refused = why;
    }

    /// How often a call of the store was made, whatever came of it.
    pub fn asked(&self, call: &str) -> u64 {
        self.state().asked.get(call).copied().unwrap_or_default()
    }

    async fn travel(&self) {
        let delay = {
            let mut state = self.state();
            let longest = u64::try_from(state.delay.as_millis()).unwrap();
            if longest == 0 { 0 } else { state.rng.random_range(0..=longest) }
        };
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        while self.state().frozen {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn bus_passes(&self) -> Result<(), BusError> {
        match self.state().bus_down {
            true => Err(BusError::Unavailable("the line is cut".into())),
            false => Ok(()),
        }
    }

    /// A place at which the process may be killed.
    async fn mortal(&self) {
        let dies = {
            let mut state = self.state();
            state.effects += 1;
            state.crash_at.is_some_and(|at| state.effects > at)
        };
        if dies {
            std::future::pending::<()>().await;
        }
    }

    fn passes(&self, call: &'static str) -> Result<(), StoreError> {
        let state = self.state();
        if state.store_down {
            return Err(StoreError::Unavailable("the line is cut".into()));
        }
        if let Some(why) = &state.all_refused {
            return Err(why.clone());
        }
        match &state.refused {
            Some((refused, why)) if *refused == call => Err(why.clone()),
            _ => Ok(()),
        }
    }

    async fn there(&self, call: &'static str, changes: bool) -> Result<(), StoreError> {
        *self.state().asked.entry(call).or_default() += 1;
        self.travel().await;
        self.passes(call)?;
        if changes {
            self.mortal().await;
        }
        Ok(())
    }

    async fn back(&self, changes: bool) -> Result<(), StoreError> {
        if changes {
            self.mortal().await;
        }
        self.travel().await;
        let mut state = self.state();
        let lost = state.lost_answers;
        if state.store_down || (lost > 0 && state.rng.random_range(0..1000) < lost) {
            return Err(StoreError::Unavailable("the answer was lost".into()));
        }
        Ok(())
    }
}

/// The store at the end of a line.
pub struct FarStore {
    pub line: Line,
    pub store: MemoryStore,
}

macro_rules! far {
    ($trait:ident { $($changes:literal $name:ident($($arg:ident: $type:ty),*) -> $output:ty;)* }) => {
        #[async_trait]
        impl $trait for FarStore {
            $(async fn $name(&self, $($arg: $type),*) -> Result<$output, StoreError> {
                self.line.there(stringify!($name), $changes).await?;
                let done = self.store.$name($($arg),*).await?;
                self.line.back($changes).await?;
                Ok(done)
            })*
        }
    };
}

far!(RunStore {
    true admit(run: &NewRun, owner: Option<&Owner>) -> Admitted;
    false run(key: &RunKey) -> Option<RunRecord>;
    false runs_of_task(task_id: &TaskId) -> Vec<RunRecord>;
    false claimable(query: &ClaimQuery) -> Vec<RunRecord>;
    true claim(seen: &RunRecord, owner: &Owner) -> Option<RunRecord>;
    false renew(fences: &[Fence], deadline: UnixMs) -> Vec<Fence>;
    true save_progress(fence: &Fence, progress: &Progress) -> Fenced;
    true end(fence: &Fence, end: &RunEnd) -> Fenced;
    true end_sent(fence: &Fence, check: Option<&EndCheck>) -> Fenced;
    false due_checks(roles: &[Role], now: UnixMs, limit: usize) -> Vec<RunRecord>;
    true move_check(seen: &RunRecord, next: Option<&EndCheck>) -> bool;
    true release(fence: &Fence) -> Fenced;
    false queued(role: &Role) -> u64;
});

far!(ArtifactStore {
    true write_partials(fence: &Fence, partials: &[NewPartial]) -> Fenced;
    true write_complete(fence: &Fence, complete: &NewComplete) -> Fenced;
    false complete_nodes(task_id: &TaskId, nodes: &[NodeId]) -> Vec<NodeId>;
    false partials(key: &RunKey, from: &Cursor, limit: usize) -> Page;
    false finished(
        key: &RunKey, epoch: Epoch, range: std::ops::Range<u64>, limit: usize
    ) -> Vec<FinishedBatch>;
    true record_claims(claims: &[Claim]) -> ();
});

far!(TaskStore {
    false views(keys: &[RunKey]) -> Vec<NodeView>;
    false create_task(task: &TaskDoc) -> bool;
    false task(id: &TaskId) -> Option<TaskDoc>;
    false list_tasks(ended: usize) -> Vec<TaskDoc>;
    false open_tasks() -> Vec<TaskDoc>;
    false save_task(task: &TaskDoc) -> bool;
    false request_cancel(id: &TaskId, reason: &str) -> bool;
    false hold_coordination(worker_id: &WorkerId, now: UnixMs, ttl: Duration) -> bool;
});

far!(WorkerStore {
    false put_worker(record: &WorkerRecord) -> ();
    false remove_worker(worker_id: &WorkerId) -> ();
    false workers() -> Vec<WorkerRecord>;
});
