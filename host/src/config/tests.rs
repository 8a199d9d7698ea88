use std::fs;
use std::time::Duration;

use super::*;

/// A directory with a config file and a handler's file.
struct Place(tempfile::TempDir);

impl Place {
    fn with(text: impl AsRef<[u8]>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("configs")).unwrap();
        fs::create_dir(dir.path().join("plugins")).unwrap();
        fs::write(dir.path().join("configs/worker.json"), text).unwrap();
        fs::write(dir.path().join("plugins/echo.wasm"), "").unwrap();
        Self(dir)
    }

    fn sources(&self) -> Sources {
        Sources { file: Some(self.0.path().join("configs/worker.json")), ..Sources::default() }
    }

    fn shown(&self, text: &impl ToString) -> String {
        text.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    fn entry(&self, config: &Config, key: &str) -> String {
        let entries = config.entries();
        let entry = entries.iter().find(|e| e.key.to_string() == key).expect("such a key");
        self.shown(&format!("{} ({})", entry.value, entry.origin))
    }
}

/// The error that a config file gives.
fn error(text: impl AsRef<[u8]>) -> String {
    let place = Place::with(text);
    let loaded = Config::load(&place.sources(), Need::Handlers);
    let checked = loaded.and_then(|config| config.check_files().map(|()| config));
    place.shown(&checked.expect_err("a bad file"))
}

/// The error that a sound config file gives with something laid over it.
fn error_over(environment: &[(&str, &str)], assignments: &[&str]) -> String {
    let place = Place::with(SOUND);
    place.shown(&load_over(&place, environment, assignments).expect_err("bad values"))
}

fn load_over(
    place: &Place,
    environment: &[(&str, &str)],
    assignments: &[&str],
) -> Result<Config, ConfigError> {
    let sources = Sources {
        environment: environment.iter().map(|(n, v)| (n.into(), v.into())).collect(),
        assignments: assignments.iter().map(ToString::to_string).collect(),
        ..place.sources()
    };
    Config::load(&sources, Need::Handlers)
}

const SOUND: &str = r#"{
    "db": "../flowkit.db",
    "lease_ttl_sec": 30,
    "hb_interval_sec": 7.5,
    "handlers": {
        "echo": {"component": "../plugins/echo.wasm", "dirs": [{"host": "..", "guest": "/data"}]},
        "a.b": {"component": "../plugins/echo.wasm"}
    }
}"#;

#[test]
fn a_sound_file_loads() {
    let place = Place::with(SOUND);
    let config = Config::load(&place.sources(), Need::Handlers).unwrap();
    config.check_files().unwrap();
    assert_eq!(config.warnings(), []);
    let settings = config.settings();
    assert_eq!(settings.lease_ttl, Duration::from_secs(30));
    assert_eq!(settings.hb_interval, Duration::from_millis(7_500));
    assert_eq!(config.roles().iter().map(Role::as_str).collect::<Vec<_>>(), ["a.b", "echo"]);
    assert_eq!(place.shown(&config.db().display()), "configs/../flowkit.db");
    assert!(!config.db_was_named());
    let echo = &config.handlers()[&Role::new("echo").unwrap()];
    assert_eq!(place.shown(&echo.component.display()), "configs/../plugins/echo.wasm");
    assert_eq!(place.shown(&echo.dirs[0].host.display()), "configs/..");
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let place = Place::with("{}");
    let config = Config::load(&place.sources(), Need::Handlers).unwrap();
    assert_eq!(config.settings(), Settings::new(config.settings().worker_id));
    assert_eq!(config.db(), Path::new("flowkit.db"));
    assert!(config.settings().worker_id.as_str().starts_with("worker-"));
    assert_eq!(config.roles(), []);
}

#[test]
fn what_is_shown_is_a_config_file() {
    let place = Place::with(SOUND);
    let config = Config::load(&place.sources(), Need::Handlers).unwrap();
    let again = Place::with(config.effective().to_string());
    let again = Config::load(&again.sources(), Need::Handlers).unwrap();
    assert_eq!(again.effective(), config.effective());
}

#[test]
fn a_role_may_have_fewer_runs_than_the_worker() {
    let place = Place::with(SOUND);
    let set = ["handlers.echo.concurrency=3"];
    let config = load_over(&place, &[], &set).unwrap();
    let echo = &config.handlers()[&Role::new("echo").unwrap()];
    assert_eq!(echo.concurrency.map(std::num::NonZeroU32::get), Some(3));
    assert!(load_over(&place, &[], &["handlers.echo.concurrency=0"]).is_err());
}

