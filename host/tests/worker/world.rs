//! The world around the workers of a test: a bus, a store, a clock and a coordinator.

use std::sync::Arc;
use std::time::Duration;

use flowkit::bus::memory::MemoryBus;
use flowkit::bus::{Bus, InMessage, OutMessage, Topic};
use flowkit::clock::{Clock, UnixMs};
use flowkit::protocol::*;
use flowkit::settings::Settings;
use flowkit::store::memory::MemoryStore;
use flowkit::store::*;
use flowkit::types::*;
use flowkit::worker::{Shutdown, Worker};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::faults::{FarBus, FarStore, Line};
use crate::scripted::Script;

pub const ROLE: &str = "echo";

pub struct World {
    pub clock: Clock,
    pub bus: MemoryBus,
    pub store: MemoryStore,
    pub script: Script,
    pub topics: Topics,
}

/// A worker under way.
pub struct Process {
    pub line: Line,
    pub shutdown: Shutdown,
    pub task: JoinHandle<anyhow::Result<()>>,
}

impl Process {
    /// kill -9.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
        settle().await;
    }

    /// SIGTERM, up to the process's end.
    pub async fn stop(self) {
        self.shutdown.begin();
        self.task.await.unwrap().unwrap();
    }
}

/// Lets every task that is ready run.
pub async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn key(node: &str) -> RunKey {
    RunKey { task_id: TaskId::new("t1").unwrap(), node_id: NodeId::new(node).unwrap() }
}

pub fn address(node: &str, epoch: u32) -> RunAddress {
    RunAddress { key: key(node), role: Role::new(ROLE).unwrap(), epoch: Epoch(epoch) }
}

impl World {
    pub fn new() -> Self {
        Self::with_roles(&[ROLE])
    }

    pub fn with_roles(roles: &[&str]) -> Self {
        let clock = Clock::starting_at(UnixMs(1_700_000_000_000));
        Self {
            bus: MemoryBus::new(clock.clone()),
            store: MemoryStore::new(clock.clone()),
            script: Script::new(roles),
            topics: Topics::default(),
            clock,
        }
    }

    pub fn settings(worker: &str) -> Settings {
        let mut settings = Settings::new(WorkerId::new(worker).unwrap());
        settings.max_concurrent_tasks = 4;
        settings
    }

    /// A worker with a line on which nothing takes time.
    pub fn start(&self, worker: &str) -> Process {
        self.start_with(Self::settings(worker), Line::new(0, Duration::ZERO))
    }

    pub fn start_with(&self, settings: Settings, line: Line) -> Process {
        self.start_on(settings, line, self.clock.clone())
    }

    /// With a clock of its own.
    pub fn start_on(&self, settings: Settings, line: Line, clock: Clock) -> Process {
        let bus = FarBus { line: line.clone(), bus: self.bus.clone() };
        let store = FarStore { line: line.clone(), store: self.store.clone() };
        let worker = Worker::new(
            settings,
            Arc::new(bus),
            Arc::new(store),
            Arc::new(self.script.clone()),
            clock,
        );
        let shutdown = Shutdown::new();
        let task = tokio::spawn(worker.run(shutdown.clone()));
        Process { line, shutdown, task }
    }

    pub async fn say(&self, topic: &Topic, key: Option<String>, value: Vec<u8>) {
        let message = OutMessage { topic: topic.clone(), key, value, headers: vec![] };
        self.bus.publish(&[message], None).await.unwrap();
    }

    /// TASK_START of `node` at `epoch`.
    pub async fn command(&self, node: &str, epoch: u32) {
        self.command_with(&address(node, epoch), None).await;
    }

    pub async fn command_with(&self, address: &RunAddress, inline: Option<Value>) {
        let input = RunInput {
            input_inline: inline.map(|inline| inline.as_object().unwrap().clone()),
            ..RunInput::default()
        };
        let command = start_command(address, &input, self.clock.wall());
        let topic = self.topics.commands(&address.role);
        self.say(&topic, Some(address.key.message_key()), command.encode()).await;
    }

    /// TASK_CANCEL of `node` at `epoch`.
    pub async fn cancel_command(&self, node: &str, epoch: u32, reason: &str) {
        let address = address(node, epoch);
        let mut command = start_command(&address, &RunInput::default(), self.clock.wall());
        command.dedup_id = format!("cancel-{node}-{epoch}");
        command.payload = json!({"cmd": "TASK_CANCEL", "reason": reason, "cancel_token": "c"});
        let topic = self.topics.commands(&address.role);
        self.say(&topic, Some(address.key.message_key()), command.encode()).await;
    }

    pub async fn signal(&self, node: &str, epoch: u32, reason: &str, worker: Option<&str>) {
        let now = self.clock.wall();
        let signal = cancel_signal(&address(node, epoch), reason, worker, now.plus(secs(30)), now);
        self.say(&self.topics.signals, worker.map(str::to_owned), signal.encode()).await;
    }

