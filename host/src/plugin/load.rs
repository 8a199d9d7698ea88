//! From a file to a plugin: read, sniff, compile, compare, link, try.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use wasmtime::component::Component;

use super::config::{BadLimit, HandlerConfig};
use super::contract::{self, Difference};
use super::engine::{Engine, EngineError};
use super::file::{Contents, MAX_FILE, NotWasm, ReadError};
use super::grants::{BadGrant, Grants};
use super::instance;
use super::source::Source;
use super::trust::TrustError;
use super::worlds::Linked;
use crate::handler::{Handler, HostFault, OpenError, OpenRequest, Session};
use crate::tasks;
use crate::types::Role;

/// How far below the runs' threads the compiler runs.
const NICE: i32 = 10;

/// A component that is a handler, with what its configuration grants it. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pub(super) engine: Engine,
    pub(super) compiled: Arc<Compiled>,
    pub(super) config: Arc<HandlerConfig>,
    pub(super) grants: Arc<Grants>,
    inspection: Arc<Inspection>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("inspection", &self.inspection).finish_non_exhaustive()
    }
}

/// What is known about a plugin without running it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Lowercase hex SHA-256 of the file.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    /// The version of the world that it is built for, such as `flowkit:worker@1.0.0`.
    pub world: String,
    /// What `describe` returned.
    pub describe: Map<String, Value>,
    /// The interfaces it imports, sorted. An import grants nothing by itself.
    pub imports: Vec<String>,
    /// The grants without which a worker refuses it: `http`.
    pub needs: Vec<&'static str>,
}

/// Why a file is not a handler, or not one that can run as configured. Each message says
/// what to do; all name the file.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}{}", .path.display(), advice(.error))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is larger than any handler.
    #[error(
        "{} is larger than {} MiB; strip debug information from it (in Rust `strip = true` in \
         the release profile)",
        .path.display(), MAX_FILE >> 20
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else than a component.
    #[error("{} is not a handler: {kind}", .path.display())]
    NotAComponent {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: NotWasm,
    },
    /// It begins like a component and is none.
    #[error(
        "{} is damaged, or uses WebAssembly features this worker does not run: {reason}\n  if it \
         was cut short, build or copy it again",
        .path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What the compiler says.
        reason: String,
    },
    /// A component of another world.
    #[error("{} is a component, but not a handler:{}", .path.display(), bullets(.differences))]
    OtherWorld {
        /// The file.
        path: PathBuf,
        /// Every difference.
        differences: Vec<Difference>,
    },
    /// It compiles and still cannot be linked.
    #[error("{} cannot be linked: {reason}", .path.display())]
    Link {
        /// The file.
        path: PathBuf,
        /// What the linker says.
        reason: String,
    },
    /// A trial instance, or its `describe`, failed.
    #[error(
        "{} was tried and failed: {fault}\n  mend it, and try it with `flowkit plugin test`",
        .path.display()
    )]
    Trial {
        /// The file.
        path: PathBuf,
        /// How.
        fault: HostFault,
    },
    /// A limit of its configuration is out of range.
    #[error(transparent)]
    Limit(#[from] BadLimit),
    /// What it is granted cannot be given.
    #[error(transparent)]
    Grant(#[from] BadGrant),
    /// Its content is not the pinned one.
    #[error(
        "{} has the digest {found}, but `sha256` pins {wanted}, which is not kept in the cache \
         either; put that version there, or change the pin",
        .path.display()
    )]
    OtherDigest {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: String,
        /// The pin.
        wanted: String,
    },
    /// It may not run here.
    #[error("{} is not trusted: {error}", .path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Why.
        error: TrustError,
    },
    /// It needs what the role is not granted.
    #[error(
        "{} imports {import}, which this role is not granted: add `{grant}` to its handler in \
         the configuration, or use a handler that does without",
        .path.display()
    )]
    NotGranted {
        /// The file.
        path: PathBuf,
        /// What it imports.
        import: String,
        /// The key of `handlers.ROLE` that grants it.
        grant: &'static str,
    },
    /// No component can run on this machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "; build the handler first, or correct the path",
        ErrorKind::IsADirectory => "; name the .wasm file in it",
        ErrorKind::PermissionDenied => "; let the user that runs the worker read it",
        _ => "; look whether the disk it is on works",
    }
}