const ON_KAFKA: &str = r#"{
    "backend": "kafka",
    "kafka_bootstrap": "kafka-1:9092",
    "kafka": {
        "sasl.password": "swordfish", "security.protocol": "SASL_SSL", "socket.timeout.ms": 900,
        "ssl.key.password": {"file": "../key-password"}
    },
    "mongodb_uri": "mongodb://worker:swordfish@db-1/admin?tlsCertificateKeyFilePassword=swordfish"
}"#;

#[test]
fn the_servers_are_read_with_their_secrets_and_shown_without() {
    let place = Place::with(ON_KAFKA);
    fs::write(place.0.path().join("key-password"), "hunter2\n").unwrap();
    let config = Config::load(&place.sources(), Need::Database).unwrap();
    assert!(config.is_on_kafka());
    let servers = config.servers().unwrap();
    assert_eq!(servers.bootstrap, "kafka-1:9092");
    assert_eq!(servers.properties["sasl.password"], "swordfish");
    assert_eq!(servers.properties["ssl.key.password"], "hunter2");
    assert_eq!(servers.properties["socket.timeout.ms"], "900");
    assert!(servers.mongodb_uri.contains("worker:swordfish@db-1"));
    assert_eq!(servers.mongodb_database, "flowkit");
    let shown = format!("{} {:?}", config.effective(), config.entries());
    assert!(!shown.contains("swordfish") && !shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("mongodb://worker:***@db-1/admin?***"), "{shown}");
    assert!(shown.contains("SASL_SSL"), "{shown}");
}

