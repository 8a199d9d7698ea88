//! Versions of plugins that have been replaced, for the runs that began with them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::config::HandlerConfig;
use super::engine::Engine;
use super::load::{Compiled, Plugin, Priority};
use super::source::kept_file;
use crate::types::Role;

/// The replaced versions that this process can still run: those that other runs use, and
/// those that the cache keeps.
#[derive(Debug)]
pub(super) struct Versions {
    engine: Engine,
    in_use: Mutex<HashMap<(Role, String), Weak<Compiled>>>,
    /// One is loaded at a time: who waited finds what the first has loaded.
    loading: tokio::sync::Mutex<()>,
}

impl Versions {
    /// None yet.
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, in_use: Mutex::default(), loading: tokio::sync::Mutex::default() }
    }

    /// Notes a version that was replaced; it can be found while a run uses it.
    pub(super) fn remember(&self, role: &Role, replaced: &Plugin) {
        let mut in_use = self.in_use();
        in_use.retain(|_, compiled| compiled.strong_count() > 0);
        let key = (role.clone(), replaced.compiled.digest.to_string());
        in_use.insert(key, Arc::downgrade(&replaced.compiled));
    }

    /// The version with this digest, with the grants and limits of `config`. `None` where
    /// it is not here, or may not or cannot run any more; the log says which.
    pub(super) async fn find(
        &self,
        role: &Role,
        digest: &str,
        config: &HandlerConfig,
    ) -> Option<Plugin> {
        let _turn = self.loading.lock().await;
        let key = (role.clone(), digest.to_owned());
        let known = self.in_use().get(&key).and_then(Weak::upgrade);
        if known.is_none() && !kept_file(&self.engine, Some(role), digest)?.exists() {
            return None;
        }
        let compiled = match known {
            Some(compiled) => Ok(compiled),
            None => {
                let pinned = HandlerConfig { sha256: Some(digest.to_owned()), ..config.clone() };
                let prepared = self.engine.compile(Some(role), &pinned, Priority::Normal).await;
                prepared.map(|prepared| prepared.compiled)
            }
        };
        let found = match compiled {
            Ok(compiled) => self.engine.configure(compiled, config.clone()).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(plugin) => {
                self.in_use().insert(key, Arc::downgrade(&plugin.compiled));
                Some(plugin)
            }
            Err(error) => {
                tracing::warn!(%role, plugin_digest = digest, %error, "a kept version cannot run");
                None
            }
        }
    }

    fn in_use(&self) -> MutexGuard<'_, HashMap<(Role, String), Weak<Compiled>>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
