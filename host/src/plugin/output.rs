//! What a guest says: `log`, stdout and stderr become lines of the worker's own log.
//!
//! The streams never close, never block and never trap, whatever is written to them, and
//! hold a bounded amount of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::counts::{Count, Tally};
use super::rate::{Rate, Verdict};
use super::text;
use crate::handler::RunInfo;

/// Longest line that is logged whole; the rest of a longer one follows as further lines.
const MAX_LINE: usize = 8 << 10;
/// Most bytes one host call logs. Splitting what is above into lines would keep a thread
/// from every other guest, and no interrupt reaches a host call.
const MAX_WRITE: usize = 64 << 10;
/// How much of a version's digest a line tells.
const DIGEST_SHOWN: usize = 12;
/// How much of a call's stderr an error can quote.
const TAIL: usize = 4 << 10;

/// Where a line comes from, and so how loud it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// The level a guest names; unknown names count as `info`.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "warn" => Self::Warn,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }
}

/// One of the two standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// One instance's voice; clones speak for the same instance.
#[derive(Debug, Clone)]
pub(super) struct Output(Arc<Mutex<Lines>>);

impl Output {
    /// For one run and the digest of the version that serves it, or for a call without a
    /// run (`describe`).
    pub(super) fn new(run: Option<(&RunInfo, &str)>, lines_per_sec: u32, tally: Tally) -> Self {
        let mut labels = Labels::default();
        if let Some((run, digest)) = run {
            labels.plugin = text::cut(digest, DIGEST_SHOWN).to_owned();
            labels.role = run.role.to_string();
            labels.task_id = run.task_id.to_string();
            labels.node_id = run.node_id.to_string();
        }
        Self(Arc::new(Mutex::new(Lines {
            labels,
            tally,
            rate: Rate::new(lines_per_sec, Instant::now()),
            stdout: Vec::new(),
            stderr: Vec::new(),
            tail: VecDeque::new(),
        })))
    }

    /// A standard stream of this instance.
    pub(super) fn stream(&self, which: Stream) -> Console {
        Console { output: self.clone(), which }
    }

    /// The guest's `log`.
    pub(super) fn log(&self, level: Level, message: &str) {
        let mut lines = self.lock();
        let message = text::cut(message, MAX_WRITE);
        // A message of many lines is many lines: nobody can forge another entry with it.
        for line in message.lines() {
            for part in line.as_bytes().chunks(MAX_LINE) {
                lines.emit(level, "log", part);
            }
        }
    }

    /// The guest's `metric`: shown in the log, and counted against its lines, until the
    /// worker has telemetry of its own.
    pub(super) fn metric(&self, kind: &str, name: &str, value: f64) {
        let named = (1..=64).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'));
        if named && value.is_finite() && matches!(kind, "counter" | "gauge") {
            self.lock().emit(Level::Debug, "metric", format!("{kind} {name} {value}").as_bytes());
        }
    }

    /// Begins a call: what earlier calls wrote no longer explains a failure.
    pub(super) fn begin_call(&self) {
        self.lock().tail.clear();
    }

    /// The end of what this call wrote to stderr, control characters written out.
    pub(super) fn stderr_tail(&self) -> String {
        let lines = self.lock();
        let bytes: Vec<u8> = lines.tail.iter().copied().collect();
        text::message(&String::from_utf8_lossy(&bytes))
    }

