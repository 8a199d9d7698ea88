//! Embeds what a build needs beside its tools: the world, the SDKs, the templates, and the
//! library that generated Go code imports.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a build or an editor leaves in a source folder.
const NOT_SOURCES: [&str; 4] = ["__pycache__", "node_modules", "target", "Cargo.lock"];

fn main() -> Result<()> {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let plugins = here.parent().ok_or("the crate is in no folder")?;
    let root = plugins.parent().ok_or("the plugins are in no folder")?;
    let examples = plugins.join("examples");
    let folders = [
        ("WIT", root.join("wit")),
        ("RUST_SDK", plugins.join("sdk/src")),
        ("RUST", examples.join("rust/src")),
        ("JAVASCRIPT", examples.join("javascript")),
        ("PYTHON", examples.join("python")),
        ("GO", examples.join("go")),
        ("C", examples.join("c")),
        ("GO_LIBRARY", go_library(&here, root)?),
    ];
    let mut code = String::new();
    for (name, folder) in folders {
        let mut files = Vec::new();
        list(&folder, &folder, &mut files)?;
        files.sort();
        if name == "WIT" {
            // Below it are worlds that no handler is built for yet.
            files.retain(|(file, _)| !file.contains('/'));
        }
        writeln!(code, "pub const {name}: &[(&str, &str)] = &[")?;
        for (file, path) in files {
            println!("cargo::rerun-if-changed={}", path.display());
            writeln!(code, "    ({file:?}, include_str!({path:?})),")?;
        }
        writeln!(code, "];")?;
        // Python leaves compiled files in its folder with every build of the example.
        if name != "PYTHON" {
            println!("cargo::rerun-if-changed={}", folder.display());
        }
    }
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("embedded.rs"), code)?;
    Ok(())
}

/// The files below a folder: their names from `root` on, with slashes, and their paths.
fn list(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("a name is not UTF-8")?;
        if NOT_SOURCES.contains(&name) || name.ends_with(".wasm") {
            continue;
        }
        if path.is_dir() {
            list(root, &path, files)?;
        } else {
            let inside = path.strip_prefix(root)?.to_str().ok_or("a path is not UTF-8")?;
            files.push((inside.replace('\\', "/"), path));
        }
    }
    Ok(())
}

/// What the generated Go code imports is on no Go proxy; it comes with the sources of the
/// generator.
fn go_library(here: &Path, root: &Path) -> Result<PathBuf> {
    println!("cargo::rerun-if-changed={}", root.join("Cargo.lock").display());
    let told = Command::new(std::env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--filter-platform"])
        .arg(std::env::var("TARGET")?)
        .current_dir(here)
        .output()?;
    let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    let packages = told["packages"].as_array().ok_or("cargo knows no packages")?;
    let generator = packages.iter().find(|package| package["name"] == "wit-bindgen-go");
    let manifest = generator.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.ok_or("cargo does not know where wit-bindgen-go is")?;
    Ok(Path::new(manifest).with_file_name("src").join("pkg/wit"))
}
