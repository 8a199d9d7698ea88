//! Sees every message that a worker gets out and every command it commits, and notes what
//! must not be.

use std::sync::{Arc, Mutex};

use flowkit::bus::{InMessage, OutMessage};
use flowkit::protocol::{Command, RunEvent, Status};
use flowkit::store::memory::MemoryStore;
use flowkit::store::{RunStore as _, TaskStore as _};
use flowkit::types::WorkerId;

/// Clones are the same one.
#[derive(Clone)]
pub struct Witness {
    store: MemoryStore,
    violations: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    pub fn new(store: &MemoryStore) -> Self {
        Self { store: store.clone(), violations: Arc::default() }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    fn note(&self, violation: String) {
        self.violations.lock().unwrap().push(violation);
    }

    /// Nobody speaks for a run while somebody else owns it.
    pub async fn published(&self, messages: &[OutMessage]) {
        for status in messages.iter().filter_map(|message| Status::decode(&message.value).ok()) {
            let (key, epoch) = (&status.address.key, status.address.epoch);
            let Some(run) = self.store.run(key).await.unwrap() else {
                self.note(format!("{key}: {:?} of a run that is not recorded", status.event));
                continue;
            };
            let speaker = speaker(&status.event);
            let other = run.owner.as_ref().filter(|owner| owner.worker_id != *speaker);
            if run.new.epoch == epoch && other.is_some() {
                self.note(format!("{key} at {epoch}: {:?} while {other:?} owns it", status.event));
            }
        }
    }

    /// A command is committed only once its run is recorded, or is of no use any more.
    pub async fn committed(&self, message: &InMessage) {
        let Ok(command) = Command::decode(&message.value) else { return };
        let (key, epoch) = (command.address.key, command.address.epoch);
        let recorded = self.store.run(&key).await.unwrap().map(|run| run.new.epoch);
        let views = self.store.views(std::slice::from_ref(&key)).await.unwrap();
        let is_old = views.first().is_some_and(|view| view.epoch > epoch);
        if recorded.is_none_or(|recorded| recorded < epoch) && !is_old {
            self.note(format!("{key} at {epoch} was committed before it was recorded"));
        }
    }
}

fn speaker(event: &RunEvent) -> &WorkerId {
    match event {
        RunEvent::TaskAccepted(lease)
        | RunEvent::TaskHeartbeat(lease)
        | RunEvent::TaskResumed(lease) => &lease.worker_id,
        RunEvent::BatchOk { worker_id, .. }
        | RunEvent::BatchFailed { worker_id, .. }
        | RunEvent::TaskDone { worker_id, .. }
        | RunEvent::TaskFailed { worker_id, .. }
        | RunEvent::Cancelled { worker_id, .. } => worker_id,
    }
}
