//! Counts the words of a text, in batches of lines.

use std::time::Duration;

use flowkit_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Default, Deserialize)]
struct Input {
    text: String,
    batch_lines: Option<usize>,
    fail_at: Option<usize>,
    #[serde(default)]
    permanent: bool,
    #[serde(default)]
    sleep_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Lines {
    k: usize,
    lines: Vec<String>,
}

#[derive(Default)]
struct WordCount(Input);

impl Handler for WordCount {
    type Input = Input;
    type Batch = Lines;
    type Output = Value;
    type Checkpoint = usize;

    fn iter_batches(&mut self, input: Input, first: Option<usize>) -> Result<Batches<Lines>> {
        let size = input.batch_lines.unwrap_or(10);
        if size == 0 {
            return Err(Error::invalid("`batch_lines` is below 1"));
        }
        let lines: Vec<_> = input.text.split_terminator('\n').map(String::from).collect();
        self.0 = input;
        let starts = (0..lines.len()).step_by(size).enumerate().skip(first.unwrap_or(0));
        Ok(Batches::new(starts.map(move |(k, start)| {
            let end = lines.len().min(start + size);
            Batch::new(format!("b{k}"), Lines { k, lines: lines[start..end].to_vec() })
        })))
    }

    fn process_batch(&mut self, batch: Lines, ctx: &RunContext<Self>) -> Result<Value> {
        pause(Duration::from_millis(self.0.sleep_ms))?; // an error when the run is cancelled
        if self.0.fail_at == Some(batch.k) {
            let poison = format!("batch {} is poisoned", ctx.uid());
            return Err(Error::new("poison", self.0.permanent, poison));
        }
        let sizes = batch.lines.iter().map(String::len);
        let words = batch.lines.iter().map(|line| line.split_ascii_whitespace().count());
        // What the nodes after this one see beside the metrics, and where to go on after a crash.
        ctx.upsert_partial(&json!({"longest": sizes.clone().max()}))?;
        ctx.save_checkpoint(&(batch.k + 1))?;
        Ok(
            json!({"lines": sizes.len(), "words": words.sum::<usize>(), "bytes": sizes.sum::<usize>()}),
        )
    }
}

export!(WordCount);
