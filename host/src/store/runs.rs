//! The run's record: its lease, its progress and its end (`worker_states`).

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Fenced, StoreError};
use crate::clock::UnixMs;
use crate::metrics::{Metrics, Totals};
use crate::types::{BatchUid, Epoch, Fence, LeaseId, LeaseNo, Role, RunKey, WorkerId};

/// Runs, one record a `(task, node)`; the newest attempt replaces an older one.
///
/// Every method that changes a run is one atomic compare-and-swap. A record is kept for
/// seven days after its last change, so that a redelivered command finds it.
#[async_trait]
pub trait RunStore: Send + Sync + 'static {
    /// Records a command's run. Nothing changes unless the stored attempt is absent or
    /// older. With an `owner` the run is leased to it (`lease_no` 1 for a new key; an
    /// older attempt's number plus one otherwise), else it is left unowned for a claim.
    async fn admit(&self, run: &NewRun, owner: Option<&Owner>) -> Result<Admitted, StoreError>;

    /// One run.
    async fn run(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError>;

    /// The runs of one task, ordered by node.
    async fn runs_of_task(
        &self,
        task_id: &crate::types::TaskId,
    ) -> Result<Vec<RunRecord>, StoreError>;

    /// Runs that somebody with one of `roles` may take over at `query.now`, oldest
    /// [`created_at`](RunRecord::created_at) first: those without an owner, those whose
    /// lease ended more than `query.max_clock_skew` ago, those whose owner is known to be
    /// gone, and `query.worker_id`'s own that are not in `query.held` (left by an earlier
    /// life of the same worker). A run that ended and whose end was sent is none of them.
    async fn claimable(&self, query: &ClaimQuery) -> Result<Vec<RunRecord>, StoreError>;

    /// Takes over a run exactly as `seen` in [`claimable`](Self::claimable): nothing
    /// changes if its epoch, `lease_no` or lease has changed since. Raises `lease_no`.
    async fn claim(&self, seen: &RunRecord, owner: &Owner)
    -> Result<Option<RunRecord>, StoreError>;

    /// Sets a new lease deadline on each of a worker's runs, as one write. Returns the
    /// fences that no longer hold.
    async fn renew(&self, fences: &[Fence], deadline: UnixMs) -> Result<Vec<Fence>, StoreError>;

    /// Stores progress: everything in it together.
    async fn save_progress(&self, fence: &Fence, progress: &Progress)
    -> Result<Fenced, StoreError>;

    /// Writes the end of a run that has none. [`Fenced::Lost`] when it already has one.
    async fn end(&self, fence: &Fence, end: &RunEnd) -> Result<Fenced, StoreError>;

    /// Notes that the end was sent, frees the lease and sets the first look at whether the
    /// coordinator took it, if there is to be one. [`Fenced::Lost`] when there is no end.
    async fn end_sent(&self, fence: &Fence, check: Option<&EndCheck>)
    -> Result<Fenced, StoreError>;

    /// At most `limit` runs of these roles whose end was sent and whose
    /// [`check`](RunRecord::check) is due at `now`, the longest due first.
    async fn due_checks(
        &self,
        roles: &[Role],
        now: UnixMs,
        limit: usize,
    ) -> Result<Vec<RunRecord>, StoreError>;

    /// Sets or removes a run's check if it is the attempt, the `lease_no` and the check
    /// that were `seen`. False, and nothing changes, otherwise: of several who have seen
    /// the same, one wins.
    async fn move_check(
        &self,
        seen: &RunRecord,
        next: Option<&EndCheck>,
    ) -> Result<bool, StoreError>;

    /// Gives the lease back unended: the run is unowned and can be claimed at once.
    async fn release(&self, fence: &Fence) -> Result<Fenced, StoreError>;

    /// How many runs of a role have no owner and no end.
    async fn queued(&self, role: &Role) -> Result<u64, StoreError>;
}

/// A run as its command describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewRun {
    /// Which node of which task.
    pub key: RunKey,
    /// The role that runs it.
    pub role: Role,
    /// The attempt.
    pub epoch: Epoch,
    /// What the command gave it to work on.
    pub input: RunInput,
    /// Recorded at, the order in which unowned runs are claimed.
    pub created_at: UnixMs,
}

/// The part of TASK_START that describes the work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInput {
    /// Object or null.
    pub input_ref: Option<Map<String, Value>>,
    /// Object or null.
    pub input_inline: Option<Map<String, Value>>,
    /// Object or null.
    pub batching: Option<Map<String, Value>>,
}

/// Who acquires a lease, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The worker.
    pub worker_id: WorkerId,
    /// A fresh name for this acquisition.
    pub lease_id: LeaseId,
    /// When it ends unless renewed.
    pub deadline: UnixMs,
}

/// What became of an admission.
#[derive(Debug, Clone, PartialEq)]
pub enum Admitted {
    /// The run is recorded as this.
    Recorded(RunRecord),
    /// The same attempt was recorded before: the command is a redelivery.
    Duplicate(RunRecord),
    /// A newer attempt is recorded: the command is stale.
    Stale(RunRecord),
}

