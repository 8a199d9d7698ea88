//! A handler that reads collections, through workers on every backend.

use std::path::Path;

use serde_json::{Value, json};

use crate::field::Field;
use crate::support::{Site, plugin, text};

/// `caller`, granted the collection `artifacts` alone.
fn handlers() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/caller.wasm");
    assert!(file.exists(), "{} is missing; run `cargo xtask plugins`", file.display());
    json!({
        "steps": {"component": plugin("steps")},
        "caller": {
            "component": file.canonicalize().unwrap(),
            "http": ["nowhere.invalid"],
            "documents": ["artifacts"],
        },
    })
}

/// Three batches, and then a node that reads what they left.
fn graph(collection: &str) -> Value {
    let filter = json!({"node_id": "three", "status": "partial", "meta.step": {"$gte": 1}});
    let read = json!({"read": [collection, {"filter": filter, "batch_size": 1}]});
    json!({"nodes": [
        {"node_id": "three", "type": "steps", "io": {"input_inline": {"count": 3}}},
        {"node_id": "read", "type": "caller", "depends_on": ["three"],
         "io": {"input_inline": {"deeds": [read]}}},
    ]})
}

fn written(site: &Site, graph: &Value) -> String {
    let file = site.dir.path().join("graph.json");
    std::fs::write(&file, graph.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[track_caller]
fn run(site: &Site, graph: &Value) -> Value {
    let output = site.run(&["run", &written(site, graph), "--json"]);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
}

#[test]
fn a_handler_reads_what_another_left() {
    let site = Site::new(json!({"handlers": handlers()}));
    let done = run(&site, &graph("artifacts"));
    assert_eq!(done["status"], "finished", "{done}");
    let metrics = &done["nodes"]["read"]["metrics"];
    assert_eq!((&metrics["count"], &metrics["pages"]), (&json!(2), &json!(2)), "{done}");
    let refused = run(&site, &graph("worker_states"));
    let error = refused["nodes"]["read"]["error"].as_str().unwrap();
    assert!(error.starts_with("documents_refused: the collection `worker_states`"), "{error}");
}

#[test]
fn a_worker_reads_its_own_database() {
    let site = Site::new(json!({"handlers": handlers()}));
    let _worker = site.worker("w-1");
    let task = site.ok(&["submit", &written(&site, &graph("artifacts"))]);
    let done = site.wait_for_end(task.trim());
    assert_eq!(done["status"], "finished", "{done}\n{}", site.log("w-1"));
    let read = done["nodes"]["read"]["metrics"].clone();
    assert_eq!(read["count"], 2, "{done}");
}

#[tokio::test]
async fn a_handler_reads_mongodb() {
    if !flowkit_servers::available("documents::a_handler_reads_mongodb") {
        return;
    }
    let field = Field::new("steps", json!({"handlers": handlers()})).await;
    let done = run(&field.site, &graph("artifacts"));
    assert_eq!(done["status"], "finished", "{done}");
    assert_eq!(done["nodes"]["read"]["metrics"]["count"], 2, "{done}");
}
