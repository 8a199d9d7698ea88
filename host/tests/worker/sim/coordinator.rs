//! A coordinator as `protocol.md` describes those in the field: it reads only what is said
//! while it is there, counts what it may count, and retries.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use flowkit::bus::Bus as _;
use flowkit::bus::memory::MemoryBus;
use flowkit::clock::UnixMs;
use flowkit::protocol::*;
use flowkit::store::memory::MemoryStore;
use flowkit::store::*;
use flowkit::types::*;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::scripted::{Plan, Script};
use crate::world::{World, address, ms, secs};

/// What the coordinator knows, in its database: clones share it, whoever reads the topics.
#[derive(Clone)]
pub struct Coordinator {
    bus: MemoryBus,
    store: MemoryStore,
    script: Script,
    clock: flowkit::clock::Clock,
    topics: Topics,
    state: Arc<Mutex<State>>,
}

struct State {
    nodes: BTreeMap<&'static str, Node>,
    violations: Vec<String>,
    rng: StdRng,
    reader: Option<JoinHandle<()>>,
}

/// One node.
#[derive(Clone)]
pub struct Node {
    pub input: Option<Value>,
    /// What its handler does from the first retry on.
    pub plan: Plan,
    pub epoch: u32,
    pub status: NodeStatus,
    /// How often it came to an end that nothing follows.
    pub ends: u32,
    /// It was cancelled: at which epoch, and when.
    pub cancelled: Option<(u32, UnixMs)>,
    /// How often it is started again although it is cancelled.
    pub restarts: u32,
    owner: Option<WorkerId>,
    retry_at: Option<Instant>,
}

impl Node {
    pub fn new(input: Option<Value>, plan: Plan, restarts: u32) -> Self {
        Self {
            input,
            plan,
            epoch: 0,
            status: NodeStatus::Queued,
            ends: 0,
            cancelled: None,
            restarts,
            owner: None,
            retry_at: None,
        }
    }

    pub fn is_over(&self) -> bool {
        self.status.is_final()
    }
}

