//! Random sequences of fenced writes, compared with the few lines that say what they mean.

use std::collections::BTreeMap;

use flowkit::store::{Admitted, EndCheck, Fenced, Progress, RunEnd, RunRecord, Store};
use flowkit::types::{Epoch, Fence, LeaseNo, RunKey};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::artifacts::{complete, marks, partial};
use crate::{StoreBackend, at, fence, new_key, new_role, new_run, owner};

const WORKERS: [&str; 2] = ["w-1", "w-2"];

/// A write to one run. Fences are named by small numbers, so that they often hold.
#[derive(Debug, Clone)]
enum RunOp {
    Admit { epoch: u32, owner: Option<usize> },
    Claim { seen: usize, owner: usize },
    Save(FenceOp, u64),
    Renew(FenceOp, u64),
    End(FenceOp),
    EndSent(FenceOp, Option<u64>),
    MoveCheck { seen: usize, next: Option<u64> },
    Release(FenceOp),
}

#[derive(Debug, Clone, Copy)]
struct FenceOp {
    /// Taken off the present epoch and number.
    older: (u32, u64),
    worker: usize,
}

impl FenceOp {
    fn fence(self, key: &RunKey, now: Option<&RunRecord>) -> Fence {
        let (epoch, lease_no) = now.map_or((1, 1), |run| (run.new.epoch.0, run.lease_no.0));
        let epoch = epoch.saturating_sub(self.older.0);
        fence(key, epoch, lease_no.saturating_sub(self.older.1), WORKERS[self.worker])
    }
}

fn fence_op() -> impl Strategy<Value = FenceOp> {
    let older = prop_oneof![4 => Just((0, 0)), 1 => Just((1, 0)), 1 => Just((0, 1))];
    (older, 0..WORKERS.len()).prop_map(|(older, worker)| FenceOp { older, worker })
}

fn check_op() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(0..5_u64)
}

fn due(seconds: Option<u64>) -> Option<EndCheck> {
    seconds.map(|seconds| EndCheck { at: at(seconds), tries: 1 })
}

fn run_op() -> impl Strategy<Value = RunOp> {
    prop_oneof![
        (1..4_u32, proptest::option::of(0..WORKERS.len()))
            .prop_map(|(epoch, owner)| RunOp::Admit { epoch, owner }),
        (0..4_usize, 0..WORKERS.len()).prop_map(|(seen, owner)| RunOp::Claim { seen, owner }),
        (fence_op(), 0..100_u64).prop_map(|(fence, n)| RunOp::Save(fence, n)),
        (fence_op(), 0..100_u64).prop_map(|(fence, n)| RunOp::Renew(fence, n)),
        fence_op().prop_map(RunOp::End),
        (fence_op(), check_op()).prop_map(|(fence, check)| RunOp::EndSent(fence, check)),
        (0..3_usize, check_op()).prop_map(|(seen, next)| RunOp::MoveCheck { seen, next }),
        fence_op().prop_map(RunOp::Release),
    ]
}

/// What is recorded, and what somebody may have seen of it before.
struct RunModel {
    key: RunKey,
    role: flowkit::types::Role,
    now: Option<RunRecord>,
    seen: Vec<RunRecord>,
}

impl RunModel {
    /// Changes the run if the fence holds.
    fn fenced(&mut self, fence: &Fence, change: impl FnOnce(&mut RunRecord) -> bool) -> Fenced {
        let held = |run: &&mut RunRecord| run.fence().as_ref() == Some(fence);
        match self.now.as_mut().filter(held).is_some_and(change) {
            true => Fenced::Written,
            false => Fenced::Lost,
        }
    }

