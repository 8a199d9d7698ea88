//! What no single key can tell: whether the keys fit each other and the files exist.

use std::path::Path;

use serde_json::Value;

use super::error::{Origin, Problem};
use super::keys::{Backend, Keys};
use super::layers::Layers;
use super::place::KeyPath;
use super::secret::Text;
use crate::bus::kafka::refused;
use crate::plugin::HandlerConfig;
use crate::protocol::Topics;
use crate::types::Role;

/// Lists that stand where an object belongs; read as types they would pass as one, their
/// elements as its keys.
pub(super) fn shapes(layers: &Layers) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut object = |key: KeyPath, value: &Value| {
        if value.is_array() {
            let text = "this is a list, expected an object".into();
            found.push(Problem { origin: Some(layers.origin(&key)), key: Some(key), text });
        }
    };
    for (role, handler) in layers.given()["handlers"].as_object().into_iter().flatten() {
        let key = KeyPath::of(["handlers", role]);
        object(key.clone(), handler);
        object(key.then("limits"), &handler["limits"]);
        object(key.then("env"), &handler["env"]);
        for (number, dir) in handler["dirs"].as_array().into_iter().flatten().enumerate() {
            object(key.then("dirs").then(number.to_string()), dir);
        }
    }
    found
}

/// Everything that is wrong among the keys.
pub(super) fn problems(keys: &Keys, layers: &Layers) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut report = |key: KeyPath, text: String| {
        found.push(Problem { origin: Some(layers.origin(&key)), key: Some(key), text });
    };
    if keys.db.as_os_str().is_empty() {
        report(KeyPath::of(["db"]), "is empty; name a file".into());
    }
    for (key, text) in broker_problems(keys) {
        report(key, text);
    }
    if let Err(bad) = topics(keys).check() {
        report(KeyPath::of([bad.what]), bad.problem.into());
    }
    if keys.hb_interval_sec.get() * 2 > keys.lease_ttl_sec.get() {
        let (key, text) = heartbeat_problem(keys, layers);
        report(key, text);
    }
    if keys.pull_poll_ms_default.get() > keys.pull_empty_backoff_ms_max.get() {
        let key = KeyPath::of(["pull_poll_ms_default"]);
        let most = keys.pull_empty_backoff_ms_max.get().as_millis();
        report(key, format!("is above `pull_empty_backoff_ms_max`, {most}"));
    }
    for (number, role) in keys.roles.iter().flatten().enumerate() {
        let key = KeyPath::of(["roles".to_owned(), number.to_string()]);
        if !keys.handlers.contains_key(role) {
            let text = format!(
                "role `{role}` has no handler; add `handlers.{role}` with its `component`, or take \
                 the role out of `roles`"
            );
            report(key, text);
        } else if keys.roles.iter().flatten().take(number).any(|earlier| earlier == role) {
            report(key, format!("role `{role}` is listed twice"));
        }
    }
    for (role, handler) in &keys.handlers {
        if let Err(bad) = handler.limits.check() {
            let key = of_role(role, ["limits", bad.key]);
            report(key, format!("is {}; it must be from {} to {}", bad.value, bad.min, bad.max));
        }
    }
    found
}

/// What works, but hardly as it was meant.
pub(super) fn warnings(keys: &Keys, layers: &Layers) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut report = |name: &str, text: &str| {
        let key = KeyPath::of([name]);
        let origin = Some(layers.origin(&key));
        found.push(Problem { origin, key: Some(key), text: text.into() });
    };
    if keys.backend == Backend::Embedded {
        let given = [
            ("kafka_bootstrap", keys.kafka_bootstrap.is_some()),
            ("kafka", !keys.kafka.is_empty()),
            ("mongodb_uri", keys.mongodb_uri.is_some()),
        ];
        for (name, _) in given.into_iter().filter(|(_, given)| *given) {
            report(
                name,
                "not used: `backend` is \"embedded\", which keeps everything in the file `db`",
            );
        }
    }
    if keys.cancel_grace_sec.get() > keys.shutdown_grace_sec.get() {
        report(
            "cancel_grace_sec",
            "is above `shutdown_grace_sec`, which cuts it short when the worker stops",
        );
    }
    found
}

/// Every file and directory that the handlers need and that is not there.
pub(super) fn missing_files(keys: &Keys, layers: &Layers) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut report = |key: KeyPath, text: String| {
        found.push(Problem { origin: Some(layers.origin(&key)), key: Some(key), text });
    };
    for (role, handler) in &keys.handlers {
        if let Some(text) = component_problem(&handler.component) {
            report(of_role(role, ["component"]), text);
        }
        for (number, dir) in handler.dirs.iter().enumerate() {
            if !dir.host.is_dir() {
                let key = of_role(role, ["dirs", &number.to_string(), "host"]);
                let path = dir.host.display();
                report(key, format!("there is no directory {path} to grant to the handler"));
            }
        }
    }
    found
}

