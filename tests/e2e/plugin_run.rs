//! `flowkit plugin run`: one handler, no backend.

use std::io::{BufRead, BufReader, Read};
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
