//! `flowkit plugin new`: a project to begin with.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use flowkit_build::{Language, Project};

use super::plugin_build::wrong_use;
use super::print;

/// Two batches for what is written.
const INPUT: &str = r#"{"text": "one two\nthree\n", "batch_lines": 1}"#;

/// `flowkit plugin new`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes a handler that counts the words of a text in batches of lines, with a checkpoint,\n\
cancellation and an error that says what it means, and the language's SDK beside it.\n\
\n\
Example:\n  \
  flowkit plugin new wordcount --lang python")]
pub struct NewArgs {
    /// The handler's name: lower-case letters, digits and hyphens
    #[arg(value_name = "NAME")]
    name: String,
    /// rust, js, python, go or c
    #[arg(long, value_name = "LANGUAGE")]
    lang: Language,
    /// A new or empty folder [default: NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub fn execute(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let project = Project::new(&args.name, args.lang, &dir).map_err(wrong_use)?;
    project.write().map_err(wrong_use)?;
    print(told(&args.name, args.lang, &dir, project.files()))?;
    Ok(ExitCode::SUCCESS)
}

fn told<'a>(
    name: &str,
    language: Language,
    dir: &Path,
    files: impl Iterator<Item = &'a str>,
) -> String {
    let mut text = format!("{} is a handler in {language}:\n", dir.display());
    for file in files {
        text.push_str(&format!("  {file}\n"));
    }
    let dir = quoted(dir);
    let component = format!("{name}.wasm");
    text.push_str(&format!(
        "Next:\n  \
         flowkit plugin build {dir} --out {component}\n  \
         flowkit plugin test {component} --input '{INPUT}'\n  \
         flowkit plugin run {component} --input '{INPUT}'"
    ));
    text
}

/// As a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "-_./~".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_commands_can_be_pasted() {
        let text = told("fruit", Language::C, Path::new("a b/it's"), ["handler.c"].into_iter());
        insta::assert_snapshot!(text, @r#"
        a b/it's is a handler in c:
          handler.c
        Next:
          flowkit plugin build 'a b/it'\''s' --out fruit.wasm
          flowkit plugin test fruit.wasm --input '{"text": "one two\nthree\n", "batch_lines": 1}'
          flowkit plugin run fruit.wasm --input '{"text": "one two\nthree\n", "batch_lines": 1}'
        "#);
    }
}
