//! `flowkit dlq`: the commands that no worker could use.

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::printable::brief;
use super::{note, print, table};
use crate::app::App;
use crate::bus::{Bus, OutMessage, Topic};
use crate::dead_letter::DeadLetter;

/// How much of a value is shown, in characters.
const SHOWN: usize = 60;

/// Shows and replays dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Lists them, oldest first
    #[command(after_help = "\
A dead letter is a command that no worker could use: not JSON, fields that are missing or of\n\
another type, a version that is not 1. It is kept in topic_dead_letter with its bytes, where it\n\
came from, and why. ID is what `flowkit dlq replay` takes.\n\
\n\
Examples:\n  \
  flowkit dlq list --last 20\n  \
  flowkit dlq list --topic cmd.echo.v1 --json | jq -r .value")]
    List {
        #[command(flatten)]
        which: Filter,
        /// Prints one JSON object a line, with the whole value
        #[arg(long)]
        json: bool,
    },
    /// Publishes them once more where they came from
    #[command(after_help = "\
For commands that were refused by mistake, or by a worker that has been replaced since. The\n\
letter stays where it is. A run that is recorded already is not started again by it.\n\
\n\
Examples:\n  \
  flowkit dlq replay 0:17 0:18\n  \
  flowkit dlq replay --all --topic cmd.echo.v1")]
    Replay {
        /// Which, as `flowkit dlq list` shows them
        #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<LetterId>,
        /// All that there are
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        which: Filter,
    },
}

/// Which letters are meant.
#[derive(Debug, Args)]
pub struct Filter {
    /// Those that were read from this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// The last N of them
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

/// A letter's place in the dead-letter topic: `PARTITION:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterId {
    partition: i32,
    offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "an ID is PARTITION:OFFSET, as `flowkit dlq list` shows it";
        let (partition, offset) = text.split_once(':').ok_or(wrong)?;
        Ok(Self {
            partition: partition.parse().map_err(|_| wrong)?,
            offset: offset.parse().map_err(|_| wrong)?,
        })
    }
}

/// One message of the dead-letter topic.
struct Found {
    id: LetterId,
    letter: DeadLetter,
}

/// Runs it.
pub async fn execute(command: DlqCommand, app: &App) -> anyhow::Result<ExitCode> {
    super::status::check_db(app)?;
    let bus = app.bus().await?;
    let topic = app.settings().topics.dead_letter;
    match command {
        DlqCommand::List { which, json } => {
            let found = read(&*bus, &topic, &which).await?;
            if json {
                for found in &found {
                    print(as_json(found))?;
                }
            } else {
                print_table(&found, &topic)?;
            }
        }
        DlqCommand::Replay { ids, all, which } => {
            let mut found = read(&*bus, &topic, &which).await?;
            if !all {
                found.retain(|found| ids.contains(&found.id));
                let missing = ids.iter().find(|id| found.iter().all(|found| found.id != **id));
                if let Some(id) = missing {
                    bail!("there is no letter {id} in topic {topic}; nothing was replayed");
                }
            }
            replay(&*bus, &found).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Those that there are now. What is not a letter of ours is told of and left out.
async fn read(bus: &dyn Bus, topic: &Topic, which: &Filter) -> anyhow::Result<Vec<Found>> {
    let mut history = bus.history(topic).await.with_context(|| format!("reading topic {topic}"))?;
    let mut found = Vec::new();
    while let Some(message) = history.next().await? {
        let id = LetterId { partition: message.partition, offset: message.offset };
        match DeadLetter::decode(&message) {
            Ok(letter) if which.topic.as_deref().is_none_or(|t| t == letter.topic.as_str()) => {
                found.push(Found { id, letter });
            }
            Ok(_) => {}
            Err(error) => note(format_args!("{id} is not a dead letter of a worker: {error}")),
        }
    }
    found.sort_by_key(|found| (found.letter.time, found.id.partition, found.id.offset));
    if let Some(last) = which.last {
        found.drain(..found.len().saturating_sub(last));
    }
    Ok(found)
}

async fn replay(bus: &dyn Bus, found: &[Found]) -> anyhow::Result<()> {
    let mut cut = 0;
    let mut whole: Vec<OutMessage> = Vec::new();
    for Found { id, letter } in found {
        match letter.original() {
            Some(message) => whole.push(message),
            None => {
                cut += 1;
                note(format_args!(
                    "{id} was cut from {} bytes and cannot be replayed",
                    letter.cut_from.unwrap_or_default()
                ));
            }
        }
    }
    bus.publish(&whole, None).await.context("publishing the commands once more")?;
    note(format_args!("{} replayed, {cut} cut ones left out", whole.len()));
    if whole.is_empty() && cut > 0 {
        bail!("none of them could be replayed");
    }
    Ok(())
}

fn as_json(Found { id, letter }: &Found) -> Value {
    let value = std::str::from_utf8(&letter.value);
    json!({
        "id": id.to_string(),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "error": letter.error,
        "time_ms": letter.time,
        "key": letter.key,
        "value": value.ok(),
        // What is not text, as Python writes bytes: readable where it can be.
        "value_escaped": value.is_err().then(|| letter.value.escape_ascii().to_string()),
        "cut_from": letter.cut_from,
    })
}

fn print_table(found: &[Found], topic: &Topic) -> anyhow::Result<()> {
    if found.is_empty() {
        return print(format_args!("no dead letters in topic {topic}"));
    }
    let mut rows = table::new(&["id", "from", "error", "value"]);
    for Found { id, letter } in found {
        let from = format!("{} {}:{}", letter.topic, letter.partition, letter.offset);
        let value = String::from_utf8_lossy(&letter.value);
        rows.add_row(vec![id.to_string(), from, brief(&letter.error, 80), brief(&value, SHOWN)]);
    }
    print(rows)
}
