//! `flowkit plugin`: tries and checks handlers, without any backend.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{EXIT_USAGE, plugin_run, print};
use crate::plugin::{Inspection, WORLD_VERSION, check};

/// Tries and checks handlers, without any backend.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Runs one handler on one input and prints what each batch gives
    Run(plugin_run::RunArgs),
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
pub async fn execute(command: PluginCommand) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::Run(args) => plugin_run::execute(args).await,
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
    text.push_str(&format!("  world     {}, served as {}\n", found.world, world()));
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
