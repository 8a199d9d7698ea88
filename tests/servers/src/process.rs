//! A server's process: started, waited for, stopped, and never left behind.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::fetch;

/// How long a server may take to answer; machines are slow when they compile.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);

/// How long a server may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

const LOOK: Duration = Duration::from_millis(50);

/// A Java process of ours. Dropping it ends it.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the servers' class with a heap of `megabytes` and waits until `answers`.
    pub fn start(
        folder: &Path,
        megabytes: u32,
        arguments: &[&str],
        answers: impl Fn() -> bool,
    ) -> anyhow::Result<Self> {
        let log = folder.join("log");
        let written = File::options().create(true).append(true).open(&log)?;
        let child = Command::new("java")
            .arg(format!("-Xmx{megabytes}m"))
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dlog4j2.level=WARN"])
            .args(["-cp", &fetch::class_path()?, "Server"])
            .args(arguments)
            // Held by this process alone: its end is the server's.
            .stdin(Stdio::piped())
            .stdout(written.try_clone()?)
            .stderr(written)
            .spawn()
            .context("starting java")?;
        let mut process = Self { child, log };
        let begun = Instant::now();
        while !answers() {
            if let Some(status) = process.child.try_wait()? {
                bail!("the server {arguments:?} ended, {status}:\n{}", process.last_lines());
            }
            if begun.elapsed() > ANSWERS_WITHIN {
                bail!("the server {arguments:?} does not answer:\n{}", process.last_lines());
            }
            std::thread::sleep(LOOK);
        }
        Ok(process)
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        if !sent.context("running kill")?.success() {
            bail!("no signal {name} to process {id}");
        }
        Ok(())
    }

    /// Asks the server to end, and waits for it; its data is kept.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.signal("TERM")?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > ENDS_WITHIN {
                bail!("the server does not end:\n{}", self.last_lines());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder for a server's data; those that killed processes left are removed first.
pub(crate) fn data_folder() -> anyhow::Result<tempfile::TempDir> {
    let all = fetch::folder().join("data");
    fs::create_dir_all(&all).with_context(|| format!("making {}", all.display()))?;
    for left in fs::read_dir(&all)?.flatten() {
        let name = left.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().and_then(|id| id.parse::<u32>().ok());
        if owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            // Another process may be doing the same.
            let _ = fs::remove_dir_all(left.path());
        }
    }
    let prefix = format!("{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(&all)?)
}

/// A port of loopback that nobody listens on.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?.local_addr()?.port())
}
