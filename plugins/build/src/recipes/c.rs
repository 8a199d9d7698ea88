//! C: clang with wasi-libc.

use std::path::PathBuf;
use std::process::Command;

use super::Recipe;
use crate::component::{bindings, component};
use crate::error::BuildError;
use crate::steps::{Tool, files_with, read};

const CLANG: Tool =
    Tool { name: "clang", install: "`apt-get install clang` installs it on Debian" };

const APT: Tool = Tool { name: "apt-get", install: "install the packages with your system's tool" };

impl Recipe<'_> {
    pub fn c(&self) -> Result<PathBuf, BuildError> {
        self.ensure_c_tools()?;
        let generated = self.work.join("gen");
        let generator = wit_bindgen_c::Opts::default().build();
        bindings(generator, &self.work.join("wit"), &generated)?;
        let sdk = self.source.join("flowkit");
        let core = self.work.join("core.wasm");
        let mut clang = Command::new("clang");
        clang.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-Os", "-Wall", "-Werror"]);
        clang.arg("-Wl,--strip-debug").arg("-I").arg(&generated);
        clang.args(files_with(self.source, "c")?).args(files_with(&sdk, "c")?);
        clang.arg(generated.join("handler_world.c"));
        clang.arg(generated.join("handler_world_component_type.o"));
        CLANG.run("`clang`", clang.arg("-o").arg(&core))?;
        let whole = self.work.join("c.wasm");
        component(&read(&core)?, &whole)?;
        Ok(whole)
    }

    /// Looks for the compiler, the linker, the libc and the compiler's run-time library.
    fn ensure_c_tools(&self) -> Result<(), BuildError> {
        if links() {
            return Ok(());
        }
        if !self.toolbox.may_install() || !is_root() {
            return Err(missing(&packages()));
        }
        // A fresh system has no lists, and so no version either. Lists that cannot be fetched
        // may still be good.
        let _ = APT.run("`apt-get update`", Command::new("apt-get").args(["update", "-qq"]));
        let packages = packages();
        eprintln!("installing {}", packages.join(" "));
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        install.args(["install", "--yes", "-qq", "--no-install-recommends"]).args(&packages);
        APT.run("`apt-get install`", &mut install)?;
        if links() { Ok(()) } else { Err(missing(&packages)) }
    }
}

/// What a person is told who has to install them.
fn missing(packages: &[String; 4]) -> BuildError {
    BuildError::MissingTool {
        tool: "a part of the C tools for WebAssembly (clang, lld, wasi-libc, compiler-rt)".into(),
        install: format!(
            "`apt-get install {}` installs them on Debian{}",
            packages.join(" "),
            if packages[3].contains("-N-") { ", N being the version of clang" } else { "" }
        ),
    }
}

/// Whether a program with nothing in it can be linked.
fn links() -> bool {
    let mut clang = Command::new("clang");
    clang.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-x", "c", "-include", "string.h"]);
    clang.args(["/dev/null", "-o", "-"]).output().is_ok_and(|output| output.status.success())
}

fn is_root() -> bool {
    let user = Command::new("id").arg("-u").output();
    user.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// The run-time library's package carries the compiler's version in its name.
fn packages() -> [String; 4] {
    let version = installed_version().or_else(offered_version);
    let library = match version {
        Some(version) => format!("libclang-rt-{version}-dev-wasm32"),
        None => "libclang-rt-N-dev-wasm32".to_owned(),
    };
    ["clang".to_owned(), "lld".to_owned(), "wasi-libc".to_owned(), library]
}

fn installed_version() -> Option<u32> {
    let told = Command::new("clang").arg("-dumpversion").output().ok()?;
    String::from_utf8(told.stdout).ok()?.split('.').next()?.trim().parse().ok()
}

/// The version that the package `clang` of this distribution stands for.
fn offered_version() -> Option<u32> {
    let told = Command::new("apt-cache").args(["depends", "clang"]).output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    told.lines().find_map(|line| line.trim().strip_prefix("Depends: clang-")?.parse().ok())
}