/// One run as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// As admitted.
    #[serde(flatten)]
    pub new: NewRun,
    /// How often the lease was acquired.
    pub lease_no: LeaseNo,
    /// The present owner, if any.
    pub owner: Option<Owner>,
    /// What is finished.
    pub progress: Progress,
    /// How it ended, if it did.
    pub end: Option<RunEnd>,
    /// The end was sent to the coordinator.
    pub end_sent: bool,
    /// When to look whether the coordinator took the end; only once it was sent.
    #[serde(default)]
    pub check: Option<EndCheck>,
    /// Last change.
    pub updated_at: UnixMs,
}

impl RunRecord {
    /// The fence of the present owner.
    pub fn fence(&self) -> Option<Fence> {
        self.owner.as_ref().map(|owner| Fence {
            key: self.new.key.clone(),
            epoch: self.new.epoch,
            lease_no: self.lease_no,
            worker_id: owner.worker_id.clone(),
        })
    }
}

/// What is finished in a run. The record alone says so: an artifact beyond `finished` is
/// processed again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Batches finished; they have the ordinals `0..finished`.
    pub finished: u64,
    /// Batches whose BATCH_OK the bus acknowledged; never more than `finished`.
    pub reported: u64,
    /// TASK_ACCEPTED was acknowledged by the bus.
    pub accepted: bool,
    /// The last checkpoint that took effect: JSON text.
    pub checkpoint: Option<String>,
    /// Numeric metrics of the finished batches.
    pub totals: Totals,
    /// The plugin's digest, once a session was opened.
    pub digest: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RunEnd {
    /// TASK_DONE.
    Done {
        /// The run's totals with `finalize`'s metrics laid over them.
        metrics: Metrics,
    },
    /// TASK_FAILED, after BATCH_FAILED when a batch was to blame.
    Failed {
        /// The batch, if one was to blame.
        batch_uid: Option<BatchUid>,
        /// Why, for machines.
        reason_code: String,
        /// No retry can help.
        permanent: bool,
        /// Why, for people.
        error: Option<String>,
    },
    /// CANCELLED.
    Cancelled {
        /// As the cancel gave it.
        reason: String,
    },
}

/// A look at whether a coordinator took an end, which is sent again while it did not: one
/// that was being restarted has never seen it (`protocol.md`, "Restarts").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndCheck {
    /// Not before.
    pub at: UnixMs,
    /// Looks before this one.
    pub tries: u32,
}

impl EndCheck {
    /// The wait before the first look; each further one is twice as long.
    pub const FIRST: Duration = Duration::from_secs(15);

    /// From the end to the last look, at most.
    pub const LAST: Duration = Duration::from_secs(3_600);

    /// The first look at an end that was sent at `now`.
    pub fn first(now: UnixMs) -> Self {
        Self { at: now.plus(Self::FIRST), tries: 0 }
    }

    /// The look after this one, which takes place at `now`; none when it would come too
    /// late.
    pub fn next(self, now: UnixMs) -> Option<Self> {
        let tries = self.tries.saturating_add(1);
        let wait = |tries: u32| Self::FIRST.saturating_mul(2u32.saturating_pow(tries));
        // All waits up to the next look, which are one less than the one after it.
        let since_end = wait(tries.saturating_add(1)).saturating_sub(Self::FIRST);
        (since_end <= Self::LAST).then(|| Self { at: now.plus(wait(tries)), tries })
    }
}

/// Which runs a worker could take.
#[derive(Debug, Clone)]
pub struct ClaimQuery {
    /// Who asks.
    pub worker_id: WorkerId,
    /// The roles it has free slots for.
    pub roles: Vec<Role>,
    /// The runs it holds now.
    pub held: Vec<RunKey>,
    /// The time to compare deadlines with.
    pub now: UnixMs,
    /// How far two machines' clocks may differ.
    pub max_clock_skew: Duration,
    /// At most this many.
    pub limit: usize,
}

impl ClaimQuery {
    /// Whether a run with this `owner`, whose end was not sent, may be taken over. `gone`
    /// says whether a worker is known to be gone.
    pub fn admits(
        &self,
        key: &RunKey,
        owner: Option<&Owner>,
        gone: impl FnOnce(&WorkerId) -> bool,
    ) -> bool {
        let Some(owner) = owner else { return true };
        if owner.worker_id == self.worker_id {
            return !self.held.contains(key);
        }
        owner.deadline.plus(self.max_clock_skew) < self.now || gone(&owner.worker_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_looked_after_at_doubling_intervals_for_at_most_an_hour() {
        let sent = UnixMs(1_000_000);
        let checks: Vec<EndCheck> =
            std::iter::successors(Some(EndCheck::first(sent)), |check| check.next(check.at))
                .collect();
        let seconds: Vec<u64> = checks.iter().map(|check| check.at.since(sent).as_secs()).collect();
        assert_eq!(seconds, [15, 45, 105, 225, 465, 945, 1905]);
        assert_eq!(checks.last().map(|check| check.tries), Some(6));
    }

    #[test]
    fn a_look_that_comes_late_moves_the_next_one() {
        let late = UnixMs(9_000_000);
        let check = EndCheck { at: UnixMs(0), tries: 1 };
        assert_eq!(
            check.next(late),
            Some(EndCheck { at: late.plus(EndCheck::FIRST * 4), tries: 2 })
        );
        assert_eq!(EndCheck { at: UnixMs(0), tries: u32::MAX }.next(late), None);
    }
}
