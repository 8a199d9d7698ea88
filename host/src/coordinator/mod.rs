//! Graphs of nodes, coordinated: which node starts when, how often it is tried again, and
//! what its end means for the others.
//!
//! [`graph`] checks a graph file, [`state`] is a task as a pure state machine, [`driver`]
//! performs what it asks for over the bus and the store. The wire is the one that
//! coordinators in the field speak.

pub mod driver;
mod engine;
mod feed;
pub mod graph;
mod node;
pub mod state;
mod wire;

use std::sync::Arc;

use crate::bus::{Bus, BusError};
use crate::clock::Clock;
use crate::protocol::{RunEvent, Topics};
use crate::store::{Store, StoreError};
use crate::types::Epoch;

pub use node::{Failure, NodeEvent, NodeOwner, NodeState, Stage};
pub use state::{Outcome, Task};

/// What a coordinator works with.
#[derive(Clone)]
pub struct Deps {
    /// Messages.
    pub bus: Arc<dyn Bus>,
    /// State.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Clock,
    /// Names.
    pub topics: Topics,
}

/// Looks on while a task is coordinated.
pub trait Watch: Send {
    /// The task has changed; also called once when it begins.
    fn changed(&mut self, task: &Task) {
        let _ = task;
    }

    /// An event of a node's present attempt has arrived, maybe a second time.
    fn event(&mut self, node: usize, epoch: Epoch, event: &RunEvent) {
        let _ = (node, epoch, event);
    }
}

/// Nobody looks on.
impl Watch for () {}

/// Why a coordinator could not do something now.
#[derive(Debug)]
enum Trouble {
    /// The same may work later.
    Wait(String),
    /// One task cannot be read; others can.
    Damaged(StoreError),
    /// Somebody has to change something.
    Stop(anyhow::Error),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Wait(error.to_string()),
            StoreError::Damaged { .. } => Self::Damaged(error),
            StoreError::Fatal(_) => Self::Stop(error.into()),
        }
    }
}

impl From<BusError> for Trouble {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Unavailable(_) | BusError::Expired => Self::Wait(error.to_string()),
            BusError::TooLarge { .. } | BusError::Fatal(_) => Self::Stop(error.into()),
        }
    }
}
