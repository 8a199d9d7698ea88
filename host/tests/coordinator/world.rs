//! Backends in memory, workers that follow a script.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowkit::bus::memory::MemoryBus;
use flowkit::bus::{Bus, OutMessage};
use flowkit::clock::{Clock, UnixMs};
use flowkit::coordinator::driver::host;
use flowkit::coordinator::graph::Graph;
use flowkit::coordinator::{Deps, Task};
use flowkit::metrics::Metrics;
use flowkit::protocol::{Command, CommandBody, LeaseInfo, Null, RunEvent, ServedBy, Topics};
use flowkit::store::memory::MemoryStore;
use flowkit::store::{NewRun, Owner, Progress, RunEnd, RunStore, TaskDoc, TaskStore};
use flowkit::tasks::{TaskHandle, spawn};
use flowkit::types::{BatchUid, LeaseId, Role, TaskId, WorkerId};
use serde_json::{Value, json};

/// What a scripted worker does with an attempt after accepting it.
#[derive(Clone)]
pub enum Act {
    Batch(&'static str),
    Wait(u64),
    Done,
    Fail(&'static str, bool),
    /// Goes on until the flag in `tasks` is set.
    Hang,
    /// The end is in the record, but its event never leaves.
    DoneUnsaid,
}

pub struct World {
    pub bus: Arc<MemoryBus>,
    pub store: Arc<MemoryStore>,
    pub clock: Clock,
    /// What was started, in order, as `node/epoch`.
    pub started: Arc<Mutex<Vec<String>>>,
}

pub type Script = fn(&str, u32) -> Vec<Act>;

impl World {
    pub fn new() -> Self {
        let clock = Clock::starting_at(UnixMs(1_700_000_000_000));
        Self {
            bus: Arc::new(MemoryBus::new(clock.clone())),
            store: Arc::new(MemoryStore::new(clock.clone())),
            clock,
            started: Arc::default(),
        }
    }

    pub fn deps(&self) -> Deps {
        Deps {
            bus: self.bus.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            topics: Topics::default(),
        }
    }

    pub fn task(&self, graph: Value, run_by: Option<&WorkerId>) -> Task {
        let graph = Graph::from_value(graph, None).unwrap().graph;
        Task::new(TaskId::new("t").unwrap(), graph, run_by.cloned(), self.clock.wall())
    }

    /// Leaves a task as `submit` does.
    pub async fn submit(&self, graph: Value) {
        let doc = self.task(graph, None).to_doc(self.clock.wall());
        assert!(self.store.create_task(&doc).await.unwrap());
    }

    pub async fn doc(&self) -> TaskDoc {
        self.store.task(&TaskId::new("t").unwrap()).await.unwrap().unwrap()
    }

    /// Waits until the task's document is as wanted; an hour is never enough to be stuck.
    pub async fn until(&self, wanted: impl Fn(&TaskDoc) -> bool) -> TaskDoc {
        let wait = async {
            loop {
                let doc = self.store.task(&TaskId::new("t").unwrap()).await.unwrap();
                if let Some(doc) = doc.filter(&wanted) {
                    return doc;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(3_600), wait).await {
            Ok(doc) => doc,
            Err(_) => panic!("stuck at {:?}", self.doc().await),
        }
    }

    pub fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }

    /// A worker of role `r` that takes any number of runs at once.
    pub fn worker(&self, script: Script) -> TaskHandle<()> {
        let (bus, store, clock) = (self.bus.clone(), self.store.clone(), self.clock.clone());
        let started = self.started.clone();
        spawn("scripted worker", async move {
            let topic = Topics::default().commands(&Role::new("r").unwrap());
            let mut commands = bus.subscribe("workers.r.v1", &[topic]).await.unwrap();
            let mut runs = Vec::new();
            loop {
                let message = commands.next().await.unwrap();
                commands.commit(&message).await.unwrap();
                let command = Command::decode(&message.value).unwrap();
                let label = format!("{}/{}", command.address.key.node_id, command.address.epoch);
                let mut seen = started.lock().unwrap();
                if seen.contains(&label) {
                    continue; // a redelivery
                }
                seen.push(label);
                drop(seen);
                let acts = script(command.address.key.node_id.as_str(), command.address.epoch.0);
                let run =
                    Run { bus: bus.clone(), store: store.clone(), clock: clock.clone(), command };
                runs.push(spawn("scripted run", run.perform(acts)));
            }
        })
    }

    pub fn host(
        &self,
        worker: &str,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle<()> {
        let (deps, worker) = (self.deps(), WorkerId::new(worker).unwrap());
        spawn("host", async move { host(deps, worker, shutdown).await.unwrap() })
    }
}

pub struct Run {
    pub bus: Arc<MemoryBus>,
    pub store: Arc<MemoryStore>,
    pub clock: Clock,
    command: Command,
}

impl Run {
    pub async fn perform(self, acts: Vec<Act>) {
        let CommandBody::Start(input) = &self.command.body else { panic!("{:?}", self.command) };
        let owner = Owner {
            worker_id: worker(),
            lease_id: LeaseId::new("lease").unwrap(),
            deadline: self.clock.wall().plus(Duration::from_secs(60)),
        };
        let new = NewRun {
            key: self.command.address.key.clone(),
            role: self.command.address.role.clone(),
            epoch: self.command.address.epoch,
            input: input.clone(),
            created_at: self.clock.wall(),
        };
        self.store.admit(&new, Some(&owner)).await.unwrap();
        let lease = LeaseInfo {
            worker_id: worker(),
            lease_id: owner.lease_id,
            lease_deadline_ts_ms: owner.deadline,
        };
        self.say(RunEvent::TaskAccepted(lease)).await;
        for act in acts {
            self.act(act).await;
        }
    }

    pub async fn act(&self, act: Act) {
        match act {
            Act::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Act::Batch(uid) => self.say(batch_ok(uid)).await,
            Act::Done => {
                self.end(RunEnd::Done { metrics: Metrics::default() }).await;
                self.say(done()).await;
            }
            Act::DoneUnsaid => self.end(RunEnd::Done { metrics: Metrics::default() }).await,
            Act::Fail(code, permanent) => {
                let (reason_code, error) = (code.to_owned(), Some("it broke".to_owned()));
                self.say(RunEvent::TaskFailed {
                    worker_id: worker(),
                    reason_code,
                    permanent,
                    error,
                })
                .await;
            }
            Act::Hang => loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let views = self
                    .store
                    .views(std::slice::from_ref(&self.command.address.key))
                    .await
                    .unwrap();
                if let Some(reason) = views.into_iter().find_map(|view| view.cancelled) {
                    self.end(RunEnd::Cancelled { reason: reason.clone() }).await;
                    return self.say(RunEvent::Cancelled { worker_id: worker(), reason }).await;
                }
            },
        }
    }

    pub async fn end(&self, end: RunEnd) {
        let record = self.store.run(&self.command.address.key).await.unwrap().unwrap();
        let fence = record.fence().unwrap();
        let _ =
            self.store.save_progress(&fence, &Progress { accepted: true, ..record.progress }).await;
        let _ = self.store.end(&fence, &end).await.unwrap();
    }

    pub async fn say(&self, event: RunEvent) {
        let address = &self.command.address;
        let envelope = event.envelope(
            address,
            &ServedBy::default(),
            self.clock.wall(),
            Duration::from_secs(20),
        );
        let message = OutMessage {
            topic: Topics::default().status(&address.role),
            key: Some(address.key.message_key()),
            value: envelope.encode(),
            headers: Vec::new(),
        };
        self.bus.publish(&[message], None).await.unwrap();
    }
}

pub fn worker() -> WorkerId {
    WorkerId::new("w").unwrap()
}

pub fn batch_ok(uid: &str) -> RunEvent {
    RunEvent::BatchOk {
        worker_id: worker(),
        batch_uid: BatchUid::new(uid).unwrap(),
        metrics: Metrics::default(),
        artifacts_ref: Null,
    }
}

pub fn done() -> RunEvent {
    RunEvent::TaskDone {
        worker_id: worker(),
        metrics: Metrics::default(),
        artifacts_ref: Null,
        final_uid: "__final__".into(),
    }
}

pub fn diamond() -> Value {
    json!({"nodes": [
        {"node_id": "a", "type": "r"},
        {"node_id": "b", "type": "r", "depends_on": ["a"]},
        {"node_id": "c", "type": "r", "depends_on": ["a"]},
        {"node_id": "d", "type": "r"},
    ], "edges": [["b", "d"], ["c", "d"]]})
}

pub fn all_done(_: &str, _: u32) -> Vec<Act> {
    vec![Act::Batch("x"), Act::Wait(50), Act::Done]
}
