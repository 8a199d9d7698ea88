//! What `flowkit plugin inspect` tells of a file without running it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::support::{guest_file, rogue_renamed};

fn inspect(file: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowkit"));
    let output = command.args(["plugin", "inspect"]).arg(file).args(args).output();
    let output = output.expect("the binary starts");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn inspected(file: &Path) -> Value {
    serde_json::from_str(&inspect(file, &["--json"])).expect("JSON")
}

#[test]
fn a_handler_is_taken_apart() {
    let file = guest_file("caller");
    let found = inspected(&file);
    assert_eq!(found["language"], "Rust");
    assert_eq!(found["world_version"], flowkit::plugin::WORLD_VERSION);
    assert_eq!(found["bytes"], json!(std::fs::metadata(&file).expect("there").len()));
    assert_eq!(found["digest"].as_str().map(str::len), Some(64));
    let capabilities = json!({"needed": ["http"], "usable": ["env", "documents"]});
    assert_eq!(found["capabilities"], capabilities);
    assert!(found["memory_bytes"].as_u64() > Some(1 << 20), "{found}");
    assert!(found["tools"].to_string().contains("rustc"), "{found}");
    assert_eq!((&found["signature"], &found["refused"]), (&Value::Null, &Value::Null));
    let shown = inspect(&file, &[]);
    for line in ["world      flowkit:worker@1", "language   Rust", "needs      handlers.ROLE.http"]
    {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
}

#[test]
fn a_file_that_is_refused_is_taken_apart_all_the_same_and_not_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("handler.wasm");
    let names = [("worker/handler@1.1.0", "worker/handler@7.0.0"), ("next-batch", "next-botch")];
    std::fs::write(&file, rogue_renamed(&names)).expect("written");
    let found = inspected(&file);
    assert_eq!((&found["world_version"], &found["language"]), (&json!("7.0.0"), &json!("Rust")));
    assert!(found["refused"].as_str().is_some_and(|why| why.contains("@7.0.0")), "{found}");
    // A describe that loops would take its whole time.
    let loops = rogue_renamed(&[("describe:none____", "describe:loop____")]);
    std::fs::write(&file, loops).expect("written");
    assert_eq!(inspected(&file)["refused"], Value::Null);
    std::fs::write(&file, "#!/bin/sh\n").expect("written");
    let found = inspected(&file);
    assert_eq!((&found["bytes"], &found["modules"]), (&json!(10), &json!(0)));
    let shown = inspect(&file, &[]);
    assert!(shown.contains("the file is text"), "{shown}");
    assert!(!shown.contains("imports"), "{shown}");
}
