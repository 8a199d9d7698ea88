//! `flowkit plugin run`: one handler on one input. A whole worker runs it, over a backend
//! in memory, so that it goes through exactly what it will go through later.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use super::grants::GrantArgs;
use super::observed::{Observed, Seen};
use super::{Interrupts, Usage, input, note, print};
use crate::app::{self, Backend, BadPlugins};
use crate::bus::{OutMessage, Tail};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::plugin::{CheckError, PluginConfig};
use crate::protocol::{RunAddress, RunEvent, Status, cancel_signal, start_command};
use crate::settings::Settings;
use crate::store::{NewComplete, NewPartial, RunInput};
use crate::tasks;
use crate::types::{BatchUid, Epoch, Fence, LeaseNo, NodeId, Role, RunKey, TaskId, WorkerId};
use crate::worker::{Shutdown, Worker};

/// The node whose batches `--upstream` gives.
pub(super) const UPSTREAM: &str = "upstream";

/// `flowkit plugin run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints a line for each batch with its name, its metrics and what it leaves for downstream\n\
nodes, then the end. The handler is granted nothing but what is said here, by --dir, --env,\n\
--http and --documents. Exits with 0 when it finished, 1 when it failed, 130 after Ctrl-C,\n\
which cancels it.\n\
\n\
Examples:\n  \
  flowkit plugin run plugins/echo.wasm --input '{\"hello\": \"world\"}'\n  \
  flowkit plugin run plugins/textstats.wasm --dir .::/data --input @input.json\n  \
  flowkit plugin run fetch.wasm --http api.example.com --env API_TOKEN --env LANG=en\n  \
  flowkit plugin run orders.wasm --documents orders=orders.jsonl\n  \
  flowkit plugin run plugins/report.wasm --upstream batches.jsonl --input '{\n    \
    \"input_adapter\": \"pull.from_artifacts\", \"input_args\": {\"from_nodes\": [\"upstream\"]}}'")]
pub struct RunArgs {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The input, as a command's `input_inline`: a JSON object, or @FILE (@- for stdin)
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}")]
    input: String,
    /// What a node `upstream` left: a line for each of its batches, a JSON object
    #[arg(long, value_name = "FILE")]
    upstream: Option<PathBuf>,
    /// Prints one JSON object at the end and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    grants: GrantArgs,
}

/// How the run ended.
enum End {
    Done(Metrics),
    Failed { reason_code: String, permanent: bool, error: Option<String> },
    Cancelled,
}

/// Runs it.
pub async fn execute(args: RunArgs) -> anyhow::Result<ExitCode> {
    let inline = input::read(&args.input)?;
    let named = inline.get("input_adapter").is_some_and(|adapter| !adapter.is_null());
    if named && args.upstream.is_none() {
        let text = "--input: `input_adapter` reads what upstream nodes left; give their batches \
                    with --upstream FILE, or run the handler in a graph";
        return Err(Usage(text.into()).into());
    }
    let mut interrupts = Interrupts::new()?;
    let clock = Clock::system();
    let address = address_of(&args.file)?;
    let handler = args.grants.handler(&args.file);
    let backend = app::memory(&clock, args.grants.collections()?);
    let wanted = PluginConfig { role: address.role.clone(), handler };
    let handlers = app::try_out(wanted, &backend).await.map_err(without_role)?;
    let (handlers, seen) = Observed::new(handlers, args.upstream.is_some());
    if let Some(file) = &args.upstream {
        leave_upstream(&backend, &address, file, &clock).await?;
    }
    let trial = Trial::start(backend, Arc::new(handlers), address, &clock).await?;
    trial.command(inline).await?;
    let ended = trial.follow(&mut interrupts, Report { seen, json: args.json, batches: vec![] });
    ended.await
}

/// The role is an invention of this command; an error should not speak of it.
fn without_role(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<BadPlugins>() {
        Ok(BadPlugins(errors)) => {
            let lines: Vec<String> = errors.iter().map(|bad| told(&bad.error)).collect();
            Usage(lines.join("\n")).into()
        }
        Err(other) => other,
    }
}

