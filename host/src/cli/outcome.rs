//! What became of a task: its document and its runs' records together.

use serde_json::{Map, Value, json};

use super::printable::brief;
use crate::coordinator::state::outcome_of;
use crate::coordinator::{NodeState, Outcome, Stage, Task};
use crate::store::{NodeStatus, RunEnd, RunRecord, Store, StoreError, TaskDoc, TaskStatus};
use crate::types::{Epoch, NodeId, Role, WorkerId};

/// A task as `--json` and the tables show it.
pub struct TaskReport {
    /// Where it stands.
    pub status: TaskStatus,
    /// How it ended, if it did.
    pub outcome: Option<Outcome>,
    /// In the order of the graph.
    pub nodes: Vec<NodeReport>,
}

/// A node as `--json` and the tables show it.
pub struct NodeReport {
    /// Which.
    pub node_id: NodeId,
    /// Its role.
    pub role: Role,
    /// Where it stands.
    pub status: NodeStatus,
    /// The present or last attempt; 0 before the first.
    pub epoch: Epoch,
    /// Who has it.
    pub worker_id: Option<WorkerId>,
    /// Batches that are finished in that attempt.
    pub batches: u64,
    /// What they add up to, with `finalize`'s laid over them.
    pub metrics: Map<String, Value>,
    /// Why it failed or was stopped.
    pub error: Option<String>,
}

impl TaskReport {
    /// Reads the runs' records of a task.
    pub async fn of(doc: &TaskDoc, store: &dyn Store) -> Result<Self, StoreError> {
        let records = store.runs_of_task(&doc.id).await?;
        Ok(Self::from_parts(doc, &records))
    }

    fn from_parts(doc: &TaskDoc, records: &[RunRecord]) -> Self {
        // A document of another coordinator has no state of ours: the rest is shown.
        let task = Task::from_doc(doc).ok();
        let nodes = doc.graph.nodes.iter().enumerate().map(|(at, node)| {
            let state = task.as_ref().map(|task| &task.nodes()[at]);
            // Another attempt's record says nothing of this one.
            let record = records.iter().find(|record| {
                record.new.key.node_id == node.node_id && record.new.epoch == node.attempt_epoch
            });
            NodeReport {
                node_id: node.node_id.clone(),
                role: node.role.clone(),
                status: node.status,
                epoch: node.attempt_epoch,
                worker_id: record.and_then(|r| r.owner.as_ref()).map(|o| o.worker_id.clone()),
                batches: record.map_or(0, |record| record.progress.finished),
                metrics: record.map(metrics_of).unwrap_or_default(),
                error: state.and_then(error_of),
            }
        });
        let nodes: Vec<NodeReport> = nodes.collect();
        let outcome = outcome_of(nodes.iter().map(|node| node.status));
        Self { status: doc.status, outcome, nodes }
    }

    /// `{"status", "nodes": {"<node_id>": {"status", "batches", "metrics", "error"}}}`.
    pub fn to_json(&self) -> Value {
        self.json_with(|_| Map::new())
    }

    /// As [`to_json`](Self::to_json), with more of each node.
    pub fn to_long_json(&self) -> Value {
        self.json_with(|node| {
            let mut more = Map::new();
            more.insert("type".into(), json!(node.role));
            more.insert("attempt_epoch".into(), json!(node.epoch));
            more.insert("worker_id".into(), json!(node.worker_id));
            more
        })
    }

    fn json_with(&self, more: impl Fn(&NodeReport) -> Map<String, Value>) -> Value {
        let nodes = self.nodes.iter().map(|node| {
            let mut object = more(node);
            object.insert("status".into(), json!(node.status));
            object.insert("batches".into(), json!(node.batches));
            object.insert("metrics".into(), Value::Object(node.metrics.clone()));
            object.insert("error".into(), json!(node.error));
            (node.node_id.to_string(), Value::Object(object))
        });
        json!({"status": self.status, "nodes": nodes.collect::<Map<_, _>>()})
    }

    /// How it stands, in a word.
    pub fn word(&self) -> &'static str {
        self.outcome.map_or_else(|| self.status.as_str(), Outcome::as_str)
    }
}

/// A node's status in a word.
pub fn node_word(status: NodeStatus) -> &'static str {
    match status {
        NodeStatus::Queued => "queued",
        NodeStatus::Running => "running",
        NodeStatus::Deferred => "waiting to retry",
        NodeStatus::Cancelling => "cancelling",
        NodeStatus::Finished => "finished",
        NodeStatus::Failed => "failed",
        NodeStatus::Cancelled => "cancelled",
        NodeStatus::Skipped => "skipped",
    }
}

/// A few metrics, a line each: those with plain names before their break-downs.
pub fn metric_lines(metrics: &Map<String, Value>, most: usize) -> String {
    let shown = if metrics.len() > most { most.saturating_sub(1) } else { most };
    let mut sorted: Vec<_> = metrics.iter().collect();
    sorted.sort_by_key(|(name, _)| name.matches('_').count());
    let mut lines: Vec<String> = sorted
        .into_iter()
        .take(shown)
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{} = {}", brief(name, 40), brief(&value, 40))
        })
        .collect();
    if metrics.len() > shown {
        lines.push(format!("{} more, see --json", metrics.len() - shown));
    }
    lines.join("\n")
}

