//! The refusal of every wrong file says what is wrong and what to do.

use std::path::{Path, PathBuf};

use flowkit::plugin::{Engine, HandlerConfig, SecretKey, Trust, signature_file};
use insta::assert_snapshot;

use super::support::{engine, guest_file, rogue_renamed};

/// A folder for wrong files, and what is said of them.
struct Refusals {
    dir: tempfile::TempDir,
    told: String,
}

impl Refusals {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), told: String::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("handler.wasm")
    }

    async fn of_bytes(&mut self, what: &str, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).expect("written");
        let config = HandlerConfig::new(self.path());
        self.load(what, (&engine(), config)).await;
        std::fs::remove_file(self.path()).expect("removed");
    }

    async fn of_renamed(&mut self, what: &str, names: &[(&str, &str)]) {
        self.of_bytes(what, &rogue_renamed(names)).await;
    }

    async fn of_file(&mut self, what: &str, path: &Path) {
        self.load(what, (&engine(), HandlerConfig::new(path))).await;
    }

    async fn load(&mut self, what: &str, (engine, config): (&Engine, HandlerConfig)) {
        let error = engine.load(config).await.expect_err(what).to_string();
        let dir = format!("{}/", self.dir.path().display());
        self.told.push_str(&format!(
            "{what}\n    {}\n",
            error.replace(&dir, "").replace('\n', "\n    ")
        ));
    }
}

