//! The live set of plugins: which component serves which role.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use super::config::HandlerConfig;
use super::engine::Engine;
use super::load::{CheckError, Compiled, Plugin};
use crate::clock::Clock;
use crate::handler::{Handlers, OpenError, OpenRequest, Session};
use crate::types::Role;

/// One entry of the configuration's `handlers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginConfig {
    /// The role it serves.
    pub role: Role,
    /// Its component, grants and limits.
    pub handler: HandlerConfig,
}

/// A role whose plugin could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("handlers.{role}: {error}")]
pub struct LoadError {
    /// The role.
    pub role: Role,
    /// Why.
    pub error: CheckError,
}

/// Roles and their plugins. A role's plugin can be replaced at any time: a run keeps the
/// one it was opened with.
#[derive(Debug, Default)]
pub struct Plugins {
    by_role: RwLock<HashMap<Role, Plugin>>,
    engine: Option<Engine>,
    states: Mutex<BTreeMap<Role, State>>,
}

/// What `flowkit status` shows of a role's plugin.
#[derive(Debug, Clone, Default, Serialize)]
struct State {
    digest: String,
    /// As `describe` gives it.
    version: Value,
    /// Since when this version serves the role: milliseconds since 1970.
    since: i64,
    /// Why the last change was refused; none once a change was taken.
    problem: Option<String>,
    /// Changes that were refused since the process began.
    refused: u64,
}

impl Plugins {
    /// Loads every configured plugin; a file that serves several roles is compiled once.
    /// All failures are reported, not only the first.
    pub async fn load(engine: &Engine, configs: Vec<PluginConfig>) -> Result<Self, Vec<LoadError>> {
        let plugins = Self { engine: Some(engine.clone()), ..Self::default() };
        let mut compiled: HashMap<Origin, Arc<Compiled>> = HashMap::new();
        let mut errors = Vec::new();
        for PluginConfig { role, handler } in configs {
            let origin = origin(&handler);
            let known = compiled.get(&origin).cloned();
            match load_one(engine, (&role, known), handler).await {
                Ok(plugin) => {
                    compiled.insert(origin, Arc::clone(&plugin.compiled));
                    plugins.insert(role, plugin);
                }
                Err(error) => errors.push(LoadError { role, error }),
            }
        }
        if errors.is_empty() { Ok(plugins) } else { Err(errors) }
    }

    /// Makes `plugin` serve `role` from the next run on.
    pub fn insert(&self, role: Role, plugin: Plugin) {
        let inspection = plugin.inspection();
        tracing::info!(
            %role,
            component = %plugin.config().component.display(),
            digest = inspection.digest,
            dirs = ?plugin.config().dirs,
            env = ?plugin.config().env.keys().collect::<Vec<_>>(),
            http = ?plugin.config().http.iter().map(ToString::to_string).collect::<Vec<_>>(),
            documents = ?plugin.config().documents,
            "plugin loaded"
        );
        let mut states = self.states();
        let state = states.entry(role.clone()).or_default();
        state.digest.clone_from(&inspection.digest);
        state.version = inspection.describe.get("version").cloned().unwrap_or_default();
        state.since = Clock::system().wall().0;
        state.problem = None;
        drop(states);
        self.write().insert(role, plugin);
    }

    /// Notes that a change of a role's plugin was refused.
    pub(super) fn refuse(&self, role: &Role, problem: &str) {
        let mut states = self.states();
        let state = states.entry(role.clone()).or_default();
        state.problem = Some(problem.to_owned());
        state.refused += 1;
    }

    /// Notes that a role's plugin is as its configuration wants it.
    pub(super) fn settle(&self, role: &Role) {
        self.states().entry(role.clone()).or_default().problem = None;
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<Role, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugin that serves `role` now.
    pub fn get(&self, role: &Role) -> Option<Plugin> {
        self.by_role.read().unwrap_or_else(PoisonError::into_inner).get(role).cloned()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Role, Plugin>> {
        self.by_role.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a compiled component was made from.
type Origin = (PathBuf, Option<String>, Option<PathBuf>);

fn origin(handler: &HandlerConfig) -> Origin {
    (handler.component.clone(), handler.sha256.clone(), handler.signature.clone())
}

async fn load_one(
    engine: &Engine,
    (role, known): (&Role, Option<Arc<Compiled>>),
    handler: HandlerConfig,
) -> Result<Plugin, CheckError> {
    let compiled = match known {
        Some(compiled) => compiled,
        None => Arc::new(engine.compile(Some(role), &handler).await?),
    };
    engine.configure(compiled, handler).await
}

#[async_trait]
impl Handlers for Plugins {
    fn roles(&self) -> Vec<Role> {
        let by_role = self.by_role.read().unwrap_or_else(PoisonError::into_inner);
        let mut roles: Vec<Role> = by_role.keys().cloned().collect();
        roles.sort();
        roles
    }

    fn counters(&self) -> BTreeMap<Role, BTreeMap<&'static str, u64>> {
        self.engine.as_ref().map(Engine::counters).unwrap_or_default()
    }

    fn describe(&self) -> Value {
        serde_json::to_value(&*self.states()).unwrap_or_default()
    }

    async fn open(&self, request: OpenRequest) -> Result<Box<dyn Session>, OpenError> {
        let role = &request.info.role;
        let plugin = self.get(role).ok_or_else(|| OpenError::NoHandler(role.clone()))?;
        plugin.open(request).await
    }
}
