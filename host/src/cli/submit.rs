//! `flowkit submit`: leaves a task for the workers that share the database.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::outcome::TaskReport;
use super::{Interrupts, Usage, graph_file, input, note, print, table};
use crate::app::App;
use crate::coordinator::graph::Graph;
use crate::coordinator::{Outcome, Task};
use crate::store::{RunInput, Store, StoreError, TaskDoc};
use crate::types::{Role, TaskId};

/// How often `--wait` looks.
const POLL: Duration = Duration::from_millis(200);

/// `flowkit submit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the task's id. One of the workers on the same database coordinates the task; it waits\n\
as long as there is none. With --wait the command ends with the task: 0 finished, 1 failed or\n\
cancelled; Ctrl-C ends only the waiting (130).\n\
\n\
Examples:\n  \
  flowkit submit steps --input '{\"count\": 3}' --wait\n  \
  flowkit submit echo --input @input.json\n  \
  flowkit submit configs/demo.json")]
pub struct SubmitArgs {
    /// A role, for a task of one node, or a graph file
    #[arg(value_name = "ROLE|GRAPH.json")]
    what: String,
    /// The input of a role: a JSON object, or @FILE (@- for stdin)
    #[arg(long, value_name = "JSON|@FILE")]
    input: Option<String>,
    /// Waits for the task's end
    #[arg(long)]
    wait: bool,
}

/// Submits it.
pub async fn execute(args: SubmitArgs, app: &App) -> anyhow::Result<ExitCode> {
    let instead = "submit the task to it, or run a graph from here with `flowkit run GRAPH.json`";
    super::only_embedded(app, "submit", instead)?;
    // What can be refused without the database is refused before it is touched.
    let inline = args.input.as_deref().map(input::read).transpose()?;
    let mut interrupts = Interrupts::new()?;
    let is_file = names_a_file(&args.what);
    if is_file && inline.is_some() {
        let text = "--input: a graph has the input of its nodes in `io.input_inline`";
        return Err(Usage(text.into()).into());
    }
    if is_file {
        // Everything but the roles.
        graph_file::read_quietly(Path::new(&args.what))?;
    }
    let store = app.store().await?;
    let served = served(&*store).await?;
    let known: BTreeSet<Role> =
        served.iter().chain(app.config.handlers().keys()).cloned().collect();
    // Where nobody says what there is, the worker that comes may have anything.
    let known = Some(&known).filter(|known| !known.is_empty());
    let graph = if is_file {
        graph_file::read(Path::new(&args.what), known)?
    } else {
        of_role(&args.what, RunInput { input_inline: inline, ..RunInput::default() }, known)?
    };
    warn_of_unserved(&graph, &served);
    let task = Task::new(TaskId::fresh(), graph, None, app.clock.wall());
    let doc = task.to_doc(app.clock.wall());
    store.create_task(&doc).await.context("storing the task")?;
    print(&doc.id)?;
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    // Cancel-safe: both sides only look and wait; the task is not touched.
    let ended = tokio::select! {
        ended = until_end(&*store, &doc.id) => ended?,
        interrupt = interrupts.next() => {
            note(format_args!("task {id} goes on; `flowkit cancel {id}` stops it", id = doc.id));
            return Ok(ExitCode::from(interrupt.exit_code()));
        }
    };
    let report = TaskReport::of(&ended, &*store).await?;
    note(format_args!("{}\n{}", table::of_nodes(&report), report.word()));
    let finished = report.outcome == Some(Outcome::Finished);
    Ok(if finished { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A role has no slash, and does not end like a graph file.
fn names_a_file(what: &str) -> bool {
    what.contains('/') || what.ends_with(".json")
}

fn of_role(name: &str, input: RunInput, known: Option<&BTreeSet<Role>>) -> Result<Graph, Usage> {
    let role = Role::new(name)
        .map_err(|error| Usage(format!("neither a role nor a graph file: {error}")))?;
    if let Some(known) = known
        && !known.contains(&role)
    {
        let names: Vec<&str> = known.iter().map(Role::as_str).collect();
        return Err(Usage(format!(
            "no handler serves the role `{role}`, neither in the configuration nor on a running \
             worker; there are: {}",
            names.join(", ")
        )));
    }
    Graph::single(role, input).map_err(|error| Usage(error.to_string()))
}

/// The roles that running workers serve.
async fn served(store: &dyn Store) -> Result<BTreeSet<Role>, StoreError> {
    Ok(store.workers().await?.into_iter().flat_map(|worker| worker.roles).collect())
}

fn warn_of_unserved(graph: &Graph, served: &BTreeSet<Role>) {
    let roles = graph.roles();
    let waiting: Vec<&str> = roles.difference(served).map(Role::as_str).collect();
    if !waiting.is_empty() {
        note(format_args!(
            "note: no worker runs now that serves {}; the task waits for one",
            waiting.join(", ")
        ));
    }
}

async fn until_end(store: &dyn Store, id: &TaskId) -> anyhow::Result<TaskDoc> {
    loop {
        match store.task(id).await {
            Ok(Some(doc)) if doc.status.is_final() => return Ok(doc),
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("task {id} has vanished from the database"),
            // Busy for a moment; the task goes on meanwhile.
            Err(StoreError::Unavailable(reason)) => tracing::warn!(%reason, "waiting goes on"),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(POLL).await;
    }
}
