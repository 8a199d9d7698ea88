//! A worker under load whose plugins are replaced all the time.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flowkit::bus::memory::MemoryBus;
use flowkit::bus::{Bus, OutMessage, Tail, Topic};
use flowkit::clock::Clock;
use flowkit::handler::Handlers as _;
use flowkit::plugin::{CodeCache, Engine, HandlerConfig, PluginConfig, Plugins, Reloader};
use flowkit::protocol::{RunAddress, Topics, start_command};
use flowkit::settings::Settings;
use flowkit::store::RunInput;
use flowkit::store::memory::MemoryStore;
use flowkit::types::{Epoch, NodeId, Role, RunKey, TaskId, WorkerId};
use flowkit::worker::{Shutdown, Worker};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How many roles there are, each with a file of its own.
pub const ROLES: u32 = 4;
/// How many batches a run has.
pub const BATCHES: usize = 20;
/// How many runs are under way at once.
const RUNS: usize = 8;
/// How long a batch waits.
const BATCH_MS: u64 = 10;
/// How often the files are looked at.
const POLL: Duration = Duration::from_millis(20);
/// Longest wait for anything: far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A worker with its bus, store and plugins, in this process.
pub struct Stage {
    dir: TempDir,
    guest: Vec<u8>,
    bus: MemoryBus,
    clock: Clock,
    pub plugins: Arc<Plugins>,
    shutdown: Shutdown,
    worker: JoinHandle<anyhow::Result<()>>,
    reloader: JoinHandle<()>,
}

/// What was seen of one run.
#[derive(Debug)]
pub struct Seen {
    asked: Instant,
    /// From its command to its first event.
    pub accepted_after: Option<Duration>,
    /// Of its plugin, as its events name it.
    pub digests: BTreeSet<String>,
    /// As its batches tell.
    pub versions: BTreeSet<u64>,
    pub batches: usize,
    pub ends: Vec<String>,
    last: Option<Instant>,
    /// Between two of its batches.
    pub longest_pause: Duration,
}

impl Stage {
    /// A worker at work, whose roles are served by version 0 of the guest in this file.
    pub async fn new(guest: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = CodeCache::open(dir.path().join("cache")).expect("opens");
        let engine = Engine::new().expect("the engine starts").with_cache(cache);
        let clock = Clock::system();
        let bus = MemoryBus::new(clock.clone());
        let guest = std::fs::read(guest).expect("built");
        let configs: Vec<PluginConfig> = (0..ROLES)
            .map(|number| {
                let file = file_of(dir.path(), number);
                std::fs::write(&file, &guest).expect("written");
                PluginConfig { role: role(number), handler: HandlerConfig::new(file) }
            })
            .collect();
        let plugins = Plugins::load(&engine, configs.clone()).await.expect("loads");
        let plugins = Arc::new(plugins);
        let reloader = Reloader::new(engine, plugins.clone());
        let reloader = reloader.run(POLL, Arc::new(Notify::new()), move || Some(configs.clone()));
        let mut settings = Settings::new(WorkerId::new("w-1").expect("valid"));
        settings.max_concurrent_tasks = RUNS;
        let (shutdown, store) = (Shutdown::new(), MemoryStore::new(clock.clone()));
        let (shared, handlers) = (Arc::new(bus.clone()), plugins.clone());
        let worker = Worker::new(settings, shared, Arc::new(store), handlers, clock.clone());
        let worker = tokio::spawn(worker.run(shutdown.clone()));
        Self { dir, guest, bus, clock, plugins, shutdown, worker, reloader: tokio::spawn(reloader) }
    }

    /// Replaces a role's file by this version, and returns once it serves the role.
    pub async fn swap(&self, version: u32) {
        let role = role(version % ROLES);
        let file = file_of(self.dir.path(), version % ROLES);
        let half = file.with_extension("new");
        std::fs::write(&half, patched(&self.guest, version)).expect("written");
        std::fs::rename(&half, &file).expect("renamed");
        let wanted = flowkit::plugin::digest_of(&file).expect("there");
        let mut changes = self.plugins.changes().expect("they change");
        let served = async {
            while self.plugins.digests()[&role] != wanted {
                changes.changed().await.expect("the plugins live");
            }
        };
        let served = tokio::time::timeout(PATIENCE, served).await;
        assert!(served.is_ok(), "version {version} is not served: {}", self.plugins.describe());
    }

