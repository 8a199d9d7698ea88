//! `flowkit plugin`: tries and checks handlers, without any backend.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::printable::printable;
use super::{EXIT_USAGE, Shared, print};
use super::{plugin_build, plugin_inspect, plugin_keys, plugin_new, plugin_run, plugin_test};
use crate::plugin::{Inspection, check};

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
    /// Says whether a file is a handler, or every reason why it is not
    Check(CheckArgs),
    /// Shows what a file is made of, whether it is a handler or not
    Inspect(plugin_inspect::InspectArgs),
    /// Makes a key to sign handlers with
    Keygen(plugin_keys::KeygenArgs),
    /// Signs a handler
    Sign(plugin_keys::SignArgs),
    /// Says whether a handler is signed by a trusted key
    Verify(plugin_keys::VerifyArgs),
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
        PluginCommand::Check(args) => execute_check(&args).await,
        PluginCommand::Inspect(args) => plugin_inspect::execute(&args).await,
        PluginCommand::Keygen(args) => plugin_keys::keygen(&args),
        PluginCommand::Sign(args) => plugin_keys::sign(&args).await,
        PluginCommand::Verify(args) => plugin_keys::verify_file(args, shared).await,
    }
}

async fn execute_check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let file = args.file.display();
    match (check(&args.file).await, args.json) {
        (Ok(found), false) => {
            print(format_args!("{file} is a handler of {}: {}", found.world, named(&found)))?;
        }
        (Ok(found), true) => {
            let Inspection { world, describe, .. } = found;
            print(json!({"handler": true, "world": world, "describe": describe}))?;
        }
        (Err(error), true) => {
            print(json!({"handler": false, "error": error.to_string()}))?;
            return Ok(ExitCode::from(EXIT_USAGE));
        }
        (Err(error), false) => return Err(super::Usage(error.to_string()).into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// What it says it is.
fn named(found: &Inspection) -> String {
    let of = |key: &str| found.describe.get(key).and_then(serde_json::Value::as_str);
    let known = [of("name"), of("version")].into_iter().flatten();
    let text = known.map(printable).collect::<Vec<_>>().join(" ");
    if text.is_empty() { "it gives no name".to_owned() } else { text }
}
