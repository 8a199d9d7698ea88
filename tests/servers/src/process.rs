//! A server's process: started, waited for, stopped, and never left behind.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::fetch;

/// How long a server may take to answer; machines are slow when they compile.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);

/// How long a server may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Where servers listen.
const PORTS: std::ops::Range<u16> = 20_000..29_000;

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
            // A group of its own is orphaned when this process ends, and the system wakes
            // and ends the paused ones of such a group, who do not see their input's end.
            .process_group(0)
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

    /// Stops it in the middle of whatever it does; all of it stands still afterwards.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP")?;
        let begun = Instant::now();
        while !stands_still(self.child.id()) {
            if begun.elapsed() > ENDS_WITHIN {
                bail!("the server goes on although it was stopped");
            }
            std::thread::sleep(Duration::from_millis(5));
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
        if owner.is_some_and(has_ended) {
            // Another process may be doing the same.
            let _ = fs::remove_dir_all(left.path());
        }
    }
    let prefix = format!("{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(&all)?)
}

/// Whether every thread of a process is stopped, as far as the system tells.
fn stands_still(id: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which may hold anything but ends with the last bracket.
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    })
}

/// Whether a process is known to be gone: only where the system lists the others.
fn has_ended(id: u32) -> bool {
    Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{id}")).exists()
}

/// A port of loopback that nobody listens on. It lies below those that systems give to
/// connections: none takes it while its server is away, and no client that looks for the
/// server then finds itself.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Processes that run at once begin at different places.
    let first = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS.len() {
        let place = first.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(place % u32::try_from(PORTS.len())?)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_never_while_somebody_listens_there() {
        let first = free_port().expect("a port");
        let given: Vec<u16> = (0..50).map(|_| free_port().expect("a port")).collect();
        assert!(PORTS.contains(&first) && given.iter().all(|port| PORTS.contains(port)));
        assert!(!given.contains(&first), "{first} is in {given:?}");
        let listeners: Vec<_> =
            given.iter().filter_map(|port| TcpListener::bind(("127.0.0.1", *port)).ok()).collect();
        let taken: Vec<u16> =
            listeners.iter().map(|one| one.local_addr().expect("an address").port()).collect();
        for _ in 0..PORTS.len() {
            assert!(!taken.contains(&free_port().expect("a port")));
        }
    }
}
