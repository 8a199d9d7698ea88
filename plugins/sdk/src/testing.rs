//! Runs a handler natively: a worker in miniature for a plain `#[test]`.
//!
//! It keeps a worker's order and rules (checkpoints and artifacts take effect with their
//! batch, a resume starts a fresh handler), so a crash is two runs:
//!
//! ```
//! # use flowkit_sdk::prelude::*;
//! # #[derive(Default)]
//! # struct Double;
//! # impl Handler for Double {
//! #     type Input = Vec<u64>;
//! #     type Batch = u64;
//! #     type Output = std::collections::BTreeMap<String, u64>;
//! #     type Checkpoint = ();
//! #     fn iter_batches(&mut self, input: Vec<u64>, _: Option<()>) -> Result<Batches<u64>> {
//! #         Ok(Batches::new(input.into_iter().map(|n| Batch::new(format!("n{n}"), n))))
//! #     }
//! #     fn process_batch(&mut self, n: u64, _: &RunContext<Self>) -> Result<Self::Output> {
//! #         Ok([("double".to_owned(), 2 * n)].into())
//! #     }
//! # }
//! use flowkit_sdk::testing::TestRun;
//! use serde_json::json;
//!
//! let input = json!([1, 2, 3, 4]);
//! let crashed = TestRun::<Double>::new(input.clone()).stop_after(3).run()?;
//! let whole = TestRun::<Double>::new(input).resume(crashed).run()?;
//! assert_eq!(whole.totals["double"], 20);
//! # Ok::<(), flowkit_sdk::Error>(())
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::marker::PhantomData;
use std::time::Duration;

use serde_json::{Map, Number, Value, json};

use crate::error::{Error, Result};
use crate::handler::{Handler, RunInfo};
use crate::session::Session;

/// A run to be made.
#[derive(Debug)]
pub struct TestRun<H> {
    input: Value,
    upstream: Vec<(String, Value)>,
    stop_after: Option<usize>,
    cancel_after: Option<usize>,
    before: Outcome,
    handler: PhantomData<H>,
}

/// What a run left behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The batches that finished, in order, those before a resume first.
    pub batches: Vec<Finished>,
    /// Their numeric metrics, summed.
    pub totals: Map<String, Value>,
    /// The last checkpoint that took effect.
    pub checkpoint: Option<Value>,
    /// What the handler asked for instead of batches of its own.
    pub proposal: Option<Value>,
    /// What `finalize` returned; none for a run that was stopped before.
    pub finalized: Option<Value>,
    /// The log, as `level: message`.
    pub log: Vec<String>,
    /// How long the handler slept; no real time passes.
    pub slept: Duration,
}

/// A finished batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Its name; `unnamed-N` if the handler gave none.
    pub uid: String,
    /// What `process_batch` received.
    pub payload: Value,
    /// What it returned.
    pub metrics: Map<String, Value>,
    /// What it wrote with `upsert_partial`.
    pub partial: Option<Value>,
}

impl<H: Handler> TestRun<H> {
    /// A first attempt with this `input_inline`.
    pub fn new(input_inline: Value) -> Self {
        Self {
            input: input_inline,
            upstream: Vec::new(),
            stop_after: None,
            cancel_after: None,
            before: Outcome::default(),
            handler: PhantomData,
        }
    }

    /// Names and payloads of the batches an adapter delivers, used when the handler asks
    /// for one.
    #[must_use]
    pub fn upstream(mut self, batches: Vec<(String, Value)>) -> Self {
        self.upstream = batches;
        self
    }

    /// Ends as if the worker had been killed after `batches` more finished batches.
    #[must_use]
    pub fn stop_after(mut self, batches: usize) -> Self {
        self.stop_after = Some(batches);
        self
    }

    /// Sets the cancel flag after `batches` more finished batches; processing goes on, so
    /// that what the handler does about it is seen.
    #[must_use]
    pub fn cancel_after(mut self, batches: usize) -> Self {
        self.cancel_after = Some(batches);
        self
    }

    /// Goes on where another run stopped.
    #[must_use]
    pub fn resume(mut self, before: Outcome) -> Self {
        self.before = before;
        self
    }