impl Coordinator {
    pub fn new(world: &World, nodes: BTreeMap<&'static str, Node>, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ 0xC00D);
        let state = State { nodes, violations: Vec::new(), rng, reader: None };
        Self {
            bus: world.bus.clone(),
            store: world.store.clone(),
            script: world.script.clone(),
            clock: world.clock.clone(),
            topics: world.topics.clone(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn node(&self, name: &str) -> Node {
        self.state().nodes[name].clone()
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.state().nodes.keys().copied().collect()
    }

    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// A process of it begins to read; with `ask`, it asks who runs what, first.
    pub async fn begin(&self, ask: bool) {
        let role = Role::new(crate::world::ROLE).unwrap();
        let mut tail = self.bus.tail(&[self.topics.status(&role)]).await.unwrap();
        let this = self.clone();
        let reader = tokio::spawn(async move {
            if ask {
                this.ask_all().await;
            }
            loop {
                if let Ok(message) = tokio::time::timeout(secs(1), tail.next()).await {
                    this.read(&Status::decode(&message.unwrap().value).unwrap()).await;
                }
                this.retry().await;
            }
        });
        self.state().reader = Some(reader);
    }

    /// Its process is gone, and nobody reads.
    pub async fn end(&self) {
        let reader = self.state().reader.take();
        if let Some(reader) = reader {
            reader.abort();
            let _ = reader.await;
        }
    }

    pub fn is_there(&self) -> bool {
        self.state().reader.is_some()
    }

    /// Begins the next attempt of a node, whatever becomes of the one before.
    pub async fn start(&self, name: &str) {
        let (epoch, plan) = {
            let mut state = self.state();
            let node = state.nodes.get_mut(name).unwrap();
            node.epoch += 1;
            (node.status, node.retry_at, node.owner) = (NodeStatus::Running, None, None);
            (node.epoch, node.plan.clone())
        };
        if epoch > 1 {
            self.script.plan(name, plan);
        }
        self.note(name).await;
        self.command(name, epoch).await;
    }

    /// Says what it has said before.
    pub async fn command(&self, name: &str, epoch: u32) {
        let input_inline = self.node(name).input.map(|input| input.as_object().unwrap().clone());
        let input = RunInput { input_inline, ..RunInput::default() };
        let address = address(name, epoch);
        let mut command = start_command(&address, &input, self.clock.wall());
        // Another process may give the same command another id.
        command.dedup_id = format!("{}-{}", command.dedup_id, self.state().rng.random_range(0..3));
        self.say(&self.topics.commands(&address.role), address.key.message_key(), command).await;
    }

    /// Cancels a node: the flag in the database, and a signal to whom it knows as the owner.
    pub async fn cancel(&self, name: &str) {
        let (epoch, owner) = {
            let mut state = self.state();
            let node = state.nodes.get_mut(name).unwrap();
            if node.is_over() || node.cancelled.is_some() || node.epoch == 0 {
                return;
            }
            node.cancelled = Some((node.epoch, self.clock.wall()));
            if node.status == NodeStatus::Running {
                node.status = NodeStatus::Cancelling;
            }
            (node.epoch, node.owner.clone())
        };
        self.note(name).await;
        if let Some(owner) = owner {
            let now = self.clock.wall();
            let (address, owner) = (address(name, epoch), owner.to_string());
            let signal = cancel_signal(&address, "enough", Some(&owner), now.plus(secs(30)), now);
            self.say(&self.topics.signals, owner, signal).await;
        }
    }

    async fn say(&self, topic: &flowkit::bus::Topic, key: String, envelope: Envelope) {
        let value = envelope.encode();
        let message = flowkit::bus::OutMessage {
            topic: topic.clone(),
            key: Some(key),
            value,
            headers: vec![],
        };
        self.bus.publish(&[message], None).await.unwrap();
    }

    /// Writes what it knows of a node into `tasks`.
    async fn note(&self, name: &str) {
        let known = self.node(name);
        let mut task = self.store.task(&TaskId::new("t1").unwrap()).await.unwrap().unwrap();
        let nodes = &mut task.graph.nodes;
        let node = nodes.iter_mut().find(|node| node.node_id.as_str() == name).unwrap();
        node.attempt_epoch = Epoch(known.epoch);
        node.status = known.status;
        node.coordinator.cancelled = known.cancelled.is_some();
        node.coordinator.cancel_reason = known.cancelled.map(|_| "enough".into());
        assert!(self.store.save_task(&task).await.unwrap());
    }

    async fn read(&self, status: &Status) {
        let name = status.address.key.node_id.to_string();
        let changed = {
            let mut state = self.state();
            let State { nodes, violations, rng, .. } = &mut *state;
            let node = nodes.get_mut(name.as_str()).unwrap();
            let before = node.status;
            if status.address.epoch == Epoch(node.epoch) {
                apply(node, status, violations, rng);
            }
            before != node.status
        };
        if changed {
            self.note(&name).await;
        }
        if let RunEvent::BatchOk { batch_uid, .. } = &status.event {
            self.check_batch(status, batch_uid).await;
        }
    }

    /// Nothing is reported that is not durable and recorded.
    async fn check_batch(&self, status: &Status, uid: &BatchUid) {
        let (key, epoch) = (&status.address.key, status.address.epoch);
        let Some(run) = self.store.run(key).await.unwrap().filter(|r| r.new.epoch == epoch) else {
            return;
        };
        let range = 0..run.progress.finished;
        let finished = self.store.finished(key, epoch, range, usize::MAX).await.unwrap();
        if !finished.iter().any(|batch| batch.batch_uid == *uid) {
            let why = format!("{key} at {epoch}: BATCH_OK {uid} before it was recorded");
            self.state().violations.push(why);
        }
    }

    async fn retry(&self) {
        let now = Instant::now();
        let due: Vec<&str> = {
            let state = self.state();
            let due = |node: &Node| node.retry_at.is_some_and(|at| at <= now);
            state.nodes.iter().filter(|(_, node)| due(node)).map(|(name, _)| *name).collect()
        };
        for name in due {
            self.start(name).await;
        }
    }

    /// As a coordinator that begins does for every node it finds under way.
    async fn ask_all(&self) {
        for name in self.names() {
            let node = self.node(name);
            if node.status != NodeStatus::Running {
                continue;
            }
            let mut replies =
                self.bus.tail(std::slice::from_ref(&self.topics.reply)).await.unwrap();
            let address = address(name, node.epoch + 1);
            let query = Envelope {
                msg_type: MsgType::Query,
                payload: json!({"query": "TASK_DISCOVER", "want_epoch": node.epoch + 1}),
                ..start_command(&address, &RunInput::default(), self.clock.wall())
            };
            let asked = query.corr_id.clone();
            self.say(&self.topics.query, "t1".into(), query).await;
            let reply = tokio::time::timeout(secs(8), async {
                loop {
                    let message = replies.next().await.unwrap();
                    let reply = Envelope::decode(&message.value).unwrap();
                    if reply.corr_id == asked {
                        return reply.payload;
                    }
                }
            });
            if !reply.await.is_ok_and(|reply| is_kept(&node, &reply)) {
                self.start(name).await;
            }
        }
    }
}

/// The run is adopted, or its node is complete and the end will be said again.
fn is_kept(node: &Node, reply: &Value) -> bool {
    let owner = node.owner.as_ref().map(WorkerId::as_str);
    let same_owner = reply["worker_id"].as_str() == owner
        && reply["lease"]["worker_id"].as_str() == owner
        && owner.is_some();
    let under_way = ["running", "finishing"].contains(&reply["run_state"].as_str().unwrap());
    (under_way && same_owner && reply["attempt_epoch"] == node.epoch)
        || reply["artifacts"]["complete"] == true
}

fn apply(node: &mut Node, status: &Status, violations: &mut Vec<String>, rng: &mut StdRng) {
    let running = node.status == NodeStatus::Running;
    match &status.event {
        RunEvent::TaskAccepted(lease) | RunEvent::TaskHeartbeat(lease) if running => {
            node.owner = Some(lease.worker_id.clone());
        }
        RunEvent::TaskResumed(lease) => node.owner = Some(lease.worker_id.clone()),
        RunEvent::TaskDone { .. } if running => {
            node.status = NodeStatus::Finished;
            node.ends += 1;
        }
        RunEvent::TaskFailed { permanent, .. } if !node.is_over() => {
            assert!(!permanent, "no handler here fails for good");
            node.status = NodeStatus::Deferred;
            node.retry_at = Some(Instant::now() + secs(rng.random_range(1..20)));
        }
        RunEvent::Cancelled { .. } if node.cancelled.is_none() => {
            violations.push(format!("{:?} was cancelled by nobody", status.address));
        }
        RunEvent::Cancelled { .. } if node.status == NodeStatus::Finished => {
            violations.push(format!("{:?} is opened again", status.address));
        }
        // Said twice, because the first may not have left.
        RunEvent::Cancelled { .. } if node.is_over() || node.retry_at.is_some() => {}
        RunEvent::Cancelled { .. } if node.restarts > 0 => {
            node.restarts -= 1;
            node.status = NodeStatus::Deferred;
            node.retry_at = Some(Instant::now() + ms(rng.random_range(10..1_500)));
        }
        RunEvent::Cancelled { .. } => {
            node.status = NodeStatus::Cancelled;
            node.ends += 1;
        }
        _ => {}
    }
}
