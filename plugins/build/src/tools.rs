//! The programs from npm and PyPI that builds use: pinned, and installed once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::embedded;
use crate::error::BuildError;
use crate::steps::{Tool, io, make_dir, write, write_all};

const NPM: Tool = Tool {
    name: "npm with Node.js 20 or later",
    install: "`apt-get install nodejs npm` installs it where Debian has 20 or later, \
              https://nodejs.org has it for all systems",
};

const PYTHON: Tool = Tool {
    name: "Python 3.10 or later",
    install: "`apt-get install python3 python3-venv` installs it on Debian",
};

/// Where npm puts programs.
const NPM_PROGRAMS: &str = "node_modules/.bin";

const VENV: Tool = Tool {
    name: "Python's module venv",
    install: "`apt-get install python3-venv` installs it on Debian",
};

/// Where tools are installed and intermediate files are kept, and what may be done to have
/// a tool.
#[derive(Debug, Clone)]
pub struct Toolbox {
    dir: PathBuf,
    may_install: bool,
    cargo_profile: &'static str,
}

impl Toolbox {
    /// A toolbox in this folder, which is created. Several processes may use it at once.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), may_install: false, cargo_profile: "release" }
    }

    /// Lets builds install what is not installed in the folder but on the system: packages
    /// of the distribution where that needs no password, targets of rustup.
    #[must_use]
    pub fn installing(mut self) -> Self {
        self.may_install = true;
        self
    }

    /// Builds Rust in a profile other than `release`.
    #[must_use]
    pub fn cargo_profile(mut self, profile: &'static str) -> Self {
        self.cargo_profile = profile;
        self
    }

    pub(crate) fn profile(&self) -> &'static str {
        self.cargo_profile
    }

    pub(crate) fn may_install(&self) -> bool {
        self.may_install
    }

    /// A folder for one build, gone when it is dropped.
    pub(crate) fn work_dir(&self) -> Result<TempDir, BuildError> {
        let dir = self.dir.join("work");
        make_dir(&dir)?;
        // The tools tell each other's folders apart only by absolute paths.
        let dir = dir.canonicalize().map_err(|error| io("looking for", &dir, error))?;
        TempDir::new_in(&dir).map_err(|error| io("creating a folder in", &dir, error))
    }

    /// The folder with the programs jco, which makes components of JavaScript, and
    /// rolldown, which makes one file of many.
    pub(crate) fn npm(&self) -> Result<PathBuf, BuildError> {
        let pins = embedded::NPM.map(|(_, text)| text).concat();
        let tools = self.once("npm", "node_modules/.bin/jco", &pins, |dir| {
            write_all(&embedded::NPM, dir)?;
            npm_ci(dir)
        })?;
        Ok(tools.join(NPM_PROGRAMS))
    }

    /// The `bin` folder with componentize-py, which makes components of Python.
    pub(crate) fn venv(&self) -> Result<PathBuf, BuildError> {
        let tools = self.once("venv", "bin/python", embedded::PYPI, |dir| {
            let mut probe = Command::new("python3");
            PYTHON.ask("looking for Python", probe.arg("--version"))?;
            let mut venv = Command::new("python3");
            VENV.run("`python3 -m venv`", venv.args(["-m", "venv", "--clear"]).arg(dir))
                .map_err(|_| VENV.missing())?;
            let pinned = dir.join("requirements.txt");
            write(&pinned, embedded::PYPI)?;
            pip_install(&dir.join("bin"), &["-r".as_ref(), pinned.as_ref()])
        })?;
        Ok(tools.join("bin"))
    }

    /// The folder of a tool of these pins. Whoever comes while it is being installed waits;
    /// what was not installed to its end, or lacks `proof`, is installed again.
    fn once(
        &self,
        name: &str,
        proof: &str,
        pins: &str,
        install: impl FnOnce(&Path) -> Result<(), BuildError>,
    ) -> Result<PathBuf, BuildError> {
        make_dir(&self.dir)?;
        let root = self.dir.canonicalize().map_err(|error| io("looking for", &self.dir, error))?;
        let digest = Sha256::digest(pins);
        let dir = root.join(format!(
            "{name}-{:02x}{:02x}{:02x}{:02x}",
            digest[0], digest[1], digest[2], digest[3]
        ));
        let whole = dir.join("installed");
        let lock = root.join(format!("{name}.lock"));
        let turn = File::create(&lock).map_err(|error| io("creating", &lock, error))?;
        turn.lock().map_err(|error| io("locking", &lock, error))?;
        if !whole.exists() || !dir.join(proof).exists() {
            eprintln!("installing {name} tools in {}", dir.display());
            make_dir(&dir)?;
            install(&dir)?;
            write(&whole, "")?;
        }
        Ok(dir)
    }
}

/// Installs what a folder's lock file names.
pub fn npm_ci(dir: &Path) -> Result<(), BuildError> {
    npm(dir, "ci")
}

/// Installs what a folder's `package.json` names.
pub fn npm_install(dir: &Path) -> Result<(), BuildError> {
    npm(dir, "install")
}

fn npm(dir: &Path, command: &str) -> Result<(), BuildError> {
    let mut npm = Command::new("npm");
    npm.current_dir(dir).args([command, "--no-audit", "--no-fund", "--loglevel=error"]);
    NPM.run(&format!("`npm {command}`"), &mut npm)
}

/// Installs packages with the pip of a virtual environment.
pub fn pip_install(bin: &Path, arguments: &[&std::ffi::OsStr]) -> Result<(), BuildError> {
    let mut pip = Command::new(bin.join("python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(arguments);
    PYTHON.run("`pip install`", &mut pip)
}
