//! `flowkit cancel`: stops a task.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::outcome::TaskReport;
use super::{Usage, note};
use crate::app::App;
use crate::types::TaskId;

/// Longest reason, in bytes.
const MAX_REASON: usize = 1_000;

/// `flowkit cancel`.
#[derive(Debug, Args)]
#[command(after_help = "\
Asks; the handlers get cancel_grace_sec to stop. `flowkit status TASK_ID` shows when they have.\n\
\n\
Example:\n  \
  flowkit cancel 1f0c… --reason 'wrong input'")]
pub struct CancelArgs {
    /// As `submit` printed it
    #[arg(value_name = "TASK_ID")]
    task_id: String,
    /// Why; handlers and `status` see it
    #[arg(long, value_name = "TEXT", default_value = "requested with flowkit cancel")]
    reason: String,
}

/// Asks.
pub async fn execute(args: CancelArgs, app: &App) -> anyhow::Result<ExitCode> {
    super::only_embedded(app, "cancel", "ask it to cancel the task")?;
    let id = TaskId::new(args.task_id).map_err(|error| Usage(error.to_string()))?;
    if args.reason.len() > MAX_REASON || args.reason.chars().any(char::is_control) {
        let text = format!("--reason: at most {MAX_REASON} bytes, without control characters");
        return Err(Usage(text).into());
    }
    super::status::check_db(app)?;
    let store = app.store().await?;
    let Some(doc) = store.task(&id).await? else {
        bail!("no task {id} in {}", app.config.db().display());
    };
    if doc.status.is_final() {
        let report = TaskReport::of(&doc, &*store).await?;
        bail!("task {id} has ended already: {}", report.word());
    }
    store.request_cancel(&id, &args.reason).await?;
    note(format_args!("task {id} is asked to stop"));
    Ok(ExitCode::SUCCESS)
}
