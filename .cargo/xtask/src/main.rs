//! `cargo xtask plugins | examples [LANG…] | demo [DIR] | servers | test | bench`: what needs more than one
//! cargo call.

mod examples;
mod servers;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

const TARGET: &str = "wasm32-wasip2";

const USAGE: &str = "\
usage: cargo xtask COMMAND

  plugins      builds the example handlers to plugins/NAME.wasm
  examples [LANG...]
               builds the example in each language, or in those named (rust, javascript,
               python, go, c), to target/examples/LANG.wasm
  demo [DIR]   counts the lines, words and bytes of DIR's text files (default: this
               repository's) with the graph configs/demo.json
  servers      starts an Apache Kafka broker and a MongoDB-wire server on loopback, prints
               their addresses and a config that uses them, and ends them on Ctrl-C
  test         builds the plugins and the examples and runs all tests, those on real
               servers too
  bench        builds the plugins and runs the benchmarks, which print figures";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["plugins"] => plugins(),
        ["examples", languages @ ..] => examples(languages),
        ["demo"] => demo(None),
        ["demo", dir] => demo(Some(Path::new(dir))),
        ["servers"] => serve(),
        ["test"] => test(),
        ["bench"] => bench(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds every handler in one cargo call and copies the components to where they are
/// looked for.
fn plugins() -> Result<()> {
    ensure_target()?;
    let root = root()?;
    let mut copies = Vec::new();
    for (folder, to) in [("plugins", "plugins"), ("tests/guests", "target/guests")] {
        for name in crates(&root.join(folder))? {
            if !["build", "sdk"].contains(&name.as_str()) {
                copies.push((name, root.join(to)));
            }
        }
    }
    let mut build = cargo(&root);
    build.args(["build", "--quiet", "--profile", "guest", "--target", TARGET]);
    for (name, _) in &copies {
        build.args(["--package", name]);
    }
    run(&mut build)?;
    let built = target_dir(&root).join(TARGET).join("guest");
    for (name, to) in copies {
        std::fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
        let from = built.join(format!("{}.wasm", name.replace('-', "_")));
        let to = to.join(format!("{name}.wasm"));
        // Replaced whole: a worker that watches the file never sees half of it.
        let half = to.with_extension("wasm.new");
        std::fs::copy(&from, &half)
            .and_then(|_| std::fs::rename(&half, &to))
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn examples(languages: &[&str]) -> Result<()> {
    let root = root()?;
    let lacking = examples::build(&root, &target_dir(&root), languages)?;
    ensure!(lacking.is_empty(), "not every example was built");
    Ok(())
}

fn demo(dir: Option<&Path>) -> Result<()> {
    plugins()?;
    let root = root()?;
    run(cargo(&root).args(["build", "--quiet", "--package", "flowkit"]))?;
    let mut flowkit = Command::new(target_dir(&root).join("debug/flowkit"));
    flowkit.current_dir(&root).args(["run", "configs/demo.json"]);
    flowkit.args(["--config", "configs/worker.json"]);
    if let Some(dir) = dir {
        let dir = dir.canonicalize().with_context(|| format!("looking for {}", dir.display()))?;
        let dir = dir.to_str().context("the directory's path is not UTF-8")?;
        let quoted = dir.replace('\\', "\\\\").replace('"', "\\\"");
        let dirs = format!(r#"[{{"host": "{quoted}", "guest": "/data"}}]"#);
        flowkit.args(["--set", &format!("handlers.textstats.dirs={dirs}")]);
    }
    run(&mut flowkit)
}

fn test() -> Result<()> {
    let root = root()?;
    let starting = servers::begin();
    plugins()?;
    for language in examples::build(&root, &target_dir(&root), &[])? {
        eprintln!("the tests in {language} are skipped, or fail where CI is set");
    }
    run(cargo(&root).args(["test", "--quiet", "--workspace", "--no-run"]))?;
    let told = starting.wait(&target_dir(&root))?;
    let tested = run(told.tell(cargo(&root).args(["test", "--workspace"])));
    told.report();
    tested
}

fn serve() -> Result<()> {
    plugins()?;
    let root = root()?;
    run(cargo(&root).args(["build", "--quiet", "--package", "flowkit"]))?;
    servers::serve(&root, &target_dir(&root))
}

/// In the dev profile: its dependencies are optimised, and nothing is built a second time.
fn bench() -> Result<()> {
    plugins()?;
    run(cargo(&root()?).args(["bench", "--package", "flowkit", "--profile", "dev", "--benches"]))
}

fn ensure_target() -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let libdir = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .context("running rustc")?;
    let libdir = String::from_utf8_lossy(&libdir.stdout).trim().to_owned();
    if !libdir.is_empty() && Path::new(&libdir).exists() {
        return Ok(());
    }
    let added = Command::new("rustup").args(["target", "add", TARGET]).status();
    match added {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`rustup target add {TARGET}` failed: {status}"),
        Err(error) => bail!(
            "this Rust cannot build for {TARGET}, and rustup, which could add it, does not run \
             ({error}); install the target's standard library"
        ),
    }
}

/// The names of the crates in a folder, sorted.
fn crates(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.join("Cargo.toml").exists()
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(2).context("xtask is not where it belongs")?;
    Ok(root.to_owned())
}

fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
