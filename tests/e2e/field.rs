//! A coordinator as those in the field behave (`protocol.md`), scripted: it writes `tasks`,
//! sends commands, applies events, and tries again what failed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowkit::bus::kafka::{KafkaBus, KafkaOptions};
use flowkit::bus::{Bus, OutMessage, Tail};
use flowkit::clock::Clock;
use flowkit::protocol::{RunAddress, RunEvent, Status, Topics, start_command};
use flowkit::store::RunInput;
use flowkit::types::{Epoch, NodeId, Role, RunKey, TaskId};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Site};

/// Names of its own on the servers that all tests share.
pub struct Field {
    pub site: Site,
    pub role: Role,
    pub topics: Topics,
    pub bus: Arc<dyn Bus>,
    pub db: mongodb::Database,
}

/// The options of a bus of this test's own.
pub fn kafka_options(bootstrap: &str) -> KafkaOptions {
    KafkaOptions {
        bootstrap: bootstrap.to_owned(),
        client_id: "field".into(),
        properties: BTreeMap::new(),
        lease_ttl: Duration::from_secs(20),
    }
}

impl Field {
    /// A site whose workers serve one role by the handler `plugin`, with `more` laid over
    /// the config.
    pub async fn new(plugin: &str, more: Value) -> Self {
        let shared = flowkit_servers::shared();
        Self::on(&shared.kafka, &shared.mongodb, plugin, more).await
    }

    /// The same on other servers.
    pub async fn on(kafka: &str, mongodb: &str, plugin: &str, more: Value) -> Self {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let name = &name[..12];
        let role = Role::new(format!("{plugin}-{name}")).unwrap();
        let mut config = json!({
            "backend": "kafka",
            "kafka_bootstrap": kafka,
            "kafka": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000},
            "mongodb_uri": mongodb,
            "mongodb_database": format!("e2e-{name}"),
            "lease_ttl_sec": 3,
            "hb_interval_sec": 1,
            "claim_poll_ms": 200,
            "max_clock_skew_ms": 200,
            "handlers": {role.as_str(): {"component": crate::support::plugin(plugin)}},
            "topic_cmd_fmt": format!("cmd.{{type}}.{name}"),
            "topic_status_fmt": format!("status.{{type}}.{name}"),
            "topic_worker_announce": format!("announce.{name}"),
            "topic_query": format!("query.{name}"),
            "topic_reply": format!("reply.{name}"),
            "topic_signals": format!("signals.{name}"),
            "topic_dead_letter": format!("dlq.{name}"),
        });
        config.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let topic = |key: &str| config[key].as_str().unwrap().to_owned().try_into().unwrap();
        let topics = Topics {
            cmd_fmt: config["topic_cmd_fmt"].as_str().unwrap().into(),
            status_fmt: config["topic_status_fmt"].as_str().unwrap().into(),
            announce: topic("topic_worker_announce"),
            query: topic("topic_query"),
            reply: topic("topic_reply"),
            signals: topic("topic_signals"),
            dead_letter: topic("topic_dead_letter"),
        };
        let bus: Arc<dyn Bus> = Arc::new(KafkaBus::connect(kafka_options(kafka)).unwrap());
        bus.ensure_topics(&[topics.commands(&role), topics.status(&role)]).await.unwrap();
        let client = mongodb::Client::with_uri_str(mongodb).await.unwrap();
        let db = client.database(&format!("e2e-{name}"));
        let site = Site::new(config);
        Self { site, role, topics, bus, db }
    }

    /// All events on the role's status topic from now on.
    pub async fn listen(&self) -> Box<dyn Tail> {
        self.bus.tail(&[self.topics.status(&self.role)]).await.unwrap()
    }

    /// The documents of a collection.
    pub async fn documents(&self, collection: &str, filter: Document) -> Vec<Document> {
        let mut cursor = self.db.collection::<Document>(collection).find(filter).await.unwrap();
        let mut found = Vec::new();
        while cursor.advance().await.unwrap() {
            found.push(cursor.deserialize_current().unwrap());
        }
        found
    }

    /// Publishes bytes as a command.
    pub fn raw_command(&self, value: Vec<u8>) -> OutMessage {
        let topic = self.topics.commands(&self.role);
        OutMessage { topic, key: None, value, headers: Vec::new() }
    }

    fn address(&self, task: &str, epoch: u32) -> RunAddress {
        let key =
            RunKey { task_id: TaskId::new(task).unwrap(), node_id: NodeId::new("n").unwrap() };
        RunAddress { key, role: self.role.clone(), epoch: Epoch(epoch) }
    }

    /// The command that starts an attempt.
    pub fn start(&self, task: &str, epoch: u32, input: &Value) -> OutMessage {
        let input = RunInput { input_inline: input.as_object().cloned(), ..RunInput::default() };
        let address = self.address(task, epoch);
        let envelope = start_command(&address, &input, Clock::system().wall());
        OutMessage { key: Some(address.key.message_key()), ..self.raw_command(envelope.encode()) }
    }
}