    async fn step(&mut self, store: &dyn Store, op: RunOp) {
        let fence = |op: FenceOp, model: &Self| op.fence(&model.key, model.now.as_ref());
        match op {
            RunOp::Admit { epoch, owner } => self.admit(store, epoch, owner).await,
            RunOp::Claim { seen, owner } => self.claim(store, seen, owner).await,
            RunOp::Save(op, finished) => {
                let fence = fence(op, self);
                let progress = Progress { finished, ..Progress::default() };
                let done = store.save_progress(&fence, &progress).await.unwrap();
                let expected = self.fenced(&fence, |run| {
                    run.progress = progress;
                    true
                });
                assert_eq!(done, expected);
            }
            RunOp::Renew(op, seconds) => {
                let fence = fence(op, self);
                let lost = store.renew(std::slice::from_ref(&fence), at(seconds)).await.unwrap();
                let expected = self.fenced(&fence, |run| {
                    run.owner.as_mut().unwrap().deadline = at(seconds);
                    true
                });
                assert_eq!(lost.is_empty(), expected == Fenced::Written);
            }
            RunOp::End(op) => {
                let fence = fence(op, self);
                let end = RunEnd::Cancelled { reason: "r".into() };
                let done = store.end(&fence, &end).await.unwrap();
                let expected = self.fenced(&fence, |run| run.end.replace(end).is_none());
                assert_eq!(done, expected);
            }
            RunOp::EndSent(op, seconds) => {
                let fence = fence(op, self);
                let first = due(seconds);
                let done = store.end_sent(&fence, first.as_ref()).await.unwrap();
                let expected = self.fenced(&fence, |run| {
                    run.end_sent = run.end.is_some();
                    run.check = first.filter(|_| run.end_sent);
                    run.end_sent && run.owner.take().is_some()
                });
                assert_eq!(done, expected);
            }
            RunOp::MoveCheck { seen, next } => self.move_check(store, seen, due(next)).await,
            RunOp::Release(op) => {
                let fence = fence(op, self);
                let done = store.release(&fence).await.unwrap();
                assert_eq!(done, self.fenced(&fence, |run| run.owner.take().is_some()));
            }
        }
    }

    async fn admit(&mut self, store: &dyn Store, epoch: u32, by: Option<usize>) {
        let owner = by.map(|worker| owner(WORKERS[worker]));
        let new = new_run(&self.key, epoch, &self.role);
        let admitted = store.admit(&new, owner.as_ref()).await.unwrap();
        let stored = self.now.as_ref().map(|run| run.new.epoch);
        match admitted {
            Admitted::Recorded(run) => {
                assert!(stored.is_none_or(|stored| stored < Epoch(epoch)));
                let before = self.now.as_ref().map_or(0, |run| run.lease_no.0);
                assert_eq!(run.lease_no, LeaseNo(before + u64::from(owner.is_some())));
                let fresh = RunRecord {
                    new,
                    lease_no: run.lease_no,
                    owner,
                    progress: Progress::default(),
                    end: None,
                    end_sent: false,
                    check: None,
                    updated_at: run.updated_at,
                };
                assert_eq!(run, fresh);
                self.now = Some(run);
            }
            Admitted::Duplicate(_) => assert_eq!(stored, Some(Epoch(epoch))),
            Admitted::Stale(_) => assert!(stored > Some(Epoch(epoch))),
        }
    }

    async fn claim(&mut self, store: &dyn Store, seen: usize, by: usize) {
        // Zero steps back is what is recorded now.
        let seen = self.seen.iter().rev().nth(seen).cloned();
        let (Some(seen), Some(now)) = (seen, self.now.as_mut()) else { return };
        let owner = owner(WORKERS[by]);
        let claimed = store.claim(&seen, &owner).await.unwrap();
        let same = (seen.new.epoch, seen.lease_no, &seen.owner)
            == (now.new.epoch, now.lease_no, &now.owner)
            && !now.end_sent;
        assert_eq!(claimed.is_some(), same, "{seen:?} against {now:?}");
        if same {
            now.lease_no.0 += 1;
            now.owner = Some(owner);
        }
    }

