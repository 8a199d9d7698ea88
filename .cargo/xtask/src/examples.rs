//! The same handler in five languages: each built with tools from packages, and only when
//! its sources or its tools have changed.

mod recipes;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The languages there is an example in, by the name of its folder.
pub const LANGUAGES: [&str; 5] = ["rust", "javascript", "python", "go", "c"];

/// Where everything is.
struct Workshop {
    root: PathBuf,
    target: PathBuf,
}

/// Builds the examples in these languages (none: in all) to `target/examples/LANG.wasm`.
/// One that fails does not keep the others from being built.
pub fn build(root: &Path, target: &Path, languages: &[&str]) -> Result<()> {
    let shop = Workshop { root: root.to_owned(), target: target.to_owned() };
    for name in languages {
        if !LANGUAGES.contains(name) {
            bail!("there is no example in {name:?}; there are {}", LANGUAGES.join(", "));
        }
    }
    let languages = if languages.is_empty() { &LANGUAGES[..] } else { languages };
    make_dir(&shop.out())?;
    let mut failed = Vec::new();
    for name in languages {
        if let Err(error) = shop.example(name) {
            eprintln!("error: the example in {name} is not built: {error:#}");
            // What was built before is not what the sources say: no test may take it for that.
            remove(&shop.component(name))?;
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("not built: {}", failed.join(", "));
    }
    Ok(())
}

impl Workshop {
    fn out(&self) -> PathBuf {
        self.target.join("examples")
    }

    fn component(&self, language: &str) -> PathBuf {
        self.out().join(format!("{language}.wasm"))
    }

    fn source(&self, language: &str) -> PathBuf {
        self.root.join("plugins/examples").join(language)
    }

    fn wit(&self) -> PathBuf {
        self.root.join("wit")
    }

    fn example(&self, language: &str) -> Result<()> {
        if language == "rust" {
            return self.rust(); // cargo knows what has changed
        }
        let component = self.component(language);
        let key_file = self.out().join(format!("{language}.key"));
        let key = self.key(language)?;
        let built = std::fs::read_to_string(&key_file).is_ok_and(|built| built == key);
        if built && component.exists() {
            println!("{language}: up to date");
            return Ok(());
        }
        let half = self.out().join(format!("{language}.new.wasm"));
        match language {
            "javascript" => self.javascript(&half)?,
            "python" => self.python(&half)?,
            "go" => self.go(&half)?,
            "c" => self.c(&half)?,
            other => bail!("there is no recipe for {other}"),
        }
        put(&half, &component)?;
        write(&key_file, key.as_bytes())?;
        println!("{language}: built");
        Ok(())
    }

    /// What a component is made of: its folder, the world, and the programs that make it.
    /// Those from npm and PyPI are pinned in the folders; those of the system are asked.
    fn key(&self, language: &str) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(include_bytes!("examples/recipes.rs"));
        let mut sources = vec![self.source(language), self.wit()];
        let asked: Option<(&str, &str)> = match language {
            "go" => Some(("go", "version")),
            "c" => Some(("clang", "--version")),
            _ => None,
        };
        if let Some((program, question)) = asked {
            let answer = Command::new(program).arg(question).output();
            hash.update(answer.map(|answer| answer.stdout).unwrap_or_default());
            sources.push(self.root.join("Cargo.lock")); // the versions of what links and adapts
        }
        for source in &sources {
            hash_files(source, &mut hash)?;
        }
        Ok(hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }))
    }
}

/// Feeds a file, or all files below a folder in the order of their names.
fn hash_files(path: &Path, hash: &mut Sha256) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if path.is_dir() {
        if name == "__pycache__" || name == "node_modules" {
            return Ok(());
        }
        let entries = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .with_context(|| format!("listing {}", path.display()))?;
        let mut entries: Vec<PathBuf> = entries;
        entries.sort();
        return entries.iter().try_for_each(|entry| hash_files(entry, hash));
    }
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    hash.update(name.as_bytes());
    hash.update(bytes.len().to_le_bytes());
    hash.update(bytes);
    Ok(())
}

fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}

fn read(from: &Path) -> Result<Vec<u8>> {
    std::fs::read(from).with_context(|| format!("reading {}", from.display()))
}

fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Whole or not at all, for a worker or a test that reads the file meanwhile.
fn put(half: &Path, whole: &Path) -> Result<()> {
    std::fs::rename(half, whole)
        .with_context(|| format!("renaming {} to {}", half.display(), whole.display()))
}
