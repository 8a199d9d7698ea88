//! The composition root: the only file that names a backend.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::bus::kafka::{KafkaBus, KafkaOptions};
use crate::bus::{Bus, embedded::EmbeddedBus, memory::MemoryBus};
use crate::clock::Clock;
use crate::config::{CacheDir, Config, Sources};
use crate::documents::Documents;
use crate::handler::Handlers;
use crate::plugin::{CodeCache, Engine, LoadError, PluginConfig, Plugins, Reloader};
use crate::settings::Settings;
use crate::sqlite::Database;
use crate::store::mongo::{MongoOptions, MongoStore};
use crate::store::{Collections, Store, embedded::EmbeddedStore, memory::MemoryStore};
use crate::tasks;
use crate::types::{Role, WorkerId};

/// How long a call of the database may take, at least and at most.
const STORE_WITHIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// What the commands are built from.
pub struct App {
    /// The configuration.
    pub config: Config,
    /// Where the configuration came from, to read it again.
    pub sources: Sources,
    /// Time.
    pub clock: Clock,
}

/// Where messages and state are.
#[derive(Clone)]
pub struct Backend {
    /// Messages.
    pub bus: Arc<dyn Bus>,
    /// State.
    pub store: Arc<dyn Store>,
    /// What handlers may read, as far as they are granted it.
    pub documents: Arc<dyn Documents>,
}

/// Handlers that cannot be loaded; one line each, with what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct BadPlugins(pub Vec<LoadError>);

impl App {
    /// On this machine's clocks.
    pub fn new(config: Config) -> Self {
        Self { config, sources: Sources::default(), clock: Clock::system() }
    }

    /// What a worker goes by.
    pub fn settings(&self) -> Settings {
        self.config.settings()
    }

    /// Opens the configured backend. With `worker`, says that this process is that worker;
    /// the embedded one refuses while another process is.
    pub async fn backend(&self, worker: Option<&WorkerId>) -> anyhow::Result<Backend> {
        if self.config.is_on_kafka() {
            let (bus, store) = (self.kafka_bus(worker)?, self.mongo_store().await?);
            return Ok(Backend { bus, store: store.clone(), documents: store });
        }
        self.backend_at(self.config.db(), worker).await
    }

