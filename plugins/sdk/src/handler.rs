//! What an author implements and what its functions are given.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::batches::Batches;
use crate::error::{Classification, Error, Result};
use crate::host;

/// A role's work: how an input becomes batches and what is done with each.
///
/// One value serves one run: it is created with `Default`, and its functions are called one
/// at a time in the order `init`, `iter_batches`, `process_batch` for each batch,
/// `finalize`, `cleanup`. After a crash a new value goes through the same order and gets
/// the last checkpoint.
pub trait Handler: Default + 'static {
    /// The command's `input_inline`; an absent one is read as `{}`, so a struct whose
    /// fields all have defaults always succeeds. Use `serde_json::Value` to take anything.
    type Input: DeserializeOwned;

    /// One batch's payload: the handler's own type, or [`Pulled`](crate::Pulled) or
    /// [`Chunk`](crate::Chunk) where the batches come from upstream nodes.
    type Batch: Serialize + DeserializeOwned;

    /// A batch's metrics: a struct or map that becomes one JSON object of plain values.
    /// Numbers are summed over the run. `()` for none.
    type Output: Serialize;

    /// Where to go on after a crash. `()` for a handler that simply iterates again: the
    /// worker leaves out the batches that are finished.
    type Checkpoint: Serialize + DeserializeOwned;

    /// Takes what the run needs. When it succeeds, `cleanup` will be called.
    fn init(&mut self, run: &RunInfo) -> Result<()> {
        let _ = run;
        Ok(())
    }

    /// Begins the iteration, also on a resume: then `checkpoint` is the last one saved.
    /// The iterator behind [`Batches`] is pulled as batches are needed, so it may be lazy
    /// over any amount of input.
    fn iter_batches(
        &mut self,
        input: Self::Input,
        checkpoint: Option<Self::Checkpoint>,
    ) -> Result<Batches<Self::Batch>>;

    /// Processes one batch. An error fails the batch and with it the attempt.
    fn process_batch(&mut self, batch: Self::Batch, ctx: &RunContext<Self>)
    -> Result<Self::Output>;

    /// Ends a run whose batches are all finished; its metrics are laid over the totals.
    fn finalize(&mut self) -> Result<Finalization> {
        Ok(Finalization::default())
    }

    /// Releases what `init` took, on every end where the instance is alive.
    fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    /// What an error that one of the functions above returned means. Errors classify
    /// themselves; override it to change that in one place.
    fn classify_error(error: &Error) -> Classification {
        error.classification().clone()
    }
}

/// Which run this is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct RunInfo {
    /// The task.
    pub task_id: String,
    /// The node of its graph.
    pub node_id: String,
    /// The node's role.
    pub role: String,
    /// 1 for the node's first attempt.
    pub attempt_epoch: u32,
    /// The worker it runs on.
    pub worker_id: String,
    /// True when an earlier owner, now gone, began this attempt.
    pub resumed: bool,
}

/// What belongs to the batch being processed.
#[derive(Debug)]
pub struct RunContext<H: ?Sized> {
    uid: String,
    handler: PhantomData<fn(&H)>,
}

impl<H: Handler> RunContext<H> {
    pub(crate) fn new(uid: String) -> Self {
        Self { uid, handler: PhantomData }
    }

    /// The batch's name, unique in the run.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Replaces the run's checkpoint. It takes effect together with this batch, never
    /// before; the last call wins. At most 1 MiB of JSON, else a permanent error.
    pub fn save_checkpoint(&self, checkpoint: &H::Checkpoint) -> Result<()> {
        host::save_checkpoint(&serde_json::to_string(checkpoint)?).map_err(Error::refused)
    }

    /// Sets what the batch's artifact tells downstream nodes: anything that serializes to
    /// a JSON object. Written once, laid over the batch's metrics, when the batch
    /// succeeds; the last call wins.
    pub fn upsert_partial(&self, meta: &impl Serialize) -> Result<()> {
        host::upsert_partial(&self.uid, &serde_json::to_string(meta)?).map_err(Error::refused)
    }
}

/// What `finalize` leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Finalization {
    metrics: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
}

impl Finalization {
    /// Metrics to lay over the run's totals: anything that serializes to a JSON object of
    /// plain values.
    pub fn metrics(metrics: &impl Serialize) -> Result<Self> {
        match serde_json::to_value(metrics)? {
            Value::Object(metrics) => Ok(Self { metrics, payload: None }),
            _ => Err(Error::permanent("bad_output", "finalize's metrics are not a JSON object")),
        }
    }

    /// Stores `payload` with the node's artifact.
    pub fn with_payload(mut self, payload: &impl Serialize) -> Result<Self> {
        self.payload = Some(serde_json::to_value(payload)?);
        Ok(self)
    }
}
