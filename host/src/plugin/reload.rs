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
use super::registry::{PluginConfig, Plugins};
use crate::types::Role;

/// Keeps [`Plugins`] as their files and the configuration are.
#[derive(Debug)]
pub struct Reloader {
    plugins: Arc<Plugins>,
    engine: Engine,
    seen: HashMap<Role, Seen>,
}

/// How a role's configuration and file were at the last look.
#[derive(Debug, Clone, PartialEq)]
struct Look {
    config: PluginConfig,
    /// Device, inode, length, and time of change; none while there is no file.
    file: Option<(u64, u64, u64, i64, i64)>,
}

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
        for config in configs {
            let role = config.role.clone();
            let file = mark(&config.handler.component).await;
            let look = Look { config, file };
            let seen = self.seen.entry(role.clone()).or_default();
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

    async fn reload(&self, PluginConfig { role, handler }: PluginConfig) {
        let Some(current) = self.plugins.get(&role) else {
            return tracing::warn!(
                %role,
                "the configuration has a new role; it is served after the worker's next start"
            );
        };
        let path = handler.component.clone();
        match self.engine.compile(Some(&role), &handler).await {
            // Touched, or written again with the same content.
            Ok(same) if same.digest == current.compiled.digest && handler == *current.config => {
                self.plugins.settle(&role);
            }
            Ok(compiled) => match self.engine.configure(Arc::new(compiled), handler).await {
                Ok(plugin) => self.plugins.insert(role, plugin),
                Err(error) => self.refuse(&role, &path, &error.to_string()),
            },
            Err(error) => self.refuse(&role, &path, &error.to_string()),
        }
    }

    fn refuse(&self, role: &Role, component: &Path, problem: &str) {
        tracing::error!(
            %role,
            component = %component.display(),
            problem,
            "the changed plugin is refused; the one that works goes on"
        );
        self.plugins.refuse(role, problem);
    }
}

async fn mark(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let found = tokio::fs::metadata(path).await.ok()?;
    Some((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}
