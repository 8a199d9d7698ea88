//! `flowkit plugin inspect`: what a file is made of, without running it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::print;
use super::printable::printable;
use crate::plugin::{Anatomy, read_signature, refusal, signature_file, verify};
use crate::tasks;

/// `flowkit plugin inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads the file and compiles it, but runs nothing of it. Of a file that is no handler it says\n\
what it is, and why a worker refuses it; `flowkit plugin check` answers by its exit status.\n\
\n\
Example:\n  \
  flowkit plugin inspect plugins/echo.wasm")]
pub struct InspectArgs {
    /// The file
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub async fn execute(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let found = anatomy(&args.file).await?;
    let refused = refusal(&args.file).await.err().map(|error| error.to_string());
    let signed = Signed::of(&args.file, &found.digest);
    if args.json {
        print(as_json(&found, &signed, refused.as_deref()))?;
    } else {
        print(shown(args, &found, (&signed, refused.as_deref())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a file is made of.
pub(super) async fn anatomy(file: &Path) -> anyhow::Result<Anatomy> {
    let path = file.to_owned();
    let reading = tasks::spawn_blocking("read-plugin", move || Anatomy::read(&path));
    let read = reading.await.context("reading the file was stopped")?;
    Ok(read.map_err(|error| super::Usage(error.to_string()))?)
}

/// What the signature file beside a component is worth.
enum Signed {
    No,
    By(String),
    Wrongly(String),
}

impl Signed {
    fn of(file: &Path, digest: &str) -> Self {
        match read_signature(&signature_file(file)) {
            Ok(None) => Self::No,
            Ok(Some(text)) => match verify(digest, &text) {
                Ok(key) => Self::By(key.to_string()),
                Err(error) => Self::Wrongly(error.to_string()),
            },
            Err(error) => Self::Wrongly(error.to_string()),
        }
    }
}

fn as_json(found: &Anatomy, signed: &Signed, refused: Option<&str>) -> Value {
    let mut json = json!(found);
    json["world_version"] = json!(found.world_version());
    json["capabilities"] = json!(found.capabilities());
    json["signature"] = match signed {
        Signed::No => Value::Null,
        Signed::By(key) => json!({"valid": true, "key": key}),
        Signed::Wrongly(problem) => json!({"valid": false, "problem": problem}),
    };
    json["refused"] = json!(refused);
    json
}

fn shown(args: &InspectArgs, found: &Anatomy, state: (&Signed, Option<&str>)) -> String {
    let (signed, refused) = state;
    let mut lines = vec![printable(&args.file.display().to_string()).into_owned()];
    let mut line = |title: &str, values: Vec<String>| {
        let value =
            if values.is_empty() { "none".to_owned() } else { values.join("\n             ") };
        lines.push(format!("  {title:<10} {value}"));
    };
    line("digest", vec![found.digest.clone()]);
    line("size", vec![format!("{} bytes", found.bytes)]);
    // Nothing more can be said of what is not WebAssembly.
    if found.modules > 0 || !found.exports.is_empty() {
        for (title, values) in parts(found) {
            line(title, values);
        }
    }
    line(
        "signature",
        vec![match signed {
            Signed::No => "none".to_owned(),
            Signed::By(key) => format!("by {key}"),
            Signed::Wrongly(problem) => problem.clone(),
        }],
    );
    line(
        "verdict",
        match refused {
            None => vec!["a worker takes it, if it answers `describe`".to_owned()],
            Some(why) => why.lines().map(|line| printable(line).into_owned()).collect(),
        },
    );
    lines.join("\n")
}

fn parts(found: &Anatomy) -> Vec<(&'static str, Vec<String>)> {
    let world = found.world_version().map(|version| format!("flowkit:worker@{version}"));
    let keys = |keys: &[&str]| keys.iter().map(|key| format!("handlers.ROLE.{key}")).collect();
    let capabilities = found.capabilities();
    let [memory, table] = [found.memory_bytes, found.table_elements];
    let begins = vec![
        format!("{memory} bytes of memory (limits.memory_bytes)"),
        format!("{table} table elements (limits.table_elements)"),
    ];
    vec![
        ("world", world.into_iter().collect()),
        ("language", found.language.map(str::to_owned).into_iter().collect()),
        ("parts in", found.parts.clone()),
        ("made with", found.tools.clone()),
        ("exports", found.exports.clone()),
        ("imports", found.imports.clone()),
        ("needs", keys(&capabilities.needed)),
        ("can use", keys(&capabilities.usable)),
        ("begins at", begins),
    ]
}
