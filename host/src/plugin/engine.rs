//! The settings all guests run under, and the clock that interrupts them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::documents::Documents;
use crate::types::Role;
use tokio::sync::Semaphore;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::bindings::HandlerWorld;
use super::code_cache::CodeCache;
use super::context::Guest;
use super::counts::Counts;
use super::http_client::Client;
use super::trust::Trust;
use super::worlds::{self, Shape};

/// How often a running guest is asked whether it may go on.
const TICK: Duration = Duration::from_millis(5);

/// Instances that may live at once. More runs than this wait for one that ends.
const SLOTS: u32 = 64;
/// Most memories of one component (QuickJS guests have two).
const MEMORIES: u32 = 2;
/// Most tables of one component (Python and stubbed QuickJS guests have two and three).
const TABLES: u32 = 4;
/// Most core instances of one component (Python guests have 14).
const CORE_INSTANCES: u32 = 40;

/// Compiles components and runs their instances. Cheap to clone; one for a process.
#[derive(Clone)]
pub struct Engine {
    pub(super) engine: wasmtime::Engine,
    pub(super) linker: Arc<Linker<Guest>>,
    pub(super) slots: Arc<Semaphore>,
    pub(super) counts: Counts,
    pub(super) cache: Option<Arc<CodeCache>>,
    pub(super) trust: Arc<Trust>,
    pub(super) compiler: Arc<Compiler>,
    pub(super) documents: Option<Arc<dyn Documents>>,
    pub(super) client: Arc<Client>,
    pub(super) worlds: &'static [&'static Shape],
}

/// One compilation at a time, and their count.
#[derive(Default)]
pub(super) struct Compiler {
    pub(super) turn: Mutex<()>,
    pub(super) done: AtomicU64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Why no guest can run in this process.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The machine lacks what compiled WebAssembly needs.
    #[error("the WebAssembly engine cannot start on this machine: {0}")]
    Settings(String),
    /// No thread for the interrupt clock.
    #[error("cannot start the thread that interrupts handlers: {0}")]
    Ticker(#[source] std::io::Error),
    /// No thread to compile on.
    #[error("cannot start a thread that compiles handlers: {0}")]
    Compiler(#[source] std::io::Error),
}

impl Engine {
    /// Starts the engine and the thread that interrupts guests; the thread ends with the
    /// engine's last clone. Where the machine does not give the address space for pooled
    /// instances (about 520 GiB, reserved and not used), instances are allocated one by
    /// one, which costs about 20 µs a run, and a warning says so.
    pub fn new() -> Result<Self, EngineError> {
        let engine = match wasmtime::Engine::new(config().allocation_strategy(pooling())) {
            Ok(engine) => engine,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "no address space for pooled instances: each is allocated when needed; \
                     a limit on virtual memory (`ulimit -v`) is the usual reason"
                );
                wasmtime::Engine::new(&config()).map_err(settings)?
            }
        };
        tick(&engine)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(settings)?;
        // Linked for all; a role that is granted no host is refused a component that
        // imports it.
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).map_err(settings)?;
        HandlerWorld::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)
            .map_err(settings)?;
        let slots = Arc::new(Semaphore::new(SLOTS as usize));
        let counts = Counts::default();
        Ok(Self {
            engine,
            linker: Arc::new(linker),
            slots,
            counts,
            documents: None,
            cache: None,
            trust: Arc::default(),
            compiler: Arc::default(),
            client: Client::system(),
            worlds: worlds::SERVED,
        })
    }

    /// The same engine, whose handlers may read documents there, as far as they are
    /// granted any.
    #[must_use]
    pub fn with_documents(mut self, documents: Arc<dyn Documents>) -> Self {
        self.documents = Some(documents);
        self
    }

    /// The same engine with a cache: what was compiled once for these settings and this
    /// machine is not compiled again.
    #[must_use]
    pub fn with_cache(mut self, cache: CodeCache) -> Self {
        self.cache = Some(Arc::new(cache));
        self
    }

    /// The same engine, which runs only what is trusted.
    #[must_use]
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = Arc::new(trust);
        self
    }

    /// The same engine, which serves the world of `wit/next` beside the present one. That
    /// world is there for tests; no worker asks for it.
    pub fn with_next_world(mut self) -> Result<Self, EngineError> {
        let mut linker = Linker::clone(&self.linker);
        worlds::add_next(&mut linker).map_err(settings)?;
        self.linker = Arc::new(linker);
        self.worlds = worlds::WITH_NEXT;
        Ok(self)
    }

    /// How many components this engine and its clones have compiled.
    pub fn compilations(&self) -> u64 {
        self.compiler.done.load(Ordering::Relaxed)
    }

    /// How often each role's handlers met a limit or a refusal, by the counter's name.
    pub fn counters(&self) -> BTreeMap<Role, BTreeMap<&'static str, u64>> {
        self.counts.snapshot()
    }
}

fn settings(error: wasmtime::Error) -> EngineError {
    EngineError::Settings(format!("{error:#}"))
}

fn config() -> Config {
    let mut config = Config::new();
    // Synchronous WIT functions only: without component-model async a call costs a third.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    // A trap's function numbers tell an author nothing; the guest's stderr does.
    config.wasm_backtrace_max_frames(None);
    config
}

fn pooling() -> InstanceAllocationStrategy {
    // Per-component maxima times the slots: whatever passes the check at load finds room.
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(SLOTS)
        .total_core_instances(SLOTS * CORE_INSTANCES)
        .total_memories(SLOTS * MEMORIES)
        .total_tables(SLOTS * TABLES)
        .total_stacks(SLOTS)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES);
    InstanceAllocationStrategy::Pooling(pool)
}

/// Moves the engine's epoch forward until the engine is gone. A thread of its own, because
/// a guest that occupies every async thread must still be interrupted.
fn tick(engine: &wasmtime::Engine) -> Result<(), EngineError> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("plugin-ticker".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .map(drop)
        .map_err(EngineError::Ticker)
}