    /// Logs what is left of unfinished lines, and how many lines were left out.
    pub(super) fn finish(&self) {
        self.lock().finish();
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Labels {
    role: String,
    plugin: String,
    task_id: String,
    node_id: String,
}

#[derive(Debug)]
struct Lines {
    labels: Labels,
    tally: Tally,
    rate: Rate,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    tail: VecDeque<u8>,
}

impl Lines {
    fn write(&mut self, which: Stream, bytes: &[u8]) {
        if which == Stream::Stderr {
            let kept = &bytes[bytes.len().saturating_sub(TAIL)..];
            let excess = (self.tail.len() + kept.len()).saturating_sub(TAIL);
            self.tail.drain(..excess);
            self.tail.extend(kept);
        }
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let mut rest = piece;
            while !rest.is_empty() {
                let buffer = self.buffer(which);
                let (now, later) = rest.split_at(rest.len().min(MAX_LINE - buffer.len()));
                buffer.extend_from_slice(now);
                rest = later;
                if buffer.len() == MAX_LINE || buffer.ends_with(b"\n") {
                    self.flush(which);
                }
            }
        }
    }

    fn buffer(&mut self, which: Stream) -> &mut Vec<u8> {
        match which {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn flush(&mut self, which: Stream) {
        let line = std::mem::take(self.buffer(which));
        let (level, name) = match which {
            Stream::Stdout => (Level::Info, "stdout"),
            Stream::Stderr => (Level::Warn, "stderr"),
        };
        self.emit(level, name, &line);
    }

    fn emit(&mut self, level: Level, stream: &'static str, line: &[u8]) {
        let now = Instant::now();
        match self.rate.take(now) {
            Verdict::Drop => return,
            Verdict::Pass => {}
            Verdict::PassAfter(dropped) => self.report_dropped(dropped),
        }
        let Labels { role, plugin, task_id, node_id } = &self.labels;
        let line = text::line(line);
        match level {
            Level::Trace => {
                tracing::trace!(target: "handler", role, plugin, task_id, node_id, stream, "{line}");
            }
            Level::Debug => {
                tracing::debug!(target: "handler", role, plugin, task_id, node_id, stream, "{line}");
            }
            Level::Info => {
                tracing::info!(target: "handler", role, plugin, task_id, node_id, stream, "{line}");
            }
            Level::Warn => {
                tracing::warn!(target: "handler", role, plugin, task_id, node_id, stream, "{line}");
            }
            Level::Error => {
                tracing::error!(target: "handler", role, plugin, task_id, node_id, stream, "{line}");
            }
        }
    }

    fn finish(&mut self) {
        for which in [Stream::Stdout, Stream::Stderr] {
            if !self.buffer(which).is_empty() {
                self.flush(which);
            }
        }
        let dropped = self.rate.take_dropped();
        if dropped > 0 {
            self.report_dropped(dropped);
        }
    }

    fn report_dropped(&self, dropped: u64) {
        self.tally.add(Count::LogLinesDropped, dropped);
        let Labels { role, plugin, task_id, node_id } = &self.labels;
        tracing::warn!(
            target: "handler",
            role, plugin, task_id, node_id, dropped,
            "the handler wrote more lines than limits.log_lines_per_sec; {dropped} were left out"
        );
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A guest's stdout or stderr.
#[derive(Debug, Clone)]
pub(super) struct Console {
    output: Output,
    which: Stream,
}

impl Console {
    fn take(&self, bytes: &[u8]) {
        // A guest that asks how much it may write never writes more.
        self.output.lock().write(self.which, &bytes[..bytes.len().min(MAX_WRITE)]);
    }
}

impl IsTerminal for Console {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Console {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Console {
    async fn ready(&mut self) {}
}

impl OutputStream for Console {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }
}

impl AsyncWrite for Console {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::counts::Counts;

    #[test]
    fn the_tail_keeps_the_end_and_belongs_to_one_call() {
        let output = Output::new(None, 0, Counts::default().tally(None));
        let stderr = output.stream(Stream::Stderr);
        stderr.take(&vec![b'x'; 3 * TAIL]);
        stderr.take(b"the end");
        let tail = output.stderr_tail();
        assert_eq!(tail.len(), TAIL);
        assert!(tail.ends_with("xthe end"));
        output.stream(Stream::Stdout).take(b"not an error");
        assert!(output.stderr_tail().ends_with("the end"));
        output.begin_call();
        assert_eq!(output.stderr_tail(), "");
    }

    #[test]
    fn an_endless_line_is_held_in_pieces() {
        let output = Output::new(None, 0, Counts::default().tally(None));
        let stdout = output.stream(Stream::Stdout);
        for _ in 0..100 {
            stdout.take(&[b'y'; 1000]);
        }
        let mut lines = output.lock();
        assert!(lines.stdout.len() < MAX_LINE);
        assert_eq!(lines.rate.take_dropped(), 100_000 / MAX_LINE as u64);
    }

    #[test]
    fn one_call_logs_a_bounded_amount() {
        let output = Output::new(None, 0, Counts::default().tally(None));
        output.log(Level::Info, &"x\n".repeat(10 * MAX_WRITE));
        output.stream(Stream::Stdout).take(&vec![b'\n'; 10 * MAX_WRITE]);
        assert_eq!(output.lock().rate.take_dropped(), (MAX_WRITE / 2 + MAX_WRITE) as u64);
    }
}
