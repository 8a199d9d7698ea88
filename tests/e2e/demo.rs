//! Graphs through `flowkit run`.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Site, text};

fn run_graph(site: &Site, graph: &Value, more: &[&str]) -> (Option<i32>, Value) {
    let file = site.dir.path().join("graph.json");
    std::fs::write(&file, graph.to_string()).expect("the graph is written");
    let mut args = vec!["run", file.to_str().expect("a path in UTF-8"), "--json"];
    args.extend(more);
    let output = site.run(&args);
    let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("stdout is not one JSON object ({error}): {}", text(&output.stderr))
    });
    (output.status.code(), result)
}

/// `wc` is the judge.
#[test]
fn the_demos_counts_are_those_of_wc() {
    let site = Site::new(json!({}));
    let data = site.dir.path().join("data");
    std::fs::create_dir_all(data.join("deep/er")).unwrap();
    let long_line = "word ".repeat(300_000);
    let files: [(&str, Vec<u8>); 7] = [
        ("a.txt", b"one two\nthree\n".to_vec()),
        ("b.rs", "fn main() {} // \u{3a9}\r\n\r\nlast line without an end".into()),
        ("deep/c.txt", "x\n".repeat(2_500).into_bytes()),
        ("deep/er/long", format!("{long_line}\n{long_line}").into_bytes()),
        ("empty.rs", Vec::new()),
        ("binary.bin", vec![0xff, 0xfe, 0x00, b'a']),
        (".hidden", b"not counted\n".to_vec()),
    ];
    for (name, bytes) in &files {
        std::fs::write(data.join(name), bytes).unwrap();
    }
    let counted = ["a.txt", "b.rs", "deep/c.txt", "deep/er/long", "empty.rs"];
    let output = Command::new("wc")
        .args(["-l", "-w", "-c"])
        .args(counted)
        .current_dir(&data)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    let total: Vec<u64> = printed
        .lines()
        .last()
        .unwrap()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();

    let graph = json!({"nodes": [
        {"node_id": "count", "type": "textstats", "io": {"input_inline": {"dir": "/data"}}},
        {"node_id": "report", "type": "report", "depends_on": ["count"],
         "io": {"start_when": "first_batch", "input_inline": {
             "input_adapter": "pull.from_artifacts.rechunk:size",
             "input_args": {"from_nodes": ["count"], "size": 50, "meta_list_key": "items"}}}},
    ]});
    let (code, result) = run_graph(&site, &graph, &[]);
    assert_eq!((code, &result["status"]), (Some(0), &json!("finished")), "{result}");
    for node in ["count", "report"] {
        let metrics = &result["nodes"][node]["metrics"];
        let counts = ["lines", "words", "bytes"].map(|name| metrics[name].as_u64().unwrap_or(0));
        assert_eq!(counts.as_slice(), total, "{node}: {result}");
    }
    assert_eq!(result["nodes"]["count"]["metrics"]["files"], counted.len(), "{result}");
}

#[test]
fn a_permanent_failure_ends_the_graph() {
    let site = Site::new(json!({}));
    let graph = json!({"nodes": [
        {"node_id": "bad", "type": "steps",
         "io": {"input_inline": {"count": 5, "fail_at": 2, "permanent": true}},
         "retry_policy": {"max": 3, "backoff_sec": 0}},
        {"node_id": "beside", "type": "steps", "io": {"input_inline": {"count": 10_000, "ms": 20}}},
        {"node_id": "after", "type": "echo", "depends_on": ["bad"]},
    ]});
    let (code, result) = run_graph(&site, &graph, &[]);
    assert_eq!((code, &result["status"]), (Some(1), &json!("failed")), "{result}");
    let nodes = &result["nodes"];
    assert_eq!(nodes["bad"]["status"], "failed", "{result}");
    assert_eq!(nodes["bad"]["metrics"]["steps"], 2, "{result}");
    assert!(nodes["bad"]["error"].to_string().contains("step_failed"), "{result}");
    assert_eq!(nodes["beside"]["status"], "cancelled", "{result}");
    assert_eq!(nodes["after"]["status"], "skipped", "{result}");
}

#[test]
fn a_panic_is_retried_and_reported_with_its_message() {
    let site = Site::new(json!({}));
    let graph = json!({"nodes": [
        {"node_id": "panics", "type": "steps",
         "io": {"input_inline": {"count": 5, "panic_at": 1}},
         "retry_policy": {"max": 2, "backoff_sec": 0}},
    ]});
    let (code, result) = run_graph(&site, &graph, &["--db", "kept.db"]);
    assert_eq!(code, Some(1), "{result}");
    let error = result["nodes"]["panics"]["error"].to_string();
    assert!(error.contains("handler_panic") && error.contains("step 1 panics"), "{result}");
    let status = site.ok(&["status", "--json", "--db", "kept.db"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["tasks"][0]["status"], "failed", "{status}");
}
