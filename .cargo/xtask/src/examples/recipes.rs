//! How a component is made of each language.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_bindgen_core::wit_parser::{Resolve, WorldId};
use wit_bindgen_core::{Files, WorldGenerator};
use wit_component::ComponentEncoder;

use super::{Workshop, copy, make_dir, put, read, write};
use crate::{TARGET, cargo, ensure_target, run};

const WORLD: &str = "handler-world";

const C_PACKAGES: [&str; 4] = ["clang", "lld", "wasi-libc", "libclang-rt-14-dev-wasm32"];

/// The module of the generated code, whose run-time library no Go proxy has.
const GO_MODULE: &str = "\
module wit_component

go 1.25

require go.bytecodealliance.org/pkg v0.0.0

replace go.bytecodealliance.org/pkg => ./pkg
";

const GO_PACKAGE: &str = "module go.bytecodealliance.org/pkg\n\ngo 1.25\n";

impl Workshop {
    pub(super) fn rust(&self) -> Result<()> {
        ensure_target()?;
        let mut build = cargo(&self.root);
        build.args(["build", "--quiet", "--profile", "guest", "--target", TARGET]);
        run(build.args(["--package", "wordcount"]))?;
        let half = self.out().join("rust.new.wasm");
        copy(&self.target.join(TARGET).join("guest/wordcount.wasm"), &half)?;
        put(&half, &self.out().join("rust.wasm"))?;
        println!("rust: built");
        Ok(())
    }

    pub(super) fn javascript(&self, to: &Path) -> Result<()> {
        let mut jco = self.jco()?;
        // It looks for the file below the file's own folder, so it is started there.
        jco.current_dir(self.source("javascript")).args(["componentize", "handler.js"]);
        jco.args(["--backend", "quickjs", "--backend-qjs-disable-async", "-n", WORLD]);
        run(jco.arg("--wit").arg(self.wit()).arg("-o").arg(to))
    }

    pub(super) fn python(&self, to: &Path) -> Result<()> {
        let venv = self.out().join("venv");
        let pinned = self.source("python").join("requirements.txt");
        self.once("venv", &pinned, || {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
            let mut pip = Command::new(venv.join("bin/pip"));
            pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"]);
            run(pip.arg(&pinned))
        })?;
        let mut componentize = Command::new(venv.join("bin/componentize-py"));
        componentize.arg("-d").arg(self.wit()).args(["-w", WORLD, "componentize", "-p"]);
        run(componentize.arg(self.source("python")).arg("handler").arg("-o").arg(to))
    }

    pub(super) fn c(&self, to: &Path) -> Result<()> {
        ensure_c()?;
        let generated = self.out().join("c");
        self.bindings(wit_bindgen_c::Opts::default().build(), &generated)?;
        let core = generated.join("core.wasm");
        let source = self.source("c");
        let mut clang = Command::new("clang");
        clang.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-Os", "-Wall", "-Werror"]);
        clang.arg("-Wl,--strip-debug").arg("-I").arg(&generated).arg("-I").arg(&source);
        for file in files_with(&source, "c")? {
            clang.arg(file);
        }
        clang.arg(generated.join("handler_world.c"));
        clang.arg(generated.join("handler_world_component_type.o"));
        run(clang.arg("-o").arg(&core))?;
        component(&read(&core)?, to)
    }

    pub(super) fn go(&self, to: &Path) -> Result<()> {
        let generated = self.out().join("go");
        let (resolve, world) =
            self.bindings(wit_bindgen_go::Opts::default().build(), &generated)?;
        let package = self.go_package()?;
        copy_folder(&package.join("wit"), &generated.join("pkg/wit"))?;
        write(&generated.join("pkg/go.mod"), GO_PACKAGE.as_bytes())?;
        write(&generated.join("go.mod"), GO_MODULE.as_bytes())?;
        copy_folder(&self.source("go"), &generated)?;
        let core = generated.join("core.wasm");
        let mut go = Command::new("go");
        go.current_dir(&generated).envs([("GOOS", "wasip1"), ("GOARCH", "wasm")]);
        go.envs([("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GOWORK", "off")]);
        go.args(["build", "-buildmode=c-shared", "-ldflags=-checklinkname=0 -s -w", "-o"]);
        run(go.arg(&core).arg(".")).context("is Go 1.25 or later installed?")?;
        let mut module = read(&core)?;
        wit_component::embed_component_metadata(
            &mut module,
            &resolve,
            world,
            wit_component::StringEncoding::UTF8,
            false,
        )?;
        component(&module, to)
    }

