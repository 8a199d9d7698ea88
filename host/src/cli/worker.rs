//! `flowkit worker`: serves the configured roles.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::{Interrupts, Usage};
use crate::app::{App, Backend, served};
use crate::config::{Config, Need};
use crate::coordinator;
use crate::plugin::Reloader;
use crate::settings::Settings;
use crate::tasks::{self, TaskHandle};
use crate::worker::{Shutdown, Worker};

/// How much longer than `shutdown_grace_sec` a drain may take before the process ends
/// without it: for the last writes.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);

/// Serves the configured roles until SIGINT or SIGTERM.
#[derive(Debug, Args)]
#[command(after_help = "\
The worker takes commands for its roles from the backend, runs them in their handlers and\n\
reports. The first SIGINT or SIGTERM lets running batches finish within shutdown_grace_sec and\n\
leaves the rest, with its progress, to other workers; a second one ends the process at once.\n\
\n\
Examples:\n  \
  flowkit worker\n  \
  flowkit worker --config /etc/flowkit/worker.json --db /var/lib/flowkit/flowkit.db\n  \
  FLOWKIT_ROLES=echo,report flowkit worker --set max_concurrent_tasks=8")]
pub struct WorkerArgs {}

/// Runs it.
pub async fn execute(_: WorkerArgs, app: &App) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::new()?;
    if app.config.roles().is_empty() {
        let text = "there is no role to serve: `handlers` and `roles` of the configuration are \
                    empty; `flowkit config show` tells where they come from";
        return Err(Usage(text.into()).into());
    }
    let settings = app.settings();
    let grace = settings.shutdown_grace;
    // First of all: a worker without its files leaves no empty database behind.
    app.config.check_files()?;
    let backend = app.backend(Some(&settings.worker_id)).await?;
    let (handlers, reloader) = app.plugins(&backend).await?;
    let roles: Vec<_> = handlers.roles().iter().map(ToString::to_string).collect();
    tracing::info!(
        worker_id = %settings.worker_id,
        roles = roles.join(","),
        backend = %app.config.place(),
        "worker starts"
    );
    let shutdown = Shutdown::new();
    let coordinating = coordinate(&settings, &backend, app, shutdown.clone());
    let worker = Worker::new(settings, backend.bus, backend.store, handlers, app.clock.clone());
    let _reloading = reloading(app, reloader)?;
    let begin = shutdown.clone();
    let _listening = tasks::spawn("interrupts", async move {
        let first = interrupts.next().await;
        tracing::info!("{}: draining; a second one ends the process at once", first.name());
        begin.begin();
        let second = interrupts.next().await;
        std::process::exit(second.exit_code().into());
    });
    // The one that fails ends the process; the drain of both is one drain.
    let both = async { tokio::try_join!(worker.run(shutdown.clone()), coordinating) };
    // Cancel-safe: whichever side is dropped, the process ends with it.
    tokio::select! {
        ended = both => ended.map(|_| ())?,
        () = overdue(&shutdown, grace + DRAIN_MARGIN) => bail!(
            "the worker was not drained within {} s; what it had in hand goes on elsewhere once \
             its leases have ended",
            (grace + DRAIN_MARGIN).as_secs_f64()
        ),
    }
    tracing::info!("worker stopped");
    Ok(ExitCode::SUCCESS)
}

/// Plugins follow their files and the config file; SIGHUP makes them do so at once.
fn reloading(app: &App, reloader: Reloader) -> anyhow::Result<(TaskHandle<()>, TaskHandle<()>)> {
    let mut hangups = signal(SignalKind::hangup())?;
    let now = Arc::new(Notify::new());
    let told = now.clone();
    let signals = tasks::spawn("hangups", async move {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: the plugins are looked at");
            told.notify_one();
        }
    });
    let (sources, mut said) = (app.sources.clone(), String::new());
    let configs = move || match Config::load(&sources, Need::Handlers) {
        Ok(config) => {
            said.clear();
            Some(served(&config))
        }
        Err(error) => {
            let error = error.to_string();
            if error != said {
                tracing::error!(error, "the changed configuration is refused; nothing changes");
                said = error;
            }
            None
        }
    };
    let poll = app.config.plugins().poll();
    Ok((signals, tasks::spawn("reload", reloader.run(poll, now, configs))))
}

/// What was submitted has no coordinator of its own: one of the workers is it. On Kafka
/// nothing is submitted here; tasks have their coordinators.
fn coordinate(
    settings: &Settings,
    backend: &Backend,
    app: &App,
    shutdown: Shutdown,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    let submitted = !app.config.is_on_kafka();
    let deps = coordinator::Deps {
        bus: backend.bus.clone(),
        store: backend.store.clone(),
        clock: app.clock.clone(),
        topics: settings.topics.clone(),
    };
    let worker_id = settings.worker_id.clone();
    async move {
        if !submitted {
            return Ok(());
        }
        let begun = async move { shutdown.begun().await };
        coordinator::driver::host(deps, worker_id, begun).await
    }
}

async fn overdue(shutdown: &Shutdown, after: Duration) {
    shutdown.begun().await;
    tokio::time::sleep(after).await;
}
