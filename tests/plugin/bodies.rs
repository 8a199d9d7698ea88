//! Outbound HTTP: how much, how long, and how many at once.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use flowkit::plugin::{Limits, Plugin};
use serde_json::{Value, json};

use super::contained::beside;
use super::server::Server;
use super::support::{act, caller_with, counter, engine};

async fn with(server: &Server, change: impl FnOnce(&mut Limits)) -> Plugin {
    let host = format!("127.0.0.1:{}", server.port).parse().expect("a host");
    caller_with(|config| {
        config.http = vec![host];
        change(&mut config.limits);
    })
    .await
}

fn get(server: &Server, path: &str) -> Value {
    json!({"get": server.url("127.0.0.1", path)})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_is_an_error_in_both_directions() {
    let server = Server::start();
    let most = NonZeroU64::new(300_000).expect("not zero");
    let plugin = with(&server, |limits| limits.http_body_bytes = most).await;
    let before = counter(&engine(), "rogue", "http_body_limit");
    let told = act(&plugin, get(&server, "/endless")).await.expect_err("too long");
    assert!(told.starts_with("http_body_too_large (permanent)"), "{told}");
    let post = |bytes: usize| json!({"post": [server.url("127.0.0.1", "/count"), bytes]});
    let whole = act(&plugin, post(300_000)).await.expect("fits");
    assert_eq!(whole["head"], "300000 bytes");
    let told = act(&plugin, post(300_001)).await.expect_err("too long");
    assert!(told.starts_with("http_body_too_large (permanent)"), "{told}");
    assert!(counter(&engine(), "rogue", "http_body_limit") >= before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_is_given_up() {
    let server = Server::start();
    let time = NonZeroU32::new(200).expect("not zero");
    let plugin = with(&server, |limits| limits.http_time_ms = time).await;
    let before = counter(&engine(), "rogue", "http_time_limit");
    for path in ["/silent", "/stuck", "/nonsense"] {
        let began = Instant::now();
        let told = act(&plugin, get(&server, path)).await.expect_err(path);
        assert!(told.starts_with("connection_error (transient)"), "{path}: {told}");
        assert!(began.elapsed() < Duration::from_secs(20), "{path}: {:?}", began.elapsed());
    }
    assert!(counter(&engine(), "rogue", "http_time_limit") >= before + 2);
    let patient = with(&server, |_| {}).await;
    let soon = json!({"get-soon": server.url("127.0.0.1", "/silent")});
    let told = act(&patient, soon).await.expect_err("the handler's own patience");
    assert!(told.starts_with("connection_error (transient)"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_bomb_stops_at_its_limit() {
    let server = Server::start();
    let most = NonZeroU32::new(5).expect("not zero");
    let plugin = with(&server, |limits| limits.http_requests = most).await;
    let before = counter(&engine(), "rogue", "request_limit");
    let hoard = json!({"hoard": format!("127.0.0.1:{}", server.port)});
    let held = beside(act(&plugin, hoard)).await;
    assert_eq!(held, Ok(json!({"held": 5})));
    assert_eq!(server.connections(), 5);
    assert!(counter(&engine(), "rogue", "request_limit") > before);
    let repeat = json!({"repeat": [server.url("127.0.0.1", "/hello"), 30]});
    let again = act(&plugin, repeat).await;
    assert_eq!(again, Ok(json!({"length": 150})), "one after another there is no limit");
}
