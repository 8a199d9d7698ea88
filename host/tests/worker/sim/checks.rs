//! What must be so once everything is over.

use std::collections::BTreeSet;

use flowkit::protocol::{RunEvent, Status};
use flowkit::store::{NodeStatus, RunEnd};
use flowkit::types::Epoch;
use serde_json::json;

use super::Sim;
use super::coordinator::Node;
use crate::world::secs;

impl Sim {
    pub(super) async fn check(&self) {
        let none = Vec::<String>::new();
        assert_eq!(self.world.script.violations(), none, "finished is finished");
        assert_eq!(self.coordinator.violations(), none, "as the coordinator sees it");
        assert_eq!(self.witness.violations(), none, "as the bus sees it");
        let letters = self.world.bus.messages(&self.world.topics.dead_letter);
        let letters: BTreeSet<Vec<u8>> = letters.into_iter().map(|letter| letter.value).collect();
        assert_eq!(letters.len() as u64, self.nonsense, "each nonsense, and nothing else");
        for name in self.coordinator.names() {
            let node = self.coordinator.node(name);
            self.check_node(name, &node).await;
            for epoch in 1..=node.epoch {
                self.check_story(name, epoch);
            }
        }
    }

    /// Each node ends once, and what is stored is that end's.
    async fn check_node(&self, name: &str, node: &Node) {
        let lines = self.world.lines(name);
        let record = self.world.record(name).await;
        let why = || format!("{name}: {:?} {lines:#?} {record:#?}", node.status);
        assert!(node.ends <= 1, "{}", why());
        match (node.status, record.end.clone().unwrap()) {
            // An end that met the cancel on its way is not counted by the coordinator.
            (NodeStatus::Finished | NodeStatus::Cancelling, RunEnd::Done { metrics }) => {
                self.check_cancel_was_late(name, node);
                let batches = self.batches(name);
                let rows = metrics.as_object().get("rows").cloned();
                assert_eq!(rows, Some(json!(batches)), "{}", why());
                let artifacts = self.world.artifacts(name, record.new.epoch.0).await;
                let ordinals: Vec<u64> = artifacts.iter().map(|(_, at)| *at).collect();
                assert_eq!(ordinals, (0..batches).collect::<Vec<_>>(), "{}", why());
                let uids: BTreeSet<&String> = artifacts.iter().map(|(uid, _)| uid).collect();
                assert_eq!(uids.len() as u64, batches, "{}", why());
                for older in 1..record.new.epoch.0 {
                    assert!(self.world.artifacts(name, older).await.is_empty(), "{}", why());
                }
                assert!(self.world.is_complete(name).await, "{}", why());
            }
            (NodeStatus::Cancelled, RunEnd::Cancelled { reason }) => {
                assert_eq!(reason, "enough", "{}", why());
            }
            _ => panic!("another end: {}", why()),
        }
    }

    /// A cancel stops whatever runs, as soon as its flag can be read.
    fn check_cancel_was_late(&self, name: &str, node: &Node) {
        let Some((_, cancelled_at)) = node.cancelled else { return };
        let said = self.world.said(name);
        let done = said.iter().find(|(_, status)| status.event.kind() == "TASK_DONE").unwrap();
        let late = done.0.timestamp.since(cancelled_at.max(self.healed_at));
        assert!(late < secs(25), "{name} was done {late:?} after its cancel: {said:#?}");
    }

    /// What was said about an attempt: accepted first, by its owner only, every batch before
    /// the end, and nothing after the end but the same end.
    fn check_story(&self, node: &str, epoch: u32) {
        let mut owner = None;
        let mut batches = BTreeSet::new();
        let mut end: Option<Vec<Status>> = None;
        let said: Vec<_> = self.world.said(node).into_iter().map(|(_, status)| status).collect();
        for status in said.iter().filter(|status| status.address.epoch == Epoch(epoch)) {
            let why = || format!("{node}: {:?} in {:#?}", status.event, self.world.lines(node));
            if let Some(end) = &mut end {
                let same = end.iter().any(|said| said.dedup_id == status.dedup_id);
                // The failed batch goes before the failure, each time.
                assert!(same, "after the end: {}", why());
                continue;
            }
            match &status.event {
                RunEvent::TaskAccepted(lease) | RunEvent::TaskResumed(lease) => {
                    owner = Some(lease.worker_id.clone());
                }
                RunEvent::TaskHeartbeat(lease) => {
                    assert_eq!(owner.as_ref(), Some(&lease.worker_id), "{}", why());
                }
                RunEvent::BatchOk { worker_id, batch_uid, .. } => {
                    assert_eq!(owner.as_ref(), Some(worker_id), "{}", why());
                    batches.insert(batch_uid.clone());
                }
                RunEvent::BatchFailed { .. } => {}
                event => {
                    assert!(owner.is_some(), "an end of what was never accepted: {}", why());
                    if let RunEvent::TaskDone { .. } = event {
                        assert_eq!(batches.len() as u64, self.batches(node), "{}", why());
                    }
                    let failed = said.iter().filter(|said| {
                        said.address.epoch == Epoch(epoch)
                            && matches!(said.event, RunEvent::BatchFailed { .. })
                    });
                    end = Some(failed.chain([status]).cloned().collect());
                }
            }
        }
    }
}