    /// Makes the run. An error is what the worker would classify and report; a batch that
    /// the handler yields twice is one too.
    pub fn run(self) -> Result<Outcome> {
        let resumed = self.before != Outcome::default();
        let info = RunInfo {
            task_id: "test-task".to_owned(),
            node_id: "test-node".to_owned(),
            role: "test".to_owned(),
            attempt_epoch: 1,
            worker_id: "test-worker".to_owned(),
            resumed,
        };
        let info = serde_json::to_string(&info)?;
        WORKER.set(Worker { info: info.clone(), ..Worker::default() });
        let mut session = Session::<H>::init(&info)?;
        let outcome = self.drive(&mut session);
        session.cleanup()?;
        let worker = WORKER.take();
        let mut outcome = outcome?;
        outcome.log.extend(worker.log);
        outcome.slept += worker.slept;
        Ok(outcome)
    }

    fn drive(self, session: &mut Session<H>) -> Result<Outcome> {
        let mut outcome = self.before;
        let input = json!({"input_ref": null, "input_inline": self.input, "batching": null});
        let checkpoint = outcome.checkpoint.as_ref().map(Value::to_string);
        let proposal = session.iter_batches(&input.to_string(), checkpoint.as_deref())?;
        outcome.proposal = proposal.as_deref().map(serde_json::from_str).transpose()?;
        WORKER.with_borrow_mut(|w| w.totals = outcome.totals.clone());

        let finished: HashSet<String> = outcome.batches.iter().map(|b| b.uid.clone()).collect();
        let mut seen = HashSet::new();
        let mut upstream = self.upstream.into_iter();
        let mut done = 0;
        while self.stop_after != Some(done) {
            if self.cancel_after == Some(done) {
                WORKER.with_borrow_mut(|w| w.cancelled = true);
            }
            let next = match &outcome.proposal {
                Some(_) => upstream.next().map(|(uid, payload)| (Some(uid), payload.to_string())),
                None => session.next_batch()?,
            };
            let Some((uid, payload)) = next else {
                outcome.finalized = Some(serde_json::from_str(&session.finalize()?)?);
                break;
            };
            let uid = uid.unwrap_or_else(|| format!("unnamed-{}", seen.len()));
            if !seen.insert(uid.clone()) {
                return Err(Error::permanent("duplicate_batch_uid", uid));
            }
            if finished.contains(&uid) {
                continue;
            }
            process(session, uid, &payload, &mut outcome)?;
            done += 1;
        }
        Ok(outcome)
    }
}

fn process<H: Handler>(
    session: &mut Session<H>,
    uid: String,
    payload: &str,
    outcome: &mut Outcome,
) -> Result<()> {
    WORKER.with_borrow_mut(|w| {
        w.batch = Some(uid.clone());
        w.partial = None;
        w.checkpoint = None;
    });
    let output: Value = serde_json::from_str(&session.process_batch(uid.clone(), payload)?)?;
    let metrics = output.get("metrics").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, value) in &metrics {
        if let Value::Number(number) = value {
            let total = outcome.totals.entry(name).or_insert_with(|| json!(0));
            *total = sum(total, number);
        }
    }
    let partial = WORKER.with_borrow_mut(|w| {
        w.batch = None;
        w.totals = outcome.totals.clone();
        outcome.checkpoint = w.checkpoint.take().or(outcome.checkpoint.take());
        w.partial.take()
    });
    let payload = serde_json::from_str(payload)?;
    outcome.batches.push(Finished { uid, payload, metrics, partial });
    Ok(())
}

fn sum(total: &Value, number: &Number) -> Value {
    match (total.as_i64(), number.as_i64()) {
        (Some(a), Some(b)) => json!(a + b),
        _ => json!(total.as_f64().unwrap_or(0.0) + number.as_f64().unwrap_or(0.0)),
    }
}

#[derive(Default)]
struct Worker {
    info: String,
    totals: Map<String, Value>,
    cancelled: bool,
    batch: Option<String>,
    checkpoint: Option<Value>,
    partial: Option<Value>,
    log: Vec<String>,
    slept: Duration,
}

/// Gives the handlers of this thread's runs the documents of a collection. Every query of
/// it reads them all, in this order, up to its limit: filters, projections and sorting are
/// the database's.
pub fn give_documents(collection: &str, documents: Vec<Value>) {
    COLLECTIONS.with_borrow_mut(|all| all.insert(collection.to_owned(), documents));
}