    pub async fn ask(&self, node: &str, want_epoch: u32) -> String {
        let start =
            start_command(&address(node, want_epoch), &RunInput::default(), self.clock.wall());
        let query = Envelope {
            msg_type: MsgType::Query,
            payload: json!({"query": "TASK_DISCOVER", "want_epoch": want_epoch}),
            ..start
        };
        self.say(&self.topics.query, Some(query.task_id.clone()), query.encode()).await;
        query.corr_id
    }

    /// A task in `tasks` with these nodes, all running at `epoch`.
    pub async fn task(&self, nodes: &[&str], epoch: u32) {
        let node = |id: &&str| json!({"node_id": id, "type": ROLE, "status": "running", "attempt_epoch": epoch});
        let task: TaskDoc = serde_json::from_value(json!({
            "id": "t1", "status": "running",
            "graph": {"nodes": nodes.iter().map(node).collect::<Vec<_>>()},
        }))
        .unwrap();
        assert!(self.store.create_task(&task).await.unwrap());
    }

    /// Sets the epoch of all of the task's nodes.
    pub async fn set_epoch(&self, epoch: u32) {
        let id = TaskId::new("t1").unwrap();
        let mut task = self.store.task(&id).await.unwrap().unwrap();
        for node in &mut task.graph.nodes {
            node.attempt_epoch = Epoch(epoch);
        }
        assert!(self.store.save_task(&task).await.unwrap());
    }

    pub async fn cancel_task(&self, reason: &str) {
        let id = TaskId::new("t1").unwrap();
        assert!(self.store.request_cancel(&id, reason).await.unwrap());
    }

    /// Everything said about a node, with the time at which it was said.
    pub fn said(&self, node: &str) -> Vec<(InMessage, Status)> {
        let messages = self.bus.messages(&self.topics.status(&Role::new(ROLE).unwrap()));
        let wanted = key(node).message_key().into_bytes();
        messages
            .into_iter()
            .filter(|message| message.key.as_ref() == Some(&wanted))
            .map(|message| {
                let status = Status::decode(&message.value).unwrap();
                (message, status)
            })
            .collect()
    }

    /// Everything said about a node but heartbeats.
    pub fn statuses(&self, node: &str) -> Vec<Status> {
        self.said(node)
            .into_iter()
            .map(|(_, status)| status)
            .filter(|status| !matches!(status.event, RunEvent::TaskHeartbeat(_)))
            .collect()
    }

    /// One line for each thing said about a node but heartbeats.
    pub fn lines(&self, node: &str) -> Vec<String> {
        self.statuses(node)
            .into_iter()
            .map(|status| {
                let epoch = status.address.epoch;
                let kind = status.event.kind();
                match status.event {
                    RunEvent::BatchOk { batch_uid, .. } => format!("{epoch} {kind} {batch_uid}"),
                    RunEvent::BatchFailed { batch_uid, reason_code, permanent, .. } => {
                        format!("{epoch} {kind} {batch_uid} {reason_code} {permanent}")
                    }
                    RunEvent::TaskFailed { reason_code, permanent, .. } => {
                        format!("{epoch} {kind} {reason_code} {permanent}")
                    }
                    RunEvent::TaskDone { metrics, .. } => {
                        format!("{epoch} {kind} {}", Value::Object(metrics.as_object().clone()))
                    }
                    RunEvent::Cancelled { reason, .. } => format!("{epoch} {kind} {reason}"),
                    _ => format!("{epoch} {kind}"),
                }
            })
            .collect()
    }

    /// How many things of a kind were said about a node.
    pub fn count(&self, node: &str, kind: &str) -> usize {
        self.said(node).iter().filter(|(_, status)| status.event.kind() == kind).count()
    }

    pub async fn record(&self, node: &str) -> RunRecord {
        self.store.run(&key(node)).await.unwrap().expect("the run is recorded")
    }

    pub async fn artifacts(&self, node: &str, epoch: u32) -> Vec<(String, u64)> {
        let finished = self.store.finished(&key(node), Epoch(epoch), 0..1_000, 1_000).await;
        finished.unwrap().into_iter().map(|b| (b.batch_uid.to_string(), b.ordinal)).collect()
    }

    pub async fn is_complete(&self, node: &str) -> bool {
        let key = key(node);
        !self.store.complete_nodes(&key.task_id, &[key.node_id]).await.unwrap().is_empty()
    }

    /// Waits, at most ten minutes of the clock, until something is so.
    pub async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        for look in 0..3_000 {
            if so(self) {
                return;
            }
            tokio::time::sleep(ms(if look < 2_500 { 10 } else { 1_000 })).await;
        }
        panic!("never so: {what}; calls: {:#?}", self.script.calls());
    }

    /// Waits until the last thing said about a node is an end.
    pub async fn until_ended(&self, node: &str) {
        self.until(&format!("{node} ended"), |world| world.ends(node) > 0).await;
        // What follows an end: the note that it was sent, and cleanup.
        tokio::time::sleep(ms(100)).await;
    }

    /// How many ends were sent for a node.
    pub fn ends(&self, node: &str) -> usize {
        let end = |status: &Status| {
            matches!(status.event.kind(), "TASK_DONE" | "TASK_FAILED" | "CANCELLED")
        };
        self.statuses(node).iter().filter(|status| end(status)).count()
    }
}
