//! Every key of a configuration, with its type and its default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::plugins::PluginKeys;
use super::secret::{MASK, Text, without_password};
use super::units::{Count, Millis, Seconds};
use crate::bus::Topic;
use crate::bus::kafka::is_secret;
use crate::plugin::HandlerConfig;
use crate::protocol::Topics;
use crate::types::{Role, WorkerId};

/// The keys, as the file has them. What each means is said in `settings.rs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    pub backend: Backend,
    pub db: PathBuf,
    pub kafka_bootstrap: Option<String>,
    pub kafka: BTreeMap<String, Text>,
    pub mongodb_uri: Option<Text>,
    pub mongodb_database: String,
    pub handlers: BTreeMap<Role, HandlerConfig>,
    pub plugins: PluginKeys,
    pub roles: Option<Vec<Role>>,
    pub worker_id: Option<WorkerId>,
    pub worker_version: String,
    pub lease_ttl_sec: Seconds<100>,
    pub hb_interval_sec: Seconds<1>,
    pub announce_interval_sec: Seconds<1>,
    pub db_cancel_poll_ms: Millis<1>,
    pub claim_poll_ms: Millis<1>,
    pub max_clock_skew_ms: Millis<0>,
    pub cancel_grace_sec: Seconds<0>,
    pub shutdown_grace_sec: Seconds<0>,
    pub max_concurrent_tasks: Count<1, 10_000>,
    pub max_queued_runs: Count<1, 1_000_000_000>,
    pub max_attempts: Count<0, 1_000_000_000>,
    pub dedup_cache_size: Count<1, 10_000_000>,
    pub dedup_ttl_ms: Millis<1>,
    pub pull_poll_ms_default: Millis<1>,
    pub pull_empty_backoff_ms_max: Millis<1>,
    pub strict_input_adapters: bool,
    pub topic_cmd_fmt: String,
    pub topic_status_fmt: String,
    pub topic_worker_announce: Topic,
    pub topic_query: Topic,
    pub topic_reply: Topic,
    pub topic_signals: Topic,
    pub topic_dead_letter: Topic,
}

impl Default for Keys {
    fn default() -> Self {
        let topics = Topics::default();
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            backend: Backend::Embedded,
            db: "flowkit.db".into(),
            kafka_bootstrap: None,
            kafka: BTreeMap::new(),
            mongodb_uri: None,
            mongodb_database: "flowkit".into(),
            handlers: BTreeMap::new(),
            plugins: PluginKeys::default(),
            roles: None,
            worker_id: None,
            worker_version: "2.0.0".into(),
            lease_ttl_sec: Seconds::from_ms(60_000),
            hb_interval_sec: Seconds::from_ms(20_000),
            announce_interval_sec: Seconds::from_ms(60_000),
            db_cancel_poll_ms: Millis::from_ms(500),
            claim_poll_ms: Millis::from_ms(1_000),
            max_clock_skew_ms: Millis::from_ms(2_000),
            cancel_grace_sec: Seconds::from_ms(5_000),
            shutdown_grace_sec: Seconds::from_ms(8_000),
            max_concurrent_tasks: Count::new(u32::try_from(cores.min(10_000)).unwrap_or(10_000)),
            max_queued_runs: Count::new(1_000),
            max_attempts: Count::new(20),
            dedup_cache_size: Count::new(10_000),
            dedup_ttl_ms: Millis::from_ms(3_600_000),
            pull_poll_ms_default: Millis::from_ms(300),
            pull_empty_backoff_ms_max: Millis::from_ms(4_000),
            strict_input_adapters: false,
            topic_cmd_fmt: topics.cmd_fmt,
            topic_status_fmt: topics.status_fmt,
            topic_worker_announce: topics.announce,
            topic_query: topics.query,
            topic_reply: topics.reply,
            topic_signals: topics.signals,
            topic_dead_letter: topics.dead_letter,
        }
    }
}

impl Keys {
    /// The same with every secret that stands in it made harmless.
    pub fn masked(&self) -> Self {
        let mut keys = self.clone();
        keys.mongodb_uri = keys.mongodb_uri.map(|uri| uri.shown(without_password));
        for (name, value) in &mut keys.kafka {
            if is_secret(name) {
                *value = value.shown(|_| MASK.into());
            }
        }
        keys
    }
}

/// What keeps the topics and the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", rename_all = "snake_case")]
pub(super) enum Backend {
    /// One SQLite file.
    Embedded,
    /// A Kafka broker and a MongoDB database.
    Kafka,
}

impl TryFrom<String> for Backend {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "embedded" => Ok(Self::Embedded),
            "kafka" => Ok(Self::Kafka),
            other => {
                Err(format!("there is no backend {other:?}; there are \"embedded\" and \"kafka\""))
            }
        }
    }
}

/// How a key's value is written where only text can be: in the environment, on the command
/// line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The text itself.
    Text,
    /// A JSON list, or its elements with commas between them.
    List,
    /// JSON.
    Json,
}

/// A top-level key's form; `None` for a name that is no key.
pub(super) fn form(name: &str) -> Option<Form> {
    match name {
        "roles" => Some(Form::List),
        "backend" | "db" | "kafka_bootstrap" | "mongodb_database" | "worker_id"
        | "worker_version" => Some(Form::Text),
        _ if !NAMES.contains(&name) => None,
        _ if name.starts_with("topic_") => Some(Form::Text),
        _ => Some(Form::Json),
    }
}

/// The names of all keys.
pub(super) const NAMES: [&str; 34] = [
    "backend",
    "db",
    "kafka_bootstrap",
    "kafka",
    "mongodb_uri",
    "mongodb_database",
    "handlers",
    "plugins",
    "roles",
    "worker_id",
    "worker_version",
    "lease_ttl_sec",
    "hb_interval_sec",
    "announce_interval_sec",
    "db_cancel_poll_ms",
    "claim_poll_ms",
    "max_clock_skew_ms",
    "cancel_grace_sec",
    "shutdown_grace_sec",
    "max_concurrent_tasks",
    "max_queued_runs",
    "max_attempts",
    "dedup_cache_size",
    "dedup_ttl_ms",
    "pull_poll_ms_default",
    "pull_empty_backoff_ms_max",
    "strict_input_adapters",
    "topic_cmd_fmt",
    "topic_status_fmt",
    "topic_worker_announce",
    "topic_query",
    "topic_reply",
    "topic_signals",
    "topic_dead_letter",
];

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_names_are_the_keys_and_their_forms_fit() {
        let Value::Object(defaults) = serde_json::to_value(Keys::default()).unwrap() else {
            panic!("an object");
        };
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        assert_eq!(defaults.keys().collect::<Vec<_>>(), names);
        for (name, value) in &defaults {
            let text = value.is_string() || ["kafka_bootstrap", "worker_id"].contains(&&**name);
            assert_eq!(form(name) == Some(Form::Text), text, "{name}");
        }
        assert_eq!(form("role"), None);
        assert_eq!(form("topic_x"), None);
    }

    #[test]
    fn the_defaults_read_back() {
        let text = serde_json::to_string(&Keys::default()).unwrap();
        let back: Keys = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
}
