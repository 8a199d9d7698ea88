//! Wrong use of every command: what is printed, and the exit status.

use serde_json::json;

use crate::support::{Site, plugin, text};

/// Runs and returns the exit status and what was said on stderr.
fn fails(site: &Site, args: &[&str]) -> (Option<i32>, String) {
    let output = site.run(args);
    assert!(!output.status.success(), "{args:?} succeeded: {}", text(&output.stdout));
    assert!(output.stdout.is_empty(), "{args:?} printed: {}", text(&output.stdout));
    (output.status.code(), text(&output.stderr))
}

#[test]
fn wrong_use_is_told_with_status_2() {
    let site = Site::new(json!({}));
    let not_json = site.dir.path().join("not.json");
    std::fs::write(&not_json, "{\"nodes\": [").unwrap();
    let unknown_role = site.dir.path().join("role.json");
    let node = json!({"nodes": [{"node_id": "n", "type": "nobody"}]});
    std::fs::write(&unknown_role, node.to_string()).unwrap();
    let echo = plugin("echo");
    let echo = echo.to_str().unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["run", "missing.json"], "missing.json"),
        (&["run", not_json.to_str().unwrap()], "line 1"),
        (&["run", unknown_role.to_str().unwrap()], "nobody"),
        (&["submit", "steps", "--input", "{not json"], "--input"),
        (&["submit", "steps", "--input", "@missing.json"], "missing.json"),
        (&["worker", "--set", "lease_ttl_secs=1"], "lease_ttl_sec"),
        (&["worker", "--set", "lease_ttl_sec=\"x\""], "lease_ttl_sec"),
        (&["plugin", "run", echo, "--input", "[1,"], "--input"),
        (&["plugin", "run", "missing.wasm", "--input", "{}"], "missing.wasm"),
    ];
    for (args, expected) in cases {
        let (code, said) = fails(&site, args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?} says nothing of {expected}: {said}");
    }
}

#[test]
fn an_unknown_task_is_named() {
    let site = Site::new(json!({}));
    site.ok(&["submit", "echo", "--input", "{}"]);
    let (code, said) = fails(&site, &["cancel", "no-such-task"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no-such-task"), "{said}");
}

#[test]
fn a_damaged_database_is_refused_and_left_alone() {
    let site = Site::new(json!({}));
    let task = site.ok(&["submit", "echo", "--input", "{}"]);
    assert!(!task.trim().is_empty());
    let whole = std::fs::read(&site.db).unwrap();
    std::fs::write(&site.db, &whole[..whole.len() / 2 / 4096 * 4096 + 100]).unwrap();
    let damaged = std::fs::read(&site.db).unwrap();
    let (code, said) = fails(&site, &["status"]);
    assert!(code == Some(1) || code == Some(2), "{said}");
    assert!(said.contains("flowkit.db"), "{said}");
    assert_eq!(std::fs::read(&site.db).unwrap(), damaged, "the file was changed");
    std::fs::write(&site.db, b"this is not a database at all, but a text\n").unwrap();
    let (_, said) = fails(&site, &["status"]);
    assert!(said.contains("flowkit.db"), "{said}");
}

#[test]
fn a_plugin_runs_alone_and_wrong_files_are_refused() {
    let site = Site::new(json!({}));
    let echo = plugin("echo");
    let echo = echo.to_str().unwrap();
    let printed = site.ok(&["plugin", "run", echo, "--input", "{\"a\":\"\u{3a9}\"}"]);
    assert!(printed.contains('\u{3a9}'), "{printed}");
    assert!(site.ok(&["plugin", "check", echo]).contains("flowkit:worker"), "no world is named");
    let wrong = site.dir.path().join("wrong.wasm");
    let cases: [(&[u8], &str); 3] = [
        (b"", "empty"),
        (b"#!/bin/sh\n", "the file is text"),
        (b"\0asm\x01\0\0\0", "core WebAssembly module"),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&wrong, bytes).unwrap();
        let output = site.run(&["plugin", "check", wrong.to_str().unwrap()]);
        let said = text(&output.stderr) + &text(&output.stdout);
        assert!(!output.status.success(), "{said}");
        assert!(said.to_lowercase().contains(&expected.to_lowercase()), "{expected}: {said}");
    }
}
