//! Runs in memory.

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::UnixMs;
use crate::store::{
    Admitted, ClaimQuery, EndCheck, Fenced, NewRun, Owner, Progress, RunEnd, RunRecord, RunStore,
    StoreError,
};
use crate::types::{Fence, LeaseNo, Role, RunKey, TaskId};

impl MemoryStore {
    /// Changes the run that `fence` still holds. `change` may refuse.
    fn fenced(&self, fence: &Fence, change: impl FnOnce(&mut RunRecord) -> bool) -> Fenced {
        let now = self.clock.wall();
        let mut state = self.state();
        let Some(run) = state.held(fence) else { return Fenced::Lost };
        if !change(run) {
            return Fenced::Lost;
        }
        run.updated_at = now;
        Fenced::Written
    }
}

#[async_trait]
impl RunStore for MemoryStore {
    async fn admit(&self, new: &NewRun, owner: Option<&Owner>) -> Result<Admitted, StoreError> {
        let mut state = self.state();
        let mut lease_no = LeaseNo(0);
        if let Some(stored) = state.runs.get(&new.key) {
            if stored.new.epoch == new.epoch {
                return Ok(Admitted::Duplicate(stored.clone()));
            }
            if stored.new.epoch > new.epoch {
                return Ok(Admitted::Stale(stored.clone()));
            }
            lease_no = stored.lease_no;
        }
        if owner.is_some() {
            lease_no.0 += 1;
        }
        let record = RunRecord {
            new: new.clone(),
            lease_no,
            owner: owner.cloned(),
            progress: Progress::default(),
            end: None,
            end_sent: false,
            check: None,
            updated_at: self.clock.wall(),
        };
        state.runs.insert(new.key.clone(), record.clone());
        Ok(Admitted::Recorded(record))
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.state().runs.get(key).cloned())
    }

    async fn runs_of_task(&self, task_id: &TaskId) -> Result<Vec<RunRecord>, StoreError> {
        let state = self.state();
        Ok(state.runs.values().filter(|run| run.new.key.task_id == *task_id).cloned().collect())
    }

    async fn claimable(&self, query: &ClaimQuery) -> Result<Vec<RunRecord>, StoreError> {
        let state = self.state();
        let mut runs: Vec<_> = state
            .runs
            .values()
            .filter(|run| {
                query.roles.contains(&run.new.role)
                    && !run.end_sent
                    && query.admits(&run.new.key, run.owner.as_ref(), |w| state.gone.contains(w))
            })
            .cloned()
            .collect();
        runs.sort_by_key(|run| run.new.created_at);
        runs.truncate(query.limit);
        Ok(runs)
    }

    async fn claim(
        &self,
        seen: &RunRecord,
        owner: &Owner,
    ) -> Result<Option<RunRecord>, StoreError> {
        let now = self.clock.wall();
        let mut state = self.state();
        let Some(run) = state.runs.get_mut(&seen.new.key).filter(|run| {
            run.new.epoch == seen.new.epoch
                && run.lease_no == seen.lease_no
                && run.owner == seen.owner
                && !run.end_sent
        }) else {
            return Ok(None);
        };
        run.lease_no.0 += 1;
        run.owner = Some(owner.clone());
        run.updated_at = now;
        Ok(Some(run.clone()))
    }

    async fn renew(&self, fences: &[Fence], deadline: UnixMs) -> Result<Vec<Fence>, StoreError> {
        let lost = fences.iter().filter(|fence| {
            let renewed = self.fenced(fence, |run| {
                if let Some(owner) = &mut run.owner {
                    owner.deadline = deadline;
                }
                true
            });
            renewed == Fenced::Lost
        });
        Ok(lost.cloned().collect())
    }

    async fn save_progress(
        &self,
        fence: &Fence,
        progress: &Progress,
    ) -> Result<Fenced, StoreError> {
        Ok(self.fenced(fence, |run| {
            run.progress = progress.clone();
            true
        }))
    }

    async fn end(&self, fence: &Fence, end: &RunEnd) -> Result<Fenced, StoreError> {
        Ok(self.fenced(fence, |run| {
            let first = run.end.is_none();
            if first {
                run.end = Some(end.clone());
            }
            first
        }))
    }

    async fn end_sent(
        &self,
        fence: &Fence,
        check: Option<&EndCheck>,
    ) -> Result<Fenced, StoreError> {
        Ok(self.fenced(fence, |run| {
            let ended = run.end.is_some();
            if ended {
                run.end_sent = true;
                run.owner = None;
                run.check = check.copied();
            }
            ended
        }))
    }

    async fn due_checks(
        &self,
        roles: &[Role],
        now: UnixMs,
        limit: usize,
    ) -> Result<Vec<RunRecord>, StoreError> {
        let state = self.state();
        let is_due = |run: &&RunRecord| {
            roles.contains(&run.new.role) && run.check.is_some_and(|check| check.at <= now)
        };
        let mut due: Vec<_> = state.runs.values().filter(is_due).cloned().collect();
        due.sort_by_key(|run| run.check.map(|check| check.at));
        due.truncate(limit);
        Ok(due)
    }

    async fn move_check(
        &self,
        seen: &RunRecord,
        next: Option<&EndCheck>,
    ) -> Result<bool, StoreError> {
        let now = self.clock.wall();
        let mut state = self.state();
        let Some(run) = state.runs.get_mut(&seen.new.key).filter(|run| {
            run.new.epoch == seen.new.epoch
                && run.lease_no == seen.lease_no
                && run.check.is_some()
                && run.check == seen.check
        }) else {
            return Ok(false);
        };
        run.check = next.copied();
        run.updated_at = now;
        Ok(true)
    }

    async fn release(&self, fence: &Fence) -> Result<Fenced, StoreError> {
        Ok(self.fenced(fence, |run| {
            run.owner = None;
            true
        }))
    }

    async fn queued(&self, role: &Role) -> Result<u64, StoreError> {
        let state = self.state();
        let queued = state
            .runs
            .values()
            .filter(|run| run.new.role == *role && run.owner.is_none() && run.end.is_none());
        Ok(queued.count() as u64)
    }
}
