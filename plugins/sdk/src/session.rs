//! One run of a handler, text in and text out: what the component's exports and the native
//! test worker share.

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::batches::{Batch, Source};
use crate::error::{Error, Result, ResultExt};
use crate::handler::{Handler, RunContext};

thread_local! {
    /// An instance serves one run at a time, so there is one command.
    static COMMAND: RefCell<Value> = const { RefCell::new(Value::Null) };
}

pub(crate) fn command() -> Value {
    COMMAND.with_borrow(Clone::clone)
}

type BatchIter<T> = Box<dyn Iterator<Item = Result<Batch<T>>>>;

/// A handler between `init` and `cleanup`.
pub struct Session<H: Handler> {
    handler: H,
    batches: Option<BatchIter<H::Batch>>,
}

impl<H: Handler> Session<H> {
    pub(crate) fn init(run_info: &str) -> Result<Self> {
        let run = serde_json::from_str(run_info).context("run info")?;
        let mut handler = H::default();
        handler.init(&run)?;
        Ok(Self { handler, batches: None })
    }

    pub(crate) fn iter_batches(
        &mut self,
        input: &str,
        checkpoint: Option<&str>,
    ) -> Result<Option<String>> {
        let command: Value = serde_json::from_str(input).context("the command's input")?;
        let typed = typed_input(&command)?;
        COMMAND.set(command);
        let checkpoint = checkpoint.map(serde_json::from_str).transpose().context("checkpoint")?;
        match self.handler.iter_batches(typed, checkpoint)?.0 {
            Source::Own(batches) => {
                self.batches = Some(batches);
                Ok(None)
            }
            Source::Adapter(proposal) => Ok(Some(serde_json::to_string(&proposal)?)),
        }
    }

    pub(crate) fn next_batch(&mut self) -> Result<Option<(Option<String>, String)>> {
        let Some(batch) = self.batches.as_mut().and_then(Iterator::next) else { return Ok(None) };
        let batch = batch?;
        let payload = serde_json::to_string(&batch.payload).context("a batch's payload")?;
        Ok(Some((batch.uid, payload)))
    }

    pub(crate) fn process_batch(&mut self, uid: String, payload: &str) -> Result<String> {
        let batch = serde_json::from_str(payload)
            .map_err(|e| Error::invalid(e.to_string()).context(format!("batch `{uid}`")))?;
        let ctx = RunContext::new(uid);
        let metrics = serde_json::to_string(&self.handler.process_batch(batch, &ctx)?)?;
        match metrics.as_str() {
            "null" => Ok("{}".to_owned()),
            object if object.starts_with('{') => Ok(format!(r#"{{"metrics":{object}}}"#)),
            _ => Err(Error::permanent(
                "bad_output",
                "process_batch's output must serialize to a JSON object",
            )),
        }
    }

    pub(crate) fn finalize(&mut self) -> Result<String> {
        Ok(serde_json::to_string(&self.handler.finalize()?)?)
    }

    pub(crate) fn cleanup(mut self) -> Result<()> {
        self.handler.cleanup()
    }
}

/// `input_inline` as the handler's type. An absent one is an empty object to a struct and
/// null to types that only null fits, such as `()`.
fn typed_input<T: DeserializeOwned>(command: &Value) -> Result<T> {
    let inline = command.get("input_inline").unwrap_or(&Value::Null);
    let typed = if inline.is_null() {
        T::deserialize(Value::Object(Map::new())).or_else(|e| T::deserialize(inline).or(Err(e)))
    } else {
        T::deserialize(inline)
    };
    typed.context("input_inline")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Defaults {
        n: u8,
    }

    #[test]
    fn absent_input_is_an_empty_object() {
        for command in [json!({}), json!({"input_inline": null})] {
            assert_eq!(typed_input::<Defaults>(&command).unwrap(), Defaults { n: 0 });
            assert_eq!(typed_input::<Value>(&command).unwrap(), json!({}));
            typed_input::<()>(&command).unwrap();
        }
        assert_eq!(typed_input::<Defaults>(&json!({"input_inline": {"n": 7}})).unwrap().n, 7);
    }

    #[test]
    fn wrong_input_is_permanent_and_says_where() {
        let error = typed_input::<Defaults>(&json!({"input_inline": {"n": "x"}})).unwrap_err();
        assert_eq!((error.reason_code(), error.is_permanent()), ("validation_error", true));
        assert!(error.message().starts_with("input_inline: "), "{error}");
    }
}
