//! Standard output, for results.

use std::io::{ErrorKind, Write};

/// Prints a line to stdout. A reader that went away, as `head` does, ends the process
/// quietly with status 0: it has what it wanted.
pub fn print(line: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(anyhow::Error::new(error).context("writing to stdout")),
    }
}

/// Prints a line to stderr, for people. Nobody may be reading it: then it is lost.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
