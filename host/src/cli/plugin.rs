//! `flowkit plugin`: tries and checks handlers, without any backend.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    EXIT_USAGE, Shared, plugin_build, plugin_new, plugin_rollback, plugin_run, plugin_test, print,
};
use crate::config::Need;
use crate::plugin::{Inspection, WORLD_VERSION, check};

/// Tries and checks handlers, without any backend.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Writes a project to begin a handler with
    New(plugin_new::NewArgs),
    /// Makes a component of a handler's sources
    Build(plugin_build::BuildArgs),
    /// Runs one handler on one input and prints what each batch gives
    Run(plugin_run::RunArgs),
    /// Tries whether a handler does all that a worker relies on
    Test(plugin_test::TestArgs),
    /// Brings an earlier version of a role's plugin back
    Rollback(plugin_rollback::RollbackArgs),
    /// Says what a file is, or every reason why it is not a handler
    Check(CheckArgs),
}

/// `flowkit plugin check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Compiles the file, compares it with the world that handlers target, and calls `describe` on a\n\
trial instance. Exits with 2 if it is not a handler.\n\
\n\
Example:\n  \
  flowkit plugin check plugins/echo.wasm")]
pub struct CheckArgs {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub async fn execute(command: PluginCommand, shared: &Shared) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::New(args) => plugin_new::execute(&args),
        PluginCommand::Build(args) => plugin_build::execute(&args),
        PluginCommand::Run(args) => plugin_run::execute(args).await,
        PluginCommand::Test(args) => plugin_test::execute(args).await,
        PluginCommand::Rollback(args) => {
            plugin_rollback::execute(args, &shared.app(Need::Handlers)?).await
        }
        PluginCommand::Check(args) => execute_check(&args).await,
    }
}

async fn execute_check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let checked = check(&args.file).await;
    match (checked, args.json) {
        (Ok(found), false) => print(described(&args.file.display().to_string(), &found))?,
        (Ok(found), true) => print(json!({"handler": true, "world": world(), "found": found}))?,
        (Err(error), true) => {
            print(json!({"handler": false, "error": error.to_string()}))?;
            return Ok(ExitCode::from(EXIT_USAGE));
        }
        (Err(error), false) => return Err(super::Usage(error.to_string()).into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn world() -> String {
    format!("flowkit:worker/handler-world@{WORLD_VERSION}")
}

fn described(file: &str, found: &Inspection) -> String {
    let mut text = format!("{file} is a handler\n");
    text.push_str(&format!("  world     {}\n", world()));
    text.push_str(&format!("  digest    {}\n", found.digest));
    text.push_str(&format!("  size      {} bytes\n", found.bytes));
    let describe = serde_json::Value::Object(found.describe.clone());
    text.push_str(&format!("  describe  {describe}\n"));
    let wants = if found.imports.is_empty() {
        "nothing".into()
    } else {
        found.imports.join("\n            ")
    };
    text.push_str(&format!("  wants     {wants}\n"));
    if !found.needs.is_empty() {
        let needs = found.needs.join("`, `");
        text.push_str(&format!("  needs     the grant `{needs}` in the configuration\n"));
    }
    text.push_str(
        "  An import grants nothing by itself: what a handler may use is in the configuration.",
    );
    text
}
