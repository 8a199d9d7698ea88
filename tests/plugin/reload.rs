//! Plugins follow their files and their configuration, and nothing broken gets in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flowkit::handler::{Batch, CancelFlag, Handlers as _};
use flowkit::metrics::Totals;
use flowkit::plugin::{
    CodeCache, Engine, HandlerConfig, PluginConfig, Plugins, PublicKey, Reloader, SecretKey, Trust,
};
use flowkit::types::{BatchUid, Role};
use insta::assert_snapshot;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::support::{guest_file, request};

/// A directory with `echo.wasm` in it, plugins over it, and their reloader.
struct Place {
    dir: TempDir,
    engine: Engine,
    plugins: Arc<Plugins>,
    reloader: Reloader,
}

fn role(name: &str) -> Role {
    Role::new(name).expect("valid")
}

/// The rogue with a custom section that makes it another file.
fn version(number: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(guest_file("rogue")).expect("built");
    // Section 0 of 9 bytes: a name of seven letters, and one byte.
    bytes.extend([0, 9, 7]);
    bytes.extend(b"version");
    bytes.push(number);
    bytes
}

fn engine(dir: &Path) -> Engine {
    let cache = CodeCache::open(dir.join("cache")).expect("opens");
    Engine::new().expect("the engine starts").with_cache(cache)
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = engine(dir.path());
        Self::over(dir, engine).await
    }

    async fn over(dir: TempDir, engine: Engine) -> Self {
        let component = dir.path().join("echo.wasm");
        if !component.exists() {
            std::fs::write(&component, version(1)).expect("written");
        }
        let config = PluginConfig { role: role("echo"), handler: HandlerConfig::new(component) };
        let plugins = Plugins::load(&engine, vec![config]).await.expect("loads");
        let plugins = Arc::new(plugins);
        let reloader = Reloader::new(engine.clone(), plugins.clone());
        let mut place = Self { dir, engine, plugins, reloader };
        place.look_twice().await;
        place
    }

    fn component(&self) -> PathBuf {
        self.dir.path().join("echo.wasm")
    }

    fn handler(&self) -> HandlerConfig {
        HandlerConfig::new(self.component())
    }

    fn write(&self, content: &[u8]) {
        std::fs::write(self.component(), content).expect("written");
    }

    async fn look(&mut self, handlers: &[(&str, HandlerConfig)], hurried: bool) {
        let config = |(name, handler): &(&str, HandlerConfig)| PluginConfig {
            role: role(name),
            handler: handler.clone(),
        };
        self.reloader.look(handlers.iter().map(config).collect(), hurried).await;
    }

    async fn look_twice(&mut self) {
        for _ in 0..2 {
            self.look(&[("echo", self.handler())], false).await;
        }
    }

    fn digest(&self) -> String {
        self.plugins.digests().remove(&role("echo")).unwrap_or_default()
    }

    fn state(&self) -> Value {
        self.plugins.describe()["echo"].clone()
    }

    /// What serves a run that began with this version.
    async fn serves(&self, began_with: &str) -> String {
        let handler = self.plugins.choose(&role("echo"), Some(began_with)).await.expect("served");
        handler.digest().to_owned()
    }
}

#[tokio::test]
async fn a_changed_file_serves_the_next_run_and_the_one_that_began_goes_on() {
    let mut place = Place::new().await;
    let first = place.digest();
    let changes = place.plugins.changes().expect("they change");
    let handler = place.plugins.choose(&role("echo"), None).await.expect("served");
    let mut session = handler.open(request("none", &CancelFlag::default())).await.expect("opens");
    session.init().await.expect("init succeeds");
    place.write(&version(2));
    place.look(&[("echo", place.handler())], false).await;
    assert_eq!(place.digest(), first, "a copy may be under way");
    place.look(&[("echo", place.handler())], false).await;
    let second = place.digest();
    assert_ne!(second, first);
    assert!(changes.has_changed().expect("open"));
    let b0 = Batch { uid: BatchUid::new("b0").expect("valid"), payload: "{}".to_owned() };
    session.process_batch(&b0, &Totals::default()).await.expect("the run goes on");
    assert_eq!(place.serves(&second).await, second);
    assert_eq!(place.serves(&first).await, first, "kept");
}

#[tokio::test]
async fn a_file_that_grows_is_left_alone_and_a_hangup_does_not_wait() {
    let mut place = Place::new().await;
    let (first, whole) = (place.digest(), version(2));
    for part in 1..4 {
        place.write(&whole[..whole.len() * part / 4]);
        place.look(&[("echo", place.handler())], false).await;
    }
    assert_eq!((place.digest(), place.state()["refused"].clone()), (first.clone(), json!(0)));
    place.write(&whole);
    place.look(&[("echo", place.handler())], true).await;
    assert_ne!(place.digest(), first);
}

