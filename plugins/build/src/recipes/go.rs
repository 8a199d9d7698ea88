//! Go: the standard toolchain compiles the generated code, which imports the author's module.

use std::path::PathBuf;
use std::process::Command;

use super::Recipe;
use crate::component::{bindings, component, embed};
use crate::embedded;
use crate::error::BuildError;
use crate::steps::{Tool, copy, read, read_text, write, write_all};

const GO: Tool = Tool {
    name: "Go 1.25 or later",
    install: "`apt-get install golang-go` installs it where Debian has 1.25 or later, \
              https://go.dev/dl has it for all systems",
};

/// What the generated code imports, as a module: none that a Go proxy has.
const LIBRARY: &str = "module go.bytecodealliance.org/pkg\n\ngo 1.25\n";

impl Recipe<'_> {
    pub fn go(&self) -> Result<PathBuf, BuildError> {
        let author = self.module()?;
        let main = self.work.join("main");
        let world = bindings(
            wit_bindgen_go::Opts { quiet: true, ..Default::default() }.build(),
            &self.work.join("wit"),
            &main,
        )?;
        write_all(embedded::GO_LIBRARY, &main.join("pkg/wit"))?;
        write(&main.join("pkg/go.mod"), LIBRARY)?;
        let exports = main.join("export_flowkit_worker_handler/exports.go");
        write(&exports, embedded::GO_EXPORTS)?;
        write(&main.join("author.go"), format!("package main\n\nimport _ {author:?}\n"))?;
        write(&main.join("go.mod"), self.go_mod(&author))?;
        let sums = self.source.join("go.sum");
        if sums.exists() {
            copy(&sums, &main.join("go.sum"))?;
        }
        let core = self.work.join("core.wasm");
        let mut go = Command::new("go");
        go.current_dir(&main).envs([("GOOS", "wasip1"), ("GOARCH", "wasm")]);
        go.envs([("GOFLAGS", "-mod=mod -buildvcs=false"), ("GOWORK", "off")]);
        go.args(["build", "-buildmode=c-shared", "-ldflags=-checklinkname=0 -s -w", "-o"]);
        GO.run("`go build`", go.arg(&core).arg("."))?;
        let mut module = read(&core)?;
        embed(&world, &mut module)?;
        let whole = self.work.join("go.wasm");
        component(&module, &whole)?;
        Ok(whole)
    }

    /// The path that the author's `go.mod` gives its module.
    fn module(&self) -> Result<String, BuildError> {
        let text = read_text(&self.source.join("go.mod"))?;
        let path = text.lines().find_map(|line| line.trim().strip_prefix("module "));
        path.map(|path| path.trim().trim_matches('"').to_owned()).ok_or_else(|| {
            BuildError::NotAHandler {
                dir: self.source.to_owned(),
                reason: "go.mod has no line `module PATH`".to_owned(),
            }
        })
    }

    fn go_mod(&self, author: &str) -> String {
        let source = self.source.display().to_string();
        let sdk = self.source.join("flowkit").display().to_string();
        format!(
            "module wit_component\n\ngo 1.25\n\nrequire (\n\tgo.bytecodealliance.org/pkg \
             v0.0.0\n\tflowkit v0.0.0\n\t{author} v0.0.0\n)\n\nreplace \
             go.bytecodealliance.org/pkg => ./pkg\nreplace flowkit => {sdk:?}\nreplace {author} \
             => {source:?}\n"
        )
    }
}
