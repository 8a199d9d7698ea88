//! From a file to a plugin: read, sniff, compile, compare, link, try.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use wasmtime::component::Component;

use super::bindings::HandlerWorldPre;
use super::config::{BadLimit, DirGrant, HandlerConfig};
use super::context::Guest;
use super::contract::{self, Difference};
use super::engine::{Engine, EngineError};
use super::file::{self, MAX_FILE, NotWasm, ReadError};
use super::instance;
use crate::handler::{HostFault, OpenError, OpenRequest, Session};

/// A component that is a handler, with what its configuration grants it. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pub(super) engine: Engine,
    pub(super) compiled: Arc<Compiled>,
    pub(super) config: Arc<HandlerConfig>,
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
    /// What `describe` returned.
    pub describe: Map<String, Value>,
    /// The interfaces it imports, sorted. An import grants nothing by itself.
    pub imports: Vec<String>,
}

/// Why a file is not a handler, or not one that can run as configured. Each message says
/// what to do; all name the file.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", .path.display())]
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
        "{} is damaged, or uses WebAssembly features this worker does not run: {reason}",
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
    #[error("{} was tried and failed: {fault}", .path.display())]
    Trial {
        /// The file.
        path: PathBuf,
        /// How.
        fault: HostFault,
    },
    /// A limit of its configuration is out of range.
    #[error(transparent)]
    Limit(#[from] BadLimit),
    /// A directory it is granted cannot be opened.
    #[error("the granted directory {} (`{guest}` for the handler): {error}", .host.display())]
    Dir {
        /// The directory on this machine.
        host: PathBuf,
        /// Its name for the handler.
        guest: String,
        /// Why.
        error: std::io::Error,
    },
    /// No component can run on this machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn bullets(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("\n  - {difference}")).collect()
}

/// Checks one file with default limits and no grants, as `flowkit plugin check` does.
pub async fn check(path: &Path) -> Result<Inspection, CheckError> {
    let plugin = Engine::new()?.load(HandlerConfig::new(path)).await?;
    Ok(plugin.inspection().clone())
}

impl Engine {
    /// Loads a handler: compiles it on a thread for blocking work (up to seconds for
    /// interpreters), compares it with the world, links it, and calls `describe` on a
    /// trial instance.
    pub async fn load(&self, config: HandlerConfig) -> Result<Plugin, CheckError> {
        let compiled = self.compile(&config.component).await?;
        self.configure(Arc::new(compiled), config).await
    }

    /// Reads, compiles and links a file.
    pub(super) async fn compile(&self, path: &Path) -> Result<Compiled, CheckError> {
        let (engine, path) = (self.clone(), path.to_owned());
        match tokio::task::spawn_blocking(move || compile(&engine, &path)).await {
            Ok(compiled) => compiled,
            // A bug of the compiler must not look like a bug of the file.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// A compiled component with its grants and limits, tried once.
    pub(super) async fn configure(
        &self,
        compiled: Arc<Compiled>,
        config: HandlerConfig,
    ) -> Result<Plugin, CheckError> {
        config.limits.check()?;
        check_dirs(&config.dirs)?;
        let describe = instance::describe(self, &compiled, &config)
            .await
            .map_err(|fault| CheckError::Trial { path: config.component.clone(), fault })?;
        let inspection = Inspection {
            digest: compiled.digest.to_string(),
            bytes: compiled.bytes,
            describe,
            imports: compiled.imports.clone(),
        };
        Ok(Plugin {
            engine: self.clone(),
            compiled,
            config: Arc::new(config),
            inspection: Arc::new(inspection),
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

    /// A fresh instance for one run. Waits while 64 instances are alive in the process.
    pub async fn open(&self, request: OpenRequest) -> Result<Box<dyn Session>, OpenError> {
        let instance = instance::open(self, request).await?;
        Ok(Box::new(instance))
    }
}

/// A component ready to be instantiated.
pub(super) struct Compiled {
    pub(super) digest: Arc<str>,
    pub(super) pre: HandlerWorldPre<Guest>,
    bytes: u64,
    imports: Vec<String>,
}

/// Whether every granted directory is there, and named once.
fn check_dirs(dirs: &[DirGrant]) -> Result<(), CheckError> {
    for (index, dir) in dirs.iter().enumerate() {
        let problem = if dir.guest.is_empty() {
            Some("its name for the handler is empty")
        } else if dirs[..index].iter().any(|other| other.guest == dir.guest) {
            Some("another directory has the same name for the handler")
        } else {
            None
        };
        let opened = match problem {
            Some(problem) => Err(std::io::Error::other(problem)),
            None => std::fs::read_dir(&dir.host).map(drop),
        };
        opened.map_err(|error| CheckError::Dir {
            host: dir.host.clone(),
            guest: dir.guest.clone(),
            error,
        })?;
    }
    Ok(())
}

fn compile(engine: &Engine, path: &Path) -> Result<Compiled, CheckError> {
    let contents = file::read(path).map_err(|error| unreadable(path, error))?;
    let component = Component::new(&engine.engine, &contents.bytes)
        .map_err(|error| CheckError::Invalid { path: path.to_owned(), reason: reason(&error) })?;
    let ty = component.component_type();
    let differences = contract::differences(&engine.engine, &ty);
    if !differences.is_empty() {
        return Err(CheckError::OtherWorld { path: path.to_owned(), differences });
    }
    let mut imports: Vec<String> =
        ty.imports(&engine.engine).map(|(name, _)| name.to_owned()).collect();
    imports.sort();
    let pre = engine
        .linker
        .instantiate_pre(&component)
        .and_then(HandlerWorldPre::new)
        .map_err(|error| CheckError::Link { path: path.to_owned(), reason: reason(&error) })?;
    let bytes = contents.bytes.len() as u64;
    Ok(Compiled { digest: contents.digest.into(), pre, bytes, imports })
}

fn unreadable(path: &Path, error: ReadError) -> CheckError {
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
