//! The same handler in five languages: each built with tools from packages, and only when
//! its sources or its tools have changed.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use flowkit_build::{BuildError, Language, Source, Toolbox};
use sha2::{Digest, Sha256};

/// Builds the examples in these languages (none: in all) to `target/examples/LANG.wasm`,
/// and returns those whose tools this machine lacks. One that fails does not keep the
/// others from being built.
pub fn build(root: &Path, target: &Path, languages: &[&str]) -> Result<Vec<Language>> {
    let languages: Vec<Language> = languages
        .iter()
        .map(|name| name.parse().map_err(|known| anyhow!("no example in {name:?}: {known}")))
        .collect::<Result<_>>()?;
    let languages = if languages.is_empty() { Language::ALL.to_vec() } else { languages };
    let shop = Workshop { root, out: target.join("examples") };
    std::fs::create_dir_all(&shop.out)
        .with_context(|| format!("creating {}", shop.out.display()))?;
    let (mut failed, mut lacking) = (Vec::new(), Vec::new());
    for language in languages {
        let Err(error) = shop.example(language) else { continue };
        eprintln!("error: the example in {language} is not built: {error:#}");
        // What was built before is not what the sources say: no test may take it for that.
        remove(&shop.component(language))?;
        match error.downcast_ref() {
            Some(BuildError::MissingTool { .. }) => lacking.push(language),
            _ => failed.push(language.name()),
        }
    }
    if !failed.is_empty() {
        bail!("not built: {}", failed.join(", "));
    }
    Ok(lacking)
}

/// Where everything is.
struct Workshop<'a> {
    root: &'a Path,
    out: PathBuf,
}

impl Workshop<'_> {
    fn component(&self, language: Language) -> PathBuf {
        self.out.join(language.name()).with_extension("wasm")
    }

    fn example(&self, language: Language) -> Result<()> {
        let component = self.component(language);
        let key_file = component.with_extension("key");
        let key = self.key(language)?;
        let built = std::fs::read_to_string(&key_file).is_ok_and(|built| built == key);
        if built && component.exists() && language != Language::Rust {
            println!("{language}: up to date"); // of Rust, cargo knows it better
            return Ok(());
        }
        let dir = self.root.join("plugins/examples").join(language.name());
        // `flowkit plugin build` finds the same tools where this is its cache.
        let toolbox = Toolbox::new(self.out.join("cache/flowkit/build"));
        let toolbox = toolbox.installing().cargo_profile("guest");
        Source::find(&dir, Some(language))?.build(&toolbox, &component)?;
        std::fs::write(&key_file, key)
            .with_context(|| format!("writing {}", key_file.display()))?;
        println!("{language}: built");
        Ok(())
    }

    /// What a component is made of: its folder, the world, what builds it, and the programs
    /// that make it. Those from npm and PyPI are pinned; those of the system are asked.
    fn key(&self, language: Language) -> Result<String> {
        let mut hash = Sha256::new();
        let asked: Option<(&str, &str)> = match language {
            Language::Go => Some(("go", "version")),
            Language::C => Some(("clang", "--version")),
            _ => None,
        };
        if let Some((program, question)) = asked {
            let answer = Command::new(program).arg(question).output();
            hash.update(answer.map(|answer| answer.stdout).unwrap_or_default());
        }
        let example = format!("plugins/examples/{language}");
        for source in [&example, "wit", "plugins/build", "Cargo.lock"] {
            hash_files(&self.root.join(source), &mut hash)?;
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

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}
