//! Hot reload: looks at the plugins' files and swaps in what has changed and works.
//!
//! Files are watched by their metadata, which works on every file system and through
//! symbolic links. A file is read once two looks in a row have found it the same, so that
//! a copy under way is left alone; whatever is read is checked, compiled and tried before
//! it serves a run.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::engine::Engine;
use super::load::{Plugin, Priority};
use super::registry::{PluginConfig, Plugins};
use super::source::beside;
use crate::handler::Handlers as _;
use crate::types::Role;

/// Keeps [`Plugins`] as their files and the configuration are.
#[derive(Debug)]
pub struct Reloader {
    plugins: Arc<Plugins>,
    engine: Engine,
    seen: HashMap<Role, Seen>,
}

/// How a role's configuration and files were at the last look.
#[derive(Debug, Clone, PartialEq)]
struct Look {
    config: PluginConfig,
    component: Option<Mark>,
    signature: Option<Mark>,
}

/// What tells one content of a file from the next: device, inode, length, and the time its
/// inode was changed, which no copying tool can set back.
type Mark = (u64, u64, u64, i64, i64);

#[derive(Debug, Default)]
struct Seen {
    last: Option<Look>,
    /// What has been loaded or refused.
    settled: Option<Look>,
}

impl Reloader {
    /// Over plugins that `engine` has loaded.
    pub fn new(engine: Engine, plugins: Arc<Plugins>) -> Self {
        Self { plugins, engine, seen: HashMap::new() }
    }

    /// Looks every `poll`, and at once when `now` is notified, for as long as it is polled.
    /// `configs` reads the configuration; `None` leaves everything as it is.
    pub async fn run(
        mut self,
        poll: Duration,
        now: Arc<Notify>,
        mut configs: impl FnMut() -> Option<Vec<PluginConfig>>,
    ) {
        let mut ticks = tokio::time::interval(poll);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: a tick and a notification are lost by neither side.
            let hurried = tokio::select! {
                () = now.notified() => true,
                _ = ticks.tick() => false,
            };
            if let Some(configs) = configs() {
                self.look(configs, hurried).await;
            }
        }
    }

    /// One look. `hurried`: without waiting for a second one that finds the same.
    pub async fn look(&mut self, configs: Vec<PluginConfig>, hurried: bool) {
        self.remove_all_but(&configs);
        for config in configs {
            let look = Look::at(config).await;
            let seen = self.seen.entry(look.config.role.clone()).or_default();
            if seen.settled.as_ref() == Some(&look) {
                continue;
            }
            let stable = seen.last.as_ref() == Some(&look);
            seen.last = Some(look.clone());
            if !stable && !hurried {
                continue;
            }
            seen.settled = Some(look.clone());
            self.reload(look.config).await;
        }
    }

    fn remove_all_but(&mut self, configs: &[PluginConfig]) {
        for role in self.plugins.roles() {
            if !configs.iter().any(|config| config.role == role) {
                self.plugins.remove(&role);
            }
        }
        // One that comes back is looked at anew.
        self.seen.retain(|role, _| configs.iter().any(|config| config.role == *role));
    }

    async fn reload(&self, PluginConfig { role, handler }: PluginConfig) {
        let current = self.plugins.get(&role);
        let path = handler.component.clone();
        let prepared = match self.engine.compile(Some(&role), &handler, Priority::Low).await {
            Ok(prepared) => prepared,
            Err(error) => return self.refuse(&role, &path, &error.to_string()),
        };
        // Touched, or written again with the same content.
        let same = |plugin: &Plugin| {
            prepared.compiled.digest == plugin.compiled.digest && handler == *plugin.config
        };
        if current.as_ref().is_some_and(same) {
            return self.plugins.settle(&role);
        }
        match self.engine.configure(prepared.compiled, handler).await {
            Ok(plugin) => {
                self.engine.keep(&role, prepared.source).await;
                self.plugins.insert(role, plugin);
            }
            Err(error) => self.refuse(&role, &path, &error.to_string()),
        }
    }

    fn refuse(&self, role: &Role, component: &Path, problem: &str) {
        let stays = match self.plugins.get(role) {
            Some(_) => "the changed plugin is refused; the one that works goes on",
            None => "the plugin is refused; its role is not served",
        };
        tracing::error!(%role, component = %component.display(), problem, "{stays}");
        self.plugins.refuse(role, problem);
    }
}

impl Look {
    async fn at(config: PluginConfig) -> Self {
        let component = &config.handler.component;
        let signature = config.handler.signature.clone().unwrap_or_else(|| beside(component));
        let (component, signature) = (mark(component).await, mark(&signature).await);
        Self { config, component, signature }
    }
}

/// None while there is no file.
async fn mark(path: &Path) -> Option<Mark> {
    let found = tokio::fs::metadata(path).await.ok()?;
    Some((found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
}
