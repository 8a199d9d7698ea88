//! Speaking for a run: sends and writes that wait out an outage, but never outlive the
//! lease.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

use super::Deps;
use super::lease::Lease;
use crate::bus::{BusError, OutMessage};
use crate::health::Part;
use crate::protocol::{LeaseInfo, RunAddress, RunEvent, ServedBy};
use crate::store::{Fenced, Owner, RunRecord, StoreError};
use crate::types::Fence;

/// Shortest and longest wait between two tries.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Why nothing more may be said for the run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silenced {
    /// The lease ended, or somebody else holds it.
    #[error("the run's lease is lost")]
    LeaseLost,
    /// The bus or the store refuses for good; the text says why.
    #[error("{0}")]
    Refused(String),
}

/// A run's owner, speaking.
#[derive(Clone)]
pub struct Voice {
    /// What it speaks through.
    pub deps: Deps,
    /// Which attempt of which run.
    pub address: RunAddress,
    /// What its writes are fenced by.
    pub fence: Fence,
    /// The acquisition it speaks under.
    pub owner: Owner,
    /// Until when it may speak; the worker renews it.
    pub lease: watch::Receiver<Lease>,
    /// The version of the plugin that serves the run.
    pub served_by: ServedBy,
}

impl Voice {
    /// Speaks for `record` under the lease it was acquired with; `None` when the record
    /// has no owner.
    pub fn of(deps: Deps, record: &RunRecord, lease: watch::Receiver<Lease>) -> Option<Self> {
        let owner = record.owner.clone()?;
        let fence = record.fence()?;
        let address = RunAddress {
            key: record.new.key.clone(),
            role: record.new.role.clone(),
            epoch: record.new.epoch,
        };
        let served_by = ServedBy { digest: record.progress.digest.clone(), before: None };
        Some(Self { deps, address, fence, owner, lease, served_by })
    }

    /// TASK_ACCEPTED's, TASK_RESUMED's and TASK_HEARTBEAT's contents, as of now.
    pub fn lease_info(&self) -> LeaseInfo {
        let deadline = self.lease.borrow().deadline();
        let left = deadline.saturating_duration_since(self.deps.clock.now());
        LeaseInfo {
            worker_id: self.owner.worker_id.clone(),
            lease_id: self.owner.lease_id.clone(),
            lease_deadline_ts_ms: self.deps.clock.wall().plus(left),
        }
    }

    /// Sends events and returns once the bus has acknowledged all of them.
    pub async fn send(&self, events: &[RunEvent]) -> Result<(), Silenced> {
        let settings = &self.deps.settings;
        let messages = messages(&self.deps, &self.address, &self.served_by, events);
        let mut wait = RETRY.0;
        loop {
            let now = self.deps.clock.now();
            let lease = *self.lease.borrow();
            if !lease.holds(now) {
                return Err(Silenced::LeaseLost);
            }
            let deadline = lease.deadline().min(now + settings.lease_ttl / 2);
            match self.deps.bus.publish(&messages, Some(deadline)).await {
                Ok(()) => {
                    self.deps.health.answered(Part::Bus, self.deps.clock.wall());
                    return Ok(());
                }
                Err(error @ (BusError::Unavailable(_) | BusError::Expired)) => {
                    let now = self.deps.clock.wall();
                    self.deps.health.failed(Part::Bus, &error.to_string(), now);
                }
                Err(error) => return Err(Silenced::Refused(error.to_string())),
            }
            self.wait(&mut wait).await?;
        }
    }

    /// Does something in the store, again and again while the store is out of reach.
    pub async fn store<T, F, Done>(&self, action: F) -> Result<T, Silenced>
    where
        F: Fn() -> Done,
        Done: Future<Output = Result<T, StoreError>>,
    {
        let mut wait = RETRY.0;
        loop {
            if !self.lease.borrow().holds(self.deps.clock.now()) {
                return Err(Silenced::LeaseLost);
            }
            match action().await {
                Ok(done) => {
                    self.deps.health.answered(Part::Store, self.deps.clock.wall());
                    return Ok(done);
                }
                Err(error @ StoreError::Unavailable(_)) => {
                    let now = self.deps.clock.wall();
                    self.deps.health.failed(Part::Store, &error.to_string(), now);
                }
                Err(error) => return Err(Silenced::Refused(error.to_string())),
            }
            self.wait(&mut wait).await?;
        }
    }

    /// As [`store`](Self::store), for a fenced write.
    pub async fn write<F, Done>(&self, action: F) -> Result<(), Silenced>
    where
        F: Fn() -> Done,
        Done: Future<Output = Result<Fenced, StoreError>>,
    {
        match self.store(action).await? {
            Fenced::Written => Ok(()),
            Fenced::Lost => Err(Silenced::LeaseLost),
        }
    }

    async fn wait(&self, wait: &mut Duration) -> Result<(), Silenced> {
        let left = self.lease.borrow().deadline() - self.deps.clock.now();
        if left.is_zero() {
            return Err(Silenced::LeaseLost);
        }
        tokio::time::sleep((*wait).min(left)).await;
        *wait = (*wait * 2).min(RETRY.1);
        Ok(())
    }
}

/// A run's events as its role's status topic takes them.
pub(super) fn messages(
    deps: &Deps,
    address: &RunAddress,
    served_by: &ServedBy,
    events: &[RunEvent],
) -> Vec<OutMessage> {
    let topic = deps.settings.topics.status(&address.role);
    let now = deps.clock.wall();
    let message = |event: &RunEvent| OutMessage {
        topic: topic.clone(),
        key: Some(address.key.message_key()),
        value: event.envelope(address, served_by, now, deps.settings.hb_interval).encode(),
        headers: Vec::new(),
    };
    events.iter().map(message).collect()
}