/// The error in the words of a command line that grants.
pub(super) fn told(error: &CheckError) -> String {
    match error {
        CheckError::NotGranted { path, import, grant } => format!(
            "{} imports {import}, which it is not granted; grant it with `--{grant}`",
            path.display()
        ),
        other => other.to_string(),
    }
}

/// The run of a handler that is tried.
pub(super) fn address_of(file: &std::path::Path) -> anyhow::Result<RunAddress> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let role = Role::new(stem).or_else(|_| Role::new("handler"))?;
    let key = RunKey { task_id: TaskId::new("plugin-run")?, node_id: NodeId::new(role.as_str())? };
    Ok(RunAddress { key, role, epoch: Epoch(1) })
}

/// Writes the lines of `file` as the finished batches of the node `upstream`.
pub(super) async fn leave_upstream(
    backend: &Backend,
    address: &RunAddress,
    file: &std::path::Path,
    clock: &Clock,
) -> anyhow::Result<()> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Usage(format!("--upstream: cannot read {shown}: {error}")))?;
    let mut partials = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let meta: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
            Usage(format!("--upstream: {shown}:{}: not a JSON object: {error}", number + 1))
        })?;
        partials.push(NewPartial {
            batch_uid: BatchUid::new(format!("line_{}", number + 1))?,
            ordinal: partials.len() as u64,
            metrics: Metrics::default(),
            meta,
            now: clock.wall(),
        });
    }
    let fence = Fence {
        key: RunKey { node_id: NodeId::new(UPSTREAM)?, ..address.key.clone() },
        epoch: Epoch(1),
        lease_no: LeaseNo(1),
        worker_id: WorkerId::new(UPSTREAM)?,
    };
    let complete = NewComplete { meta: Map::new(), payload: Value::Null, now: clock.wall() };
    // Nobody else writes for this node: the fence always holds.
    let _ = backend.store.write_partials(&fence, &partials).await?;
    let _ = backend.store.write_complete(&fence, &complete).await?;
    Ok(())
}

/// A worker with one run.
struct Trial {
    backend: Backend,
    address: RunAddress,
    settings: Settings,
    clock: Clock,
    events: Box<dyn Tail>,
    shutdown: Shutdown,
    worker: tasks::TaskHandle<anyhow::Result<()>>,
}

impl Trial {
    async fn start(
        backend: Backend,
        handlers: Arc<Observed>,
        address: RunAddress,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let mut settings = Settings::new(WorkerId::new("plugin-run")?);
        settings.max_concurrent_tasks = 1;
        let status = settings.topics.status(&address.role);
        backend.bus.ensure_topics(std::slice::from_ref(&status)).await?;
        let events = backend.bus.tail(&[status]).await?;
        let shutdown = Shutdown::new();
        let worker = Worker::new(
            settings.clone(),
            backend.bus.clone(),
            backend.store.clone(),
            handlers,
            clock.clone(),
        );
        let worker = tasks::spawn("worker", worker.run(shutdown.clone()));
        Ok(Self { backend, address, settings, clock: clock.clone(), events, shutdown, worker })
    }

    /// Sends the run's command.
    async fn command(&self, inline: Map<String, Value>) -> anyhow::Result<()> {
        let input = RunInput { input_ref: None, input_inline: Some(inline), batching: None };
        let command = start_command(&self.address, &input, self.clock.wall());
        let topic = self.settings.topics.commands(&self.address.role);
        self.publish(topic, command.encode()).await
    }

    async fn cancel(&self) -> anyhow::Result<()> {
        let now = self.clock.wall();
        let deadline = now.plus(self.settings.cancel_grace);
        let signal = cancel_signal(&self.address, "interrupted", None, deadline, now);
        self.publish(self.settings.topics.signals.clone(), signal.encode()).await
    }

    async fn publish(&self, topic: crate::bus::Topic, value: Vec<u8>) -> anyhow::Result<()> {
        let key = Some(self.address.key.message_key());
        let message = OutMessage { topic, key, value, headers: Vec::new() };
        Ok(self.backend.bus.publish(&[message], None).await?)
    }