/// The topic keys together.
pub(super) fn topics(keys: &Keys) -> Topics {
    Topics {
        cmd_fmt: keys.topic_cmd_fmt.clone(),
        status_fmt: keys.topic_status_fmt.clone(),
        announce: keys.topic_worker_announce.clone(),
        query: keys.topic_query.clone(),
        reply: keys.topic_reply.clone(),
        signals: keys.topic_signals.clone(),
        dead_letter: keys.topic_dead_letter.clone(),
    }
}

/// Makes each path in the keys absolute, or relative to the process's directory.
pub(super) fn resolve_paths(keys: &mut Keys, layers: &Layers) {
    let join = |key: KeyPath, path: &mut std::path::PathBuf| {
        if !path.as_os_str().is_empty() {
            *path = layers.base(&key).join(&*path);
        }
    };
    join(KeyPath::of(["db"]), &mut keys.db);
    for (name, value) in &mut keys.kafka {
        if let Text::File(path) = value {
            join(KeyPath::of(["kafka", name]), path);
        }
    }
    if let Some(Text::File(path)) = &mut keys.mongodb_uri {
        join(KeyPath::of(["mongodb_uri"]), path);
    }
    if let super::CacheDir::At(dir) = &mut keys.plugins.cache_dir {
        join(KeyPath::of(["plugins", "cache_dir"]), dir);
    }
    for (role, HandlerConfig { component, dirs, signature, .. }) in &mut keys.handlers {
        if let Some(signature) = signature {
            join(of_role(role, ["signature"]), signature);
        }
        join(of_role(role, ["component"]), component);
        for (number, dir) in dirs.iter_mut().enumerate() {
            join(of_role(role, ["dirs", &number.to_string(), "host"]), &mut dir.host);
        }
    }
}

/// What the keys of the broker and the database lack, and what may not be among them.
fn broker_problems(keys: &Keys) -> Vec<(KeyPath, String)> {
    let mut found = Vec::new();
    for name in keys.kafka.keys() {
        if let Some(why) = refused(name) {
            found.push((KeyPath::of(["kafka", name]), why.to_owned()));
        }
    }
    if keys.backend != Backend::Kafka {
        return found;
    }
    if keys.kafka_bootstrap.as_deref().is_none_or(|hosts| hosts.trim().is_empty()) {
        let text = "\"kafka\" needs `kafka_bootstrap`, the brokers' addresses, such as \
                    \"kafka-1:9092,kafka-2:9092\"";
        found.push((KeyPath::of(["backend"]), text.into()));
    }
    if keys.mongodb_uri.is_none() {
        let text = "\"kafka\" needs `mongodb_uri`, the database's address, such as \
                    \"mongodb://db-1:27017\", or {\"env\": NAME} or {\"file\": PATH} to keep a \
                    password out of the configuration";
        found.push((KeyPath::of(["backend"]), text.into()));
    }
    let name = &keys.mongodb_database;
    let odd = |c: char| c.is_control() || "/\\. \"$*<>:|?".contains(c);
    if name.is_empty() || name.len() > 63 || name.contains(odd) {
        let text = "must be a database's name: 1 to 63 bytes without blanks and /\\.\"$*<>:|?";
        found.push((KeyPath::of(["mongodb_database"]), text.into()));
    }
    found
}

fn heartbeat_problem(keys: &Keys, layers: &Layers) -> (KeyPath, String) {
    let lease = KeyPath::of(["lease_ttl_sec"]);
    let interval = KeyPath::of(["hb_interval_sec"]);
    let [lease_origin, interval_origin] = [&lease, &interval].map(|key| layers.origin(key));
    let text = format!(
        "`lease_ttl_sec` is {} ({lease_origin}), which needs a heartbeat at least every {} s, but \
         `hb_interval_sec` is {} ({interval_origin}); change one of the two",
        keys.lease_ttl_sec,
        keys.lease_ttl_sec.get().as_secs_f64() / 2.0,
        keys.hb_interval_sec,
    );
    // Blame the key that somebody set.
    (if interval_origin == Origin::Default { lease } else { interval }, text)
}

fn component_problem(path: &Path) -> Option<String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => None,
        Ok(_) => Some(format!("{shown} is not a file; name the handler's .wasm file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(format!(
            "there is no file {shown}; build the example plugins with `cargo xtask plugins`, or \
             correct the path"
        )),
        Err(error) => Some(format!("cannot look at {shown}: {error}")),
    }
}

fn of_role<'a>(role: &'a Role, steps: impl IntoIterator<Item = &'a str>) -> KeyPath {
    KeyPath::of(["handlers", role.as_str()].into_iter().chain(steps))
}