    /// Opens the configured backend's state alone: the broker may be away.
    pub async fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        if self.config.is_on_kafka() {
            return Ok(self.mongo_store().await?);
        }
        Ok(self.backend_at(self.config.db(), None).await?.store)
    }

    /// Opens the configured backend's messages alone: the database may be away.
    pub async fn bus(&self) -> anyhow::Result<Arc<dyn Bus>> {
        if self.config.is_on_kafka() {
            return self.kafka_bus(None);
        }
        Ok(self.backend_at(self.config.db(), None).await?.bus)
    }

    fn kafka_bus(&self, worker: Option<&WorkerId>) -> anyhow::Result<Arc<dyn Bus>> {
        let servers = self.config.servers()?;
        let options = KafkaOptions {
            bootstrap: servers.bootstrap,
            client_id: worker.map_or("flowkit", WorkerId::as_str).to_owned(),
            properties: servers.properties,
            lease_ttl: self.settings().lease_ttl,
        };
        Ok(Arc::new(KafkaBus::connect(options)?))
    }

    async fn mongo_store(&self) -> anyhow::Result<Arc<MongoStore>> {
        let servers = self.config.servers()?;
        // A call that hangs must leave time for another one before a lease ends.
        let within = (self.settings().lease_ttl / 4).clamp(STORE_WITHIN.0, STORE_WITHIN.1);
        let (uri, database) = (servers.mongodb_uri, servers.mongodb_database);
        let options = MongoOptions { uri, database, within };
        Ok(Arc::new(MongoStore::connect(options, self.clock.clone()).await?))
    }

    /// Opens the embedded backend in another file than the configured one.
    pub async fn backend_at(
        &self,
        db: &Path,
        worker: Option<&WorkerId>,
    ) -> anyhow::Result<Backend> {
        let path = db.to_owned();
        let opened = tasks::spawn_blocking("open-database", move || Database::open(path));
        let database = opened.await.context("opening the database was interrupted")??;
        if let Some(worker) = worker {
            database.register_worker(worker).await?;
        }
        let store = Arc::new(EmbeddedStore::new(database.clone(), self.clock.clone()));
        Ok(Backend {
            bus: Arc::new(EmbeddedBus::new(database)),
            store: store.clone(),
            documents: store,
        })
    }

    /// Loads the handlers of the roles to serve, which read documents of `backend`; the
    /// second keeps them as their files are.
    pub async fn plugins(
        &self,
        backend: &Backend,
    ) -> anyhow::Result<(Arc<dyn Handlers>, Reloader)> {
        let engine = self.engine(backend).await?;
        let configs = served(&self.config);
        let plugins = Arc::new(Plugins::load(&engine, configs).await.map_err(BadPlugins)?);
        Ok((plugins.clone(), Reloader::new(engine, plugins)))
    }

    /// Loads some roles' handlers, which stay as they are.
    pub async fn load(
        &self,
        configs: Vec<PluginConfig>,
        backend: &Backend,
    ) -> anyhow::Result<Arc<dyn Handlers>> {
        let engine = self.engine(backend).await?;
        Ok(Arc::new(Plugins::load(&engine, configs).await.map_err(BadPlugins)?))
    }

    /// An engine with the cache and the trust of the configuration.
    async fn engine(&self, backend: &Backend) -> anyhow::Result<Engine> {
        let engine = Engine::new()?
            .with_trust(self.config.plugins().trust())
            .with_documents(backend.documents.clone());
        Ok(match self.cache().await? {
            Some(cache) => engine.with_cache(cache),
            None => engine,
        })
    }

    /// The configured cache; `None` where it is switched off or cannot be had by default.
    pub async fn cache(&self) -> anyhow::Result<Option<CodeCache>> {
        match self.config.plugins().cache_dir() {
            CacheDir::Off => Ok(None),
            CacheDir::Default => Ok(default_cache(|name| self.config.variable(name)).await),
            CacheDir::At(dir) => Ok(Some(open_cache(dir.clone()).await?)),
        }
    }
}

/// The handlers of the roles to serve.
pub fn served(config: &Config) -> Vec<PluginConfig> {
    let handlers = config.handlers();
    let entry = |role: &Role| {
        let handler = handlers.get(role)?.clone();
        Some(PluginConfig { role: role.clone(), handler })
    };
    config.roles().iter().filter_map(entry).collect()
}

/// A backend in this process alone, gone with it; handlers may read these collections.
pub fn memory(clock: &Clock, collections: Collections) -> Backend {
    Backend {
        bus: Arc::new(MemoryBus::new(clock.clone())),
        store: Arc::new(MemoryStore::new(clock.clone())),
        documents: Arc::new(collections),
    }
}

/// Loads one handler without any configuration, with this user's cache; fails with
/// [`BadPlugins`].
pub async fn try_out(config: PluginConfig, backend: &Backend) -> anyhow::Result<Arc<dyn Handlers>> {
    let mut engine = Engine::new()?.with_documents(backend.documents.clone());
    if let Some(cache) = default_cache(|name| std::env::var_os(name)).await {
        engine = engine.with_cache(cache);
    }
    Ok(Arc::new(Plugins::load(&engine, vec![config]).await.map_err(BadPlugins)?))
}

async fn default_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<CodeCache> {
    let Some(dir) = CacheDir::by_default(variable) else {
        tracing::warn!("no cache for compiled plugins: HOME is not set; set plugins.cache_dir");
        return None;
    };
    match open_cache(dir).await {
        Ok(cache) => Some(cache),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "no cache for compiled plugins: each start compiles them");
            None
        }
    }
}

async fn open_cache(dir: PathBuf) -> anyhow::Result<CodeCache> {
    let opened = tasks::spawn_blocking("open-cache", move || CodeCache::open(dir));
    Ok(opened.await.context("opening the cache was stopped")??)
}