    async fn move_check(&mut self, store: &dyn Store, seen: usize, next: Option<EndCheck>) {
        let seen = self.seen.iter().rev().nth(seen).cloned();
        let (Some(seen), Some(now)) = (seen, self.now.as_mut()) else { return };
        let moved = store.move_check(&seen, next.as_ref()).await.unwrap();
        let same = (seen.new.epoch, seen.lease_no, seen.check)
            == (now.new.epoch, now.lease_no, now.check)
            && now.check.is_some();
        assert_eq!(moved, same, "{seen:?} against {now:?}");
        if same {
            now.check = next;
        }
    }

    async fn compare(&mut self, store: &dyn Store) {
        let stored = store.run(&self.key).await.unwrap();
        if let (Some(now), Some(stored)) = (&mut self.now, &stored) {
            assert!(stored.updated_at >= now.updated_at);
            now.updated_at = stored.updated_at;
        }
        assert_eq!(stored, self.now);
        self.seen.extend(stored);
    }
}

/// One run under random writes of two workers.
pub fn runs_follow_the_model<B: StoreBackend>() {
    check::<B, _>(vec(run_op(), 1..40), async |store, ops: Vec<RunOp>| {
        let (key, role) = (new_key(), new_role());
        let mut model = RunModel { key, role, now: None, seen: Vec::new() };
        for op in ops {
            model.step(store, op).await;
            model.compare(store).await;
        }
    });
}

/// A write of artifacts of one node.
#[derive(Debug, Clone)]
enum ArtifactOp {
    Partial { epoch: u32, lease_no: u64, batch: usize },
    Complete { epoch: u32, lease_no: u64 },
}

fn artifact_op() -> impl Strategy<Value = ArtifactOp> {
    prop_oneof![
        4 => (1..4_u32, 1..4_u64, 0..4_usize)
            .prop_map(|(epoch, lease_no, batch)| ArtifactOp::Partial { epoch, lease_no, batch }),
        1 => (1..4_u32, 1..4_u64)
            .prop_map(|(epoch, lease_no)| ArtifactOp::Complete { epoch, lease_no }),
    ]
}

/// One node's artifacts under writes of random attempts and leases.
pub fn artifacts_follow_the_model<B: StoreBackend>() {
    check::<B, _>(vec(artifact_op(), 1..40), async |store, ops: Vec<ArtifactOp>| {
        let key = new_key();
        let mut partials: BTreeMap<String, ((u32, u64), i64)> = BTreeMap::new();
        let mut completed = None;
        for (mark, op) in (0..).zip(ops) {
            match op {
                ArtifactOp::Partial { epoch, lease_no, batch } => {
                    let (name, pair) = (format!("b-{batch}"), (epoch, lease_no));
                    let newer = partials.get(&name).is_none_or(|(stored, _)| *stored <= pair);
                    let fence = fence(&key, epoch, lease_no, "w");
                    let new = [partial(&name, batch as u64, mark)];
                    let done = store.write_partials(&fence, &new).await.unwrap();
                    assert_eq!(done == Fenced::Written, newer);
                    if newer {
                        partials.insert(name, (pair, mark));
                    }
                }
                ArtifactOp::Complete { epoch, lease_no } => {
                    let newer = completed.is_none_or(|stored| stored <= (epoch, lease_no));
                    let fence = fence(&key, epoch, lease_no, "w");
                    let done = store.write_complete(&fence, &complete()).await.unwrap();
                    assert_eq!(done == Fenced::Written, newer);
                    if newer {
                        completed = Some((epoch, lease_no));
                        partials.retain(|_, ((written, _), _)| *written >= epoch);
                    }
                }
            }
            let expected: Vec<_> =
                partials.iter().map(|(n, (_, mark))| (n.clone(), *mark)).collect();
            assert_eq!(marks(store, &key).await, expected);
        }
    });
}

/// Runs a test on one backend for many random values.
fn check<B: StoreBackend, S: Strategy>(values: S, test: impl AsyncFn(&dyn Store, S::Value)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = runtime.block_on(B::start());
    let config = Config { cases: 96, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let ran = runner.run(&values, |value| {
        runtime.block_on(test(&*backend.store(), value));
        Ok(())
    });
    ran.unwrap();
}
