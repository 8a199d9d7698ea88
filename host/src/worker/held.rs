//! The runs that a worker holds.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::protocol::{RunAddress, RunState, Snapshot, SnapshotLease};
use crate::run::Deps;
use crate::run::driver::{RunTask, RunView, drive};
use crate::run::lease::Lease;
use crate::run::state::{CancelKind, Stop, StopCause};
use crate::store::Owner;
use crate::tasks::{self, TaskHandle};
use crate::types::{Epoch, Fence, LeaseNo, RunKey};

use super::{Event, Grant, Hold};

/// Requests to stop that may wait for a run's attention; more say nothing new.
const STOPS: usize = 8;

/// The runs held now, and those that were superseded here but have not ended yet.
#[derive(Default)]
pub struct HeldRuns {
    current: BTreeMap<RunKey, Held>,
    leaving: Vec<Held>,
}

/// A run under way.
pub struct Held {
    /// Which attempt.
    pub address: RunAddress,
    /// What its writes are fenced by.
    pub fence: Fence,
    /// The acquisition it is held under.
    pub owner: Owner,
    lease: watch::Sender<Lease>,
    stops: mpsc::Sender<Stop>,
    view: watch::Receiver<RunView>,
    _task: TaskHandle<()>,
    _hold: Hold,
}

impl HeldRuns {
    /// Starts driving an acquired run. An older attempt of it is superseded.
    pub fn start(&mut self, deps: &Deps, grant: Grant, events: mpsc::Sender<Event>) {
        let Grant { record, hold, slot, asked_at, cancelled, delay } = grant;
        let (Some(fence), Some(owner)) = (record.fence(), record.owner.clone()) else { return };
        // Grants come from several tasks and may overtake each other.
        let newer = |held: &Held| held.fence.lease_no > fence.lease_no;
        if self.get(&record.new.key).is_some_and(newer) {
            return;
        }
        let key = record.new.key.clone();
        let address =
            RunAddress { key: key.clone(), role: record.new.role.clone(), epoch: record.new.epoch };
        let settings = &deps.settings;
        let (lease, lease_seen) = watch::channel(Lease::granted(asked_at, settings.lease_ttl));
        let (stops, stops_seen) = mpsc::channel(STOPS);
        let state = if record.end.is_some() { RunState::Finishing } else { RunState::Running };
        let view = RunView { state, finished: record.progress.finished, beats: false, owned: true };
        let (view_shown, view) = watch::channel(view);
        let cancelled = cancelled.map(|reason| Stop {
            cause: StopCause::Cancel { source: CancelKind::Database, reason },
            deadline: deps.clock.now() + settings.cancel_grace,
        });
        let task = RunTask {
            record,
            lease: lease_seen,
            stops: stops_seen,
            slot,
            cancelled,
            delay,
            view: view_shown,
        };
        let (over, lease_no) = (key.clone(), fence.lease_no);
        let deps = deps.clone();
        let handle = tasks::spawn("run", async move {
            let outcome = drive(deps, task).await;
            let _ = events.send(Event::RunOver { key: over, lease_no, outcome }).await;
        });
        let held = Held { address, fence, owner, lease, stops, view, _task: handle, _hold: hold };
        if let Some(older) = self.current.insert(key, held) {
            older.stop(StopCause::Superseded, Instant::now());
            self.leaving.push(older);
        }
    }

    /// A run's driver has returned.
    pub fn over(&mut self, key: &RunKey, lease_no: LeaseNo) {
        let same = |held: &Held| held.fence.key == *key && held.fence.lease_no == lease_no;
        if self.current.get(key).is_some_and(same) {
            self.current.remove(key);
        } else {
            self.leaving.retain(|held| !same(held));
        }
    }

    /// The run, if it is here.
    pub fn get(&self, key: &RunKey) -> Option<&Held> {
        self.current.get(key)
    }

    /// All current runs.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.current.values()
    }

    /// How many drivers are at work.
    pub fn len(&self) -> usize {
        self.current.len() + self.leaving.len()
    }

    /// Stops a run whose newest attempt is `epoch`, if an older one is here.
    pub fn supersede(&self, key: &RunKey, epoch: Epoch, grace: Duration) {
        if let Some(held) = self.get(key).filter(|held| held.address.epoch < epoch) {
            held.stop(StopCause::Superseded, Instant::now() + grace);
        }
    }
}

impl Held {
    /// Asks the run to stop. The guest is interrupted at `deadline`.
    pub fn stop(&self, cause: StopCause, deadline: Instant) {
        // A full queue holds requests that stop it as well.
        let _ = self.stops.try_send(Stop { cause, deadline });
    }

    /// The store renewed the lease for a request sent at `asked_at`.
    pub fn renewed(&self, asked_at: Instant) {
        self.lease.send_modify(|lease| lease.renew(asked_at));
    }

    /// How the run is.
    pub fn view(&self) -> watch::Receiver<RunView> {
        self.view.clone()
    }

    /// The lease.
    pub fn lease(&self) -> Lease {
        *self.lease.borrow()
    }

    /// Whether this worker is who speaks for the run at `now`: a run that was lost, or that
    /// has said its end, is here only until its handler is done.
    pub fn is_owned(&self, now: Instant) -> bool {
        self.view.borrow().owned && self.lease().holds(now)
    }

    /// What discovery is told.
    pub fn snapshot(&self, deadline_ts_ms: crate::clock::UnixMs) -> Snapshot {
        let view = *self.view.borrow();
        Snapshot::Owned {
            state: view.state,
            epoch: self.address.epoch,
            lease: SnapshotLease {
                worker_id: self.owner.worker_id.clone(),
                lease_id: self.owner.lease_id.clone(),
                deadline_ts_ms,
            },
            finished: view.finished,
        }
    }
}
