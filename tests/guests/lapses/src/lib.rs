//! A handler that does everything right but for the one `lapse` that its input names, for
//! the tests of `flowkit plugin test`. Without a lapse it yields three batches, `b0` to
//! `b2`, saves a checkpoint with each, and counts them.

#![cfg(target_family = "wasm")]

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "handler-world" });
}

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime};

use bindings::exports::flowkit::worker::handler::{Batch, Classification, Guest, HandlerError};
use bindings::flowkit::worker::host;
use serde_json::{Value, json};

struct Lapses;

#[derive(Default)]
struct Run {
    lapse: String,
    /// Numbers of the batches that are still to be yielded.
    left: Vec<u64>,
    /// What this instance has processed.
    processed: u64,
}

thread_local! {
    static RUN: RefCell<Run> = RefCell::default();
}

fn has(lapse: &str) -> bool {
    RUN.with_borrow(|run| run.lapse == lapse)
}

fn error(message: &str) -> HandlerError {
    HandlerError { message: message.to_owned(), detail: None }
}

fn fail_if(lapse: &str) -> Result<(), HandlerError> {
    if has(lapse) { Err(error(&format!("the lapse is {lapse}"))) } else { Ok(()) }
}

/// Never looks at the cancel flag.
fn be_deaf(function: &str) {
    if has(&format!("deaf in {function}")) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(600) {
            host::sleep(10);
        }
    }
}

fn resumed() -> bool {
    host::run_info().contains("\"resumed\":true")
}

/// Something else each time.
fn chance() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.subsec_nanos().into())
}

impl Guest for Lapses {
    fn describe() -> Result<String, HandlerError> {
        Ok(json!({"name": "lapses", "version": "1"}).to_string())
    }

    fn init(_: String) -> Result<(), HandlerError> {
        Ok(())
    }

    fn iter_batches(
        input: String,
        checkpoint: Option<String>,
    ) -> Result<Option<String>, HandlerError> {
        let input: Value = serde_json::from_str(&input).unwrap_or_default();
        let lapse = input["input_inline"]["lapse"].as_str().unwrap_or_default().to_owned();
        RUN.with_borrow_mut(|run| run.lapse = lapse);
        be_deaf("iter-batches");
        fail_if("iter-batches")?;
        if has("unknown keys") && input.as_object().is_some_and(|keys| keys.len() > 3) {
            return Err(error("there is a key I do not know"));
        }
        let end = if has("endless") { 1_000 } else { 3 };
        let next = checkpoint.as_deref().and_then(|text| text.parse().ok());
        let left = match next {
            _ if has("no batch") => Vec::new(),
            Some(next) if has("skips") => (next + 1..3).collect(),
            Some(next) if has("repeats") => (next..3).chain(0..next).collect(),
            Some(next) => (next..end).collect(),
            // A run that is resumed without its checkpoint begins with the last batch.
            None if has("forgets") && resumed() => vec![2],
            None => (0..end).collect(),
        };
        RUN.with_borrow_mut(|run| run.left = left);
        Ok(None)
    }

    fn next_batch() -> Result<Option<Batch>, HandlerError> {
        be_deaf("next-batch");
        fail_if("next-batch")?;
        let next = RUN.with_borrow_mut(|run| (!run.left.is_empty()).then(|| run.left.remove(0)));
        let Some(n) = next else { return Ok(None) };
        let uid = match n {
            _ if has("new names") => format!("b{n}_{}", chance()),
            2 if has("one name twice") => "b0".to_owned(),
            n => format!("b{n}"),
        };
        let payload =
            if has("payload") { "no JSON".to_owned() } else { json!({"n": n}).to_string() };
        let uid = (!has("unnamed")).then_some(uid);
        Ok(Some(Batch { uid, payload }))
    }

    fn process_batch(batch: Batch) -> Result<String, HandlerError> {
        be_deaf("process-batch");
        fail_if("process-batch")?;
        assert!(!has("panic"), "the lapse is a panic");
        if has("memory") {
            let mut eaten = Vec::new();
            loop {
                eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        if has("noise") {
            (0..1_000).for_each(|n| host::log("info", &format!("line {n}")));
        }
        let payload: Value = serde_json::from_str(&batch.payload).unwrap_or_default();
        let n = payload["n"].as_u64().unwrap_or_default();
        if !has("no checkpoint") && !has("forgets") {
            host::save_checkpoint(&(n + 1).to_string())?;
        }
        host::upsert_partial(&batch.uid.unwrap_or_default(), &batch.payload)?;
        RUN.with_borrow_mut(|run| run.processed += 1);
        let metrics = match () {
            () if has("metrics") => json!({"metrics": {"list": [1]}}),
            () if has("chance") => json!({"metrics": {"batches": 1, "at": chance()}}),
            () => json!({"metrics": {"batches": 1}}),
        };
        Ok(metrics.to_string())
    }

    fn finalize() -> Result<String, HandlerError> {
        be_deaf("finalize");
        fail_if("finalize")?;
        let processed = RUN.with_borrow(|run| run.processed);
        let metrics = if has("memory of batches") { json!({"seen": processed}) } else { json!({}) };
        Ok(json!({"metrics": metrics}).to_string())
    }

    fn classify_error(error: HandlerError) -> Result<Classification, HandlerError> {
        assert!(!(has("panic at an error") && error.message.is_empty()), "no message");
        let reason_code = if has("reason code") { "Not A Code" } else { "lapse" };
        Ok(Classification { reason_code: reason_code.to_owned(), permanent: true })
    }

    fn cleanup() -> Result<(), HandlerError> {
        fail_if("cleanup")
    }
}

bindings::export!(Lapses with_types_in bindings);
