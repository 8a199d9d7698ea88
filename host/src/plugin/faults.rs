//! What ended an instance, in words its author can use.

use std::fmt::Write as _;

use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use super::limits::Refused;
use super::text;
use crate::handler::{FaultCode, HostFault};

/// `errno` for memory that the system does not give.
const ENOMEM: i32 = 12;

/// What is known about a call that ended in a trap.
pub(super) struct Wreck<'a> {
    /// The WIT function.
    pub(super) function: &'a str,
    /// wasmtime's error.
    pub(super) error: &'a wasmtime::Error,
    /// What the guest wrote to stderr during the call, its end.
    pub(super) stderr: &'a str,
    /// The memory that the guest wanted and was refused.
    pub(super) refused: Option<Refused>,
}

/// The fault to report for it.
pub(super) fn explain(wreck: &Wreck<'_>) -> HostFault {
    let (code, what, said) = cause(wreck);
    let mut message = format!("{}: {what}", wreck.function);
    let said = said.trim();
    if !said.is_empty() {
        // The reason comes first, so that it survives when the whole is cut.
        let _ = write!(message, "\nthe handler's stderr ended with:\n{said}");
    }
    HostFault { code, message: text::message(&message) }
}

/// A call that was stopped at its limit.
pub(super) fn time_limit(function: &str, limit: std::time::Duration) -> HostFault {
    let ms = limit.as_millis();
    let advice = match function {
        "cleanup" | "describe" => "keep it short",
        _ => "raise limits.call_time_ms, or give each batch less to do",
    };
    HostFault {
        code: FaultCode::TimeLimit,
        message: format!("{function} was stopped at its limit of {ms} ms; {advice}"),
    }
}

/// A call that computed for longer than it may.
pub(super) fn cpu_limit(function: &str, limit: std::time::Duration) -> HostFault {
    let ms = limit.as_millis();
    HostFault {
        code: FaultCode::CpuLimit,
        message: format!(
            "{function} was stopped after {ms} ms of processor time; raise limits.call_cpu_ms, or \
             give each batch less to do"
        ),
    }
}

/// A run that is over its time on this worker.
pub(super) fn run_time_limit(function: &str, limit: std::time::Duration) -> HostFault {
    let ms = limit.as_millis();
    HostFault {
        code: FaultCode::TimeLimit,
        message: format!(
            "the run reached its limit of {ms} ms in {function}; raise limits.run_time_ms, or give \
             a task less to do"
        ),
    }
}

/// The code, the reason, and what of the stderr says more than the reason.
fn cause<'a>(wreck: &Wreck<'a>) -> (FaultCode, String, &'a str) {
    if let Some(refused) = wreck.refused {
        let needs = match refused {
            Refused::Memory { wanted, limit } => format!(
                "the handler wanted {wanted} bytes of memory; limits.memory_bytes allows {limit}"
            ),
            Refused::Table { wanted, limit } => format!(
                "the handler wanted tables of {wanted} elements; {limit} are allowed \
                 (limits.table_elements, or what one table can have)"
            ),
        };
        return (FaultCode::MemoryLimit, needs, wreck.stderr);
    }
    if let Some(exit) = wreck.error.downcast_ref::<I32Exit>() {
        let what = format!(
            "the handler ended itself with exit status {}; return an error instead",
            exit.0
        );
        return (FaultCode::HandlerTrap, what, wreck.stderr);
    }
    if let Some((panic, said)) = panic_in(wreck.stderr) {
        return (FaultCode::HandlerPanic, panic, said);
    }
    let (code, what) = match wreck.error.downcast_ref::<Trap>() {
        Some(trap) => (FaultCode::HandlerTrap, trap_words(*trap)),
        None => refused_value(wreck.error),
    };
    (code, what, wreck.stderr)
}

/// The message of a panic or of an exception nobody caught, as the languages print it, and
/// what else is worth quoting: the stacks of Go and Python; of Rust, whose message is the
/// end, only what came before it.
fn panic_in(stderr: &str) -> Option<(String, &str)> {
    rust_panic(stderr)
        .or_else(|| go_panic(stderr).map(|panic| (panic, stderr)))
        .or_else(|| python_traceback(stderr).map(|panic| (panic, stderr)))
}

/// `thread '…' panicked at src/lib.rs:1:2:⏎message⏎note: run with …`. Guests on QuickJS
/// end this way too, with the JavaScript error and its stack as the message.
fn rust_panic(stderr: &str) -> Option<(String, &str)> {
    let start = stderr.rfind("panicked at ")?;
    let told = &stderr[start..];
    let end = told.find("\nnote: ").or_else(|| told.find("\nstack backtrace:"));
    let told = told[..end.unwrap_or(told.len())].trim_end();
    let (place, message) = told.split_once(":\n").unwrap_or((told, ""));
    let panic = if message.is_empty() { place.to_owned() } else { format!("{place}: {message}") };
    let before = stderr[..start].rfind('\n').map_or("", |line| &stderr[..line]);
    Some((panic, before))
}

/// `panic: message⏎⏎goroutine 1 [running]: …`; `fatal error: …` likewise.
fn go_panic(stderr: &str) -> Option<String> {
    let line = |line: &&str| line.starts_with("panic: ") || line.starts_with("fatal error: ");
    let first = stderr.lines().find(line)?;
    stderr.contains("\ngoroutine ").then(|| first.to_owned())
}

/// `Traceback (most recent call last):⏎  File …⏎ValueError: message`: the last line that
/// is not indented is the exception.
fn python_traceback(stderr: &str) -> Option<String> {
    let start = stderr.rfind("Traceback (most recent call last):")?;
    let exception = stderr[start..]
        .lines()
        .skip(1)
        .find(|line| !line.is_empty() && !line.starts_with([' ', '\t']))?;
    Some(format!("an exception was not caught: {exception}"))
}

