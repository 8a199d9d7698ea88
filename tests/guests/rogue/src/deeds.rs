//! The misbehaviours, by name.

use std::hint::black_box;
use std::time::Duration;

use crate::attempts;
use crate::bindings::exports::flowkit::worker::handler::HandlerError;
use crate::bindings::flowkit::worker::host;

/// Misbehaves; what comes back is the function's JSON result, or its error.
pub fn perform(deed: &str) -> Result<String, HandlerError> {
    match deed {
        "loop" => spin(),
        "sleep" => sleep_for_ever(),
        "wasi-sleep" => std::thread::sleep(Duration::from_secs(3_600)),
        "panic" => panic!("rogue was told to panic"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        "recursion" => drop(black_box(recurse(0))),
        "memory" => drop(eat()),
        "table" => grow_table_for_ever(),
        "think" => think(Duration::from_secs(60)),
        "stdout" => print_for_ever("no line break here; "),
        "flood" => log_for_ever(&"\n".repeat(16 << 20)),
        _ => return answer(deed),
    }
    Ok("{}".to_owned())
}

fn answer(deed: &str) -> Result<String, HandlerError> {
    match deed {
        "error" => Err(error("rogue failed", Some("{\"code\":7}"))),
        "long-error" => Err(error(&"\u{1b}[31m".repeat(100_000), None)),
        "long-detail" => Err(error("short", Some(&"d".repeat(70_000)))),
        "polite" => Err(error(&wait_politely(), None)),
        "huge" => Ok("x".repeat(100 << 20)),
        "large" => Ok(format!("{{\"x\": \"{}\"}}", "x".repeat(16 << 20))),
        "not-json" => Ok("hello".to_owned()),
        "not-object" => Ok("[1]".to_owned()),
        "not-utf8" => Ok(not_utf8()),
        "many-values" => Ok(format!("{{\"x\": [{}0]}}", "0,".repeat(1_000_000))),
        "nested-metric" => Ok(r#"{"metrics": {"a": {"b": 1}}}"#.to_owned()),
        "metrics-list" => Ok(r#"{"metrics": [1]}"#.to_owned()),
        "huge-metric" => Ok(r#"{"metrics": {"a": 1e999}}"#.to_owned()),
        "noise" => Ok(noise()),
        "big-log" => Ok(big_log()),
        "forged-partial" => told(host::upsert_partial("another", "{}")),
        "partial-list" => told(host::upsert_partial("b0", "[]")),
        "partial" => told(host::upsert_partial("b0", "{\"lines\": 3}")),
        "checkpoint" => told(host::save_checkpoint("{\"at\": 1}")),
        "checkpoint-text" => told(host::save_checkpoint("at 1")),
        "checkpoint-size" => told(host::save_checkpoint(&"1".repeat((1 << 20) + 1))),
        "checkpoint-then-error" => {
            host::save_checkpoint("1")?;
            Err(error("after the checkpoint", None))
        }
        "totals" => Err(error(&host::run_totals(), None)),
        "info" => Err(error(&host::run_info(), None)),
        "escape" => Err(error(&attempts::escape(), None)),
        "vandalise" => Err(error(&attempts::vandalise("/data"), None)),
        "flee" => Err(error(&attempts::flee("/data"), None)),
        "read-link" => Err(error(&attempts::read("/data/sub/passwd"), None)),
        "network" => Err(error(&attempts::network(), None)),
        "environment" => Err(error(&attempts::environment(), None)),
        "late-partial" => told(host::upsert_partial("b0", "{}")),
        "forged-long" => told(host::upsert_partial(&"u".repeat(1 << 20), "{}")),
        "forged-control" => told(host::upsert_partial("b0\u{0}\u{1b}[2J", "{}")),
        "partial-bomb" => told(host::upsert_partial("b0", &large_meta())),
        "list-data" => Err(error(&list("/data"), None)),
        "write-data" => Err(error(&write("/data/new.txt"), None)),
        other => Err(error(&format!("rogue does not know how to `{other}`"), None)),
    }
}

fn error(message: &str, detail: Option<&str>) -> HandlerError {
    HandlerError { message: message.to_owned(), detail: detail.map(str::to_owned) }
}

/// The error of a host call becomes this call's error.
fn told(result: Result<(), HandlerError>) -> Result<String, HandlerError> {
    result.map(|()| "{}".to_owned())
}

fn spin() {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

fn grow_table_for_ever() {
    /// The test replaces this size and the instruction behind it: Rust has no word for
    /// `table.grow`. It is encoded in five bytes.
    #[cfg(target_family = "wasm")]
    const TABLE_MARK: usize = 0x0bad_beef;
    // Lints look at the guests as code of this machine too.
    #[cfg(target_family = "wasm")]
    while core::arch::wasm32::memory_grow::<0>(TABLE_MARK) != usize::MAX {}
    panic!("no more table");
}

/// Computes, with a little waiting in between.
fn think(time: Duration) {
    let began = std::time::Instant::now();
    while began.elapsed() < time {
        host::sleep(1);
        let mut n = 0_u64;
        for _ in 0..3_000_000 {
            n = black_box(n.wrapping_add(1));
        }
    }
}

fn large_meta() -> String {
    format!("{{\"x\": \"{}\"}}", "x".repeat((16 << 20) + 100_000))
}

fn sleep_for_ever() {
    loop {
        host::sleep(u32::MAX);
    }
}

fn print_for_ever(text: &str) {
    loop {
        print!("{text}");
    }
}

fn log_for_ever(message: &str) {
    loop {
        host::log("info", message);
    }
}

/// Waits until it is told to stop, and says what it was told.
fn wait_politely() -> String {
    while !host::sleep(3_600_000) {}
    match host::cancelled() {
        Some(told) => format!("{} ({}) in {} ms", told.source, told.reason, told.remaining_ms),
        None => "woken without a reason".to_owned(),
    }
}

fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    if frame[0] == u64::MAX {
        return 0;
    }
    recurse(depth + 1) + frame[3]
}

fn eat() -> Vec<Vec<u8>> {
    let mut eaten = Vec::new();
    loop {
        eaten.push(black_box(vec![1_u8; 1 << 20]));
    }
}

fn not_utf8() -> String {
    // SAFETY: wrong on purpose; nothing in this crate looks at the text, it only crosses
    // to the host, which has to notice.
    unsafe { String::from_utf8_unchecked(vec![b'{', 0xff, 0xfe, b'}']) }
}

fn noise() -> String {
    for n in 0..1_000_000 {
        host::log("info", if n % 2 == 0 { "noise" } else { "more noise" });
    }
    "{}".to_owned()
}

fn big_log() -> String {
    host::log("warn", &"w".repeat(100_000));
    host::log("nonsense", "one\nrole=forged\u{1b}[2J");
    host::metric("counter", "rows.read", 3.0);
    host::metric("counter", "Bad Name", f64::NAN);
    "{}".to_owned()
}

fn list(path: &str) -> String {
    let mut names: Vec<String> = match std::fs::read_dir(path) {
        Ok(entries) => {
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
        }
        Err(error) => return error.to_string(),
    };
    names.sort();
    names.join(", ")
}

fn write(path: &str) -> String {
    match std::fs::write(path, "x") {
        Ok(()) => "written".to_owned(),
        Err(error) => error.kind().to_string(),
    }
}