fn bullets(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("\n  - {difference}")).collect()
}

/// Checks one file with default limits and no grants, as `flowkit plugin check` does; what
/// it needs of a role's grants is told, not demanded.
pub async fn check(path: &Path) -> Result<Inspection, CheckError> {
    let (engine, config) = (Engine::new()?, HandlerConfig::new(path));
    let prepared = engine.compile(None, &config, Priority::Normal).await?;
    engine.inspect(&prepared.compiled, &config, &Grants::none()).await
}

impl Engine {
    /// Loads a handler: compiles it on a thread for blocking work (up to seconds for
    /// interpreters), compares it with the world, links it, and calls `describe` on a
    /// trial instance.
    pub async fn load(&self, config: HandlerConfig) -> Result<Plugin, CheckError> {
        let prepared = self.compile(None, &config, Priority::Normal).await?;
        self.configure(prepared.compiled, config).await
    }

    /// Reads, compiles and links a component, on a thread of its own. `role`: whose kept
    /// versions a pin may name.
    pub(super) async fn compile(
        &self,
        role: Option<&Role>,
        config: &HandlerConfig,
        priority: Priority,
    ) -> Result<Prepared, CheckError> {
        let (engine, role, config) = (self.clone(), role.cloned(), config.clone());
        let (sender, compiled) = oneshot::channel();
        let compiling = move || {
            if priority == Priority::Low
                && let Err(error) = rustix::process::setpriority_process(None, NICE)
            {
                tracing::debug!(%error, "handlers are compiled at normal priority");
            }
            // Nobody waits any more: the worker stops.
            let _ = sender.send(compile(&engine, role.as_ref(), &config));
        };
        std::thread::Builder::new()
            .name("plugin-compiler".to_owned())
            .spawn(compiling)
            .map_err(EngineError::Compiler)?;
        // A bug of the compiler must not look like a bug of the file.
        compiled.await.expect("the compiling thread ends without an answer only by a panic")
    }

    /// Keeps what has been tried as a version of its role. One that cannot be kept serves
    /// all the same.
    pub(super) async fn keep(&self, role: &Role, source: Arc<Source>) {
        let Some(cache) = self.cache.clone() else { return };
        let of = role.clone();
        let kept = tasks::spawn_blocking("keep-version", move || cache.keep_version(&of, &source));
        if let Some(Err(error)) = kept.await {
            tracing::warn!(%role, %error, "this version cannot be kept for a rollback");
        }
    }

    /// A compiled component with its grants and limits, tried once.
    pub(super) async fn configure(
        &self,
        compiled: Arc<Compiled>,
        config: HandlerConfig,
    ) -> Result<Plugin, CheckError> {
        config.limits.check()?;
        let grants = Grants::take(&config)?;
        if let Some(import) = compiled.http_import().filter(|_| grants.http.is_empty()) {
            let (path, import) = (config.component.clone(), import.clone());
            return Err(CheckError::NotGranted { path, import, grant: "http" });
        }
        let inspection = self.inspect(&compiled, &config, &grants).await?;
        Ok(Plugin {
            engine: self.clone(),
            compiled,
            config: Arc::new(config),
            grants: Arc::new(grants),
            inspection: Arc::new(inspection),
        })
    }

    async fn inspect(
        &self,
        compiled: &Compiled,
        config: &HandlerConfig,
        grants: &Grants,
    ) -> Result<Inspection, CheckError> {
        let describe = instance::describe(self, compiled, (config, grants))
            .await
            .map_err(|fault| CheckError::Trial { path: config.component.clone(), fault })?;
        Ok(Inspection {
            digest: compiled.digest.to_string(),
            bytes: compiled.bytes,
            describe,
            world: compiled.world.clone(),
            imports: compiled.imports.clone(),
            needs: compiled.http_import().map(|_| "http").into_iter().collect(),
        })
    }
}

