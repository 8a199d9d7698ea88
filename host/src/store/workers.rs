//! The workers themselves, for `flowkit status`.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StoreError;
use crate::clock::UnixMs;
use crate::types::{Role, WorkerId};

/// Workers' own records.
#[async_trait]
pub trait WorkerStore: Send + Sync + 'static {
    /// Writes a worker's record.
    async fn put_worker(&self, record: &WorkerRecord) -> Result<(), StoreError>;

    /// Removes it: the worker stopped cleanly.
    async fn remove_worker(&self, worker_id: &WorkerId) -> Result<(), StoreError>;

    /// All of them, ordered by id. A worker that is known to be gone is left out where
    /// the backend can tell.
    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError>;
}

/// A worker as it last described itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Its id.
    pub worker_id: WorkerId,
    /// Its version.
    pub version: String,
    /// The roles it serves.
    pub roles: Vec<Role>,
    /// How many runs it takes at once.
    pub capacity: usize,
    /// How many it has.
    pub running: usize,
    /// When it wrote this.
    pub updated_at: UnixMs,
    /// How it is: plugins, telemetry, troubles; for people.
    pub health: Value,
}
