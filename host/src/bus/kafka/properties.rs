//! librdkafka's properties: ours, the config's, and those that would break an invariant.

use std::time::Duration;

use rdkafka::ClientConfig;

use super::KafkaOptions;
use super::client::Log;
use super::error::fatal;
use crate::bus::BusError;

/// How often a handle asks for what has changed in the cluster, in milliseconds.
const REFRESH: &str = "topic.metadata.refresh.interval.ms";
const REFRESH_MS: u64 = 30_000;

/// Why a property may not be set in `kafka` of the configuration; `None` for one that may.
/// Names are compared as librdkafka writes them, in lower case.
pub fn refused(name: &str) -> Option<&'static str> {
    Some(match name {
        "bootstrap.servers" | "metadata.broker.list" => "is set by `kafka_bootstrap`",
        "client.id" => "is the worker's `worker_id`",
        "group.id" => "is the role's group, `workers.{role}.v1`, as the protocol says",
        "enable.auto.commit" | "auto.commit.enable" | "enable.auto.offset.store" => {
            "is off: a command is committed once its run is recorded, never by the clock"
        }
        "auto.offset.reset" => "is `earliest`: a worker that starts later than its command gets it",
        "enable.idempotence" => "is on: a message is stored once, in its order",
        "acks" | "request.required.acks" => "is `all`: what was acknowledged is never lost",
        "max.in.flight.requests.per.connection" | "max.in.flight" => {
            "is 5, the most that keeps the order"
        }
        "message.timeout.ms" | "delivery.timeout.ms" => {
            "follows from `lease_ttl_sec`: an event is given up before its lease can end"
        }
        "transactional.id" => "is not used: ends are fenced by the run's record",
        "enable.partition.eof" => "is set where the host reads a topic to its end",
        "group.protocol" | "group.remote.assignor" => {
            "is `classic`: it is what the workers of one role share"
        }
        "retries" | "message.send.max.retries" => {
            "is without end: how long a message is tried follows from `lease_ttl_sec`"
        }
        "offset.store.method" | "offset.store.path" | "offset.store.sync.interval.ms" => {
            "is the broker: a group's offsets are where all its members see them"
        }
        "partitioner" | "consistent.random" => {
            "is `murmur2_random`, where every other client finds the same key as well"
        }
        "log_level" | "log.queue" | "log_cb" | "opaque" | "enabled_events" => {
            "is set by the host's own logging"
        }
        _ => return None,
    })
}

/// True for a property whose value is a secret.
pub fn is_secret(name: &str) -> bool {
    ["password", "secret", ".pem", "jaas", "sasl.oauthbearer.config", "token"]
        .iter()
        .any(|part| name.contains(part))
}

/// What a handle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use<'a> {
    /// Publishing; a message is given up after `within`.
    Producer {
        /// At most half a lease.
        within: Duration,
    },
    /// Reading as a member of a group.
    Member {
        /// The group.
        group: &'a str,
    },
    /// Reading outside of any group.
    Reader,
    /// Asking for and making topics.
    Admin,
}

/// Everything a handle is made of.
pub(super) struct Properties {
    options: KafkaOptions,
    log: Log,
}

impl Properties {
    /// [`BusError::Fatal`] for one that is refused.
    pub fn new(options: KafkaOptions) -> Result<Self, BusError> {
        for name in options.properties.keys() {
            if let Some(why) = refused(name) {
                return Err(fatal(format!("`kafka.{name}` {why}")));
            }
        }
        let secrets = options.properties.iter().filter(|(name, _)| is_secret(name));
        let secrets = secrets.map(|(_, secret)| secret.clone()).collect();
        let log = Log::new(secrets, !options.properties.contains_key("security.protocol"));
        Ok(Self { options, log })
    }

    /// The log of a handle.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// How long a lease lasts.
    pub fn lease_ttl(&self) -> Duration {
        self.options.lease_ttl
    }

    /// The brokers, for people.
    pub fn bootstrap(&self) -> &str {
        &self.options.bootstrap
    }

    /// The largest message that is sent, with its key and headers, in bytes:
    /// `message.max.bytes`, by default what brokers take by default.
    pub fn message_max_bytes(&self) -> usize {
        let given = self.options.properties.get("message.max.bytes");
        given.and_then(|text| text.parse().ok()).unwrap_or(crate::bus::MAX_MESSAGE_BYTES)
    }

    /// How often partitions that were added are looked for.
    pub fn refresh_interval(&self) -> Duration {
        let given = self.options.properties.get(REFRESH).and_then(|text| text.parse().ok());
        Duration::from_millis(given.unwrap_or(REFRESH_MS))
    }

    /// The configuration of a handle.
    pub fn of(&self, purpose: Use<'_>) -> ClientConfig {
        let mut config = self.defaults(purpose);
        for (name, value) in &self.options.properties {
            let name = canonical(name);
            if purpose.takes(name) {
                config.set(name, value);
            }
        }
        self.insist(purpose, &mut config);
        config
    }

    /// What the configuration may change.
    fn defaults(&self, purpose: Use<'_>) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("message.max.bytes", self.message_max_bytes().to_string())
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            .set(REFRESH, REFRESH_MS.to_string());
        match purpose {
            Use::Producer { .. } => {
                config
                    .set("compression.type", "lz4")
                    .set("linger.ms", "1")
                    .set("queue.buffering.max.messages", "100000")
                    .set("queue.buffering.max.kbytes", "65536");
            }
            Use::Member { .. } => {
                config
                    .set("partition.assignment.strategy", "cooperative-sticky")
                    .set("session.timeout.ms", "10000")
                    .set("heartbeat.interval.ms", "2000");
            }
            Use::Reader | Use::Admin => {}
        }
        if purpose.reads() {
            config.set("fetch.wait.max.ms", "100").set("queued.max.messages.kbytes", "16384");
        }
        config
    }

