//! `flowkit status`: the workers and the tasks of a database.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::outcome::TaskReport;
use super::printable::{brief, printable};
use super::{Usage, print, served, table};
use crate::app::App;
use crate::clock::UnixMs;
use crate::store::{NodeStatus, TaskDoc, WorkerRecord};
use crate::types::{Role, TaskId};

/// How many tasks that have ended are shown.
const ENDED_SHOWN: usize = 20;

/// `flowkit status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without TASK_ID: the workers that run, the tasks that have not ended and the last 20 that have.\n\
\n\
Examples:\n  \
  flowkit status\n  \
  flowkit status --json | jq '.tasks[] | select(.status == \"running\")'")]
pub struct StatusArgs {
    /// Shows this task alone, with its nodes
    #[arg(value_name = "TASK_ID")]
    task_id: Option<String>,
    /// Prints one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// Shows it.
pub async fn execute(args: StatusArgs, app: &App) -> anyhow::Result<ExitCode> {
    let id = args.task_id.map(TaskId::new).transpose();
    let id = id.map_err(|error| Usage(error.to_string()))?;
    check_db(app)?;
    let store = app.store().await?;
    let docs = match &id {
        None => store.list_tasks(ENDED_SHOWN).await?,
        Some(id) => match store.task(id).await? {
            Some(doc) => vec![doc],
            None => bail!("no task {id} in {}", app.config.place()),
        },
    };
    let mut tasks = Vec::with_capacity(docs.len());
    for doc in docs {
        let report = TaskReport::of(&doc, &*store).await?;
        tasks.push((doc, report));
    }
    let workers = store.workers().await?;
    if args.json {
        print(as_json(&workers, &tasks))?;
    } else if id.is_some() {
        for (doc, report) in &tasks {
            print_task(doc, report, app.clock.wall())?;
        }
    } else {
        print_overview(&workers, &tasks, app.clock.wall())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reading must not bring an empty database into being.
pub fn check_db(app: &App) -> Result<(), Usage> {
    let db = app.config.db();
    if app.config.is_on_kafka() || db.exists() {
        return Ok(());
    }
    Err(Usage(format!(
        "there is no database {}; a worker or `flowkit submit` creates it, --db names another",
        db.display()
    )))
}

fn as_json(workers: &[WorkerRecord], tasks: &[(TaskDoc, TaskReport)]) -> Value {
    let tasks = tasks.iter().map(|(doc, report)| {
        let mut task = report.to_long_json();
        task["task_id"] = json!(doc.id);
        task["created_at_ms"] = json!(doc.created_at);
        task["updated_at_ms"] = json!(doc.updated_at);
        task
    });
    json!({"workers": workers, "tasks": tasks.collect::<Vec<_>>()})
}

fn print_overview(
    workers: &[WorkerRecord],
    tasks: &[(TaskDoc, TaskReport)],
    now: UnixMs,
) -> anyhow::Result<()> {
    if workers.is_empty() {
        print("no worker runs on this database")?;
    } else {
        let mut rows = table::new(&["worker", "roles", "runs", "capacity", "seen"]);
        for worker in workers {
            let roles: Vec<&str> = worker.roles.iter().map(Role::as_str).collect();
            rows.add_row(vec![
                brief(worker.worker_id.as_str(), 60),
                brief(&roles.join(", "), 60),
                worker.running.to_string(),
                worker.capacity.to_string(),
                ago(now.since(worker.updated_at)),
            ]);
        }
        print(rows)?;
        print_plugins(workers, now)?;
    }
    if tasks.is_empty() {
        return print("no tasks");
    }
    let mut rows = table::new(&["task", "status", "nodes finished", "batches", "created"]);
    for (doc, report) in tasks {
        let done = report.nodes.iter().filter(|n| n.status == NodeStatus::Finished).count();
        let batches: u64 = report.nodes.iter().map(|node| node.batches).sum();
        rows.add_row(vec![
            printable(doc.id.as_str()).into_owned(),
            report.word().to_owned(),
            format!("{done} of {}", report.nodes.len()),
            batches.to_string(),
            ago(now.since(doc.created_at)),
        ]);
    }
    print(rows)
}

/// Which version of its plugin serves each role, and on how many workers.
fn print_plugins(workers: &[WorkerRecord], now: UnixMs) -> anyhow::Result<()> {
    let versions = served::versions(workers);
    if versions.is_empty() {
        return Ok(());
    }
    let mut rows = table::new(&["role", "version", "digest", "workers", "since", "problem"]);
    for (version, on) in versions {
        rows.add_row(vec![
            brief(&version.role, 60),
            brief(&version.version, 20),
            brief(&version.digest, 12),
            on.workers.to_string(),
            on.since.map_or_else(String::new, |since| ago(now.since(since))),
            table::wrapped(&version.problem),
        ]);
    }
    print(rows)
}

fn print_task(doc: &TaskDoc, report: &TaskReport, now: UnixMs) -> anyhow::Result<()> {
    let created = ago(now.since(doc.created_at));
    print(format_args!(
        "task {}: {}, created {created}",
        printable(doc.id.as_str()),
        report.word()
    ))?;
    if doc.coordinator.cancelled {
        let reason = doc.coordinator.cancel_reason.as_deref().unwrap_or("no reason given");
        print(format_args!("cancel asked for: {}", printable(reason)))?;
    }
    print(table::of_nodes(report))
}

fn ago(age: Duration) -> String {
    match age.as_secs() {
        0 => "now".into(),
        s @ 1..=119 => format!("{s} s ago"),
        s @ 120..=7_199 => format!("{} min ago", s / 60),
        s @ 7_200..=172_799 => format!("{} h ago", s / 3_600),
        s => format!("{} days ago", s / 86_400),
    }
}