fn trap_words(trap: Trap) -> String {
    match trap {
        Trap::StackOverflow => {
            "stack overflow: the handler's calls are nested too deep (endless recursion?)"
                .to_owned()
        }
        Trap::MemoryOutOfBounds => "the handler read or wrote outside its memory; recursion that \
             is too deep can end like this too"
            .to_owned(),
        Trap::UnreachableCodeReached => "the handler aborted (`unreachable`) and left no message \
             on stderr"
            .to_owned(),
        other => {
            let text = other.to_string();
            format!("the handler trapped: {}", text.trim_start_matches("wasm trap: "))
        }
    }
}

/// A trap of the host's making: what the guest handed over could not be taken.
fn refused_value(error: &wasmtime::Error) -> (FaultCode, String) {
    let reason = error.root_cause().to_string();
    if reason.contains("fuel allocated for hostcalls") {
        let what = "the handler handed over more data in one call than limits.result_bytes \
                    allows. Yield smaller batches, or write the data elsewhere and return where \
                    it is";
        return (FaultCode::ResultTooLarge, what.to_owned());
    }
    if error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) == Some(ENOMEM)
    {
        let what = "the machine gave no memory for the instance. Each reserves 4 GiB of address \
                    space, of which it uses little: raise or lift a limit on virtual memory \
                    (`ulimit -v`)";
        return (FaultCode::HandlerTrap, what.to_owned());
    }
    if error.is::<std::str::Utf8Error>() || error.is::<std::char::DecodeUtf16Error>() {
        let what = format!("the handler handed over text that is not valid Unicode: {reason}");
        return (FaultCode::BadOutput, what);
    }
    (FaultCode::HandlerTrap, format!("the handler trapped: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(error: wasmtime::Error, stderr: &str) -> String {
        let wreck = Wreck { function: "process-batch", error: &error, stderr, refused: None };
        explain(&wreck).to_string()
    }

    fn unreachable() -> wasmtime::Error {
        Trap::UnreachableCodeReached.into()
    }

    #[test]
    fn panics_are_recognised_in_every_language() {
        let rust = "opening a.csv\n\nthread '<unnamed>' (1) panicked at src/lib.rs:10:5:\nindex out of bounds: \
                    the len is 3\nnote: run with `RUST_BACKTRACE=1` environment variable\n";
        insta::assert_snapshot!(explained(unreachable(), rust), @r"
        handler_panic: process-batch: panicked at src/lib.rs:10:5: index out of bounds: the len is 3
        the handler's stderr ended with:
        opening a.csv
        ");
        let go = "panic: assignment to entry in nil map\n\ngoroutine 1 [running]:\nmain.main()\n";
        insta::assert_snapshot!(explained(unreachable(), go), @r"
        handler_panic: process-batch: panic: assignment to entry in nil map
        the handler's stderr ended with:
        panic: assignment to entry in nil map

        goroutine 1 [running]:
        main.main()
        ");
        let python = "Traceback (most recent call last):\n  File \"app.py\", line 3, in run\n    \
                      raise ValueError(\"no\")\nValueError: no\n";
        insta::assert_snapshot!(explained(unreachable(), python), @r#"
        handler_panic: process-batch: an exception was not caught: ValueError: no
        the handler's stderr ended with:
        Traceback (most recent call last):
          File "app.py", line 3, in run
            raise ValueError("no")
        ValueError: no
        "#);
    }

    #[test]
    fn traps_are_put_into_words() {
        insta::assert_snapshot!(explained(unreachable(), ""), @"handler_trap: process-batch: the handler aborted (`unreachable`) and left no message on stderr");
        insta::assert_snapshot!(explained(Trap::StackOverflow.into(), "deep\n"), @r"
        handler_trap: process-batch: stack overflow: the handler's calls are nested too deep (endless recursion?)
        the handler's stderr ended with:
        deep
        ");
        insta::assert_snapshot!(explained(Trap::IntegerDivisionByZero.into(), ""), @"handler_trap: process-batch: the handler trapped: integer divide by zero");
        insta::assert_snapshot!(explained(I32Exit(3).into(), "bye"), @r"
        handler_trap: process-batch: the handler ended itself with exit status 3; return an error instead
        the handler's stderr ended with:
        bye
        ");
    }

    #[test]
    fn what_the_machine_refuses_is_not_the_handlers_fault() {
        let error = std::io::Error::from_raw_os_error(ENOMEM).into();
        insta::assert_snapshot!(explained(error, ""), @"handler_trap: process-batch: the machine gave no memory for the instance. Each reserves 4 GiB of address space, of which it uses little: raise or lift a limit on virtual memory (`ulimit -v`)");
    }

    #[test]
    fn the_limiters_count_wins_over_the_traps_words() {
        let error = unreachable();
        let wreck = Wreck {
            function: "init",
            error: &error,
            stderr: "memory allocation of 99 bytes failed\n",
            refused: Some(Refused::Memory { wanted: 1099, limit: 1000 }),
        };
        insta::assert_snapshot!(explain(&wreck), @r"
        memory_limit: init: the handler wanted 1099 bytes of memory; limits.memory_bytes allows 1000
        the handler's stderr ended with:
        memory allocation of 99 bytes failed
        ");
    }

    #[test]
    fn a_long_message_is_cut_after_its_reason() {
        let stderr = format!("panicked at src/lib.rs:1:1:\nboom\nnote: {}", "x".repeat(9_000));
        let told = explained(unreachable(), &stderr);
        assert!(told.len() <= text::MAX_MESSAGE + 20, "{}", told.len());
        assert!(told.starts_with("handler_panic: process-batch: panicked at src/lib.rs:1:1: boom"));
    }
}
