//! A handler that does nothing, slowly or wrongly: for demonstrations and fault tests.
//!
//! Batches `step_0`, `step_1`, … each take `ms` milliseconds, save a checkpoint, write an
//! artifact and report the metric `steps: 1`.

use std::hint::{black_box, spin_loop};
use std::time::{Duration, Instant};

use flowkit_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// Every key is optional.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    /// How many batches.
    count: u32,
    /// How long each takes.
    ms: u64,
    /// Burn CPU for that long instead of waiting.
    spin: bool,
    /// The step that fails with the reason code `step_failed`.
    fail_at: Option<u32>,
    /// Whether that failure is permanent.
    permanent: bool,
    /// The step that panics.
    panic_at: Option<u32>,
    /// The step that loops forever and never looks at the cancel flag.
    loop_at: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct Step {
    step: u32,
}

#[derive(Serialize)]
struct Done {
    steps: u32,
}

#[derive(Default)]
struct Steps {
    input: Input,
}

impl Handler for Steps {
    type Input = Input;
    type Batch = Step;
    type Output = Done;
    type Checkpoint = Step;

    fn iter_batches(&mut self, input: Input, next: Option<Step>) -> Result<Batches<Step>> {
        let first = next.map_or(0, |checkpoint| checkpoint.step);
        let steps = first..input.count;
        self.input = input;
        Ok(Batches::new(steps.map(|step| Batch::new(format!("step_{step}"), Step { step }))))
    }

    fn process_batch(&mut self, batch: Step, ctx: &RunContext<Self>) -> Result<Done> {
        let Step { step } = batch;
        self.misbehave(step)?;
        self.work()?;
        ctx.upsert_partial(&batch)?;
        ctx.save_checkpoint(&Step { step: step + 1 })?;
        Ok(Done { steps: 1 })
    }
}

impl Steps {
    fn misbehave(&self, step: u32) -> Result<()> {
        let here = Some(step);
        if self.input.loop_at == here {
            loop {
                spin_loop();
            }
        }
        assert!(self.input.panic_at != here, "step {step} panics, as its input asks");
        if self.input.fail_at != here {
            return Ok(());
        }
        let message = format!("step {step} fails, as its input asks");
        Err(match self.input.permanent {
            true => Error::permanent("step_failed", message),
            false => Error::transient("step_failed", message),
        })
    }

    fn work(&self) -> Result<()> {
        let duration = Duration::from_millis(self.input.ms);
        if self.input.spin {
            return burn(duration);
        }
        sleep(duration);
        check_cancelled()
    }
}

fn burn(duration: Duration) -> Result<()> {
    let start = Instant::now();
    let mut sum = 0u64;
    while start.elapsed() < duration {
        check_cancelled()?;
        for i in 0..100_000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(i));
        }
    }
    Ok(())
}

export!(Steps);

#[cfg(test)]
mod tests {
    use flowkit_sdk::testing::TestRun;
    use serde_json::json;

    use super::*;

    #[test]
    fn takes_its_steps() {
        let run = TestRun::<Steps>::new(json!({"count": 3, "ms": 20})).run().unwrap();
        let uids: Vec<_> = run.batches.iter().map(|b| b.uid.as_str()).collect();
        assert_eq!(uids, ["step_0", "step_1", "step_2"]);
        assert_eq!(run.totals["steps"], 3);
        assert_eq!(run.slept, Duration::from_millis(60));
        assert_eq!(run.checkpoint, Some(json!({"step": 3})));
        assert_eq!(run.batches[1].partial, Some(json!({"step": 1})));
    }

    #[test]
    fn no_input_is_no_steps() {
        assert!(TestRun::<Steps>::new(json!(null)).run().unwrap().batches.is_empty());
    }

    #[test]
    fn goes_on_from_its_checkpoint() {
        let input = json!({"count": 5, "ms": 10});
        let crashed = TestRun::<Steps>::new(input.clone()).stop_after(2).run().unwrap();
        let whole = TestRun::<Steps>::new(input).resume(crashed).run().unwrap();
        assert_eq!(whole.totals["steps"], 5);
        assert_eq!(whole.slept, Duration::from_millis(50), "no step was taken twice");
    }

    #[test]
    fn fails_where_it_should() {
        for permanent in [true, false] {
            let input = json!({"count": 5, "fail_at": 2, "permanent": permanent});
            let error = TestRun::<Steps>::new(input).run().unwrap_err();
            assert_eq!((error.reason_code(), error.is_permanent()), ("step_failed", permanent));
        }
    }

    #[test]
    #[should_panic(expected = "step 1 panics")]
    fn panics_where_it_should() {
        let _ = TestRun::<Steps>::new(json!({"count": 2, "panic_at": 1})).run();
    }

    #[test]
    fn stops_when_cancelled() {
        for spin in [true, false] {
            let input = json!({"count": 5, "ms": 60_000, "spin": spin});
            let error = TestRun::<Steps>::new(input).cancel_after(0).run().unwrap_err();
            assert_eq!(error.reason_code(), "cancelled");
        }
    }
}
