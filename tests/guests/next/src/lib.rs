//! A word count for the world of `wit/next`, for the tests of the plugin host. The input's
//! `lines` are a batch each; a line that is `bad` fails, `loop` never ends, and `not-json`
//! gives metrics that are no JSON.

#![cfg(target_family = "wasm")]

use std::cell::RefCell;
use std::collections::VecDeque;

use bindings::exports::flowkit::worker::handler::{Batch, Done, Failure, Guest, Outcome, Source};
use bindings::flowkit::worker::host::{self, Level};
use serde_json::{Value, json};

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit/next", world: "handler-world" });
}

thread_local! {
    static LINES: RefCell<VecDeque<(usize, String)>> = const { RefCell::new(VecDeque::new()) };
}

struct Words;

fn failure(reason_code: &str, message: impl ToString) -> Failure {
    let (message, reason_code) = (message.to_string(), reason_code.to_owned());
    Failure { message, reason_code, permanent: true }
}

fn parsed(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| failure("validation_error", error))
}

impl Guest for Words {
    fn about() -> String {
        json!({"name": "next", "version": "2.0.0", "language": "rust"}).to_string()
    }

    fn start(_: String, input: String, checkpoint: Option<String>) -> Result<Source, Failure> {
        let input = parsed(&input)?;
        let done = checkpoint.as_deref().map(parsed).transpose()?;
        let done = done.and_then(|done| done.as_u64()).unwrap_or(0);
        let inline = &input["input_inline"];
        if !inline["adapter"].is_null() {
            return Ok(Source::Adapter(inline["adapter"].to_string()));
        }
        let lines = inline["lines"].as_array().cloned().unwrap_or_default();
        let lines = lines.iter().filter_map(Value::as_str).map(str::to_owned).enumerate();
        LINES.set(lines.skip(usize::try_from(done).unwrap_or(0)).collect());
        Ok(Source::Handler)
    }

    fn batches(most: u32) -> Result<Vec<Batch>, Failure> {
        let most = usize::try_from(most).unwrap_or(1);
        let taken: Vec<_> =
            LINES.with_borrow_mut(|lines| lines.drain(..most.min(lines.len())).collect());
        let batch = |(number, text): (usize, String)| Batch {
            uid: Some(format!("line_{number}")),
            payload: json!({"number": number, "text": text}).to_string(),
        };
        Ok(taken.into_iter().map(batch).collect())
    }

    fn process(batch: Batch) -> Result<Outcome, Failure> {
        let line = parsed(&batch.payload)?;
        let text = line["text"].as_str().unwrap_or_default();
        match text {
            "bad" => return Err(failure("bad_line", "a line is bad")),
            "loop" => loop {
                std::hint::spin_loop();
            },
            "not-json" => {
                let metrics = r#"{}, "metrics": {"words": 1000}"#.to_owned();
                return Ok(Outcome { metrics, artifact: None, checkpoint: None });
            }
            _ => {}
        }
        if host::stopping().is_some() || host::pause(1) {
            return Err(failure("stopped", "the run is not wanted any more"));
        }
        let words = text.split_whitespace().count();
        host::log(Level::Info, &format!("{words} words"));
        Ok(Outcome {
            metrics: json!({"lines": 1, "words": words}).to_string(),
            artifact: Some(json!({"words": words}).to_string()),
            checkpoint: Some(json!(line["number"].as_u64().unwrap_or(0) + 1).to_string()),
        })
    }

    fn finish() -> Result<Done, Failure> {
        let payload = json!({"totals": parsed(&host::totals())?}).to_string();
        Ok(Done { metrics: json!({"tasks": 1}).to_string(), payload: Some(payload) })
    }

    fn stop() {
        LINES.take();
    }
}

bindings::export!(Words with_types_in bindings);