    /// What the generated Go code imports: it comes with the generator's sources.
    fn go_package(&self) -> Result<PathBuf> {
        let told = cargo(&self.root).args(["metadata", "--format-version=1"]).output()?;
        let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
        let packages = told["packages"].as_array().context("cargo knows no packages")?;
        let generator = packages.iter().find(|package| package["name"] == "wit-bindgen-go");
        let manifest = generator.and_then(|package| package["manifest_path"].as_str());
        let manifest = manifest.context("cargo does not know where wit-bindgen-go is")?;
        Ok(Path::new(manifest).with_file_name("src").join("pkg"))
    }

    /// Writes what connects a language with the world.
    fn bindings(
        &self,
        mut generator: Box<dyn WorldGenerator>,
        to: &Path,
    ) -> Result<(Resolve, WorldId)> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(self.wit())?;
        let world = resolve.select_world(&[package], Some(WORLD))?;
        let mut files = Files::default();
        generator.generate(&mut resolve, world, &mut files)?;
        for (name, bytes) in files.iter() {
            let file = to.join(name);
            make_dir(file.parent().context("a generated file has no folder")?)?;
            write(&file, bytes)?;
        }
        Ok((resolve, world))
    }

    /// jco of the version the lock file beside the JavaScript example names.
    fn jco(&self) -> Result<Command> {
        let npm = self.out().join("npm");
        let source = self.source("javascript");
        self.once("npm", &source.join("package-lock.json"), || {
            make_dir(&npm)?;
            for name in ["package.json", "package-lock.json"] {
                copy(&source.join(name), &npm.join(name))?;
            }
            let mut install = Command::new("npm");
            install.current_dir(&npm).args(["ci", "--no-audit", "--no-fund", "--silent"]);
            run(&mut install).context("is Node.js 20 or later with npm installed?")
        })?;
        Ok(Command::new(npm.join("node_modules/.bin/jco")))
    }

    /// Installs what `pinned` names unless it is what was installed last.
    fn once(&self, name: &str, pinned: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
        let pins =
            std::fs::read(pinned).with_context(|| format!("reading {}", pinned.display()))?;
        let installed = self.out().join(format!("{name}.installed"));
        if std::fs::read(&installed).is_ok_and(|last| last == pins) {
            return Ok(());
        }
        install()?;
        write(&installed, &pins)
    }
}

/// A core module with the world's type inside becomes a component.
fn component(module: &[u8], to: &Path) -> Result<()> {
    let mut encoder = ComponentEncoder::default();
    let encoder = encoder
        .validate(true)
        .module(module)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
    write(to, &encoder.encode()?)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    make_dir(to)?;
    let entries = std::fs::read_dir(from).with_context(|| format!("listing {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            copy(&entry.path(), &to)?;
        }
    }
    Ok(())
}

/// Looks for the C tools, and installs them where that needs no password.
fn ensure_c() -> Result<()> {
    if c_tools() {
        return Ok(());
    }
    let wanted = C_PACKAGES.join(" ");
    let user = Command::new("id").arg("-u").output();
    if !user.is_ok_and(|id| id.stdout.trim_ascii() == b"0") {
        bail!("the C tools are incomplete: run `sudo apt-get install {wanted}`");
    }
    println!("c: installing {wanted}");
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "-qq", "--no-install-recommends"]).args(C_PACKAGES);
    run(&mut install)
        .or_else(|_| {
            run(Command::new("apt-get").args(["update", "-qq"])).and_then(|()| run(&mut install))
        })
        .with_context(|| format!("the C tools are incomplete and need the packages {wanted}"))
}

/// Whether an empty program can be linked: it needs the compiler, the linker, the libc and
/// the compiler's run-time library.
fn c_tools() -> bool {
    let mut clang = Command::new("clang");
    clang.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-x", "c", "-include", "string.h"]);
    clang.args(["/dev/null", "-o", "-"]).output().is_ok_and(|o| o.status.success())
}

fn files_with(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
