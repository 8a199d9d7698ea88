//! A handler that misbehaves on demand, for the tests of the plugin host.
//!
//! The run's `node_id` says where and how: `process-batch:loop`. Where no misbehaviour is
//! wanted it yields one batch named `b0` and returns `{"metrics": {"n": 1}}`.

mod attempts;
mod deeds;

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "handler-world" });
}

use std::cell::{Cell, RefCell};

use bindings::exports::flowkit::worker::handler::{Batch, Classification, Guest, HandlerError};

struct Rogue;

thread_local! {
    static NODE: RefCell<String> = const { RefCell::new(String::new()) };
    static YIELDED: Cell<u32> = const { Cell::new(0) };
}

/// The misbehaviour wanted of `function`, if any.
fn deed(function: &str) -> Option<String> {
    NODE.with_borrow(|node| {
        let (place, deed) = node.split_once(':')?;
        (place == function).then(|| deed.to_owned())
    })
}

/// Misbehaves if asked to, and otherwise returns `answer`.
fn answer(function: &str, answer: &str) -> Result<String, HandlerError> {
    match deed(function) {
        Some(deed) => deeds::perform(&deed),
        None => Ok(answer.to_owned()),
    }
}

impl Guest for Rogue {
    fn describe() -> Result<String, HandlerError> {
        // No run says what to do here: a test changes these bytes of the component.
        let deed = std::hint::black_box("describe:none____").trim_start_matches("describe:");
        if deed != "none____" {
            return deeds::perform(deed.trim_end_matches('_'));
        }
        Ok(r#"{"name": "rogue", "language": "rust", "unknown_key": [1]}"#.to_owned())
    }

    fn init(run_info: String) -> Result<(), HandlerError> {
        let start = run_info.find("\"node_id\":\"").map_or(0, |at| at + 11);
        let node = run_info[start..].split('"').next().unwrap_or_default();
        NODE.set(node.to_owned());
        answer("init", "").map(drop)
    }

    fn iter_batches(_: String, _: Option<String>) -> Result<Option<String>, HandlerError> {
        deed("iter-batches").map(|deed| deeds::perform(&deed)).transpose()
    }

    fn next_batch() -> Result<Option<Batch>, HandlerError> {
        let count = YIELDED.replace(YIELDED.get() + 1);
        let uid = match deed("next-batch").as_deref() {
            None => (count == 0).then(|| Some("b0".to_owned())),
            Some("endless") => Some(Some(format!("b{count}"))),
            Some("twice") => (count < 2).then(|| Some("same".to_owned())),
            Some("unnamed") => (count == 0).then_some(None),
            Some("empty-uid") => Some(Some(String::new())),
            Some("long-uid") => Some(Some("u".repeat(513))),
            Some("control-uid") => Some(Some("a\0b".to_owned())),
            Some(deed) => {
                let payload = deeds::perform(deed)?;
                return Ok(Some(Batch { uid: Some("b0".to_owned()), payload }));
            }
        };
        Ok(uid.map(|uid| Batch { uid, payload: "{}".to_owned() }))
    }

    fn process_batch(_: Batch) -> Result<String, HandlerError> {
        answer("process-batch", r#"{"metrics": {"n": 1}}"#)
    }

    fn finalize() -> Result<String, HandlerError> {
        answer("finalize", "{}")
    }

    fn classify_error(error: HandlerError) -> Result<Classification, HandlerError> {
        let reason_code = match deed("classify-error").as_deref() {
            None => "rogue".to_owned(),
            Some("bad-code") => "Not A Code".to_owned(),
            Some("error") => return Err(error),
            Some(deed) => deeds::perform(deed)?,
        };
        Ok(Classification { reason_code, permanent: true })
    }

    fn cleanup() -> Result<(), HandlerError> {
        answer("cleanup", "").map(drop)
    }
}

// Natively the exports' names are no symbols that a linker takes.
#[cfg(target_family = "wasm")]
bindings::export!(Rogue with_types_in bindings);
