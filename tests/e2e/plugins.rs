//! A worker whose plugins change while it is at work.

use serde_json::{Value, json};

use crate::support::{Process, Site, plugin};

/// A site with plugins of its own, looked at often.
fn site() -> Site {
    let site = Site::new(json!({"plugins": {"poll_ms": 20, "cache_dir": "cache"}}));
    let component = site.dir.path().join("echo.wasm");
    std::fs::copy(plugin("echo"), &component).unwrap();
    site.change_config(|config| config["handlers"] = json!({"echo": {"component": component}}));
    site
}

/// A component with a custom section that makes it another file.
fn version(number: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(plugin("echo")).unwrap();
    bytes.extend([0, 9, 7]);
    bytes.extend(b"version");
    bytes.push(number);
    bytes
}

/// What the only worker's record says of a role's plugin, once it is as wanted.
fn wait_for(site: &Site, role: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    site.wait_for_status(what, |status| {
        let state = status["workers"][0]["health"]["plugins"][role].clone();
        wanted(&state).then_some(state)
    })
}

fn digest(state: &Value) -> &str {
    state["digest"].as_str().unwrap_or_default()
}

/// Runs an echo task to its end; the plugins its events named.
async fn echo(site: &Site) -> Vec<String> {
    let task = site.ok(&["submit", "echo", "--input", r#"{"a": 1}"#]).trim().to_owned();
    let end = site.wait_for_end(&task);
    assert_eq!(end["status"], "finished", "{end}\n{}", site.log("w-1"));
    let mut named = Vec::new();
    for message in site.messages("echo").await {
        let message: Value = serde_json::from_slice(&message).unwrap();
        if message["task_id"] == json!(task) && message["payload"]["kind"] != "TASK_HEARTBEAT" {
            named.push(message["payload"]["plugin_digest"].as_str().unwrap_or_default().to_owned());
        }
    }
    named.dedup();
    named
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_swapped_refused_and_rolled_back_while_the_worker_lives() {
    let site = site();
    let worker = site.worker("w-1");
    let first = wait_for(&site, "echo", "loaded", |state| !digest(state).is_empty());
    assert_eq!(echo(&site).await, [digest(&first)]);

    std::fs::write(site.dir.path().join("echo.wasm"), version(2)).unwrap();
    let second = wait_for(&site, "echo", "swapped", |state| digest(state) != digest(&first));
    assert_eq!(echo(&site).await, [digest(&second)]);

    std::fs::write(site.dir.path().join("echo.wasm"), &version(3)[..5_000]).unwrap();
    let broken = wait_for(&site, "echo", "refused", |state| state["problem"].is_string());
    assert_eq!((digest(&broken), &broken["refused"]), (digest(&second), &json!(1)));
    assert_eq!(echo(&site).await, [digest(&second)]);
    let shown = site.ok(&["status"]);
    assert!(shown.contains(&digest(&second)[..11]) && shown.contains("is damaged"), "{shown}");

    // The one that serves is not the file's, which nobody can run: the one before is meant.
    let kept = site.ok(&["plugin", "rollback", "echo", "--list"]);
    assert_eq!(kept.lines().collect::<Vec<_>>(), [digest(&second), digest(&first)]);
    let config = std::fs::read_to_string(&site.config).unwrap();
    let pinned = site.ok(&["plugin", "rollback", "echo", "--to", &digest(&first)[..8]]);
    assert_eq!(pinned.trim(), digest(&first));
    let pin = format!("\"sha256\": \"{}\",", digest(&first));
    let without = std::fs::read_to_string(&site.config).unwrap().replace(&pin, "");
    assert_eq!(without.replace(' ', ""), config.replace(' ', ""), "nothing else changed");
    let back = wait_for(&site, "echo", "rolled back", |state| digest(state) == digest(&first));
    assert_eq!(back["problem"], Value::Null);
    assert_eq!(echo(&site).await, [digest(&first)]);
    stop(&site, worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_makes_the_worker_look_at_once() {
    let site = site();
    site.change_config(|config| config["plugins"]["poll_ms"] = json!(3_600_000));
    let worker = site.worker("w-1");
    let first = wait_for(&site, "echo", "loaded", |state| !digest(state).is_empty());
    std::fs::write(site.dir.path().join("echo.wasm"), version(2)).unwrap();
    worker.signal("-HUP");
    wait_for(&site, "echo", "swapped", |state| digest(state) != digest(&first));
    stop(&site, worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_follow_the_configuration_and_a_broken_one_changes_nothing() {
    let site = site();
    let worker = site.worker("w-1");
    wait_for(&site, "echo", "loaded", |state| !digest(state).is_empty());
    let steps = site.ok(&[
        "submit",
        "steps",
        "--input",
        r#"{"count": 2}"#,
        "--set",
        &format!("handlers.steps.component={}", plugin("steps").display()),
    ]);
    let sound = std::fs::read_to_string(&site.config).unwrap();
    std::fs::write(&site.config, &sound[..sound.len() / 2]).unwrap();
    site.wait_for_log("w-1", "the changed configuration is refused");
    std::fs::write(&site.config, sound).unwrap();
    site.change_config(|config| {
        config["handlers"]["steps"] = json!({"component": plugin("steps")});
    });
    let end = site.wait_for_end(steps.trim());
    assert_eq!(end["status"], "finished", "{end}\n{}", site.log("w-1"));
    site.change_config(|config| {
        config["handlers"].as_object_mut().unwrap().remove("echo");
    });
    let roles = site.wait_for_status("without echo", |status| {
        let roles = status["workers"][0]["roles"].clone();
        (roles == json!(["steps"])).then_some(roles)
    });
    assert_eq!(roles, json!(["steps"]));
    stop(&site, worker);
}

fn stop(site: &Site, worker: Process) {
    worker.signal("-TERM");
    assert_eq!(worker.exit_code(), Some(0), "{}", site.log("w-1"));
}
