//! Outbound HTTP: granted hosts alone, and never by a way around.

use flowkit::plugin::{CheckError, HandlerConfig, Plugin, check};
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::contained::beside;
use super::server::Server;
use super::support::{act, caller_with, counter, engine, guest_file};

/// The caller with these hosts.
async fn with(hosts: &[&str]) -> Plugin {
    let hosts: Vec<_> = hosts.iter().map(|host| host.parse().expect(host)).collect();
    caller_with(|config| config.http = hosts).await
}

fn get(url: String) -> Value {
    json!({"get": url})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_granted_host_is_reached_and_redirects_are_not_followed() {
    let server = Server::start();
    let plugin = with(&[&format!("127.0.0.1:{}", server.port)]).await;
    let hello = act(&plugin, get(server.url("127.0.0.1", "/hello"))).await;
    assert_eq!(hello, Ok(json!({"status": 200, "length": 5, "head": "hello"})));
    let seen = act(&plugin, get(server.url("127.0.0.1", "/seen"))).await.expect("answers");
    assert_eq!(seen["head"], "get /seen http/1.1\r\n");
    let redirect = act(&plugin, get(server.url("127.0.0.1", "/redirect"))).await;
    assert_eq!(redirect.expect("answers")["status"], 302);
    assert_eq!(server.connections(), 3);
    let lost = act(&plugin, get(server.url("127.0.0.1", "/lost"))).await.expect("answers");
    assert_eq!(lost["status"], 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_not_listed_is_refused_and_counted() {
    let server = Server::start();
    let plugin = with(&["example.com", &format!("127.0.0.2:{}", server.port)]).await;
    let before = counter(&engine(), "rogue", "http_refused");
    for host in
        ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"]
    {
        let told = act(&plugin, get(server.url(host, "/hello"))).await.expect_err(host);
        assert_eq!(
            told, "http_refused (permanent): the request failed: ErrorCode::HttpRequestDenied",
            "{host}"
        );
    }
    assert!(counter(&engine(), "rogue", "http_refused") >= before + 6);
    let odd = act(&plugin, get(server.url("example.com@127.0.0.1", "/hello"))).await;
    assert!(odd.expect_err("refused").starts_with("validation_error (permanent)"));
    assert_eq!(server.connections(), 0, "nobody knocked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_name_that_resolves_to_a_private_address_is_refused() {
    let server = Server::start();
    let name = format!("localhost:{}", server.port);
    let plugin = with(&[&name]).await;
    let told = beside(act(&plugin, get(server.url("localhost", "/hello")))).await;
    let told = told.expect_err("refused");
    assert_snapshot!(told, @"http_refused (permanent): the request failed: ErrorCode::DestinationIpProhibited");
    assert_eq!(server.connections(), 0);
    let meant = with(&[&name, "127.0.0.1"]).await;
    let hello = act(&meant, get(server.url("localhost", "/hello"))).await.expect("meant");
    assert_eq!(hello["status"], 200);
}

#[tokio::test]
async fn a_component_that_wants_hosts_is_refused_where_none_is_granted() {
    let config = HandlerConfig::new(guest_file("caller"));
    let refused = engine().load(config).await.expect_err("no host is granted");
    assert!(matches!(refused, CheckError::NotGranted { grant: "http", .. }), "{refused:?}");
    let told = refused.to_string();
    let (_, told) = told.split_once("caller.wasm ").expect("names the file");
    let told = told.replace(|c: char| c.is_ascii_digit(), "N");
    assert_snapshot!(told, @"imports wasi:http/outgoing-handler@N.N.NN, which this role is not granted: add `http` to its handler in the configuration, or use a handler that does without");
    let checked = check(&guest_file("caller")).await.expect("it is a handler");
    assert_eq!(checked.needs, ["http"]);
    let rogue = check(&guest_file("rogue")).await.expect("it is a handler");
    assert!(rogue.needs.is_empty());
}