    /// What it may not.
    fn insist(&self, purpose: Use<'_>, config: &mut ClientConfig) {
        config
            .set("bootstrap.servers", &self.options.bootstrap)
            .set("client.id", &self.options.client_id);
        match purpose {
            Use::Producer { within } => {
                config
                    .set("enable.idempotence", "true")
                    .set("acks", "all")
                    .set("max.in.flight.requests.per.connection", "5")
                    .set("partitioner", "murmur2_random")
                    .set("message.timeout.ms", within.as_millis().max(1).to_string());
            }
            Use::Member { group } => {
                config.set("group.id", group).set("enable.partition.eof", "false");
                if let Some(name) = self.options.properties.get("group.instance.id") {
                    // One configured name is one member in each of its roles' groups.
                    config.set("group.instance.id", format!("{name}.{group}"));
                }
            }
            Use::Reader => {
                // librdkafka wants a name even where no group is joined and nothing stored.
                let nobody = format!("flowkit.reader.{}", uuid::Uuid::new_v4().simple());
                config.set("group.id", nobody).set("enable.partition.eof", "true");
            }
            Use::Admin => {}
        }
        if purpose.reads() {
            config
                .set("enable.auto.commit", "false")
                .set("enable.auto.offset.store", "false")
                .set("auto.offset.reset", "earliest");
        }
    }
}

/// The name under which this file sets a property that has two.
fn canonical(name: &str) -> &str {
    match name {
        "compression.codec" => "compression.type",
        "queue.buffering.max.ms" => "linger.ms",
        _ => name,
    }
}

impl Use<'_> {
    fn reads(self) -> bool {
        matches!(self, Self::Member { .. } | Self::Reader)
    }

    /// A property of the other kind of handle would only give a warning.
    fn takes(self, name: &str) -> bool {
        const CONSUMERS: &[&str] = &[
            "group.instance.id",
            "partition.assignment.strategy",
            "session.timeout.ms",
            "heartbeat.interval.ms",
            "max.poll.interval.ms",
            "isolation.level",
            "check.crcs",
            "client.rack",
        ];
        const PRODUCERS: &[&str] = &["compression.type", "compression.level"];
        let prefixed = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let consumers = CONSUMERS.contains(&name) || prefixed(&["fetch.", "queued."]);
        let producers = PRODUCERS.contains(&name)
            || prefixed(&["queue.buffering.", "batch.", "linger.", "sticky."]);
        match self {
            Self::Producer { .. } => !consumers,
            Self::Member { .. } => !producers,
            Self::Reader => !producers && name != "group.instance.id",
            Self::Admin => !producers && !consumers,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn properties(given: &[(&str, &str)]) -> Result<Properties, BusError> {
        let properties: BTreeMap<_, _> =
            given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Properties::new(KafkaOptions {
            bootstrap: "127.0.0.1:1".into(),
            client_id: "w-1".into(),
            properties,
            lease_ttl: Duration::from_secs(60),
        })
    }

    #[test]
    fn what_would_break_an_invariant_is_refused_by_name() {
        for name in [
            "enable.auto.commit",
            "enable.idempotence",
            "acks",
            "group.id",
            "auto.offset.reset",
            "message.timeout.ms",
            "retries",
            "offset.store.method",
            "partitioner",
        ] {
            assert!(refused(name).is_some(), "{name}");
            let error = properties(&[(name, "x")]).err().unwrap().to_string();
            assert!(error.contains(&format!("`kafka.{name}`")), "{error}");
        }
        for name in ["security.protocol", "sasl.username", "partition.assignment.strategy"] {
            assert_eq!(refused(name), None);
        }
    }

    #[test]
    fn secrets_are_known_by_name() {
        for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password"] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("sasl.username") && !is_secret("security.protocol"));
    }

    #[test]
    fn a_static_member_has_a_name_in_each_group() {
        let properties = properties(&[("group.instance.id", "rack-1")]).unwrap();
        let name = |group| {
            let config = properties.of(Use::Member { group });
            config.get("group.instance.id").map(str::to_owned)
        };
        assert_eq!(name("workers.a.v1").as_deref(), Some("rack-1.workers.a.v1"));
        assert_ne!(name("workers.a.v1"), name("workers.b.v1"));
        assert_eq!(properties.of(Use::Reader).get("group.instance.id"), None);
    }

    #[test]
    fn ours_win_where_they_must_and_the_configs_elsewhere() {
        let given = [
            ("session.timeout.ms", "6000"),
            ("compression.codec", "gzip"),
            ("fetch.wait.max.ms", "500"),
            (REFRESH, "700"),
        ];
        let properties = properties(&given).unwrap();
        let member = properties.of(Use::Member { group: "g" });
        assert_eq!(member.get("session.timeout.ms"), Some("6000"));
        assert_eq!(member.get("compression.type"), None);
        assert_eq!(member.get("fetch.wait.max.ms"), Some("500"));
        assert_eq!(member.get(REFRESH), Some("700"));
        assert_eq!(properties.refresh_interval(), Duration::from_millis(700));
        assert_eq!(member.get("enable.auto.commit"), Some("false"));
        let producer = properties.of(Use::Producer { within: Duration::from_secs(3) });
        assert_eq!(producer.get("compression.type"), Some("gzip"));
        assert_eq!(producer.get("compression.codec"), None, "one name for one thing");
        assert_eq!(producer.get("message.timeout.ms"), Some("3000"));
        assert_eq!(producer.get("session.timeout.ms"), None);
    }
}
