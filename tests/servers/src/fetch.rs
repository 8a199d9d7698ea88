//! Fetching the servers: jars by Maven, and classes of ours, compiled.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, bail};

const POM: &str = include_str!("../pom.xml");
const SOURCES: [(&str, &str); 2] = [
    ("Server.java", include_str!("../java/Server.java")),
    (
        "PlanningBackend.java",
        include_str!("../java/de/bwaldvogel/mongo/backend/h2/PlanningBackend.java"),
    ),
];

/// Why no server can be started here; `None` when one can.
pub fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<&str>> = OnceLock::new();
    let runs = |program: &str| Command::new(program).arg("-version").output().is_ok();
    *MISSING.get_or_init(|| {
        if !runs("java") || !runs("javac") {
            Some("there is no Java development kit (java, javac)")
        } else if !runs("mvn") {
            Some("there is no Maven (mvn)")
        } else {
            None
        }
    })
}

/// The folder for everything of the servers.
pub(crate) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    target.unwrap_or(root).join("servers")
}

/// The class path, after fetching what is not there yet. Several processes at once wait for
/// the first.
pub(crate) fn class_path() -> anyhow::Result<String> {
    static CLASS_PATH: OnceLock<Result<String, String>> = OnceLock::new();
    let fetched = CLASS_PATH.get_or_init(|| fetch().map_err(|error| format!("{error:#}")));
    fetched.clone().map_err(anyhow::Error::msg)
}

fn fetch() -> anyhow::Result<String> {
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let lock = File::create(folder.join("lock")).context("making the lock of the servers")?;
    lock.lock().context("waiting for whoever fetches the servers")?;
    let mut hasher = DefaultHasher::new();
    (POM, SOURCES).hash(&mut hasher);
    let done = folder.join(format!("{:016x}", hasher.finish()));
    if !done.exists() {
        let making = tempfile::tempdir_in(&folder).context("making a folder for the servers")?;
        fill(making.path())?;
        fs::rename(making.keep(), &done).context("keeping the servers that were fetched")?;
    }
    Ok(format!("{0}/classes:{0}/lib/*", done.display()))
}

fn fill(folder: &Path) -> anyhow::Result<()> {
    fs::write(folder.join("pom.xml"), POM)?;
    for (name, source) in SOURCES {
        fs::write(folder.join(name), source)?;
    }
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]);
    run(maven.current_dir(folder), "fetching the servers with Maven")?;
    let mut compiler = Command::new("javac");
    compiler.args(["-cp", "lib/*", "-d", "classes"]).args(SOURCES.map(|(name, _)| name));
    run(compiler.current_dir(folder), "compiling the servers' classes")
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let output = command.output().with_context(|| what.to_owned())?;
    if !output.status.success() {
        let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        bail!("{what} failed, {}:\n{out}{err}", output.status);
    }
    Ok(())
}
