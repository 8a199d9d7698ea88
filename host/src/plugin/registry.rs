//! The live set of plugins: which component serves which role.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use super::config::HandlerConfig;
use super::engine::Engine;
use super::load::{CheckError, Plugin, Prepared, Priority};
use super::versions::Versions;
use crate::clock::Clock;
use crate::handler::{Handler, Handlers, OpenError};
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
#[derive(Debug)]
pub struct Plugins {
    engine: Engine,
    by_role: RwLock<BTreeMap<Role, Plugin>>,
    versions: Versions,
    states: Mutex<BTreeMap<Role, State>>,
    changed: watch::Sender<()>,
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
        let plugins = Self {
            engine: engine.clone(),
            by_role: RwLock::default(),
            versions: Versions::new(engine.clone()),
            states: Mutex::default(),
            changed: watch::Sender::new(()),
        };
        let mut known = HashMap::new();
        let mut errors = Vec::new();
        for PluginConfig { role, handler } in configs {
            match load_one(engine, &mut known, (&role, handler)).await {
                Ok(plugin) => plugins.insert(role, plugin),
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
        if let Some(before) = self.write().insert(role.clone(), plugin) {
            self.versions.remember(&role, &before);
        }
        self.changed.send_replace(());
    }

    /// Has no plugin serve `role` from the next run on.
    pub(super) fn remove(&self, role: &Role) {
        tracing::info!(%role, "the configuration has the role no more: it is not served");
        self.states().remove(role);
        if let Some(before) = self.write().remove(role) {
            self.versions.remember(role, &before);
        }
        self.changed.send_replace(());
    }

    /// Notes that a change of a role's plugin was refused.
    pub(super) fn refuse(&self, role: &Role, problem: &str) {
        let mut states = self.states();
        let state = states.entry(role.clone()).or_default();
        state.problem = Some(problem.to_owned());
        state.refused += 1;
        drop(states);
        self.changed.send_replace(());
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
        self.read().get(role).cloned()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Role, Plugin>> {
        self.by_role.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Role, Plugin>> {
        self.by_role.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a compiled component was made from: its file, pin and signature.
type Origin = (PathBuf, Option<String>, Option<PathBuf>);

async fn load_one(
    engine: &Engine,
    known: &mut HashMap<Origin, Prepared>,
    (role, handler): (&Role, HandlerConfig),
) -> Result<Plugin, CheckError> {
    let origin = (handler.component.clone(), handler.sha256.clone(), handler.signature.clone());
    let prepared = match known.get(&origin) {
        Some(prepared) => prepared.clone(),
        None => engine.compile(Some(role), &handler, Priority::Normal).await?,
    };
    known.insert(origin, prepared.clone());
    let plugin = engine.configure(prepared.compiled, handler).await?;
    engine.keep(role, prepared.source).await;
    Ok(plugin)
}

#[async_trait]
impl Handlers for Plugins {
    fn roles(&self) -> Vec<Role> {
        self.read().keys().cloned().collect()
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.changed.subscribe())
    }

    fn concurrency(&self, role: &Role) -> Option<usize> {
        let limit = self.get(role)?.config.concurrency?;
        usize::try_from(limit.get()).ok()
    }

    fn digests(&self) -> BTreeMap<Role, String> {
        let digest = |(role, plugin): (&Role, &Plugin)| (role.clone(), plugin.digest().to_owned());
        self.read().iter().map(digest).collect()
    }

    fn counters(&self) -> BTreeMap<Role, BTreeMap<&'static str, u64>> {
        self.engine.counters()
    }

    fn describe(&self) -> Value {
        serde_json::to_value(&*self.states()).unwrap_or_default()
    }

    /// A pin holds for every run: with one, the present version serves all.
    async fn choose(
        &self,
        role: &Role,
        began_with: Option<&str>,
    ) -> Result<Arc<dyn Handler>, OpenError> {
        let present = self.get(role).ok_or_else(|| OpenError::NoHandler(role.clone()))?;
        let other = began_with.filter(|digest| *digest != present.digest());
        let kept = match other {
            Some(digest) if present.config.sha256.is_none() => {
                self.versions.find(role, digest, &present.config).await
            }
            _ => None,
        };
        Ok(Arc::new(kept.unwrap_or(present)))
    }
}