/// A task of one node.
pub struct Node {
    pub epoch: u32,
    pub state: State,
    /// The input of an attempt.
    input: fn(u32, usize) -> Value,
    number: usize,
    pub batches: HashSet<String>,
    /// How often an end was taken.
    pub ends: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum State {
    Running,
    /// The next attempt begins then.
    Waiting(Instant),
    Finished,
    Failed,
}

/// A coordinator at work.
pub struct Coordinator<'a> {
    pub field: &'a Field,
    pub nodes: BTreeMap<String, Node>,
    events: Box<dyn Tail>,
    /// The deduplication ids of what is the same event.
    pub ids: HashMap<String, HashSet<String>>,
    pub received: u64,
    pub repeated: u64,
    pub resumed: u64,
    /// What a run said that it may not say any more.
    pub wrong: Vec<String>,
}

impl<'a> Coordinator<'a> {
    pub async fn new(field: &'a Field) -> Self {
        Self {
            events: field.listen().await,
            field,
            nodes: BTreeMap::new(),
            ids: HashMap::new(),
            received: 0,
            repeated: 0,
            resumed: 0,
            wrong: Vec::new(),
        }
    }

    /// Writes the tasks and sends their first commands.
    pub async fn start(&mut self, count: usize, input: fn(u32, usize) -> Value) {
        for number in 0..count {
            let task = format!("task-{number:03}");
            let document = doc! {
                "id": &task, "status": "running", "coordinator": {},
                "graph": {"nodes": [{
                    "node_id": "n", "type": self.field.role.as_str(), "status": "running",
                    "attempt_epoch": 1,
                }]},
            };
            self.field.db.collection("tasks").insert_one(document).await.unwrap();
            let node = Node {
                epoch: 1,
                state: State::Running,
                input,
                number,
                batches: HashSet::new(),
                ends: 0,
            };
            self.nodes.insert(task, node);
        }
        let commands: Vec<OutMessage> = self
            .nodes
            .iter()
            .map(|(task, node)| self.field.start(task, 1, &input(1, node.number)))
            .collect();
        self.field.bus.publish(&commands, None).await.unwrap();
    }

    /// Takes events until every task has ended; `tick` is called in between.
    pub async fn until_all_ended(&mut self, mut tick: impl FnMut()) {
        let ended = |node: &Node| matches!(node.state, State::Finished | State::Failed);
        self.until(|nodes| {
            tick();
            nodes.values().all(ended)
        })
        .await;
    }

    /// Takes events until the tasks are as wanted.
    pub async fn until(&mut self, mut wanted: impl FnMut(&BTreeMap<String, Node>) -> bool) {
        let begun = Instant::now();
        while !wanted(&self.nodes) {
            self.take_one(Duration::from_millis(50)).await;
            self.start_waiting().await;
            assert!(begun.elapsed() < PATIENCE * 3, "not ended: {:?}", self.unended());
        }
    }

    /// Takes what still comes for a while.
    pub async fn linger(&mut self, how_long: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < how_long {
            self.take_one(Duration::from_millis(50)).await;
        }
    }

