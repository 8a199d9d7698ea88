//! `flowkit plugin build`: from a source folder to a component.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use flowkit_build::{BuildError, Language, Source, Toolbox};

use super::{Usage, print};

/// `flowkit plugin build`.
#[derive(Debug, Args)]
#[command(after_help = "\
The language is told by the folder's files: Cargo.toml, package.json, handler.py, go.mod or\n\
handler.c. What the tools say goes to stderr, the component's path to stdout. Tools from npm and\n\
PyPI are installed once, in $XDG_CACHE_HOME/flowkit/build (default: ~/.cache/flowkit/build); a\n\
tool of the system that is missing is named, with what installs it.\n\
\n\
Example:\n  \
  flowkit plugin build wordcount --out wordcount.wasm")]
pub struct BuildArgs {
    /// The handler's sources
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where the component goes [default: DIR/NAME-OF-DIR.wasm]
    #[arg(long, value_name = "FILE.wasm")]
    out: Option<PathBuf>,
    /// rust, js, python, go or c, where the folder has files of several
    #[arg(long, value_name = "LANGUAGE")]
    lang: Option<Language>,
}

/// Runs it.
pub fn execute(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let source = Source::find(&args.dir, args.lang).map_err(wrong_use)?;
    let out = args.out.clone().unwrap_or_else(|| source.default_out());
    source.build(&Toolbox::new(tools_dir()?), &out).map_err(wrong_use)?;
    print(out.display())?;
    Ok(ExitCode::SUCCESS)
}

/// What the caller can change without looking into the sources.
pub fn wrong_use(error: BuildError) -> anyhow::Error {
    match error {
        BuildError::NotAHandler { .. }
        | BuildError::MissingTool { .. }
        | BuildError::BadName(..) => Usage(error.to_string()).into(),
        other => other.into(),
    }
}

fn tools_dir() -> Result<PathBuf, Usage> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let none = "there is no place for the tools: set HOME or XDG_CACHE_HOME to a folder";
    cache.map(|cache| cache.join("flowkit/build")).ok_or_else(|| Usage(none.to_owned()))
}
