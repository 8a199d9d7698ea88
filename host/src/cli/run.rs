//! `flowkit run`: one graph, in this process alone.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::outcome::TaskReport;
use super::progress::Progress;
use super::{Interrupt, Interrupts, graph_file, note, print, table};
use crate::app::{App, Backend};
use crate::coordinator::graph::Graph;
use crate::coordinator::{Deps, Outcome, Task, driver};
use crate::plugin::{HandlerConfig, PluginConfig};
use crate::settings::Settings;
use crate::store::TaskDoc;
use crate::tasks::{self, TaskHandle};
use crate::types::{Role, TaskId, WorkerId};
use crate::worker::{Shutdown, Worker};

/// How much longer than `shutdown_grace_sec` the worker may take to stop.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// `flowkit run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Shows a bar for each node that runs (plain lines where stderr is no terminal) and a table at\n\
the end. Uses a temporary database unless --db or FLOWKIT_DB names one; with `backend`\n\
\"kafka\" the process is one more worker there, and coordinates this graph. Ctrl-C cancels the\n\
graph and waits for its handlers to stop; a second one ends the process at once.\n\
\n\
Exit status: 0 finished, 1 failed, 2 used wrongly, 130 after Ctrl-C.\n\
\n\
Examples:\n  \
  flowkit run configs/demo.json\n  \
  flowkit run configs/demo.json --json | jq .nodes.report.metrics")]
pub struct RunArgs {
    /// The graph: {\"nodes\": [{\"node_id\", \"type\", …}], \"edges\": [[src, dst]]}
    #[arg(value_name = "GRAPH.json")]
    graph: PathBuf,
    /// Prints one JSON object at the end and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub async fn execute(args: RunArgs, app: &App) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::new()?;
    let configured = app.config.handlers();
    let graph = graph_file::read(&args.graph, Some(&configured.keys().cloned().collect()))?;
    let roles = graph.roles();
    let needed = configured.iter().filter(|(role, _)| roles.contains(role));
    let entry = |(role, handler): (&Role, &HandlerConfig)| PluginConfig {
        role: role.clone(),
        handler: handler.clone(),
    };
    let needed = needed.map(entry).collect();

    let place = Place::open(app, settings_for(app, &graph)?).await?;
    let handlers = app.load(needed, &place.backend).await?;
    let Backend { bus, store, .. } = place.backend.clone();
    let shutdown = Shutdown::new();
    let worker = Worker::new(place.settings.clone(), bus, store, handlers, app.clock.clone());
    let worker = tasks::spawn("worker", worker.run(shutdown.clone()));
    let runner = Some(place.settings.worker_id.clone());
    let task = Task::new(TaskId::fresh(), graph, runner, app.clock.wall());
    let mut session = Session { place, worker, shutdown, task_id: task.id().clone() };

    let mut progress = Progress::new(&task, app.clock.clone());
    let (doc, interrupt) = session.coordinate(app, task, &mut interrupts, &mut progress).await?;
    progress.clear();
    let report = TaskReport::of(&doc, &*session.place.backend.store).await?;
    session.stop().await?;
    if args.json {
        print(report.to_json())?;
    } else {
        print(table::of_nodes(&report))?;
        note(report.word());
    }
    Ok(match (report.outcome, interrupt) {
        (Some(Outcome::Finished), _) => ExitCode::SUCCESS,
        (_, Some(interrupt)) => ExitCode::from(interrupt.exit_code()),
        _ => ExitCode::FAILURE,
    })
}

/// A worker of its own name, beside which any other may use the same database.
fn settings_for(app: &App, graph: &Graph) -> anyhow::Result<Settings> {
    let mut settings = app.settings();
    settings.worker_id = WorkerId::new(format!("run-{}", TaskId::fresh()))?;
    settings.max_concurrent_tasks = settings.max_concurrent_tasks.max(graph.slots_needed());
    Ok(settings)
}

/// The database, and the folder that goes with a temporary one.
struct Place {
    backend: Backend,
    settings: Settings,
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    async fn open(app: &App, settings: Settings) -> anyhow::Result<Self> {
        let worker = Some(&settings.worker_id);
        if app.config.is_on_kafka() || app.config.db_was_named() {
            let backend = app.backend(worker).await?;
            return Ok(Self { backend, settings, temporary: None });
        }
        let folder = tempfile::Builder::new().prefix("flowkit-run-").tempdir();
        let folder = folder.context("creating a folder for the temporary database")?;
        let backend = app.backend_at(&folder.path().join("flowkit.db"), worker).await?;
        Ok(Self { backend, settings, temporary: Some(folder) })
    }
}

struct Session {
    place: Place,
    worker: TaskHandle<anyhow::Result<()>>,
    shutdown: Shutdown,
    task_id: TaskId,
}

impl Session {
    /// Coordinates the task to its end. The first interrupt cancels it, the second ends
    /// the process.
    async fn coordinate(
        &mut self,
        app: &App,
        task: Task,
        interrupts: &mut Interrupts,
        progress: &mut Progress,
    ) -> anyhow::Result<(TaskDoc, Option<Interrupt>)> {
        let Backend { bus, store, .. } = self.place.backend.clone();
        let topics = self.place.settings.topics.clone();
        let deps = Deps { bus, store, clock: app.clock.clone(), topics };
        let coordinated = driver::run_task(deps, task, progress);
        tokio::pin!(coordinated);
        let mut interrupt = None;
        loop {
            // Cancel-safe: the pinned future and the worker's handle go on with the next
            // turn, and an interrupt that was not received is kept.
            tokio::select! {
                ended = &mut coordinated => return Ok((ended?, interrupt)),
                ended = &mut self.worker => {
                    ended.unwrap_or(Ok(()))?;
                    bail!("the worker stopped before the graph was at its end");
                }
                next = interrupts.next() => {
                    if interrupt.is_some() {
                        self.leave(next);
                    }
                    interrupt = Some(next);
                    self.cancel(next).await;
                }
            }
        }
    }

    async fn cancel(&self, why: Interrupt) {
        note(format_args!("{}: cancelling; a second one ends the process at once", why.name()));
        let reason = format!("interrupted by {}", why.name());
        if let Err(error) = self.place.backend.store.request_cancel(&self.task_id, &reason).await {
            note(format_args!(
                "warning: the cancel could not be stored: {error}; interrupt once more"
            ));
        }
    }

    fn leave(&mut self, why: Interrupt) -> ! {
        drop(self.place.temporary.take());
        std::process::exit(why.exit_code().into());
    }

    /// Ends the worker; a run that it may still have is left for others.
    async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.begin();
        let within = self.place.settings.shutdown_grace + STOP_MARGIN;
        match tokio::time::timeout(within, self.worker).await {
            Ok(ended) => ended.unwrap_or(Ok(())),
            Err(_) => {
                tracing::warn!("the worker was not drained in time");
                Ok(())
            }
        }
    }
}
