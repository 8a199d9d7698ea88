//! The configuration: read from a JSON file, the environment and the command line, checked
//! once, typed from then on.
//!
//! A value given by `--set` wins over one in the environment, that over one in the file,
//! that over the default. An error names the key, and where the value comes from.

mod check;
pub mod edit;
mod error;
mod keys;
mod layers;
mod place;
mod plugins;
mod secret;
mod servers;
mod units;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use error::{ConfigError, Origin, Problem};
pub use place::{KeyPath, Place};
pub use plugins::{CacheDir, PluginKeys};
pub use servers::Servers;

use crate::plugin::HandlerConfig;
use crate::settings::{PullSettings, Settings};
use crate::types::{Role, WorkerId};
use keys::{Backend, Keys};
use layers::Layers;

/// The config file that is read when none is named.
pub const DEFAULT_FILE: &str = "configs/worker.json";

/// Where to look for values.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`: a file that must exist.
    pub file: Option<PathBuf>,
    /// The process's environment; variables that do not begin with `FLOWKIT_` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// `--set`: each `KEY=VALUE`.
    pub assignments: Vec<String>,
    /// `--db`.
    pub db: Option<PathBuf>,
}

/// What the configuration is wanted for; it decides whether [`DEFAULT_FILE`] must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To run handlers: somebody must say which.
    Handlers,
    /// To reach the database: somebody must say where it is.
    Database,
}

/// A configuration that was checked.
pub struct Config {
    keys: Keys,
    layers: Layers,
    environment: BTreeMap<OsString, OsString>,
    worker_id: WorkerId,
    roles: Vec<Role>,
}

/// Without the layers and the environment, which hold secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Config").field(&self.effective()).finish()
    }
}

/// One effective value, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its key.
    pub key: KeyPath,
    /// Its value; paths are resolved.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

impl Config {
    /// Reads and checks everything but whether the handlers' files exist
    /// ([`check_files`](Self::check_files)).
    pub fn load(sources: &Sources, need: Need) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let file = sources.file.as_deref().or_else(|| default.exists().then_some(default));
        let mut layers = file.map_or_else(|| Ok(Layers::new()), Layers::of_file)?;
        layers.add_environment(&sources.environment)?;
        for assignment in &sources.assignments {
            layers.add_assignment(assignment)?;
        }
        if let Some(db) = &sources.db {
            let Some(db) = db.to_str() else {
                let text = "the database's path is not UTF-8".into();
                let origin = Some(Origin::Option("--db".into()));
                return Err(Problem { origin, key: None, text }.into());
            };
            layers.add_option("--db", "db", db.into());
        }
        if file.is_none() {
            without_a_file(&layers, need)?;
        }
        Self::of_layers(layers, sources.environment.iter().cloned().collect())
    }

    fn of_layers(
        layers: Layers,
        environment: BTreeMap<OsString, OsString>,
    ) -> Result<Self, ConfigError> {
        ConfigError::unless_empty(check::shapes(&layers))?;
        let mut keys: Keys = serde_path_to_error::deserialize(layers.given())
            .map_err(|error| type_problem(&error, &layers))?;
        ConfigError::unless_empty(check::problems(&keys, &layers))?;
        check::resolve_paths(&mut keys, &layers);
        let roles = match &keys.roles {
            Some(roles) => roles.clone(),
            None => keys.handlers.keys().cloned().collect(),
        };
        let worker_id = keys.worker_id.clone().unwrap_or_else(new_worker_id);
        Ok(Self { keys, layers, environment, worker_id, roles })
    }

    /// Whether the handlers' components and granted directories exist.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        ConfigError::unless_empty(check::missing_files(&self.keys, &self.layers))
    }

    /// What works, but hardly as it was meant; to be logged.
    pub fn warnings(&self) -> Vec<Problem> {
        check::warnings(&self.keys, &self.layers)
    }

    /// What a worker goes by.
    pub fn settings(&self) -> Settings {
        let keys = &self.keys;
        Settings {
            worker_id: self.worker_id.clone(),
            version: keys.worker_version.clone(),
            topics: check::topics(keys),
            lease_ttl: keys.lease_ttl_sec.get(),
            hb_interval: keys.hb_interval_sec.get(),
            announce_interval: keys.announce_interval_sec.get(),
            cancel_poll: keys.db_cancel_poll_ms.get(),
            claim_poll: keys.claim_poll_ms.get(),
            max_clock_skew: keys.max_clock_skew_ms.get(),
            cancel_grace: keys.cancel_grace_sec.get(),
            shutdown_grace: keys.shutdown_grace_sec.get(),
            max_concurrent_tasks: usize::try_from(keys.max_concurrent_tasks.get()).unwrap_or(1),
            max_queued_runs: keys.max_queued_runs.get().into(),
            max_attempts: Some(keys.max_attempts.get()).filter(|attempts| *attempts > 0),
            dedup_cache_size: usize::try_from(keys.dedup_cache_size.get()).unwrap_or(1),
            dedup_ttl: keys.dedup_ttl_ms.get(),
            pull: PullSettings {
                poll: keys.pull_poll_ms_default.get(),
                backoff_max: keys.pull_empty_backoff_ms_max.get(),
                strict: keys.strict_input_adapters,
            },
        }
    }

    /// The SQLite file.
    pub fn db(&self) -> &Path {
        &self.keys.db
    }

    /// True when the command line or the environment names the SQLite file.
    pub fn db_was_named(&self) -> bool {
        matches!(self.layers.origin(&KeyPath::of(["db"])), Origin::Env(_) | Origin::Option(_))
    }

    /// The roles to serve.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// Where the value of a key comes from.
    pub fn origin(&self, key: &KeyPath) -> Origin {
        self.layers.origin(key)
    }

    /// What holds for all plugins.
    pub fn plugins(&self) -> &PluginKeys {
        &self.keys.plugins
    }

    /// A variable of the environment that the configuration was read in.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        self.environment.get(std::ffi::OsStr::new(name)).cloned()
    }

    /// Each role's handler, of those roles also that are not served here.
    pub fn handlers(&self) -> &BTreeMap<Role, HandlerConfig> {
        &self.keys.handlers
    }

    /// True when the topics and the state are on a Kafka broker and a MongoDB database.
    pub fn is_on_kafka(&self) -> bool {
        self.keys.backend == Backend::Kafka
    }

    /// Where the topics and the state are, for people; without secrets.
    pub fn place(&self) -> String {
        match (&self.keys.kafka_bootstrap, &self.keys.masked().mongodb_uri) {
            (Some(bootstrap), Some(uri)) if self.is_on_kafka() => {
                let uri = uri.name();
                format!("Kafka at {bootstrap} and {} at {uri}", self.keys.mongodb_database)
            }
            _ => self.keys.db.display().to_string(),
        }
    }

    /// How to reach the broker and the database, with the secrets read from where they are.
    pub fn servers(&self) -> Result<Servers, ConfigError> {
        servers::read(&self.keys, &self.layers, &self.environment)
    }

    /// The effective values as one object, which is itself a valid config file; secrets
    /// that the configuration holds itself are masked.
    pub fn effective(&self) -> Value {
        let mut all = serde_json::to_value(self.keys.masked()).unwrap_or_default();
        all["roles"] = self.roles.iter().map(Role::as_str).collect();
        all
    }

    /// The effective values one by one, each with where it comes from.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.list(KeyPath::default(), &self.effective(), &mut entries);
        entries
    }

    fn list(&self, key: KeyPath, value: &Value, entries: &mut Vec<Entry>) {
        match value {
            Value::Object(members) if key.steps().is_empty() || !members.is_empty() => {
                for (name, value) in members {
                    self.list(key.then(name), value, entries);
                }
            }
            _ => {
                let origin = self.layers.origin_of_value(&key);
                entries.push(Entry { key, value: value.clone(), origin });
            }
        }
    }
}

