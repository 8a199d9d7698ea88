//! One batch that returns its input: the smallest handler that does everything.
//!
//! The batch's metrics are the input's plain values, its artifact and the run's payload
//! are the whole input.

use flowkit_sdk::prelude::*;
use serde_json::{Map, Value, json};

#[derive(Default)]
struct Echo {
    input: Value,
}

impl Handler for Echo {
    type Input = Value;
    type Batch = Value;
    type Output = Map<String, Value>;
    type Checkpoint = ();

    fn iter_batches(&mut self, input: Value, _: Option<()>) -> Result<Batches<Value>> {
        self.input = input.clone();
        Ok(Batches::one(Batch::new("echo", input)))
    }

    fn process_batch(&mut self, input: Value, ctx: &RunContext<Self>) -> Result<Self::Output> {
        let Value::Object(mut fields) = input else {
            ctx.upsert_partial(&json!({"input": input}))?;
            return Ok(Map::new());
        };
        ctx.upsert_partial(&fields)?;
        fields.retain(|_, value| !value.is_object() && !value.is_array());
        Ok(fields)
    }

    fn finalize(&mut self) -> Result<Finalization> {
        Finalization::default().with_payload(&self.input)
    }
}

export!(Echo);

#[cfg(test)]
mod tests {
    use flowkit_sdk::testing::TestRun;

    use super::*;

    #[test]
    fn returns_its_input() {
        let input = json!({"n": 1, "text": "Ω", "list": [1, {"deep": null}]});
        let run = TestRun::<Echo>::new(input.clone()).run().unwrap();
        assert_eq!(run.finalized.unwrap()["payload"], input);
        let batch = &run.batches[0];
        assert_eq!(batch.partial.as_ref(), Some(&input));
        assert_eq!(Value::Object(batch.metrics.clone()), json!({"n": 1, "text": "Ω"}));
    }

    #[test]
    fn input_need_not_be_an_object() {
        let run = TestRun::<Echo>::new(json!([1, 2])).run().unwrap();
        assert_eq!(run.batches[0].partial, Some(json!({"input": [1, 2]})));
    }
}
