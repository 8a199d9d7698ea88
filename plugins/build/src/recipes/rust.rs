//! Rust: cargo makes the component by itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Recipe;
use crate::error::BuildError;
use crate::steps::Tool;

const TARGET: &str = "wasm32-wasip2";

const CARGO: Tool = Tool {
    name: "Rust with cargo",
    install: "install it with rustup, which https://rustup.rs has",
};

const STANDARD_LIBRARY: Tool = Tool {
    name: "Rust's standard library for wasm32-wasip2",
    install: "`rustup target add wasm32-wasip2` installs it",
};

impl Recipe<'_> {
    pub fn rust(&self) -> Result<PathBuf, BuildError> {
        self.ensure_target()?;
        let manifest = self.source.join("Cargo.toml");
        let mut cargo = Command::new(program("CARGO", "cargo"));
        cargo.current_dir(self.source).args(["build", "--quiet", "--lib", "--target", TARGET]);
        cargo.args(["--profile", self.toolbox.profile()]);
        cargo.arg("--message-format=json-render-diagnostics");
        let told = CARGO.ask("`cargo build`", &mut cargo)?;
        component_of(&told, &manifest).ok_or_else(|| BuildError::NotAHandler {
            dir: self.source.to_owned(),
            reason: "cargo made no component of it; Cargo.toml needs `[lib]` with `crate-type = \
                     [\"cdylib\"]`"
                .to_owned(),
        })
    }

    fn ensure_target(&self) -> Result<(), BuildError> {
        let mut rustc = Command::new(program("RUSTC", "rustc"));
        rustc.args(["--print", "target-libdir", "--target", TARGET]);
        let libdir = CARGO.ask("looking for Rust's standard library", &mut rustc)?;
        if Path::new(libdir.trim()).exists() {
            return Ok(());
        }
        if !self.toolbox.may_install() {
            return Err(STANDARD_LIBRARY.missing());
        }
        let mut rustup = Command::new("rustup");
        STANDARD_LIBRARY.run("`rustup target add`", rustup.args(["target", "add", TARGET]))
    }
}

fn program(variable: &str, name: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| name.into())
}

/// The component that cargo says it made of this manifest's library.
fn component_of(told: &str, manifest: &Path) -> Option<PathBuf> {
    let messages = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let made = messages
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| {
            message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest)
        })
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    let mut files = made.filter_map(|file| file.as_str().map(PathBuf::from));
    files.find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}