fn without_a_file(layers: &Layers, need: Need) -> Result<(), ConfigError> {
    let (key, otherwise) = match need {
        Need::Handlers => ("handlers", ""),
        Need::Database => ("db", ", or the database with `--db FILE`"),
    };
    if layers.given().get(key).is_some() {
        return Ok(());
    }
    let place = std::env::current_dir().map_or_else(|_| ".".into(), |d| d.display().to_string());
    let text = format!(
        "there is no config file: looked for {DEFAULT_FILE} in {place}; name one with \
         `--config FILE`{otherwise}"
    );
    Err(Problem { origin: None, key: None, text }.into())
}

/// Words for a value that has the wrong type, or a key that nobody knows.
fn type_problem(
    error: &serde_path_to_error::Error<serde_json::Error>,
    layers: &Layers,
) -> ConfigError {
    use serde_path_to_error::Segment;
    let steps = error.path().iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    });
    let key = KeyPath::of(steps);
    let message = error.inner().to_string();
    let text = if let Some(rest) = message.strip_prefix("unknown field `") {
        let mut quoted = rest.split('`');
        let name = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.skip(1).step_by(2).collect();
        error::unknown_key(name, &known)
    } else if let Some(rest) = message.strip_prefix("missing field `") {
        format!("the key `{}` is missing", rest.trim_end_matches('`'))
    } else {
        in_json_terms(&message)
    };
    Problem { origin: Some(layers.origin(&key)), key: Some(key), text }.into()
}

/// Serde speaks of structs and sequences; who writes JSON does not.
fn in_json_terms(message: &str) -> String {
    let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let what = what.replace("sequence", "list").replace("map", "object");
    let expected = match expected {
        "" => return what,
        "a map" => "an object",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        "path string" => "a path",
        text if text.starts_with("struct ") => "an object",
        text => text,
    };
    format!("{what}, expected {expected}")
}

fn new_worker_id() -> WorkerId {
    let random = uuid::Uuid::new_v4().simple().to_string();
    WorkerId::new(format!("worker-{}", &random[..12])).expect("a short name of plain letters")
}

#[cfg(test)]
mod tests;
