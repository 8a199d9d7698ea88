//! Adds up what `textstats` left behind: totals, and the same for each file extension.
//!
//! Batches come through `pull.from_artifacts.rechunk:size` with the list `items`. The
//! command usually names the adapter; otherwise the input's `from_nodes` (default
//! `["textstats"]`) does. The sums are the worker's (`run_totals`), so a resume loses none.

use std::collections::BTreeMap;

use flowkit_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Input {
    /// Whose artifacts to read when the command names no adapter.
    #[serde(default = "textstats")]
    from_nodes: Vec<String>,
    /// Items in a batch then.
    #[serde(default = "hundred")]
    size: u32,
}

fn textstats() -> Vec<String> {
    vec!["textstats".to_owned()]
}

fn hundred() -> u32 {
    100
}

#[derive(Serialize, Deserialize)]
struct Item {
    ext: String,
    files: u64,
    lines: u64,
    words: u64,
    bytes: u64,
}

#[derive(Default)]
struct Report;

impl Handler for Report {
    type Input = Input;
    type Batch = Chunk<Item>;
    type Output = BTreeMap<String, u64>;
    type Checkpoint = ();

    fn iter_batches(&mut self, input: Input, _: Option<()>) -> Result<Batches<Chunk<Item>>> {
        Ok(Pull::from_nodes(input.from_nodes).rechunk(input.size, "items").into())
    }

    fn process_batch(
        &mut self,
        chunk: Chunk<Item>,
        _: &RunContext<Self>,
    ) -> Result<BTreeMap<String, u64>> {
        let mut sums = BTreeMap::new();
        for Item { ext, files, lines, words, bytes } in chunk.items {
            let counts = [("files", files), ("lines", lines), ("words", words), ("bytes", bytes)];
            for (what, count) in counts {
                *sums.entry(what.to_owned()).or_default() += count;
                *sums.entry(format!("{what}_{ext}")).or_default() += count;
            }
        }
        Ok(sums)
    }

    fn finalize(&mut self) -> Result<Finalization> {
        let totals: Map<String, Value> = run_totals()?;
        let mut by_extension: BTreeMap<&str, BTreeMap<&str, &Value>> = BTreeMap::new();
        let mut all = Map::new();
        for (name, count) in &totals {
            match name.split_once('_') {
                Some((what, ext)) => {
                    by_extension.entry(ext).or_default().insert(what, count);
                }
                None => {
                    all.insert(name.clone(), count.clone());
                }
            }
        }
        Finalization::metrics(&all)?.with_payload(&by_extension)
    }
}

export!(Report);
