//! Cancel means stop, wherever the handler is.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Process, Site, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_never_looks_is_interrupted() {
    let site = Site::new(json!({"cancel_grace_sec": 0.5}));
    let worker = site.worker("w-1");
    let looping = json!({"count": 10, "loop_at": 3}).to_string();
    let working = json!({"count": 300, "ms": 10}).to_string();
    let looping = site.ok(&["submit", "steps", "--input", &looping]).trim().to_owned();
    let working = site.ok(&["submit", "steps", "--input", &working]).trim().to_owned();
    let batches = |now: &Value| {
        let nodes = now["nodes"].as_object();
        nodes.and_then(|nodes| nodes.values().next()?["batches"].as_u64()).unwrap_or(0)
    };
    site.wait_for(&looping, "in its loop", |now| batches(now) == 3);
    let before = batches(&site.task(&working));
    site.wait_for(&working, "going on beside the loop", |now| batches(now) > before + 5);
    let asked = Instant::now();
    site.ok(&["cancel", &looping, "--reason", "enough of this"]);
    let end = site.wait_for_end(&looping);
    assert!(asked.elapsed() < Duration::from_secs(20), "cancelled after {:?}", asked.elapsed());
    assert_eq!(end["status"], "failed", "{end}");
    let node = end["nodes"].as_object().and_then(|nodes| nodes.values().next()).unwrap();
    assert_eq!(node["status"], "cancelled", "{end}");
    assert_eq!(node["batches"], 3, "{end}");
    let end = site.wait_for_end(&working);
    assert_eq!(end["status"], "finished", "{end}\n{}", site.log("w-1"));
    worker.signal("-TERM");
    assert_eq!(worker.exit_code(), Some(0));
    let events = site.events("steps").await;
    let cancelled = events.iter().filter(|status| status.event.kind() == "CANCELLED").count();
    assert_eq!(cancelled, 1);
}

#[test]
fn ctrl_c_cancels_a_graph_and_says_so() {
    let site = Site::new(json!({}));
    let graph = site.dir.path().join("graph.json");
    let nodes = json!([{"node_id": "long", "type": "steps",
        "io": {"input_inline": {"count": 10_000, "ms": 20}}}]);
    std::fs::write(&graph, json!({"nodes": nodes}).to_string()).unwrap();
    let db = site.db.to_str().unwrap().to_owned();
    let mut command = site.flowkit(&["run", graph.to_str().unwrap(), "--json", "--db", &db]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process(child);
    // Its database tells when it is under way.
    let start = Instant::now();
    loop {
        let status = site.run(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if status["tasks"][0]["nodes"]["long"]["batches"].as_u64() > Some(3) {
            break;
        }
        assert!(start.elapsed() < crate::support::PATIENCE, "never under way: {status}");
        std::thread::sleep(Duration::from_millis(20));
    }
    process.signal("-INT");
    let mut stdout = process.0.stdout.take().unwrap();
    assert_eq!(process.exit_code(), Some(130));
    let mut printed = Vec::new();
    std::io::Read::read_to_end(&mut stdout, &mut printed).unwrap();
    let result: Value = serde_json::from_slice(&printed).unwrap_or_else(|error| {
        panic!("stdout is not one JSON object ({error}): {}", text(&printed))
    });
    assert_eq!(result["nodes"]["long"]["status"], "cancelled", "{result}");
}
