//! Files that are not handlers, and what is said about them.

use std::path::Path;

use flowkit::plugin::check;
use insta::assert_snapshot;

use super::support::{guest_file, rogue_renamed};

/// What `check` says about a file with this content, without the file's directory.
async fn checked(content: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("handler.wasm");
    std::fs::write(&file, content).expect("written");
    told(&file).await
}

async fn told(file: &Path) -> String {
    let dir = file.parent().expect("has a directory").display().to_string();
    match check(file).await {
        Ok(inspection) => format!("ok: {}", serde_json::Value::Object(inspection.describe)),
        Err(error) => error.to_string().replace(&format!("{dir}/"), ""),
    }
}

/// What is said of the rogue with names replaced.
pub async fn checked_with(replacements: &[(&str, &str)]) -> String {
    checked(&rogue_renamed(replacements)).await
}

#[tokio::test]
async fn a_handler_passes() {
    let inspection = check(&guest_file("rogue")).await.expect("a handler");
    assert_eq!(inspection.digest.len(), 64);
    assert_eq!(inspection.describe["name"], "rogue");
    assert!(inspection.imports.iter().any(|name| name == "flowkit:worker/host@1.1.0"));
}

#[tokio::test]
async fn files_that_are_no_components() {
    assert_snapshot!(checked(b"").await, @"handler.wasm is not a handler: the file is empty; was its build or its copy interrupted?");
    assert_snapshot!(checked(b"def process(batch):\n    pass\n").await, @"handler.wasm is not a handler: the file is text; give the compiled .wasm, not its source");
    assert_snapshot!(checked(b"(module)").await, @"handler.wasm is not a handler: the file is WebAssembly text; turn it into a binary with `wasm-tools parse FILE -o handler.wasm`");
    assert_snapshot!(checked(b"\x7fELF\x02\x01\x01").await, @"handler.wasm is not a handler: the file is a native program or library (ELF), or precompiled for one machine (.cwasm); build the handler with `--target wasm32-wasip2` and give the .wasm");
    assert_snapshot!(checked(b"PK\x03\x04").await, @"handler.wasm is not a handler: the file is compressed (zip); unpack it and give the .wasm that is in it");
    assert_snapshot!(checked(b"\0asm\x01\0\0\0").await, @"handler.wasm is not a handler: the file is a core WebAssembly module, not a component; build with `--target wasm32-wasip2`, or wrap it with `wasm-tools component new`");
    assert_snapshot!(told(Path::new("/nowhere/x.wasm")).await, @"cannot read x.wasm: No such file or directory (os error 2); build the handler first, or correct the path");
    let dir = tempfile::tempdir().expect("a directory");
    let nested = dir.path().join("handler.wasm");
    std::fs::create_dir(&nested).expect("created");
    assert_snapshot!(told(&nested).await, @"cannot read handler.wasm: is a directory; name the .wasm file in it");
}

#[tokio::test]
async fn a_truncated_component() {
    let whole = std::fs::read(guest_file("rogue")).expect("read");
    let told = checked(&whole[..whole.len() / 2]).await;
    let (start, _sizes) = told.split_once("section range").expect("says where");
    assert_snapshot!(start, @"handler.wasm is damaged, or uses WebAssembly features this worker does not run: failed to parse WebAssembly module: wasm component contains an invalid module section:");
}