    /// Reports what the run says until its end.
    async fn follow(
        mut self,
        interrupts: &mut Interrupts,
        mut report: Report,
    ) -> anyhow::Result<ExitCode> {
        let mut interrupted = None;
        let end = loop {
            // Cancel-safe: each side may be given up and waited for again.
            tokio::select! {
                message = self.events.next() => {
                    let status = Status::decode(&message?.value)?;
                    if let Some(end) = report.on_event(status.event)? {
                        break end;
                    }
                }
                interrupt = interrupts.next() => {
                    if interrupted.is_some() {
                        return Ok(ExitCode::from(interrupt.exit_code()));
                    }
                    interrupted = Some(interrupt);
                    self.cancel().await?;
                }
                ended = &mut self.worker => {
                    ended.context("the worker was stopped")??;
                    anyhow::bail!("the worker ended before the run did");
                }
            }
        };
        self.shutdown.begin();
        self.worker.await.context("the worker was stopped")??;
        let done = report.finish(&end)?;
        Ok(match interrupted {
            Some(interrupt) if !done => ExitCode::from(interrupt.exit_code()),
            _ if done => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

/// What is printed.
struct Report {
    seen: Seen,
    json: bool,
    batches: Vec<Value>,
}

impl Report {
    fn on_event(&mut self, event: RunEvent) -> anyhow::Result<Option<End>> {
        match event {
            RunEvent::TaskAccepted(_) | RunEvent::TaskHeartbeat(_) | RunEvent::TaskResumed(_) => {}
            RunEvent::BatchOk { batch_uid, metrics, .. } => self.batch(&batch_uid, &metrics)?,
            RunEvent::BatchFailed { batch_uid, .. } if self.json => {
                self.batches.push(json!({"batch_uid": batch_uid, "status": "failed"}));
            }
            RunEvent::BatchFailed { batch_uid, .. } => {
                print(format_args!("batch {batch_uid}  failed"))?;
            }
            RunEvent::TaskDone { metrics, .. } => return Ok(Some(End::Done(metrics))),
            RunEvent::TaskFailed { reason_code, permanent, error, .. } => {
                return Ok(Some(End::Failed { reason_code, permanent, error }));
            }
            RunEvent::Cancelled { .. } => return Ok(Some(End::Cancelled)),
        }
        Ok(None)
    }

    fn batch(&mut self, uid: &BatchUid, metrics: &Metrics) -> anyhow::Result<()> {
        let artifact = self.seen.take_partial(uid).map(Value::Object);
        if self.json {
            let batch = json!({
                "batch_uid": uid, "status": "finished", "metrics": metrics, "artifact": artifact,
            });
            self.batches.push(batch);
            return Ok(());
        }
        let metrics = json!(metrics);
        match artifact {
            Some(artifact) => {
                print(format_args!("batch {uid}  metrics {metrics}  artifact {artifact}"))
            }
            None => print(format_args!("batch {uid}  metrics {metrics}")),
        }
    }

    /// Prints the end; true when the run finished.
    fn finish(self, end: &End) -> anyhow::Result<bool> {
        let payload = self.seen.payload();
        if self.json {
            let (status, metrics, error) = match end {
                End::Done(metrics) => ("finished", json!(metrics), Value::Null),
                End::Failed { reason_code, permanent, error } => {
                    let error = json!({
                        "reason_code": reason_code, "permanent": permanent, "message": error,
                    });
                    ("failed", Value::Null, error)
                }
                End::Cancelled => ("cancelled", Value::Null, Value::Null),
            };
            print(json!({
                "status": status, "batches": self.batches, "metrics": metrics,
                "payload": payload, "error": error,
            }))?;
            return Ok(matches!(end, End::Done(_)));
        }
        match end {
            End::Done(metrics) => {
                print(format_args!("finished  metrics {}", json!(metrics)))?;
                if let Some(payload) = payload {
                    print(format_args!("payload {payload}"))?;
                }
                return Ok(true);
            }
            End::Failed { reason_code, permanent, error } => {
                let kind = if *permanent { "permanent" } else { "may be tried again" };
                let error = error.as_deref().unwrap_or("no message");
                note(format_args!("error: failed with {reason_code} ({kind}): {error}"));
            }
            End::Cancelled => note("cancelled"),
        }
        Ok(false)
    }
}
