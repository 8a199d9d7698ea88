//! Starts the binary, and reads the database that it leaves.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowkit::bus::Bus;
use flowkit::bus::embedded::EmbeddedBus;
use flowkit::clock::Clock;
use flowkit::protocol::{Status, Topics};
use flowkit::sqlite::Database;
use flowkit::store::embedded::EmbeddedStore;
use flowkit::types::Role;
use serde_json::{Value, json};

/// Longest wait for anything: far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with a config, a database to be, and the means to run commands on them.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub config: PathBuf,
    pub db: PathBuf,
}

impl Site {
    /// A site whose config maps the example plugins and has `more` laid over it.
    pub fn new(more: Value) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a data folder");
        let plugin = |name: &str| json!({"component": plugin(name)});
        let mut textstats = plugin("textstats");
        textstats["dirs"] = json!([{"host": data, "guest": "/data"}]);
        let mut config = json!({
            "db": "flowkit.db",
            "max_concurrent_tasks": 2,
            "claim_poll_ms": 100,
            "handlers": {
                "echo": plugin("echo"),
                "steps": plugin("steps"),
                "textstats": textstats,
                "report": plugin("report"),
            },
        });
        let object = config.as_object_mut().expect("an object");
        object.extend(more.as_object().cloned().unwrap_or_default());
        let path = dir.path().join("worker.json");
        std::fs::write(&path, config.to_string()).expect("the config is written");
        Self { config: path, db: dir.path().join("flowkit.db"), dir }
    }

    /// The binary with this site's config; arguments are to be added.
    pub fn flowkit(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowkit"));
        command
            .args(args)
            .arg("--config")
            .arg(&self.config)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .env("CACHE_DIRECTORY", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
            .env_remove("RUST_LOG");
        // What steers the tests is no configuration.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLOWKIT_")) {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.flowkit(args).output().expect("the binary starts")
    }

    /// Runs a command that must succeed; its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?} failed: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Starts a worker.
    pub fn worker(&self, id: &str) -> Process {
        let log = self.dir.path().join(format!("{id}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let mut command = self.flowkit(&["worker", "--set", &format!("worker_id={id}")]);
        command.stdout(Stdio::null()).stderr(log);
        Process(command.spawn().expect("the worker starts"))
    }

    /// Everything a worker logged, for the message of a test that fails.
    pub fn log(&self, id: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{id}.log"))).unwrap_or_default()
    }

    /// `status TASK --json`'s entry of the task.
    pub fn task(&self, task: &str) -> Value {
        let status: Value =
            serde_json::from_str(&self.ok(&["status", task, "--json"])).expect("status is JSON");
        status["tasks"][0].clone()
    }

    /// Waits until the task is as wanted.
    pub fn wait_for(&self, task: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_until(what, || {
            let now = self.task(task);
            if wanted(&now) { Ok(now) } else { Err(now.to_string()) }
        })
    }

    /// Waits for the task's end.
    pub fn wait_for_end(&self, task: &str) -> Value {
        self.wait_for(task, "ended", |now| now["status"] == "finished" || now["status"] == "failed")
    }

    /// Opens the database, as another program beside the workers would.
    pub fn store(&self) -> EmbeddedStore {
        let db = Database::open(&self.db).expect("the database opens");
        EmbeddedStore::new(db, Clock::system())
    }

    /// All events that were sent on a role's status topic, in order.
    pub async fn events(&self, role: &str) -> Vec<Status> {
        let messages = self.messages(role).await;
        let decode = |bytes: &Vec<u8>| Status::decode(bytes).expect("an event of the protocol");
        messages.iter().map(decode).collect()
    }

    /// The same as they were sent.
    pub async fn messages(&self, role: &str) -> Vec<Vec<u8>> {
        let db = Database::open(&self.db).expect("the database opens");
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::new(db));
        let topic = Topics::default().status(&Role::new(role).expect("a role"));
        let mut history = bus.history(&topic).await.expect("the topic is read");
        let mut messages = Vec::new();
        while let Some(message) = history.next().await.expect("the topic is read") {
            messages.push(message.value);
        }
        messages
    }

    /// Writes the config anew, whole, as somebody who changes it.
    pub fn change_config(&self, change: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(&self.config).expect("the config");
        let mut config = serde_json::from_str(&text).expect("the config is JSON");
        change(&mut config);
        let half = self.config.with_extension("new");
        std::fs::write(&half, config.to_string()).expect("the config is written");
        std::fs::rename(&half, &self.config).expect("the config is replaced");
    }

    /// Waits until `status --json` is as wanted, and gives what was wanted of it.
    pub fn wait_for_status<T>(&self, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        self.wait_until(what, || {
            let output = self.run(&["status", "--json"]);
            let status = serde_json::from_slice(&output.stdout).unwrap_or_default();
            wanted(&status).ok_or_else(|| format!("{status}\n{}", text(&output.stderr)))
        })
    }

    /// Waits until a worker has logged this.
    pub fn wait_for_log(&self, id: &str, line: &str) {
        self.wait_until(line, || {
            let log = self.log(id);
            if log.contains(line) { Ok(()) } else { Err(log) }
        });
    }

    fn wait_until<T>(&self, what: &str, look: impl Fn() -> Result<T, String>) -> T {
        let start = Instant::now();
        loop {
            match look() {
                Ok(found) => return found,
                Err(now) => assert!(start.elapsed() < PATIENCE, "never {what}: {now}"),
            }
            // What is waited for is another process; a look every 20 ms is not a guess of
            // when it is done.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process that is killed when the test is over.
pub struct Process(pub Child);

impl Process {
    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(sent.success(), "kill {signal} {pid} failed");
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.0.kill().expect("the process is there to be killed");
        self.0.wait().expect("the process is gone");
    }

    /// Waits for its end.
    pub fn exit_code(mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("the process can be waited for") {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, or a test that failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An example plugin's file.
pub fn plugin(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/{name}.wasm"));
    assert!(file.exists(), "{} is missing; run `cargo xtask plugins`", file.display());
    file.canonicalize().expect("the plugin's path")
}

/// Bytes a process printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