#[tokio::test]
async fn components_of_another_world() {
    // An empty component.
    assert_snapshot!(checked(b"\0asm\x0d\0\x01\0").await, @r"
    handler.wasm is a component, but not a handler:
      - it does not export the interface flowkit:worker/handler@1.1.0; it exports nothing. Is the SDK's export macro called?
    ");
    assert_snapshot!(checked_with(&[("worker/handler@1", "worker/handles@1")]).await, @r"
    handler.wasm is a component, but not a handler:
      - it does not export the interface flowkit:worker/handler@1.1.0; it exports flowkit:worker/handles@1.1.0
    ");
    assert_snapshot!(checked_with(&[("worker/handler@1.1.0", "worker/handler@2.0.0")]).await, @r"
    handler.wasm is a component, but not a handler:
      - it is built for flowkit:worker/handler@2.0.0, and this worker serves flowkit:worker 1.0.0 to 1.1.0; build it with an SDK for one of these, or use a worker that serves the other
    ");
}

#[tokio::test]
async fn every_difference_is_named() {
    let missing = [("next-batch", "next-botch"), ("finalize", "finalise")];
    assert_snapshot!(checked_with(&missing).await, @r"
    handler.wasm is a component, but not a handler:
      - `next-batch` is missing; the world wants `next-batch: func() -> result<option<batch>, handler-error>`
      - `finalize` is missing; the world wants `finalize: func() -> result<string, handler-error>`
    ");
    let wrong = [("reason-code", "reason-kode"), ("remaining-ms", "remaining-us")];
    assert_snapshot!(checked_with(&wrong).await, @r"
    handler.wasm is a component, but not a handler:
      - `classify-error` has the wrong type
        wanted: func(error: handler-error) -> result<classification, handler-error>
        found:  func(error: handler-error) -> result<record { reason-kode: string, permanent: bool }, handler-error>
      - `host.cancelled` has the wrong type
        wanted: func() -> option<cancellation>
        found:  func() -> option<record { source: string, reason: string, remaining-us: u32 }>
    ");
    let unknown = [("run-totals", "run-trends"), ("wasi:cli/exit", "wasi:cli/quit")];
    assert_snapshot!(checked_with(&unknown).await, @r"
    handler.wasm is a component, but not a handler:
      - it calls `run-trends` of flowkit:worker/host@1.1.0, which this worker (flowkit:worker@1.1.0) does not have; use a newer worker, or build with an older SDK
      - it imports wasi:cli/quit@0.2.6, which this worker does not offer: a handler is given flowkit:worker and WASI 0.2 alone
    ");
    assert_snapshot!(checked_with(&[("wasi:io/poll@0.2", "wasi:io/poll@0.3")]).await, @r"
    handler.wasm is a component, but not a handler:
      - it imports wasi:io/poll@0.3.6, which this worker does not offer: it offers WASI 0.2
    ");
}

#[tokio::test]
async fn a_newer_minor_version_of_the_handler_interface_fits() {
    let newer = [("worker/handler@1.1.0", "worker/handler@1.9.0")];
    assert!(checked_with(&newer).await.starts_with("ok: "));
}

#[tokio::test]
async fn a_describe_that_fails() {
    let describe =
        |deed: &'static str| async move { checked_with(&[("describe:none____", deed)]).await };
    assert_snapshot!(describe("describe:info____").await, @r"
    handler.wasm was tried and failed: handler_trap: describe: the handler trapped: `host.run-info` was called without a run: only `host.log` may be used in `describe`
      mend it, and try it with `flowkit plugin test`
    ");
    assert_snapshot!(describe("describe:panic___").await, @r"
    handler.wasm was tried and failed: handler_panic: describe: panicked at tests/guests/rogue/src/deeds.rs:16:20: rogue was told to panic
      mend it, and try it with `flowkit plugin test`
    ");
    assert_snapshot!(describe("describe:error___").await, @r"
    handler.wasm was tried and failed: bad_output: describe returned an error: rogue failed
      mend it, and try it with `flowkit plugin test`
    ");
    assert_snapshot!(describe("describe:not-json").await, @r"
    handler.wasm was tried and failed: bad_output: describe returned text that is not JSON: expected value at line 1 column 1
      mend it, and try it with `flowkit plugin test`
    ");
}

#[tokio::test]
async fn a_description_that_cannot_be_used() {
    assert_snapshot!(checked_with(&[("{\"name\": \"rogue\"", "[\"name\": \"rogue\"")]).await, @r"
    handler.wasm was tried and failed: bad_output: describe returned text that is not JSON: expected `,` or `]` at line 1 column 8
      mend it, and try it with `flowkit plugin test`
    ");
    assert_snapshot!(checked_with(&[("{\"name\": \"rogue\"", "{\"name\":       7")]).await, @r"
    handler.wasm was tried and failed: bad_output: describe returned a `name` that is not a string
      mend it, and try it with `flowkit plugin test`
    ");
}
