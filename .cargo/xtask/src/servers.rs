//! The tests' servers, for a test run and for a person.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use flowkit_servers::{KAFKA, Kafka, KafkaOptions, MONGODB, Mongo, SKIPPED};
use serde_json::{Value, json};

/// A broker and a database server, ended when dropped.
pub struct Servers {
    kafka: Kafka,
    mongo: Mongo,
}

impl Servers {
    fn start() -> Result<Self> {
        let kafka = std::thread::spawn(|| Kafka::start(&KafkaOptions::default()));
        let mongo = Mongo::start()?;
        Ok(Self { kafka: joined(kafka)?, mongo })
    }
}

/// Servers that start while something is built.
pub struct Starting(Option<JoinHandle<Result<Servers>>>);

/// Begins to start the servers, where there is Java for them.
pub fn begin() -> Starting {
    let possible = flowkit_servers::missing().is_none();
    Starting(possible.then(|| std::thread::spawn(Servers::start)))
}

/// What the tests of a run are told.
pub struct TestRun {
    servers: Option<Servers>,
    skipped: PathBuf,
}

impl Starting {
    /// Waits until the servers answer.
    pub fn wait(self, target: &Path) -> Result<TestRun> {
        let servers = self.0.map(joined).transpose()?;
        let skipped = target.join("skipped-tests");
        let _ = std::fs::remove_file(&skipped);
        Ok(TestRun { servers, skipped })
    }
}

impl TestRun {
    /// Tells a command's tests where the servers are.
    pub fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some(servers) = &self.servers {
            println!(
                "server tests run against Apache Kafka at {} and mongo-java-server at {}",
                servers.kafka.bootstrap(),
                servers.mongo.uri()
            );
            command.env(KAFKA, servers.kafka.bootstrap()).env(MONGODB, servers.mongo.uri());
        }
        command.env(SKIPPED, &self.skipped)
    }

    /// Says which tests were skipped.
    pub fn report(&self) {
        let skipped = std::fs::read_to_string(&self.skipped).unwrap_or_default();
        for line in skipped.lines() {
            println!("skipped {line}");
        }
        println!("{} tests skipped", skipped.lines().count());
    }
}

/// Starts both for a person, who ends them with Ctrl-C: they end with this process.
pub fn serve(root: &Path, target: &Path) -> Result<()> {
    println!("starting Apache Kafka and a MongoDB-wire server; the first time they are fetched");
    let servers = Servers::start()?;
    let config = target.join("servers/worker.json");
    let text = format!("{:#}\n", config_for(root, &servers)?);
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    println!("Kafka    {}", servers.kafka.bootstrap());
    println!("MongoDB  {}", servers.mongo.uri());
    let shown = config.strip_prefix(root).unwrap_or(&config).display();
    println!("config   {shown}");
    println!("\n  target/debug/flowkit worker --config {shown}");
    println!("\nCtrl-C ends both; what they hold goes with them.");
    loop {
        std::thread::park();
    }
}

/// The example config, on these servers.
fn config_for(root: &Path, servers: &Servers) -> Result<Value> {
    let example = root.join("configs/worker.json");
    let text = std::fs::read_to_string(&example)
        .with_context(|| format!("reading {}", example.display()))?;
    let mut config: Value = serde_json::from_str(&text)?;
    if let Some(config) = config.as_object_mut() {
        config.remove("db");
    }
    let absolute = |path: &mut Value| {
        if let Some(relative) = path.as_str() {
            *path = json!(root.join("configs").join(relative));
        }
    };
    for handler in config["handlers"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        absolute(&mut handler["component"]);
        for dir in handler["dirs"].as_array_mut().into_iter().flatten() {
            absolute(&mut dir["host"]);
        }
        if handler["dirs"].is_null()
            && let Some(handler) = handler.as_object_mut()
        {
            handler.remove("dirs");
        }
    }
    config["backend"] = json!("kafka");
    config["kafka_bootstrap"] = json!(servers.kafka.bootstrap());
    config["mongodb_uri"] = json!(servers.mongo.uri());
    config["mongodb_database"] = json!("flowkit");
    Ok(config)
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
