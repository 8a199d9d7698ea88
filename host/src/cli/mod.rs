//! The command line: one file a command, and here what they share.

mod cancel;
mod config;
mod dlq;
mod grants;
mod graph_file;
mod input;
mod interrupt;
mod observed;
mod outcome;
mod output;
mod plugin;
mod plugin_build;
mod plugin_inspect;
mod plugin_keys;
mod plugin_new;
mod plugin_rollback;
mod plugin_run;
mod plugin_test;
mod printable;
mod progress;
mod replace;
mod run;
mod served;
mod status;
mod submit;
mod table;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use interrupt::{Interrupt, Interrupts};
pub use output::{note, print};

use crate::app::{App, BadPlugins};
use crate::config::{Config, ConfigError, Need, Sources};
use crate::logging;

/// The exit status for a command that was used wrongly, and for a configuration or a
/// handler that cannot be used.
pub const EXIT_USAGE: u8 = 2;

/// How long what still blocks a thread at the end, such as a compilation, is waited for.
const LAST_WAIT: Duration = Duration::from_millis(200);

/// Runs data pipelines: workers whose handlers are WebAssembly components.
#[derive(Debug, Parser)]
#[command(
    name = "flowkit",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "\
Exit status: 0 done, 1 failed, 2 used wrongly (arguments, configuration, a file that is not a\n\
handler), 130 interrupted.\n\
\n\
Examples:\n  \
  flowkit plugin check plugins/echo.wasm              is this file a handler?\n  \
  flowkit plugin run plugins/echo.wasm --input '{\"a\": 1}'   try it, nothing else needed\n  \
  flowkit run configs/demo.json                       run a graph to its end\n  \
  flowkit worker --config configs/worker.json         serve the configured roles\n  \
  flowkit submit steps --input '{\"count\": 3}'         give the workers something to do\n  \
  flowkit config show                                 every setting, and where it comes from"
)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Shared {
    /// The config file [default: configs/worker.json]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Sets a key of the configuration; may be given several times
    ///
    /// VALUE is JSON or plain text, KEY such as lease_ttl_sec or handlers.echo.component. It
    /// wins over the environment (FLOWKIT_LEASE_TTL_SEC=30), and that over the file.
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
    /// The SQLite file that holds topics and state
    #[arg(long, value_name = "FILE", global = true)]
    db: Option<PathBuf>,
    /// Logs more: -v for info, -vv for debug, -vvv for trace
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Which log lines are written to stderr, such as `info` or `warn,flowkit::run=debug`
    #[arg(long, value_name = "FILTER", global = true, conflicts_with = "verbose")]
    log: Option<String>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", global = true, default_value = "text")]
    log_format: logging::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one graph, in this process alone
    Run(run::RunArgs),
    /// Serves the configured roles until SIGINT or SIGTERM
    Worker(worker::WorkerArgs),
    /// Leaves a task for the workers
    Submit(submit::SubmitArgs),
    /// Stops a task
    Cancel(cancel::CancelArgs),
    /// Shows the workers and the tasks
    Status(status::StatusArgs),
    /// Shows and replays the commands that could not be used
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Tries and checks handlers, without any backend
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Shows and checks the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Wrong use: the command ends with [`EXIT_USAGE`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Reads the arguments, runs the command and reports its error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            note(described(&error).trim_end());
            ExitCode::from(exit_code(&error))
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let filter = cli.shared.log.clone().unwrap_or_else(|| filter_of(&cli).to_owned());
    logging::init(&filter, cli.shared.log_format)
        .map_err(|error| Usage(format!("--log {filter}: {error}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(cli.command.execute(&cli.shared));
    runtime.shutdown_timeout(LAST_WAIT);
    ended
}

fn filter_of(cli: &Cli) -> &'static str {
    let quiet = !matches!(cli.command, Command::Worker(_));
    // Its report has what a handler's misbehaviour would log.
    let silent = matches!(cli.command, Command::Plugin(plugin::PluginCommand::Test(_)));
    match cli.shared.verbose {
        0 if silent => "error",
        0 if quiet => "warn",
        0 | 1 => "info",
        2 => "info,flowkit=debug",
        _ => "debug,flowkit=trace",
    }
}

impl Command {
    async fn execute(self, shared: &Shared) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(args) => run::execute(args, &shared.app(Need::Handlers)?).await,
            Self::Submit(args) => submit::execute(args, &shared.app(Need::Database)?).await,
            Self::Cancel(args) => cancel::execute(args, &shared.app(Need::Database)?).await,
            Self::Status(args) => status::execute(args, &shared.app(Need::Database)?).await,
            Self::Worker(args) => worker::execute(args, &shared.app(Need::Handlers)?).await,
            Self::Dlq(command) => dlq::execute(command, &shared.app(Need::Database)?).await,
            Self::Plugin(command) => plugin::execute(command, shared).await,
            Self::Config(command) => config::execute(&command, &shared.app(Need::Handlers)?.config),
        }
    }
}

impl Shared {
    fn app(&self, need: Need) -> anyhow::Result<App> {
        let sources = Sources {
            file: self.config.clone(),
            environment: std::env::vars_os().collect(),
            assignments: self.set.clone(),
            db: self.db.clone(),
        };
        let config = Config::load(&sources, need)?;
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(App { sources, ..App::new(config) })
    }
}

/// Refuses what only the embedded backend does.
fn only_embedded(app: &App, command: &str, instead: &str) -> Result<(), Usage> {
    if !app.config.is_on_kafka() {
        return Ok(());
    }
    Err(Usage(format!(
        "{command}: the configuration's `backend` is \"kafka\", where tasks belong to FlowKit's \
         coordinator, the service that writes commands to the topics `{}`: {instead}",
        app.settings().topics.cmd_fmt
    )))
}

/// One chain of causes: `error: …`, then a line for each cause.
fn described(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let title = if depth == 0 { "error" } else { "caused by" };
        for line in cause.to_string().lines() {
            // A detail under a line above it is part of that line.
            if line.starts_with(' ') {
                text.push_str(line);
            } else {
                text.push_str(&format!("{title}: {line}"));
            }
            text.push('\n');
        }
    }
    text
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let wrong_use = error
        .chain()
        .any(|cause| cause.is::<Usage>() || cause.is::<ConfigError>() || cause.is::<BadPlugins>());
    if wrong_use { EXIT_USAGE } else { 1 }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_prints_with_its_causes() {
        let error = Err::<(), _>(Usage("no such role\n  - echo\nno such file".into()))
            .context("submitting")
            .expect_err("an error");
        insta::assert_snapshot!(described(&error), @r"
        error: submitting
        caused by: no such role
          - echo
        caused by: no such file
        ");
        assert_eq!(exit_code(&error), EXIT_USAGE);
        assert_eq!(exit_code(&anyhow::anyhow!("lost")), 1);
    }
}