#[tokio::test]
async fn what_is_no_component() {
    let mut refusals = Refusals::new();
    refusals.of_bytes("empty", b"").await;
    refusals.of_bytes("text", b"def process_batch(batch):\n    return {}\n").await;
    refusals.of_bytes("WebAssembly text", b"(component)").await;
    refusals.of_bytes("core module", b"\0asm\x01\0\0\0").await;
    refusals.of_bytes("native library", b"\x7fELF\x02\x01\x01").await;
    refusals.of_bytes("gzip", b"\x1f\x8b\x08\0\0\0\0\0").await;
    refusals.of_bytes("anything else", b"\x89PNG\r\n\x1a\n").await;
    let cut_off = b"\0asm\x0d\0\x01\0\x07\x7f";
    refusals.of_bytes("truncated", cut_off).await;
    assert_snapshot!(refusals.told, @r"
    empty
        handler.wasm is not a handler: the file is empty; was its build or its copy interrupted?
    text
        handler.wasm is not a handler: the file is text; give the compiled .wasm, not its source
    WebAssembly text
        handler.wasm is not a handler: the file is WebAssembly text; turn it into a binary with `wasm-tools parse FILE -o handler.wasm`
    core module
        handler.wasm is not a handler: the file is a core WebAssembly module, not a component; build with `--target wasm32-wasip2`, or wrap it with `wasm-tools component new`
    native library
        handler.wasm is not a handler: the file is a native program or library (ELF), or precompiled for one machine (.cwasm); build the handler with `--target wasm32-wasip2` and give the .wasm
    gzip
        handler.wasm is not a handler: the file is compressed (gzip); unpack it and give the .wasm that is in it
    anything else
        handler.wasm is not a handler: the file is not WebAssembly: it does not begin with `\0asm`; give the .wasm that the build made
    truncated
        handler.wasm is damaged, or uses WebAssembly features this worker does not run: failed to parse WebAssembly module: unexpected end-of-file (at offset 0xa)
          if it was cut short, build or copy it again
    ");
}

#[tokio::test]
async fn what_cannot_be_read() {
    let mut refusals = Refusals::new();
    let path = refusals.path();
    refusals.of_file("missing", &path).await;
    std::fs::create_dir(&path).expect("created");
    refusals.of_file("directory", &path).await;
    std::fs::remove_dir(&path).expect("removed");
    // Its first page is never mapped: an error whoever reads it, root too.
    refusals.of_file("unreadable", Path::new("/proc/self/mem")).await;
    let large = std::fs::File::create(&path).expect("created");
    large.set_len((256 << 20) + 1).expect("a file with a hole");
    refusals.of_file("too large", &path).await;
    std::fs::remove_file(&path).expect("removed");
    assert_snapshot!(refusals.told, @r"
    missing
        cannot read handler.wasm: No such file or directory (os error 2); build the handler first, or correct the path
    directory
        cannot read handler.wasm: is a directory; name the .wasm file in it
    unreadable
        cannot read /proc/self/mem: Input/output error (os error 5); look whether the disk it is on works
    too large
        handler.wasm is larger than 256 MiB; strip debug information from it (in Rust `strip = true` in the release profile)
    ");
}

#[tokio::test]
async fn what_is_of_another_world() {
    let mut refusals = Refusals::new();
    refusals.of_bytes("empty component", b"\0asm\x0d\0\x01\0").await;
    let package = [("flowkit:worker/", "flowerz:worker/")];
    refusals.of_renamed("another package", &package).await;
    let version = [("worker/handler@1.1.0", "worker/handler@7.0.0")];
    refusals.of_renamed("unknown version", &version).await;
    refusals.of_renamed("missing export", &[("next-batch", "next-botch")]).await;
    refusals.of_renamed("extra import", &[("wasi:cli/exit", "wasi:gpu/exit")]).await;
    let caller = std::fs::read(guest_file("caller")).expect("read");
    refusals.of_bytes("import that is not granted", &caller).await;
    assert_snapshot!(refusals.told, @r"
    empty component
        handler.wasm is a component, but not a handler:
          - it does not export the interface flowkit:worker/handler@1.1.0; it exports nothing. Is the SDK's export macro called?
    another package
        handler.wasm is a component, but not a handler:
          - it does not export the interface flowkit:worker/handler@1.1.0; it exports flowerz:worker/handler@1.1.0
          - it imports flowerz:worker/types@1.1.0, which this worker does not offer: a handler is given flowkit:worker and WASI 0.2 alone
          - it imports flowerz:worker/host@1.1.0, which this worker does not offer: a handler is given flowkit:worker and WASI 0.2 alone
    unknown version
        handler.wasm is a component, but not a handler:
          - it is built for flowkit:worker/handler@7.0.0, and this worker serves flowkit:worker 1.0.0 to 1.1.0; build it with an SDK for one of these, or use a worker that serves the other
    missing export
        handler.wasm is a component, but not a handler:
          - `next-batch` is missing; the world wants `next-batch: func() -> result<option<batch>, handler-error>`
    extra import
        handler.wasm is a component, but not a handler:
          - it imports wasi:gpu/exit@0.2.6, which this worker does not offer: a handler is given flowkit:worker and WASI 0.2 alone
    import that is not granted
        handler.wasm imports wasi:http/outgoing-handler@0.2.12, which this role is not granted: add `http` to its handler in the configuration, or use a handler that does without
    ");
}

#[tokio::test]
async fn what_is_not_trusted() {
    let mut refusals = Refusals::new();
    let path = refusals.path();
    std::fs::copy(guest_file("rogue"), &path).expect("copied");
    let pinned =
        HandlerConfig { sha256: Some("ab".repeat(32)), ..HandlerConfig::new(guest_file("rogue")) };
    let before = refusals.told.len();
    refusals.load("another digest", (&engine(), pinned)).await;
    // The rogue's own digest is its compiler's.
    let told = refusals.told.split_off(before);
    let (start, end) = told.split_once("has the digest ").expect("it is told");
    let shown = format!("handler.wasm has the digest HEX{}", &end[64..]);
    refusals.told.push_str(&format!("{}\n    {shown}", start.lines().next().expect("a title")));

    let own = SecretKey::generate();
    let trust = Trust { keys: vec![own.public()], require_signed: true };
    let strict = engine().with_trust(trust);
    let config = || HandlerConfig::new(path.clone());
    refusals.load("unsigned", (&strict, config())).await;
    let signature = own.sign(&"cd".repeat(32)).expect("signs");
    std::fs::write(signature_file(&path), signature).expect("written");
    refusals.load("forged signature", (&strict, config())).await;
    std::fs::write(signature_file(&path), "signed, me").expect("written");
    refusals.load("no signature", (&strict, config())).await;
    assert_snapshot!(refusals.told, @r"
    another digest
        handler.wasm has the digest HEX, but `sha256` pins abababababababababababababababababababababababababababababababab, which is not kept in the cache either; put that version there, or change the pin
    unsigned
        handler.wasm is not trusted: it is not signed: there is no handler.wasm.sig, and `plugins.require_signed` is on; sign it with `flowkit plugin sign FILE --key KEYFILE`
    forged signature
        handler.wasm is not trusted: its signature does not fit its content; it was changed after it was signed: sign it again with `flowkit plugin sign FILE --key KEYFILE`, or restore what was signed
    no signature
        handler.wasm is not trusted: its signature file is none: expected `flowkit-signature-v1 PUBLIC-KEY SIGNATURE`; sign it again with `flowkit plugin sign FILE --key KEYFILE`
    ");
}

#[tokio::test]
async fn what_fails_when_it_is_tried() {
    let mut refusals = Refusals::new();
    let none = "describe:none____";
    refusals.of_renamed("describe traps", &[(none, "describe:abort___")]).await;
    refusals.of_renamed("describe panics", &[(none, "describe:panic___")]).await;
    refusals.of_renamed("describe loops", &[(none, "describe:loop____")]).await;
    refusals.of_renamed("describe gives nonsense", &[(none, "describe:not-json")]).await;
    refusals.of_renamed("describe fails", &[(none, "describe:error___")]).await;
    assert_snapshot!(refusals.told, @r"
    describe traps
        handler.wasm was tried and failed: handler_trap: describe: the handler aborted (`unreachable`) and left no message on stderr
          mend it, and try it with `flowkit plugin test`
    describe panics
        handler.wasm was tried and failed: handler_panic: describe: panicked at tests/guests/rogue/src/deeds.rs:16:20: rogue was told to panic
          mend it, and try it with `flowkit plugin test`
    describe loops
        handler.wasm was tried and failed: time_limit: describe was stopped at its limit of 10000 ms; keep it short
          mend it, and try it with `flowkit plugin test`
    describe gives nonsense
        handler.wasm was tried and failed: bad_output: describe returned text that is not JSON: expected value at line 1 column 1
          mend it, and try it with `flowkit plugin test`
    describe fails
        handler.wasm was tried and failed: bad_output: describe returned an error: rogue failed
          mend it, and try it with `flowkit plugin test`
    ");
}