impl Plugin {
    /// What is known about it.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// Its grants and limits.
    pub fn config(&self) -> &HandlerConfig {
        &self.config
    }
}

#[async_trait]
impl Handler for Plugin {
    fn digest(&self) -> &str {
        &self.compiled.digest
    }

    /// Waits while 64 instances are alive in the process.
    async fn open(&self, request: OpenRequest) -> Result<Box<dyn Session>, OpenError> {
        let instance = instance::open(self, request).await?;
        Ok(Box::new(instance))
    }
}

/// How a compilation shares the processors with the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// Like them: somebody waits for it.
    Normal,
    /// Below them: nobody waits for it, and nobody is to notice it.
    Low,
}

/// A component that can be tried, and the file it came from.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) compiled: Arc<Compiled>,
    pub(super) source: Arc<Source>,
}

/// A component ready to be instantiated.
pub(super) struct Compiled {
    pub(super) digest: Arc<str>,
    pub(super) pre: Linked,
    bytes: u64,
    imports: Vec<String>,
    world: String,
}

impl Compiled {
    /// The import that only a role with hosts may have.
    fn http_import(&self) -> Option<&String> {
        self.imports.iter().find(|name| name.starts_with("wasi:http/"))
    }
}

fn compile(
    engine: &Engine,
    role: Option<&Role>,
    config: &HandlerConfig,
) -> Result<Prepared, CheckError> {
    let path = &config.component;
    let source = Source::find(engine, role, config)?;
    let component = component(engine, path, &source.contents)?;
    let ty = component.component_type();
    let target = contract::target_of(&engine.engine, &ty, engine.worlds)
        .map_err(|differences| CheckError::OtherWorld { path: path.to_owned(), differences })?;
    let mut imports: Vec<String> =
        ty.imports(&engine.engine).map(|(name, _)| name.to_owned()).collect();
    imports.sort();
    let pre = engine
        .linker
        .instantiate_pre(&component)
        .and_then(|component| target.shape.link(component))
        .map_err(|error| CheckError::Link { path: path.to_owned(), reason: reason(&error) })?;
    let bytes = source.contents.bytes.len() as u64;
    let digest = source.contents.digest.as_str().into();
    let compiled = Compiled { digest, pre, bytes, imports, world: target.world };
    Ok(Prepared { compiled: Arc::new(compiled), source: Arc::new(source) })
}

/// From the cache, or compiled and put there.
fn component(engine: &Engine, path: &Path, contents: &Contents) -> Result<Component, CheckError> {
    let cache = engine.cache.as_ref();
    let known = || cache.and_then(|cache| cache.load(&engine.engine, &contents.digest));
    if let Some(known) = known() {
        return Ok(known);
    }
    // One after another: what is compiled already waits for no compilation.
    let _turn = engine.compiler.turn.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = known() {
        return Ok(known);
    }
    let component = Component::new(&engine.engine, &contents.bytes)
        .map_err(|error| CheckError::Invalid { path: path.to_owned(), reason: reason(&error) })?;
    engine.compiler.done.fetch_add(1, Ordering::Relaxed);
    if let Some(cache) = cache {
        cache.store(&engine.engine, &contents.digest, &component);
    }
    Ok(component)
}

pub(super) fn unreadable(path: &Path, error: ReadError) -> CheckError {
    let path = path.to_owned();
    match error {
        ReadError::Io(error) => CheckError::Unreadable { path, error },
        ReadError::TooLarge => CheckError::TooLarge { path },
        ReadError::NotWasm(kind) => CheckError::NotAComponent { path, kind },
    }
}

fn reason(error: &wasmtime::Error) -> String {
    super::text::message(&format!("{error:#}"))
}
