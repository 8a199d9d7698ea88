//! `flowkit plugin run`: one handler, no backend.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Process, Site, plugin, text};

/// Runs a handler with `--json`; the exit status and what was printed.
fn run(site: &Site, name: &str, args: &[&str]) -> (Option<i32>, Value) {
    let file = plugin(name).display().to_string();
    let all = [&["plugin", "run", &file, "--json"], args].concat();
    let output = site.run(&all);
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr))
    });
    (output.status.code(), printed)
}

#[test]
fn every_batch_and_the_end_are_printed() {
    let site = Site::new(json!({}));
    let (code, printed) = run(&site, "steps", &["--input", r#"{"count": 2}"#]);
    assert_eq!(code, Some(0));
    let batch = |i: u32| {
        json!({
            "batch_uid": format!("step_{i}"), "status": "finished",
            "metrics": {"steps": 1}, "artifact": {"step": i},
        })
    };
    assert_eq!(printed["batches"], json!([batch(0), batch(1)]));
    assert_eq!(
        (&printed["status"], &printed["metrics"]),
        (&json!("finished"), &json!({"steps": 2}))
    );
    let (_, printed) = run(&site, "echo", &["--input", r#"{"deep": {"x": [1]}}"#]);
    assert_eq!(printed["payload"], json!({"deep": {"x": [1]}}));
    assert!(!site.db.exists(), "a database was created");
}

#[test]
fn a_failure_names_its_reason() {
    let site = Site::new(json!({}));
    let input = r#"{"count": 3, "fail_at": 1, "permanent": true}"#;
    let (code, printed) = run(&site, "steps", &["--input", input]);
    assert_eq!((code, &printed["status"]), (Some(1), &json!("failed")));
    assert_eq!(printed["error"]["reason_code"], "step_failed");
    assert_eq!(printed["error"]["permanent"], true);
    let statuses: Vec<_> = printed["batches"].as_array().into_iter().flatten().collect();
    assert_eq!(statuses.len(), 2, "{printed}");
    assert_eq!(statuses[1]["status"], "failed");
    let (code, printed) = run(&site, "steps", &["--input", r#"{"count": 1, "panic_at": 0}"#]);
    assert_eq!((code, &printed["error"]["reason_code"]), (Some(1), &json!("handler_panic")));
}

#[test]
fn upstream_batches_come_from_a_file() {
    let site = Site::new(json!({}));
    let file = site.dir.path().join("up.jsonl").display().to_string();
    std::fs::write(&file, "{\"rows\": [1, 2, 3]}\n\n{\"rows\": [4]}\n").expect("a file");
    let input = json!({
        "input_adapter": "pull.from_artifacts.rechunk:size",
        "input_args": {"from_nodes": ["upstream"], "size": 2, "meta_list_key": "rows"},
    });
    let input = input.to_string();
    let (code, printed) = run(&site, "echo", &["--upstream", &file, "--input", &input]);
    assert_eq!(code, Some(0), "{printed}");
    let items = |batch: &Value| batch["artifact"]["items"].clone();
    let items: Vec<_> = printed["batches"].as_array().into_iter().flatten().map(items).collect();
    assert_eq!(items, [json!([1, 2]), json!([3]), json!([4])]);

    std::fs::write(&file, "{}\n[]\n").expect("a file");
    let echo = plugin("echo").display().to_string();
    let output = site.run(&["plugin", "run", &echo, "--upstream", &file]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("up.jsonl:2: not a JSON object"));
    let output = site.run(&["plugin", "run", &echo, "--input", &input]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--upstream FILE"));
}

#[test]
fn a_directory_is_there_only_when_granted() {
    let site = Site::new(json!({}));
    let data = site.dir.path().join("data");
    std::fs::write(data.join("a.txt"), "one two\nthree\n").expect("a file");
    let input = r#"{"dir": "/data"}"#;
    let (code, refused) = run(&site, "textstats", &["--input", input]);
    assert_eq!(code, Some(1), "{refused}");
    let dir = format!("{}::/data", data.display());
    let (code, printed) = run(&site, "textstats", &["--dir", &dir, "--input", input]);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(printed["metrics"]["words"], 3, "{printed}");
}

/// The path of a guest of the tests.
fn caller() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/caller.wasm");
    assert!(file.exists(), "{} is missing; run `cargo xtask plugins`", file.display());
    file.display().to_string()
}

/// Runs one deed of the caller with these grants.
fn deed(site: &Site, deed: &Value, grants: &[&str]) -> (Option<i32>, Value, String) {
    let (file, input) = (caller(), json!({"deeds": [deed]}).to_string());
    let all = [&["plugin", "run", &file, "--json", "--input", &input], grants].concat();
    let mut command = site.flowkit(&all);
    let output = command.env("GREETING", "hi").output().expect("the binary starts");
    let printed = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), printed, text(&output.stderr))
}

/// The caller is refused without a host; this one is nowhere.
const HTTP: [&str; 2] = ["--http", "nowhere.invalid"];

#[test]
fn variables_are_there_only_when_granted() {
    let site = Site::new(json!({}));
    let (code, none, _) = deed(&site, &json!("env"), &HTTP);
    assert_eq!((code, &none["batches"][0]["metrics"]), (Some(0), &json!({})));
    let grants = [&HTTP[..], &["--env", "GREETING", "--env", "TOKEN=a=b"]].concat();
    let (_, given, _) = deed(&site, &json!("env"), &grants);
    assert_eq!(given["batches"][0]["metrics"], json!({"GREETING": "hi", "TOKEN": "a=b"}));
    let grants = [&HTTP[..], &["--env", "NO_SUCH_VARIABLE"]].concat();
    let (code, _, told) = deed(&site, &json!("env"), &grants);
    assert_eq!(code, Some(2));
    assert!(told.contains("no variable NO_SUCH_VARIABLE"), "{told}");
}

#[test]
fn a_host_is_reached_only_when_granted() {
    let site = Site::new(json!({}));
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = server.local_addr().expect("bound").to_string();
    let (code, _, told) = deed(&site, &json!({"get": "http://x/"}), &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("grant it with `--http`"), "{told}");
    let get = json!({"get": format!("http://{host}/")});
    let (code, refused, _) = deed(&site, &get, &HTTP);
    assert_eq!((code, &refused["error"]["reason_code"]), (Some(1), &json!("http_refused")));
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        let mut asked = BufReader::new(stream.try_clone().expect("a stream"));
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            asked.read_line(&mut line).expect("a request");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").expect("is read");
    });
    let (code, answer, told) = deed(&site, &get, &["--http", &host]);
    assert_eq!((code, &answer["metrics"]["status"]), (Some(0), &json!(200)), "{told}");
    answering.join().expect("answered");
    let (code, _, told) = deed(&site, &get, &["--http", "http://x/"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("more than a host and a port"), "{told}");
}

#[test]
fn collections_come_from_files() {
    let site = Site::new(json!({}));
    let file = site.dir.path().join("orders.jsonl");
    let line = |n: i32| json!({"_id": {"$oid": format!("{n:024}")}, "n": n}).to_string() + "\n";
    std::fs::write(&file, (0..10).map(line).collect::<String>()).expect("a file");
    let orders = format!("orders={}", file.display());
    let grants = [&HTTP[..], &["--documents", &orders]].concat();
    let read = |collection: &str| json!({"read": [collection, {"filter": {"n": {"$gte": 7}}, "batch_size": 2}]});
    let (code, found, told) = deed(&site, &read("orders"), &grants);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(found["metrics"], json!({"count": 3, "pages": 2, "sum": 24}));
    let (code, refused, _) = deed(&site, &read("users"), &grants);
    let reason = &refused["error"]["reason_code"];
    assert_eq!((code, reason), (Some(1), &json!("documents_refused")));
    std::fs::write(&file, "{}\n7\n").expect("a file");
    let (code, _, told) = deed(&site, &read("orders"), &grants);
    assert_eq!(code, Some(2));
    assert!(told.contains("orders.jsonl: line 2 is no JSON object"), "{told}");
    let (code, _, told) = deed(&site, &read("orders"), &["--documents", "orders"]);
    assert_eq!(code, Some(2));
    assert!(told.contains("COLLECTION=FILE"), "{told}");
}

#[test]
fn ctrl_c_cancels_a_handler_that_never_looks() {
    let site = Site::new(json!({}));
    let file = plugin("steps").display().to_string();
    let input = r#"{"count": 5, "loop_at": 1}"#;
    let mut command = site.flowkit(&["plugin", "run", &file, "--input", input]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut stderr = child.stderr.take().expect("a pipe");
    let process = Process(child);
    let mut first = String::new();
    stdout.read_line(&mut first).expect("the first batch");
    assert!(first.starts_with("batch step_0"), "{first}");
    process.signal("-INT");
    assert_eq!(process.exit_code(), Some(130));
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!(said, "cancelled\n");
}
