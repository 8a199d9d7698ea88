//! Orders as messages, and messages as what happened.

use std::collections::BTreeSet;

use super::node::{Failure, NodeEvent, NodeOwner};
use super::state::{Order, Task};
use crate::bus::{OutMessage, Topic};
use crate::clock::UnixMs;
use crate::protocol::{LeaseInfo, RunAddress, RunEvent, Topics, cancel_signal, start_command};
use crate::types::{Epoch, Role};

/// The topics on which these roles are spoken to and answer.
pub(super) fn topics_of(topics: &Topics, roles: &BTreeSet<Role>) -> Vec<Topic> {
    let of_role = roles.iter().flat_map(|role| [topics.commands(role), topics.status(role)]);
    of_role.chain([topics.signals.clone()]).collect()
}

/// An order as a message. A cancel is meant for whichever worker has the run: one that
/// took it over may not have said so yet.
pub(super) fn message(task: &Task, order: &Order, topics: &Topics, now: UnixMs) -> OutMessage {
    let (Order::Start { node, epoch } | Order::Cancel { node, epoch, .. }) = order;
    let what = &task.graph().nodes()[*node];
    let address = RunAddress { key: task.run_key(*node), role: what.role.clone(), epoch: *epoch };
    let (topic, envelope) = match order {
        Order::Start { .. } => {
            (topics.commands(&what.role), start_command(&address, &what.input, now))
        }
        Order::Cancel { reason, deadline, .. } => {
            (topics.signals.clone(), cancel_signal(&address, reason, None, *deadline, now))
        }
    };
    let key = Some(address.key.message_key());
    OutMessage { topic, key, value: envelope.encode(), headers: Vec::new() }
}

/// What an event of a run means for its node; `None` when nothing follows from it.
pub(super) fn node_event(event: RunEvent) -> Option<NodeEvent> {
    let owned = |lease: LeaseInfo| {
        NodeEvent::Owned(NodeOwner { worker_id: lease.worker_id, lease_id: lease.lease_id })
    };
    match event {
        RunEvent::TaskAccepted(lease)
        | RunEvent::TaskHeartbeat(lease)
        | RunEvent::TaskResumed(lease) => Some(owned(lease)),
        RunEvent::BatchOk { .. } => Some(NodeEvent::Artifact),
        // TASK_FAILED follows with the same reason.
        RunEvent::BatchFailed { .. } => None,
        RunEvent::TaskDone { .. } => Some(NodeEvent::Done),
        RunEvent::TaskFailed { reason_code, permanent, error, .. } => {
            Some(NodeEvent::Failed(Failure { reason_code, permanent, error }))
        }
        RunEvent::Cancelled { reason, .. } => Some(NodeEvent::Cancelled { reason }),
    }
}

/// An order that no broker takes: the attempt fails, and no retry can help.
pub(super) fn refused(order: &Order, size: usize, limit: usize) -> (usize, Epoch, NodeEvent) {
    let (Order::Start { node, epoch } | Order::Cancel { node, epoch, .. }) = order;
    let failure = Failure {
        reason_code: "command_too_large".into(),
        permanent: true,
        error: Some(format!(
            "the node's command has {size} bytes, but a message may have at most {limit}: \
             hand large input over by reference"
        )),
    };
    (*node, *epoch, NodeEvent::Failed(failure))
}
