//! The worker: one loop over one closed set of events.
//!
//! `main` → [`Worker::run`] → [`Loop::on_event`](run_loop): commands, signals, questions,
//! runs that end, and the clock. Whatever takes time is a task of its own that answers
//! with an [`Event`].

mod announce;
mod claims;
mod drain;
mod duties;
mod ends;
mod held;
mod intakes;
mod listen;
mod mine;
mod opening;
mod parked;
mod refusals;
mod run_loop;
mod ticks;

pub(crate) use claims::claim;
pub use mine::{Hold, Mine};
pub use parked::Parked;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::bus::Bus;
use crate::clock::Clock;
use crate::handler::Handlers;
use crate::health::Health;
use crate::protocol::{Discover, RunAddress, Signal};
use crate::run::driver::Outcome;
use crate::run::{Deps, Slot};
use crate::settings::Settings;
use crate::store::{NodeView, RunRecord, Store};
use crate::types::{Epoch, Fence, LeaseNo, Role, RunKey};

/// A worker, ready to run.
pub struct Worker {
    deps: Deps,
}

impl Worker {
    /// A worker over these parts.
    pub fn new(
        settings: Settings,
        bus: Arc<dyn Bus>,
        store: Arc<dyn Store>,
        handlers: Arc<dyn Handlers>,
        clock: Clock,
    ) -> Self {
        let settings = Arc::new(settings);
        let health = Arc::new(Health::default());
        Self { deps: Deps { settings, bus, store, handlers, clock, health } }
    }

    /// Waits for the bus, works until `shutdown` begins, then drains: no new commands,
    /// running batches finish or reach the grace, leases are released. An error means that the worker could not
    /// begin or go on, and says what to change.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        match run_loop::Loop::start(self.deps, shutdown).await? {
            Some(started) => started.run().await,
            None => Ok(()),
        }
    }
}

/// Ends a worker gracefully; clones end the same one.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Shutdown {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether somebody has asked.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves once somebody has asked. Cancel-safe.
    pub async fn begun(&self) {
        let mut asked = self.0.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = asked.wait_for(|asked| *asked).await;
    }
}

/// A run that this worker acquired and has to start.
pub struct Grant {
    /// As acquired.
    pub record: RunRecord,
    /// That it is this worker's.
    pub hold: Hold,
    /// What it may work with.
    pub slot: Slot,
    /// When the store was asked: the lease counts from here.
    pub asked_at: Instant,
    /// It was cancelled before it began: why.
    pub cancelled: Option<String>,
    /// How long to wait before it is answered.
    pub delay: Duration,
}

/// Everything that can happen to a worker.
pub enum Event {
    /// A run became this worker's.
    Granted(Box<Grant>),
    /// A newer attempt was recorded and waits for an owner: an older one here is superseded.
    Queued {
        /// The run.
        key: RunKey,
        /// Its newest attempt.
        epoch: Epoch,
    },
    /// A TASK_CANCEL command.
    CancelCommand {
        /// Which attempt of which run.
        address: RunAddress,
        /// Why.
        reason: String,
    },
    /// A CANCEL signal.
    Signal(Signal),
    /// A coordinator asks for a run.
    Query(Discover),
    /// A run is over here, whatever its end.
    RunOver {
        /// The run.
        key: RunKey,
        /// The acquisition under which it was driven.
        lease_no: LeaseNo,
        /// How it was left.
        outcome: Outcome,
    },
    /// A role's intake has stopped, as it was asked to.
    IntakeOver(Role),
    /// The store was asked to renew leases.
    Renewed {
        /// When.
        asked_at: Instant,
        /// Whose.
        asked: Vec<Fence>,
        /// The ones that no longer hold.
        lost: Vec<Fence>,
    },
    /// What `tasks` says of the runs here.
    Views(Vec<NodeView>),
    /// A look for runs to take over is done.
    ClaimsDone,
    /// Something without which the worker cannot go on; the text says what to change.
    Broken(String),
}
