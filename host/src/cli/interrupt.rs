//! Requests to stop, from the terminal and the operating system.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Ctrl-C, SIGINT.
    CtrlC,
    /// SIGTERM.
    Terminate,
}

impl Interrupt {
    /// The exit status of a process that ended because of it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::CtrlC => 130,
            Self::Terminate => 143,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::CtrlC => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// The requests that arrive from now on, which then no longer end the process by
/// themselves.
#[derive(Debug)]
pub struct Interrupts {
    ctrl_c: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Begins to listen.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            ctrl_c: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> Interrupt {
        // Cancel-safe: a signal that was not received is kept for the next call.
        tokio::select! {
            _ = self.ctrl_c.recv() => Interrupt::CtrlC,
            _ = self.terminate.recv() => Interrupt::Terminate,
        }
    }
}