    fn unended(&self) -> Vec<String> {
        let unended = |(task, node): (&String, &Node)| {
            let open = !matches!(node.state, State::Finished | State::Failed);
            open.then(|| {
                format!("{task} at {} {:?} {}", node.epoch, node.state, node.batches.len())
            })
        };
        self.nodes.iter().filter_map(unended).collect()
    }

    async fn take_one(&mut self, wait: Duration) {
        // What is waited for is other processes' words; silence is no error.
        let Ok(message) = tokio::time::timeout(wait, self.events.next()).await else { return };
        let status = Status::decode(&message.unwrap().value).expect("an event of the protocol");
        self.received += 1;
        let same = format!(
            "{} {} {} {:?}",
            status.address.key,
            status.address.epoch,
            status.event.kind(),
            uid(&status.event)
        );
        // A heartbeat is named by its time.
        if !matches!(status.event, RunEvent::TaskHeartbeat(_)) {
            let ids = self.ids.entry(same).or_default();
            if !ids.insert(status.dedup_id.clone()) {
                self.repeated += 1;
            }
        }
        self.apply(&status).await;
    }

    async fn apply(&mut self, status: &Status) {
        let task = status.address.key.task_id.as_str().to_owned();
        let Some(node) = self.nodes.get_mut(&task) else { return };
        if status.address.epoch != Epoch(node.epoch) {
            return;
        }
        let running = node.state == State::Running;
        match &status.event {
            RunEvent::BatchOk { batch_uid, .. } if running => {
                node.batches.insert(batch_uid.to_string());
            }
            RunEvent::TaskDone { .. } if running => {
                node.state = State::Finished;
                node.ends += 1;
                self.note(&task, "finished").await;
            }
            RunEvent::TaskFailed { permanent, .. } if running => {
                node.ends += 1;
                if *permanent {
                    node.state = State::Failed;
                    self.note(&task, "failed").await;
                } else {
                    node.state = State::Waiting(Instant::now() + Duration::from_millis(300));
                    node.batches.clear();
                    self.note(&task, "deferred").await;
                }
            }
            RunEvent::TaskResumed(_) if running => self.resumed += 1,
            RunEvent::TaskFailed { .. }
                if node.ends > 0 && matches!(node.state, State::Waiting(_)) => {}
            RunEvent::TaskFailed { .. } | RunEvent::Cancelled { .. } | RunEvent::TaskResumed(_) => {
                self.wrong.push(format!("{task}: {} when {:?}", status.event.kind(), node.state));
            }
            _ => {}
        }
    }

    async fn start_waiting(&mut self) {
        let due: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| matches!(node.state, State::Waiting(at) if at <= Instant::now()))
            .map(|(task, _)| task.clone())
            .collect();
        for task in due {
            let Some(node) = self.nodes.get_mut(&task) else { continue };
            node.epoch += 1;
            node.state = State::Running;
            let command =
                self.field.start(&task, node.epoch, &(node.input)(node.epoch, node.number));
            self.note(&task, "running").await;
            self.field.bus.publish(&[command], None).await.unwrap();
        }
    }

    async fn note(&self, task: &str, status: &str) {
        let epoch = i64::from(self.nodes[task].epoch);
        let change = doc! {"$set": {
            "graph.nodes.0.status": status, "graph.nodes.0.attempt_epoch": epoch,
        }};
        let tasks = self.field.db.collection::<Document>("tasks");
        tasks.update_one(doc! {"id": task}, change).await.unwrap();
    }
}

fn uid(event: &RunEvent) -> Option<&str> {
    match event {
        RunEvent::BatchOk { batch_uid, .. } | RunEvent::BatchFailed { batch_uid, .. } => {
            Some(batch_uid.as_str())
        }
        // Each of these has a name of its own: the lease's, or the time's.
        RunEvent::TaskAccepted(lease) | RunEvent::TaskResumed(lease) => {
            Some(lease.lease_id.as_str())
        }
        _ => None,
    }
}