#[tokio::test]
async fn what_is_broken_is_refused_by_name_and_the_one_that_works_stays() {
    let mut place = Place::new().await;
    let (first, whole) = (place.digest(), version(2));
    let caller = std::fs::read(guest_file("caller")).expect("built");
    let broken: [&[u8]; 6] = [
        b"",
        &whole[..whole.len() / 2],
        b"fn main() {}",
        b"\0asm\x01\0\0\0",
        &caller,
        b"\0asm\x0d\0\x01\0",
    ];
    let mut told = Vec::new();
    for (number, content) in broken.iter().enumerate() {
        place.write(content);
        place.look_twice().await;
        assert_eq!(place.digest(), first);
        let state = place.state();
        assert_eq!(state["refused"], json!(number + 1));
        assert_eq!(state["digest"], json!(first));
        let problem = state["problem"].as_str().expect("told").replace('\\', "/");
        let problem = problem.replace(place.dir.path().to_str().expect("UTF-8"), "PLUGINS");
        // Where the parser stops depends on the compiler that built the guest.
        told.push(problem.split(": failed to parse").next().unwrap_or_default().to_owned());
    }
    assert_snapshot!(told.join("\n\n"), @r"
    PLUGINS/echo.wasm is not a handler: the file is empty; was its build or its copy interrupted?

    PLUGINS/echo.wasm is damaged, or uses WebAssembly features this worker does not run

    PLUGINS/echo.wasm is not a handler: the file is text; give the compiled .wasm, not its source

    PLUGINS/echo.wasm is not a handler: the file is a core WebAssembly module, not a component; build with `--target wasm32-wasip2`, or wrap it with `wasm-tools component new`

    PLUGINS/echo.wasm imports wasi:http/outgoing-handler@0.2.12, which this role is not granted: add `http` to its handler in the configuration, or use a handler that does without

    PLUGINS/echo.wasm is a component, but not a handler:
      - it does not export the interface flowkit:worker/handler@1.1.0; it exports nothing. Is the SDK's export macro called?
    ");
    std::fs::remove_file(place.component()).expect("removed");
    place.look_twice().await;
    assert_eq!(place.digest(), first);
    place.write(&version(2));
    place.look_twice().await;
    assert_ne!(place.digest(), first);
    assert_eq!(place.state()["problem"], Value::Null);
}

#[tokio::test]
async fn the_same_content_is_neither_compiled_nor_swapped_again() {
    let mut place = Place::new().await;
    let compiled = place.engine.compilations();
    let mut changes = place.plugins.changes().expect("they change");
    changes.mark_unchanged();
    place.write(&version(1));
    place.look_twice().await;
    assert_eq!(place.engine.compilations(), compiled);
    assert!(!changes.has_changed().expect("open"));
}

#[tokio::test]
async fn roles_come_and_go_with_the_configuration_and_limits_change_with_it() {
    let mut place = Place::new().await;
    let echo = ("echo", place.handler());
    let mut limited = place.handler();
    limited.concurrency = std::num::NonZeroU32::new(3);
    place.look(&[echo.clone(), ("other", limited)], true).await;
    assert_eq!(place.plugins.roles(), [role("echo"), role("other")]);
    assert_eq!(place.plugins.concurrency(&role("other")), Some(3));
    assert_eq!(place.plugins.concurrency(&role("echo")), None);
    place.look(&[("other", place.handler())], true).await;
    assert_eq!(place.plugins.roles(), [role("other")]);
    assert_eq!(place.plugins.concurrency(&role("other")), None);
    assert!(place.plugins.choose(&role("echo"), None).await.is_err());
    // One that cannot be loaded is told of, and served once it can.
    std::fs::write(place.dir.path().join("new.wasm"), "x").expect("written");
    let new = || HandlerConfig::new(place.dir.path().join("new.wasm"));
    let (before, after) = (("new", new()), ("new", new()));
    place.look(&[echo.clone(), before], true).await;
    assert_eq!(place.plugins.roles(), [role("echo")]);
    assert!(place.plugins.describe()["new"]["problem"].is_string());
    std::fs::write(place.dir.path().join("new.wasm"), version(7)).expect("written");
    place.look(&[echo, after], true).await;
    assert_eq!(place.plugins.roles(), [role("echo"), role("new")]);
}

/// A component that is a pipe: whoever reads it waits until the test writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_run_waits_for_a_plugin_that_is_being_loaded() {
    let mut place = Place::new().await;
    let first = place.digest();
    place.write(&version(2));
    place.look_twice().await;
    let pipe = place.dir.path().join("pipe.wasm");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let plugins = place.plugins.clone();
    let handlers = [("echo", place.handler()), ("piped", HandlerConfig::new(&pipe))];
    let looking = place.look(&handlers, true);
    let meanwhile = async {
        let open = move || std::fs::File::options().write(true).open(pipe);
        let mut pipe = tokio::task::spawn_blocking(open).await.expect("no panic").expect("opens");
        for began_with in [None, Some(first.as_str())] {
            let echo = role("echo");
            let served = plugins.choose(&echo, began_with);
            let served = tokio::time::timeout(Duration::from_secs(60), served).await;
            let handler = served.expect("nobody waits for the pipe").expect("served");
            let flag = CancelFlag::default();
            let mut session = handler.open(request("none", &flag)).await.expect("opens");
            session.init().await.expect("init succeeds");
        }
        assert_eq!(plugins.roles(), [role("echo")], "the other is still being read");
        std::io::Write::write_all(&mut pipe, &version(9)).expect("written");
    };
    tokio::join!(looking, meanwhile);
    assert_eq!(place.plugins.roles(), [role("echo"), role("piped")]);
}

