//! `flowkit config`: what is set, where, and whether it can be used.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::print;
use crate::config::{Config, Origin};

/// Shows and checks the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Prints every setting and where it comes from
    #[command(after_help = "\
The values in force: --set over the environment (FLOWKIT_LEASE_TTL_SEC=30) over the file over\n\
the defaults.\n\
\n\
Examples:\n  \
  flowkit config show\n  \
  flowkit config show --json > configs/all.json       the same as a config file\n  \
  flowkit config show --set lease_ttl_sec=90")]
    Show {
        /// Prints one JSON object, which is itself a config file
        #[arg(long)]
        json: bool,
    },
    /// Checks the settings and that the files they name exist
    #[command(after_help = "\
Prints one line a problem, with the key and its place, and exits with 2 if there is any.\n\
\n\
Example:\n  \
  flowkit config check --config /etc/flowkit/worker.json")]
    Check,
}

/// Runs it.
pub fn execute(command: &ConfigCommand, config: &Config) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Show { json: true } => {
            print(format_args!("{:#}", config.effective()))?;
        }
        ConfigCommand::Show { json: false } => {
            for line in lines(config) {
                print(line)?;
            }
        }
        ConfigCommand::Check => {
            config.check_files()?;
            if config.is_on_kafka() {
                config.servers()?;
            }
            let roles: Vec<&str> = config.roles().iter().map(|role| role.as_str()).collect();
            let roles = if roles.is_empty() { "none".into() } else { roles.join(", ") };
            print(format_args!("the configuration is sound; roles: {roles}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `KEY = VALUE  # ORIGIN`, in columns.
fn lines(config: &Config) -> Vec<String> {
    let set = |(key, value, origin): (String, String, String)| (format!("{key} = {value}"), origin);
    let rows: Vec<(String, String)> = config
        .entries()
        .into_iter()
        .map(|entry| {
            let origin = match (&entry.origin, &entry.value) {
                (Origin::Default, Value::Null) if entry.key.to_string() == "worker_id" => {
                    "default: a new one at each start".into()
                }
                (origin, _) => origin.to_string(),
            };
            set((entry.key.to_string(), entry.value.to_string(), origin))
        })
        .collect();
    let width = rows.iter().map(|(row, _)| row.chars().count()).filter(|w| *w <= 60).max();
    let width = width.unwrap_or(0);
    rows.iter().map(|(row, origin)| format!("{row:width$}  # {origin}")).collect()
}