fn metrics_of(record: &RunRecord) -> Map<String, Value> {
    match &record.end {
        Some(RunEnd::Done { metrics }) => metrics.as_object().clone(),
        _ => record.progress.totals.to_object(),
    }
}

fn error_of(state: &NodeState) -> Option<String> {
    let stopped = match &state.stage {
        Stage::Cancelling { reason, .. } | Stage::Cancelled { reason, .. }
            if !reason.is_empty() =>
        {
            Some(reason.clone())
        }
        _ => None,
    };
    let failed = || {
        let failure = state.failure.as_ref()?;
        Some(match &failure.error {
            Some(error) => format!("{}: {error}", failure.reason_code),
            None => failure.reason_code.clone(),
        })
    };
    stopped.or_else(failed)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::UnixMs;
    use crate::coordinator::graph::Graph;
    use crate::coordinator::{Failure, NodeEvent};
    use crate::metrics::{Metrics, Totals};
    use crate::store::{NewRun, Progress, RunInput};
    use crate::types::{LeaseNo, RunKey, TaskId};

    const NOW: UnixMs = UnixMs(1_000);

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn record(node: &str, epoch: u32, finished: u64, end: Option<RunEnd>) -> RunRecord {
        let mut totals = Totals::default();
        totals.add(&Metrics::new(object(json!({"lines": 7}))).unwrap()).unwrap();
        let task_id = TaskId::new("t").unwrap();
        RunRecord {
            new: NewRun {
                key: RunKey { task_id, node_id: NodeId::new(node).unwrap() },
                role: Role::new("r").unwrap(),
                epoch: Epoch(epoch),
                input: RunInput::default(),
                created_at: NOW,
            },
            lease_no: LeaseNo(1),
            owner: None,
            progress: Progress { finished, totals, ..Progress::default() },
            end,
            end_sent: true,
            check: None,
            updated_at: NOW,
        }
    }

    /// A node that is done, one that failed in its second attempt, one that never ran.
    pub(crate) fn failed_task() -> TaskReport {
        let graph = json!({"nodes": [
            {"node_id": "done", "type": "r"},
            {"node_id": "bad", "type": "r", "retry_policy": {"max": 2, "backoff_sec": 0}},
            {"node_id": "after", "type": "r", "depends_on": ["bad"]},
        ]});
        let graph = Graph::from_value(graph, None).unwrap().graph;
        let mut task = Task::new(TaskId::new("t").unwrap(), graph, None, NOW);
        let failed = |error: &str| {
            let (reason_code, error) = ("step_failed".to_owned(), Some(error.to_owned()));
            NodeEvent::Failed(Failure { reason_code, permanent: false, error })
        };
        let _ = task.on_begin(NOW);
        let _ = task.on_event(0, Epoch(1), NodeEvent::Done, NOW);
        let _ = task.on_event(1, Epoch(1), failed("first"), NOW);
        let _ = task.on_tick(NOW);
        let _ = task.on_event(1, Epoch(2), failed("a \u{1b}[31mred row in data.csv"), NOW);
        let metrics = Metrics::new(object(json!({"lines": 9, "note": "with finalize"}))).unwrap();
        let records =
            [record("done", 1, 3, Some(RunEnd::Done { metrics })), record("bad", 2, 1, None)];
        TaskReport::from_parts(&task.to_doc(NOW), &records)
    }

    #[test]
    fn the_json_is_what_was_promised() {
        let report = failed_task();
        assert_eq!(report.outcome, Some(Outcome::Failed));
        let expected = json!({"status": "failed", "nodes": {
            "done": {"status": "finished", "batches": 3, "error": null,
                     "metrics": {"lines": 9, "note": "with finalize"}},
            "bad": {"status": "failed", "batches": 1, "metrics": {"lines": 7},
                    "error": "step_failed: a \u{1b}[31mred row in data.csv"},
            "after": {"status": "skipped", "batches": 0, "metrics": {}, "error": null},
        }});
        assert_eq!(report.to_json(), expected);
        let long = report.to_long_json();
        assert_eq!(long["nodes"]["bad"]["attempt_epoch"], 2);
        assert_eq!(long["nodes"]["bad"]["batches"], 1);
    }

    #[test]
    fn the_record_of_another_attempt_does_not_count() {
        let graph = Graph::single(Role::new("r").unwrap(), RunInput::default()).unwrap();
        let mut task = Task::new(TaskId::new("t").unwrap(), graph, None, NOW);
        let _ = task.on_begin(NOW);
        let report = TaskReport::from_parts(&task.to_doc(NOW), &[record("r", 2, 5, None)]);
        assert_eq!((report.nodes[0].batches, report.word()), (0, "running"));
    }
}