    /// Keeps the worker busy until `enough`, and returns every run once it has ended.
    pub async fn load(&self, prefix: &str, enough: &AtomicBool) -> Vec<Seen> {
        let topics = Topics::default();
        let status: Vec<Topic> = (0..ROLES).map(|number| topics.status(&role(number))).collect();
        self.bus.ensure_topics(&status).await.expect("made");
        let mut tail = self.bus.tail(&status).await.expect("opens");
        let mut seen: HashMap<String, Seen> = HashMap::new();
        let (mut begun, mut ended) = (0, 0);
        while ended < begun || !enough.load(Ordering::Relaxed) {
            while begun < ended + RUNS && !enough.load(Ordering::Relaxed) {
                let node = format!("{prefix}-{begun}");
                seen.insert(node.clone(), Seen::new());
                self.command(&node, u32::try_from(begun).expect("few") % ROLES).await;
                begun += 1;
            }
            let (node, payload) = next(tail.as_mut()).await;
            if let Some(run) = seen.get_mut(&node) {
                ended += usize::from(run.note(&payload));
            }
        }
        seen.into_values().collect()
    }

    async fn command(&self, node: &str, number: u32) {
        let key = RunKey {
            task_id: TaskId::new("t").expect("valid"),
            node_id: NodeId::new(node).expect("valid"),
        };
        let address = RunAddress { key, role: role(number), epoch: Epoch(1) };
        let input = json!({"count": BATCHES, "ms": BATCH_MS});
        let input = RunInput { input_inline: input.as_object().cloned(), ..RunInput::default() };
        let message = OutMessage {
            topic: Topics::default().commands(&address.role),
            key: Some(address.key.message_key()),
            value: start_command(&address, &input, self.clock.wall()).encode(),
            headers: vec![],
        };
        self.bus.publish(&[message], None).await.expect("published");
    }

    /// Ends the worker; it must have lived until now.
    pub async fn end(self) {
        self.reloader.abort();
        self.shutdown.begin();
        self.worker.await.expect("no panic").expect("the worker could go on");
    }
}

impl Seen {
    fn new() -> Self {
        Self {
            asked: Instant::now(),
            accepted_after: None,
            digests: BTreeSet::new(),
            versions: BTreeSet::new(),
            batches: 0,
            ends: Vec::new(),
            last: None,
            longest_pause: Duration::ZERO,
        }
    }

    /// True when the event is the run's end.
    fn note(&mut self, payload: &Value) -> bool {
        let now = Instant::now();
        if let Some(digest) = payload["plugin_digest"].as_str() {
            self.digests.insert(digest.to_owned());
        }
        match payload["kind"].as_str().unwrap_or_default() {
            "TASK_ACCEPTED" => self.accepted_after = Some(now - self.asked),
            "BATCH_OK" => {
                self.batches += 1;
                self.versions.extend(payload["metrics"]["version"].as_u64());
                if let Some(last) = self.last.replace(now) {
                    self.longest_pause = self.longest_pause.max(now - last);
                }
            }
            "TASK_HEARTBEAT" => {}
            end => {
                self.ends.push(end.to_owned());
                return true;
            }
        }
        false
    }
}

async fn next(tail: &mut dyn Tail) -> (String, Value) {
    let message = tokio::time::timeout(PATIENCE, tail.next()).await.expect("the worker speaks");
    let message: Value =
        serde_json::from_slice(&message.expect("the bus is there").value).expect("JSON");
    (message["node_id"].as_str().unwrap_or_default().to_owned(), message["payload"].clone())
}

fn role(number: u32) -> Role {
    Role::new(format!("role-{number}")).expect("valid")
}

fn file_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("role-{number}.wasm"))
}

/// The guest with another version in its marker.
fn patched(guest: &[u8], version: u32) -> Vec<u8> {
    let marker = b"flowkit-version-";
    let at = guest.windows(marker.len()).position(|bytes| bytes == marker).expect("a marker");
    let mut patched = guest.to_vec();
    let digits = at + marker.len();
    patched[digits..digits + 5].copy_from_slice(format!("{version:05}").as_bytes());
    patched
}