#[test]
fn secrets_come_from_the_environment() {
    let place = Place::with(ON_KAFKA);
    let kafka = r#"kafka={"sasl.password": {"env": "KAFKA_PASSWORD"}}"#;
    let set = [kafka, r#"mongodb_uri={"env": "MONGODB_URI"}"#];
    let environment = [("KAFKA_PASSWORD", "swordfish"), ("MONGODB_URI", "mongodb://db-2")];
    let config = load_over(&place, &environment, &set).unwrap();
    let servers = config.servers().unwrap();
    assert_eq!(servers.properties["sasl.password"], "swordfish");
    assert_eq!(servers.mongodb_uri, "mongodb://db-2");
    let missing = load_over(&place, &environment[1..], &set).unwrap();
    let error = place.shown(&missing.servers().err().unwrap());
    insta::assert_snapshot!(
        error,
        @r#"--set kafka: `kafka."sasl.password"`: the environment variable KAFKA_PASSWORD, which holds it, is not set or empty"#
    );
}

#[test]
fn a_broker_needs_its_keys_and_keeps_the_invariants() {
    insta::assert_snapshot!(error(r#"{"backend": "kafka", "mongodb_database": "a.b"}"#), @r#"
    configs/worker.json:1:2: `backend`: "kafka" needs `kafka_bootstrap`, the brokers' addresses, such as "kafka-1:9092,kafka-2:9092"
    configs/worker.json:1:2: `backend`: "kafka" needs `mongodb_uri`, the database's address, such as "mongodb://db-1:27017", or {"env": NAME} or {"file": PATH} to keep a password out of the configuration
    configs/worker.json:1:22: `mongodb_database`: must be a database's name: 1 to 63 bytes without blanks and /\."$*<>:|?
    "#);
    insta::assert_snapshot!(
        error(
            r#"{"backend": "kafka", "kafka_bootstrap": "k:9092", "mongodb_uri": "mongodb://db",
                "kafka": {"acks": 1, "sasl.password": ["x"]}}"#
        ),
        @r#"configs/worker.json:2:38: `kafka."sasl.password"`: invalid type: list, expected a text, {"file": PATH} or {"env": NAME}"#
    );
    insta::assert_snapshot!(
        error(
            r#"{"backend": "kafka", "kafka_bootstrap": "k:9092", "mongodb_uri": "mongodb://db",
                "kafka": {"acks": 1}}"#
        ),
        @"configs/worker.json:2:27: `kafka.acks`: is `all`: what was acknowledged is never lost"
    );
    insta::assert_snapshot!(error(r#"{"backend": "redis"}"#), @r#"configs/worker.json:1:2: `backend`: there is no backend "redis"; there are "embedded" and "kafka""#);
}

#[test]
fn later_layers_win_and_are_named() {
    let place = Place::with(SOUND);
    let environment = [
        ("FLOWKIT_LEASE_TTL_SEC", "90"),
        ("FLOWKIT_DB", "12"),
        ("FLOWKIT_ROLES", "echo, a.b"),
        ("HOME", "/root"),
    ];
    let set = [
        "lease_ttl_sec=120",
        "worker_id=7",
        "handlers.echo.limits.result_bytes=2048",
        "handlers.echo.dirs.0.host=here",
        "handlers.\"a.b\".component=there.wasm",
    ];
    let config = load_over(&place, &environment, &set).unwrap();
    let shown: Vec<_> = [
        "lease_ttl_sec",
        "hb_interval_sec",
        "announce_interval_sec",
        "db",
        "roles",
        "worker_id",
        "handlers.echo.component",
        "handlers.echo.dirs",
        "handlers.echo.limits.result_bytes",
        "handlers.echo.limits.memory_bytes",
        "handlers.\"a.b\".component",
    ]
    .iter()
    .map(|key| format!("{key} = {}", place.entry(&config, key)))
    .collect();
    insta::assert_snapshot!(
        shown.join("\n"),
        @r#"
        lease_ttl_sec = 120 (--set lease_ttl_sec)
        hb_interval_sec = 7.5 (configs/worker.json:4:5)
        announce_interval_sec = 60 (default)
        db = "12" (environment variable FLOWKIT_DB)
        roles = ["echo","a.b"] (environment variable FLOWKIT_ROLES)
        worker_id = "7" (--set worker_id)
        handlers.echo.component = "configs/../plugins/echo.wasm" (configs/worker.json:6:18)
        handlers.echo.dirs = [{"guest":"/data","host":"here","write":false}] (configs/worker.json:6:55)
        handlers.echo.limits.result_bytes = 2048 (--set handlers.echo.limits.result_bytes)
        handlers.echo.limits.memory_bytes = 268435456 (default)
        handlers."a.b".component = "there.wasm" (--set handlers."a.b".component)
        "#
    );
    assert!(config.db_was_named());
}

#[test]
fn the_database_can_be_named_alone() {
    let place = Place::with(SOUND);
    let sources = Sources { db: Some("other.db".into()), ..place.sources() };
    let config = Config::load(&sources, Need::Database).unwrap();
    assert_eq!(config.db(), Path::new("other.db"));
    assert_eq!(place.entry(&config, "db"), "\"other.db\" (--db)");
}

#[test]
fn unknown_keys_are_refused() {
    insta::assert_snapshot!(
        error("{\n  \"lease_ttl\": 5\n}"),
        @"configs/worker.json:2:3: `lease_ttl`: unknown key; did you mean `lease_ttl_sec`?"
    );
    insta::assert_snapshot!(
        error(r#"{"redis_url": "redis://localhost"}"#),
        @"configs/worker.json:1:2: `redis_url`: unknown key; `flowkit config show` lists all keys"
    );
    insta::assert_snapshot!(
        error(r#"{"handlers": {"echo": {"component": "../plugins/echo.wasm", "limit": {}}}}"#),
        @"configs/worker.json:1:61: `handlers.echo.limit`: unknown key; did you mean `limits`?"
    );
    insta::assert_snapshot!(
        error(r#"{"handlers": {"echo": {"component": "../plugins/echo.wasm", "net": {}}}}"#),
        @"configs/worker.json:1:61: `handlers.echo.net`: unknown key; `flowkit config show` lists all keys"
    );
}

#[test]
fn wrong_numbers_are_refused() {
    insta::assert_snapshot!(
        error(r#"{"lease_ttl_sec": "60"}"#),
        @r#"configs/worker.json:1:2: `lease_ttl_sec`: invalid type: string "60", expected a number of seconds from 0.1 to 31536000 (a year)"#
    );
    insta::assert_snapshot!(
        error(r#"{"lease_ttl_sec": 0}"#),
        @"configs/worker.json:1:2: `lease_ttl_sec`: invalid value: integer `0`, expected a number of seconds from 0.1 to 31536000 (a year)"
    );
    insta::assert_snapshot!(
        error(r#"{"hb_interval_sec": -1.5}"#),
        @"configs/worker.json:1:2: `hb_interval_sec`: invalid value: floating point `-1.5`, expected a number of seconds from 0.001 to 31536000 (a year)"
    );
    insta::assert_snapshot!(
        error(r#"{"hb_interval_sec": 1e300}"#),
        @"configs/worker.json:1:2: `hb_interval_sec`: invalid value: floating point `1e+300`, expected a number of seconds from 0.001 to 31536000 (a year)"
    );
    insta::assert_snapshot!(
        error(r#"{"db_cancel_poll_ms": 0.5}"#),
        @"configs/worker.json:1:2: `db_cancel_poll_ms`: invalid type: floating point `0.5`, expected a whole number of milliseconds from 1 to 31536000000"
    );
    insta::assert_snapshot!(
        error(r#"{"max_concurrent_tasks": 0}"#),
        @"configs/worker.json:1:2: `max_concurrent_tasks`: invalid value: integer `0`, expected a whole number from 1 to 10000"
    );
    insta::assert_snapshot!(
        error(r#"{"max_attempts": -1}"#),
        @"configs/worker.json:1:2: `max_attempts`: invalid value: integer `-1`, expected a whole number from 0 to 1000000000"
    );
    insta::assert_snapshot!(
        error(r#"{"strict_input_adapters": "yes"}"#),
        @r#"configs/worker.json:1:2: `strict_input_adapters`: invalid type: string "yes", expected true or false"#
    );
}

#[test]
fn wrong_names_and_shapes_are_refused() {
    insta::assert_snapshot!(
        error(r#"{"backend": "nats"}"#),
        @r#"configs/worker.json:1:2: `backend`: there is no backend "nats"; there are "embedded" and "kafka""#
    );
    insta::assert_snapshot!(
        error(r#"{"db": 5}"#),
        @"configs/worker.json:1:2: `db`: invalid type: integer `5`, expected a path"
    );
    insta::assert_snapshot!(
        error(r#"{"roles": "echo"}"#),
        @r#"configs/worker.json:1:2: `roles`: invalid type: string "echo", expected a list"#
    );
    insta::assert_snapshot!(
        error(r#"{"roles": ["echo", ""]}"#),
        @"configs/worker.json:1:20: `roles.1`: role is empty"
    );
    insta::assert_snapshot!(
        error(r#"{"handlers": []}"#),
        @"configs/worker.json:1:2: `handlers`: invalid type: list, expected an object"
    );
    insta::assert_snapshot!(
        error(r#"{"handlers": {"echo": {"component": "../plugins/echo.wasm", "sha256": "ABC"}}}"#),
        @"configs/worker.json:1:61: `handlers.echo.sha256`: not a SHA-256: expected 64 lowercase hexadecimal digits, as `flowkit plugin inspect FILE.wasm` shows them"
    );
    insta::assert_snapshot!(
        error(r#"{"plugins": {"trusted_keys": ["ed25519:12"]}}"#),
        @"configs/worker.json:1:31: `plugins.trusted_keys.0`: not a public key: expected `ed25519:` and 64 hex digits, as `flowkit plugin keygen` prints them"
    );
    insta::assert_snapshot!(
        error(r#"{"handlers": {"echo": "echo.wasm"}}"#),
        @r#"configs/worker.json:1:15: `handlers.echo`: invalid type: string "echo.wasm", expected an object"#
    );
    insta::assert_snapshot!(
        error(r#"{"handlers": {"echo": {}}}"#),
        @"configs/worker.json:1:15: `handlers.echo`: the key `component` is missing"
    );
    insta::assert_snapshot!(
        error(r#"{"handlers": {"a b": {"component": "x"}}}"#),
        @"configs/worker.json:1:15: `handlers.a b`: role may contain only letters, digits, '.', '_' and '-'"
    );
    insta::assert_snapshot!(
        error(r#"{"topic_query": "a topic"}"#),
        @"configs/worker.json:1:2: `topic_query`: topic may contain only letters, digits, '.', '_' and '-'"
    );
}

#[test]
fn a_list_is_no_object() {
    insta::assert_snapshot!(
        error(r#"{"handlers": {"a": ["x"], "b": {"component": "x", "limits": [1], "dirs": [["/d", "/d"]]}}}"#),
        @r"
        configs/worker.json:1:15: `handlers.a`: this is a list, expected an object
        configs/worker.json:1:51: `handlers.b.limits`: this is a list, expected an object
        configs/worker.json:1:75: `handlers.b.dirs.0`: this is a list, expected an object
        "
    );
}

#[test]
fn a_file_that_is_no_object_is_refused() {
    insta::assert_snapshot!(
        error(""),
        @"configs/worker.json:1:1: not JSON: the file ends within a value"
    );
    insta::assert_snapshot!(
        error("{\n  \"db\": \"x\",\n}"),
        @"configs/worker.json:3:1: not JSON: trailing comma"
    );
    insta::assert_snapshot!(
        error("[]"),
        @"configs/worker.json:1:1: a configuration is a JSON object, `{…}`"
    );
    insta::assert_snapshot!(
        error(b"{\n\"db\": \"\xff\"}"),
        @"cannot read the config file configs/worker.json: line 2 is not UTF-8"
    );
    insta::assert_snapshot!(
        error("{\"db\": \"a\",\n \"db\": \"b\"}"),
        @"configs/worker.json:2:2: `db`: this key stands here a second time; remove one of the two"
    );
}

#[test]
fn keys_that_do_not_fit_each_other_are_refused() {
    insta::assert_snapshot!(
        error("{\n \"lease_ttl_sec\": 30\n}"),
        @"configs/worker.json:2:2: `lease_ttl_sec`: `lease_ttl_sec` is 30 (configs/worker.json:2:2), which needs a heartbeat at least every 15 s, but `hb_interval_sec` is 20 (default); change one of the two"
    );
    insta::assert_snapshot!(
        error("{\n \"hb_interval_sec\": 45\n}"),
        @"configs/worker.json:2:2: `hb_interval_sec`: `lease_ttl_sec` is 60 (default), which needs a heartbeat at least every 30 s, but `hb_interval_sec` is 45 (configs/worker.json:2:2); change one of the two"
    );
    insta::assert_snapshot!(
        error(r#"{"topic_cmd_fmt": "cmd.v1", "pull_poll_ms_default": 5000}"#),
        @r"
        configs/worker.json:1:2: `topic_cmd_fmt`: does not contain {type}
        configs/worker.json:1:29: `pull_poll_ms_default`: is above `pull_empty_backoff_ms_max`, 4000
        "
    );
    insta::assert_snapshot!(
        error(r#"{"roles": ["report"]}"#),
        @"configs/worker.json:1:12: `roles.0`: role `report` has no handler; add `handlers.report` with its `component`, or take the role out of `roles`"
    );
    insta::assert_snapshot!(
        error(r#"{"db": ""}"#),
        @"configs/worker.json:1:2: `db`: is empty; name a file"
    );
    insta::assert_snapshot!(
        error(
        r#"{"handlers": {"echo": {"component": "../plugins/echo.wasm", "limits": {"result_bytes": 1}}},
            "roles": ["echo", "echo"]}"#
    ),
        @r"
        configs/worker.json:2:31: `roles.1`: role `echo` is listed twice
        configs/worker.json:1:72: `handlers.echo.limits.result_bytes`: is 1; it must be from 1024 to 268435456
        "
    );
}

#[test]
fn missing_files_are_refused() {
    insta::assert_snapshot!(
        error(
        r#"{"handlers": {
            "echo": {"component": "../plugins/ecko.wasm", "dirs": [{"host": "none", "guest": "/d"}]},
            "steps": {"component": "../plugins"}}}"#
    ),
        @r"
        configs/worker.json:2:22: `handlers.echo.component`: there is no file configs/../plugins/ecko.wasm; build the example plugins with `cargo xtask plugins`, or correct the path
        configs/worker.json:2:69: `handlers.echo.dirs.0.host`: there is no directory configs/none to grant to the handler
        configs/worker.json:3:23: `handlers.steps.component`: configs/../plugins is not a file; name the handler's .wasm file
        "
    );
    let sources = Sources { file: Some("no/such.json".into()), ..Sources::default() };
    let missing = Config::load(&sources, Need::Handlers).expect_err("missing");
    insta::assert_snapshot!(
        missing,
        @"cannot read the config file no/such.json: No such file or directory (os error 2)"
    );
}

#[test]
fn without_any_file_the_error_tells_what_was_looked_for() {
    let here = std::env::current_dir().unwrap().display().to_string();
    let error = |need| {
        let error = Config::load(&Sources::default(), need).expect_err("nothing given");
        error.to_string().replace(&here, "<here>")
    };
    insta::assert_snapshot!(
        error(Need::Handlers),
        @"there is no config file: looked for configs/worker.json in <here>; name one with `--config FILE`"
    );
    insta::assert_snapshot!(
        error(Need::Database),
        @"there is no config file: looked for configs/worker.json in <here>; name one with `--config FILE`, or the database with `--db FILE`"
    );
    let sources = Sources { db: Some("x.db".into()), ..Sources::default() };
    Config::load(&sources, Need::Database).expect("the database is enough");
}

#[test]
fn bad_values_over_the_file_are_refused() {
    insta::assert_snapshot!(
        error_over(&[("FLOWKIT_LEASE_TTL", "5")], &[]),
        @"environment variable FLOWKIT_LEASE_TTL: unknown; did you mean FLOWKIT_LEASE_TTL_SEC?"
    );
    insta::assert_snapshot!(
        error_over(&[("FLOWKIT_XYZ", "5"), ("FLOWKIT_Db", "5")], &[]),
        @r"
        environment variable FLOWKIT_XYZ: unknown; FLOWKIT_ is followed by a key, as `flowkit config show` lists them
        environment variable FLOWKIT_Db: write it in capitals, FLOWKIT_DB
        "
    );
    insta::assert_snapshot!(
        error_over(&[("FLOWKIT_LEASE_TTL_SEC", "a minute")], &[]),
        @r#"environment variable FLOWKIT_LEASE_TTL_SEC: `lease_ttl_sec`: invalid type: string "a minute", expected a number of seconds from 0.1 to 31536000 (a year)"#
    );
    insta::assert_snapshot!(
        error_over(&[("FLOWKIT_LEASE_TTL_SEC", "10")], &[]),
        @"configs/worker.json:4:5: `hb_interval_sec`: `lease_ttl_sec` is 10 (environment variable FLOWKIT_LEASE_TTL_SEC), which needs a heartbeat at least every 5 s, but `hb_interval_sec` is 7.5 (configs/worker.json:4:5); change one of the two"
    );
    insta::assert_snapshot!(
        error_over(&[("FLOWKIT_ROLES", "echo,report")], &[]),
        @"environment variable FLOWKIT_ROLES: `roles.1`: role `report` has no handler; add `handlers.report` with its `component`, or take the role out of `roles`"
    );
    insta::assert_snapshot!(
        error_over(&[], &["hb_interval_sec=20"]),
        @"--set hb_interval_sec: `lease_ttl_sec` is 30 (configs/worker.json:3:5), which needs a heartbeat at least every 15 s, but `hb_interval_sec` is 20 (--set hb_interval_sec); change one of the two"
    );
    insta::assert_snapshot!(
        error_over(&[], &["leasettl=1"]),
        @"--set leasettl: unknown key; `flowkit config show` lists all keys"
    );
    insta::assert_snapshot!(
        error_over(&[], &["db"]),
        @"--set db: write it as `--set KEY=VALUE`"
    );
    insta::assert_snapshot!(
        error_over(&[], &["handlers..component=x"]),
        @"--set handlers..component: a key is written as `lease_ttl_sec` or `handlers.ROLE.component`; a role with a dot in it stands in double quotes"
    );
    insta::assert_snapshot!(
        error_over(&[], &["handlers.echo.limits.result_byte=5"]),
        @"--set handlers.echo.limits.result_byte: unknown key; did you mean `result_bytes`?"
    );
    insta::assert_snapshot!(
        error_over(&[], &["handlers.echo.component.x=5"]),
        @"--set handlers.echo.component.x: `handlers.echo.component` is neither an object nor a list"
    );
    insta::assert_snapshot!(
        error_over(&[], &["handlers.echo.dirs.3.host=x"]),
        @"--set handlers.echo.dirs.3.host: `handlers.echo.dirs` is a list of 1; name an element by its number"
    );
    insta::assert_snapshot!(
        error_over(&[], &["handlers.echo=null"]),
        @"--set handlers.echo: invalid type: null, expected an object"
    );
}

#[test]
fn what_is_hardly_meant_is_warned_about() {
    let place = Place::with(r#"{"kafka_bootstrap": "localhost:9092", "cancel_grace_sec": 10}"#);
    let config = Config::load(&place.sources(), Need::Handlers).unwrap();
    let warnings: Vec<_> = config.warnings().iter().map(|w| place.shown(w)).collect();
    insta::assert_snapshot!(
        warnings.join("\n"),
        @r#"
        configs/worker.json:1:2: `kafka_bootstrap`: not used: `backend` is "embedded", which keeps everything in the file `db`
        configs/worker.json:1:39: `cancel_grace_sec`: is above `shutdown_grace_sec`, which cuts it short when the worker stops
        "#
    );
}
