//! A batch word count: the lines of a text, in batches.

use std::time::Duration;

use flowkit_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Default, Clone, Deserialize)]
struct Input {
    text: String,
    batch_lines: Option<usize>,
    fail_at: Option<usize>,
    permanent: Option<bool>,
    sleep_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Lines {
    lines: Vec<String>,
}

#[derive(Default, Serialize)]
struct Counts {
    lines: usize,
    words: usize,
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct Checkpoint {
    next: usize,
}

#[derive(Default)]
struct WordCount(Input);

impl Handler for WordCount {
    type Input = Input;
    type Batch = Lines;
    type Output = Counts;
    type Checkpoint = Checkpoint;

    fn iter_batches(&mut self, input: Input, from: Option<Checkpoint>) -> Result<Batches<Lines>> {
        self.0 = input.clone();
        let size = input.batch_lines.unwrap_or(10);
        if size == 0 {
            return Err(Error::invalid("`batch_lines` is below 1"));
        }
        let lines: Vec<_> = input.text.split_terminator('\n').map(str::to_owned).collect();
        let starts = (0..lines.len()).step_by(size).enumerate();
        Ok(Batches::new(starts.skip(from.map_or(0, |c| c.next)).map(move |(k, start)| {
            let end = lines.len().min(start + size);
            Batch::new(format!("b{k}"), Lines { lines: lines[start..end].to_vec() })
        })))
    }

    fn process_batch(&mut self, batch: Lines, ctx: &RunContext<Self>) -> Result<Counts> {
        check_cancelled()?;
        if let Some(ms) = self.0.sleep_ms
            && sleep(Duration::from_millis(ms))
        {
            check_cancelled()?;
        }
        let number: usize = ctx.uid()[1..].parse()?;
        if self.0.fail_at == Some(number) {
            let poison = format!("batch {} is poisoned", ctx.uid());
            return Err(match self.0.permanent {
                Some(true) => Error::permanent("poison", poison),
                _ => Error::transient("poison", poison),
            });
        }
        let mut counts = Counts::default();
        for line in &batch.lines {
            counts.lines += 1;
            counts.words += line.split_ascii_whitespace().count();
            counts.bytes += line.len();
        }
        ctx.upsert_partial(&counts)?;
        ctx.save_checkpoint(&Checkpoint { next: number + 1 })?;
        Ok(counts)
    }
}

export!(WordCount);