#[tokio::test]
async fn a_pin_brings_an_earlier_version_back_and_holds_for_every_run() {
    let mut place = Place::new().await;
    let first = place.digest();
    place.write(&version(2));
    place.look_twice().await;
    let second = place.digest();
    let pinned = HandlerConfig { sha256: Some(first.clone()), ..place.handler() };
    place.look(&[("echo", pinned.clone())], true).await;
    assert_eq!(place.digest(), first);
    assert_eq!(place.serves(&second).await, first, "a run of the bad version is not kept on it");
    // A change of the file does not matter.
    place.write(&version(3));
    place.look(&[("echo", pinned)], true).await;
    assert_eq!((place.digest(), place.state()["problem"].clone()), (first.clone(), Value::Null));
    // A version that nobody has is refused.
    let absent = HandlerConfig { sha256: Some("0".repeat(64)), ..place.handler() };
    place.look(&[("echo", absent)], true).await;
    assert_eq!(place.digest(), first);
    assert!(place.state()["problem"].as_str().expect("told").contains("is not kept in the cache"));
    place.look(&[("echo", place.handler())], true).await;
    assert!(![first, second].contains(&place.digest()));
}

#[tokio::test]
async fn a_restart_compiles_nothing_and_finds_the_versions_of_its_runs() {
    let mut place = Place::new().await;
    let first = place.digest();
    assert_eq!(place.engine.compilations(), 1);
    place.write(&version(2));
    place.look_twice().await;
    assert_eq!(place.engine.compilations(), 2);
    let Place { dir, .. } = place;
    let again = engine(dir.path());
    let place = Place::over(dir, again).await;
    assert_ne!(place.digest(), first);
    assert_eq!(place.serves(&first).await, first);
    assert_eq!(place.engine.compilations(), 0);
    for strange in ["", "../../cache", &"f".repeat(64), &first.to_uppercase()] {
        assert_eq!(place.serves(strange).await, place.digest(), "{strange}");
    }
}

#[tokio::test]
async fn where_signatures_are_required_an_unsigned_change_is_refused_until_it_is_signed() {
    let key = SecretKey::generate();
    let keys: Vec<PublicKey> = vec![key.public()];
    let dir = tempfile::tempdir().expect("a directory");
    let engine = engine(dir.path()).with_trust(Trust { keys, require_signed: true });
    let sign = |dir: &Path| {
        let bytes = std::fs::read(dir.join("echo.wasm")).expect("there");
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        let signature = key.sign(&digest).expect("signed");
        std::fs::write(dir.join("echo.wasm.sig"), signature).expect("written");
    };
    std::fs::write(dir.path().join("echo.wasm"), version(1)).expect("written");
    sign(dir.path());
    let mut place = Place::over(dir, engine).await;
    let first = place.digest();
    place.write(&version(2));
    place.look_twice().await;
    assert_eq!(place.digest(), first);
    assert!(place.state()["problem"].as_str().expect("told").contains("is not trusted"));
    // The signature alone comes later.
    sign(place.dir.path());
    place.look_twice().await;
    assert_ne!(place.digest(), first);
    assert_eq!(place.state()["problem"], Value::Null);
}