thread_local! {
    static COLLECTIONS: RefCell<BTreeMap<String, Vec<Value>>> = RefCell::default();
    /// What open cursors have not given out, and their page sizes.
    static CURSORS: RefCell<BTreeMap<u32, (Vec<Value>, usize)>> = RefCell::default();
}

/// The imports of `documents`.
pub(crate) mod documents {
    use serde_json::Value;

    use super::{COLLECTIONS, CURSORS};
    use crate::error::{Error, Result};

    pub(crate) fn open(collection: &str, query: &str) -> Result<u32> {
        let query: Value = serde_json::from_str(query)?;
        let size = |key: &str| query[key].as_u64().and_then(|n| usize::try_from(n).ok());
        let found = COLLECTIONS.with_borrow(|all| all.get(collection).cloned());
        let mut documents = found.ok_or_else(|| {
            let text = format!("no test gave documents of `{collection}`");
            Error::permanent("documents_refused", text)
        })?;
        documents.truncate(size("limit").unwrap_or(usize::MAX));
        CURSORS.with_borrow_mut(|open| {
            let id = open.last_key_value().map_or(1, |(last, _)| last + 1);
            open.insert(id, (documents, size("batch_size").unwrap_or(100).max(1)));
            Ok(id)
        })
    }

    pub(crate) fn next(cursor: u32) -> Result<Option<String>> {
        CURSORS.with_borrow_mut(|open| {
            let (documents, size) = open
                .get_mut(&cursor)
                .ok_or_else(|| Error::permanent("bad_cursor", "the cursor is closed"))?;
            let page: Vec<Value> = documents.drain(..documents.len().min(*size)).collect();
            if page.is_empty() {
                open.remove(&cursor);
                return Ok(None);
            }
            Ok(Some(Value::Array(page).to_string()))
        })
    }

    pub(crate) fn close(cursor: u32) {
        CURSORS.with_borrow_mut(|open| open.remove(&cursor));
    }
}

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::default();
}

/// The world's imports, acting on this thread's worker.
pub(crate) mod worker {
    use std::time::Duration;

    use serde_json::Value;

    use super::{WORKER, Worker};
    use crate::bindings::flowkit::worker::host::Cancellation;

    pub(crate) fn run_info() -> String {
        WORKER.with_borrow(|w| w.info.clone())
    }

    pub(crate) fn cancelled() -> Option<Cancellation> {
        WORKER.with_borrow(|w| w.cancelled).then(|| Cancellation {
            source: "signal".to_owned(),
            reason: "test".to_owned(),
            remaining_ms: 5_000,
        })
    }

    pub(crate) fn sleep(ms: u32) -> bool {
        WORKER.with_borrow_mut(|w| {
            if !w.cancelled {
                w.slept += Duration::from_millis(ms.into());
            }
            w.cancelled
        })
    }

    pub(crate) fn save_checkpoint(checkpoint: &str) -> Result<(), String> {
        if checkpoint.len() > 1 << 20 {
            return Err("a checkpoint larger than 1 MiB".to_owned());
        }
        in_batch(checkpoint, |w, value| w.checkpoint = Some(value))
    }

    pub(crate) fn upsert_partial(uid: &str, meta: &str) -> Result<(), String> {
        if !meta.starts_with('{') {
            return Err("an artifact's meta is not a JSON object".to_owned());
        }
        if WORKER.with_borrow(|w| w.batch.as_deref() != Some(uid)) {
            return Err(format!("`{uid}` is not the batch being processed"));
        }
        in_batch(meta, |w, value| w.partial = Some(value))
    }

    fn in_batch(json: &str, keep: impl FnOnce(&mut Worker, Value)) -> Result<(), String> {
        let value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        WORKER.with_borrow_mut(|w| match w.batch {
            Some(_) => {
                keep(w, value);
                Ok(())
            }
            None => Err("only inside process-batch".to_owned()),
        })
    }

    pub(crate) fn run_totals() -> String {
        WORKER.with_borrow(|w| serde_json::to_string(&w.totals).unwrap_or_default())
    }

    pub(crate) fn log(level: &str, message: &str) {
        WORKER.with_borrow_mut(|w| w.log.push(format!("{level}: {message}")));
    }

    /// Telemetry is not part of a run's outcome.
    pub(crate) fn metric(_kind: &str, _name: &str, _value: f64) {}
}
