//! A whole worker over a backend in memory, with real plugins.

use std::sync::Arc;

use flowkit::bus::memory::MemoryBus;
use flowkit::bus::{Bus, OutMessage, Tail};
use flowkit::clock::Clock;
use flowkit::handler::Handlers as _;
use flowkit::plugin::Plugins;
use flowkit::protocol::{RunAddress, Status, start_command};
use flowkit::settings::Settings;
use flowkit::store::RunInput;
use flowkit::store::memory::MemoryStore;
use flowkit::types::{Epoch, NodeId, Role, RunKey, TaskId, WorkerId};
use flowkit::worker::{Shutdown, Worker};
use serde_json::Value;
use tokio::task::JoinHandle;

/// It, with the events that it sends.
pub struct Trial {
    bus: MemoryBus,
    settings: Settings,
    events: Box<dyn Tail>,
    shutdown: Shutdown,
    working: JoinHandle<anyhow::Result<()>>,
}

impl Trial {
    /// Serves these plugins, so many runs at once.
    pub async fn start(plugins: Arc<Plugins>, runs: usize) -> Self {
        let clock = Clock::system();
        let bus = MemoryBus::new(clock.clone());
        let mut settings = Settings::new(WorkerId::new("w").expect("valid"));
        settings.max_concurrent_tasks = runs;
        let roles = plugins.roles();
        let topics: Vec<_> = roles.iter().map(|role| settings.topics.status(role)).collect();
        bus.ensure_topics(&topics).await.expect("are there");
        let events = bus.tail(&topics).await.expect("is read");
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let (shutdown, own) = (Shutdown::new(), settings.clone());
        let worker = Worker::new(own, Arc::new(bus.clone()), store, plugins, clock);
        let working = tokio::spawn(worker.run(shutdown.clone()));
        Self { bus, settings, events, shutdown, working }
    }

    /// Begins a task of one node.
    pub async fn command(&self, role: &Role, (task, node): (&str, &str), inline: Value) {
        let key = RunKey {
            task_id: TaskId::new(task).expect("valid"),
            node_id: NodeId::new(node).expect("valid"),
        };
        let address = RunAddress { key, role: role.clone(), epoch: Epoch(1) };
        let inline = inline.as_object().cloned();
        let input = RunInput { input_inline: inline, ..RunInput::default() };
        let command = start_command(&address, &input, Clock::system().wall());
        let topic = self.settings.topics.commands(role);
        let key = Some(address.key.message_key());
        let message = OutMessage { topic, key, value: command.encode(), headers: Vec::new() };
        self.bus.publish(&[message], None).await.expect("is taken");
    }

    /// The next event of any task.
    pub async fn event(&mut self) -> Status {
        let message = self.events.next().await.expect("is read");
        Status::decode(&message.value).expect("an event")
    }

    /// Drains the worker, which must still be alive.
    pub async fn stop(self) {
        self.shutdown.begin();
        self.working.await.expect("no panic").expect("drains");
    }
}
