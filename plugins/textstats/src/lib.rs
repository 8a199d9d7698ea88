//! Counts the lines, words and bytes of a directory's text files, as `wc` would.
//!
//! Input: `{"dir": "/data", "hidden": false, "skip": ["target"]}`. `dir` is a path that the
//! worker's config grants. A batch is at most 1,000 lines of one file; its metrics are
//! `files`, `lines`, `words`, `bytes` and, under the file's extension, `lines_rs`,
//! `words_rs`, `bytes_rs`. Files that are not UTF-8 or cannot be read are left out: the
//! metric `skipped_files` counts them, the run's payload names the first.

mod count;
mod pieces;
mod scan;
mod skips;
mod tally;
mod walk;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use flowkit_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::count::{Counter, Counts};
use crate::pieces::{Piece, Pieces, Position};
use crate::scan::Window;
use crate::skips::Skips;
use crate::tally::{Extensions, Item, Metrics};
use crate::walk::Filter;

#[derive(Deserialize)]
struct Input {
    /// The directory, as the guest sees it.
    dir: PathBuf,
    /// Whether names that begin with a dot are taken.
    #[serde(default)]
    hidden: bool,
    /// Names left out wherever they occur.
    #[serde(default = "build_output")]
    skip: Vec<String>,
}

fn build_output() -> Vec<String> {
    vec!["target".to_owned()]
}

#[derive(Serialize, Deserialize)]
struct Checkpoint {
    position: Position,
    skipped: Skips,
}

#[derive(Default)]
struct TextStats {
    dir: PathBuf,
    /// What was left out before the pieces processed so far.
    skipped: Skips,
    /// What was left out after the last piece.
    tail: Rc<RefCell<Skips>>,
    extensions: Option<Extensions>,
    /// The file of the last piece: the next one is probably in it too.
    open: Option<(String, Window)>,
}

impl Handler for TextStats {
    type Input = Input;
    type Batch = Piece;
    type Output = Metrics;
    type Checkpoint = Checkpoint;

    fn iter_batches(
        &mut self,
        input: Input,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Batches<Piece>> {
        let Input { dir, hidden, skip } = input;
        self.dir = dir.clone();
        let position = checkpoint.map(|Checkpoint { position, skipped }| {
            self.skipped = skipped;
            position
        });
        let pieces = Pieces::new(dir, Filter { hidden, skip }, position.as_ref()).context(
            format!("listing {} (does the worker's config grant it?)", self.dir.display()),
        )?;
        self.tail = pieces.tail();
        Ok(Batches::new(pieces))
    }

    fn process_batch(&mut self, piece: Piece, ctx: &RunContext<Self>) -> Result<Metrics> {
        self.skipped.extend(piece.skipped.clone());
        let mut lost = Skips::default();
        let (item, in_word) = self.count(&piece, &mut lost)?;
        let mut metrics = item.metrics();
        let skipped = piece.skipped.count + lost.count;
        if skipped > 0 {
            metrics.insert("skipped_files".to_owned(), skipped);
        }
        self.skipped.extend(lost);
        ctx.upsert_partial(&json!({"items": [item]}))?;
        let Piece { path, offset, length, size, .. } = piece;
        let position = Position { path, offset: offset + length, size, in_word };
        ctx.save_checkpoint(&Checkpoint { position, skipped: self.skipped.clone() })?;
        Ok(metrics)
    }

    fn finalize(&mut self) -> Result<Finalization> {
        let totals: Map<String, Value> = run_totals()?;
        let before = totals.get("skipped_files").and_then(Value::as_u64).unwrap_or(0);
        let tail = self.tail.take();
        let count = before + tail.count;
        let mut files = std::mem::take(&mut self.skipped);
        files.extend(tail);
        let unnamed = count - files.files.len() as u64;
        Finalization::metrics(&json!({"skipped_files": count}))?
            .with_payload(&json!({"skipped": files.files, "skipped_unnamed": unnamed}))
    }
}

impl TextStats {
    /// Counts a piece; what is gone by now is `lost`. True when it ends inside a word.
    fn count(&mut self, piece: &Piece, lost: &mut Skips) -> Result<(Item, bool)> {
        let extensions = match &mut self.extensions {
            Some(extensions) => extensions,
            None => {
                let totals: Map<String, Value> = run_totals()?;
                self.extensions.insert(Extensions::resume(totals.keys()))
            }
        };
        let mut item = Item {
            ext: extensions.name(&piece.path),
            files: u64::from(piece.offset == 0),
            counts: Counts::default(),
        };
        match self.read(piece) {
            Ok(counter) => {
                item.counts = counter.counts();
                if item.counts.bytes < piece.length {
                    lost.add(&piece.path, "it shrank while it was counted".to_owned());
                }
                Ok((item, counter.in_word()))
            }
            Err(error) => {
                item.files = 0;
                lost.add(&piece.path, format!("it changed while it was counted: {error}"));
                Ok((item, false))
            }
        }
    }

    fn read(&mut self, piece: &Piece) -> io::Result<Counter> {
        let mut window = match self.open.take() {
            Some((path, window)) if path == piece.path => window,
            _ => Window::open(&self.dir.join(&piece.path))?,
        };
        let counter = window.count(piece.span())?;
        self.open = Some((piece.path.clone(), window));
        Ok(counter)
    }
}

export!(TextStats);

#[cfg(test)]
mod tests;
