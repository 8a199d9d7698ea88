//! Where a run's batches come from: the handler's own iterator, or upstream nodes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Result;

/// One unit of work: processed whole, recorded whole, never twice once it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch<T> {
    /// Unique in the run, 1 to 512 bytes, and the same whenever the same input is iterated
    /// again. None: the worker names it after its payload.
    pub uid: Option<String>,
    /// What `process_batch` receives.
    pub payload: T,
}

impl<T> Batch<T> {
    /// A batch with a name.
    pub fn new(uid: impl Into<String>, payload: T) -> Self {
        Self { uid: Some(uid.into()), payload }
    }

    /// A batch named after its payload, which must then be unique in the run.
    pub fn unnamed(payload: T) -> Self {
        Self { uid: None, payload }
    }
}

/// What `iter_batches` returns.
pub struct Batches<T>(pub(crate) Source<T>);

pub(crate) enum Source<T> {
    Own(Box<dyn Iterator<Item = Result<Batch<T>>>>),
    Adapter(Proposal),
}

/// The JSON object that asks the worker for batches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proposal {
    /// Such as `pull.from_artifacts`.
    pub input_adapter: &'static str,
    /// Its arguments.
    pub input_args: Map<String, Value>,
}

impl<T: 'static> Batches<T> {
    /// Batches of an iterator over `Batch<T>` or `Result<Batch<T>>`, pulled lazily. The
    /// first error ends the run.
    pub fn new<I>(batches: I) -> Self
    where
        I: IntoIterator,
        I::IntoIter: 'static,
        I::Item: IntoBatch<T> + 'static,
    {
        Self(Source::Own(Box::new(batches.into_iter().map(IntoBatch::into_batch).fuse())))
    }

    /// A run of a single batch.
    pub fn one(batch: Batch<T>) -> Self {
        Self::new([batch])
    }
}

/// Asks the worker for upstream batches, unless the command names an adapter itself.
impl<T> From<Pull> for Batches<T> {
    fn from(pull: Pull) -> Self {
        Self(Source::Adapter(pull.0))
    }
}

/// An item of the iterator given to [`Batches::new`]: a batch, or a `Result` of one.
pub trait IntoBatch<T> {
    /// As a `Result`.
    fn into_batch(self) -> Result<Batch<T>>;
}

impl<T> IntoBatch<T> for Batch<T> {
    fn into_batch(self) -> Result<Batch<T>> {
        Ok(self)
    }
}

impl<T> IntoBatch<T> for Result<Batch<T>> {
    fn into_batch(self) -> Result<Batch<T>> {
        self
    }
}

/// A wish to read upstream nodes' artifacts: the adapter `pull.from_artifacts`.
///
/// ```
/// # use flowkit_sdk::{Batches, Chunk, Pull};
/// let batches: Batches<Chunk<u64>> = Pull::from_nodes(["crawl"]).rechunk(50, "items").into();
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Pull(Proposal);

impl Pull {
    /// One batch for every artifact of these nodes; their payload is [`Pulled`].
    pub fn from_nodes<N: Into<String>>(nodes: impl IntoIterator<Item = N>) -> Self {
        let nodes: Vec<Value> = nodes.into_iter().map(|n| Value::String(n.into())).collect();
        let mut input_args = Map::new();
        input_args.insert("from_nodes".to_owned(), Value::Array(nodes));
        Self(Proposal { input_adapter: "pull.from_artifacts", input_args })
    }

    /// Cuts the list at `meta[meta_list_key]` into batches of at most `size` items; their
    /// payload is [`Chunk`].
    #[must_use]
    pub fn rechunk(mut self, size: u32, meta_list_key: &str) -> Self {
        self.0.input_adapter = "pull.from_artifacts.rechunk:size";
        self.arg("size", json!(size)).arg("meta_list_key", json!(meta_list_key))
    }

    /// How long the worker waits, in milliseconds, before it looks for artifacts again:
    /// `poll_ms` after the first empty look, doubling up to `backoff_max_ms`.
    #[must_use]
    pub fn poll(self, poll_ms: u32, backoff_max_ms: u32) -> Self {
        self.arg("poll_ms", json!(poll_ms)).arg("backoff_max_ms", json!(backoff_max_ms))
    }

    /// Goes on waiting for artifacts after the upstream nodes have finished, until the run
    /// is cancelled.
    #[must_use]
    pub fn endless(self) -> Self {
        self.arg("eof_on_task_done", json!(false))
    }

    fn arg(mut self, name: &str, value: Value) -> Self {
        self.0.input_args.insert(name.to_owned(), value);
        self
    }
}

/// A batch of `pull.from_artifacts`: one artifact of an upstream node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pulled<M> {
    /// The upstream node.
    pub from_node: String,
    /// Which artifact.
    #[serde(rename = "ref")]
    pub artifact: ArtifactRef,
    /// What the upstream handler wrote with `upsert_partial`, under its batch's metrics.
    pub meta: M,
}

/// Names an upstream batch's artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// The task.
    pub task_id: String,
    /// The upstream node.
    pub node_id: String,
    /// Its batch.
    pub batch_uid: String,
}

/// A batch of `pull.from_artifacts.rechunk:size`: some items of one upstream artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk<T> {
    /// The upstream node.
    pub from_node: String,
    /// At most `size` items, in the upstream list's order.
    pub items: Vec<T>,
    /// Where they come from.
    pub parent: ChunkParent,
}

/// The artifact a [`Chunk`] was cut from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkParent {
    /// Which artifact.
    #[serde(rename = "ref")]
    pub artifact: ChunkRef,
    /// The key of the list in its meta, if one was named.
    pub meta_list_key: Option<String>,
}

/// Names the upstream batch of a [`ChunkParent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// The upstream batch.
    pub batch_uid: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn proposals_read_as_the_adapters_expect() {
        let Pull(proposal) = Pull::from_nodes(["a", "b"]).rechunk(50, "items").poll(10, 40);
        assert_eq!(
            serde_json::to_value(proposal).unwrap(),
            json!({
                "input_adapter": "pull.from_artifacts.rechunk:size",
                "input_args": {"from_nodes": ["a", "b"], "size": 50, "meta_list_key": "items",
                               "poll_ms": 10, "backoff_max_ms": 40}
            })
        );
        let Pull(proposal) = Pull::from_nodes(["a"]).endless();
        assert_eq!(proposal.input_adapter, "pull.from_artifacts");
        assert_eq!(proposal.input_args["eof_on_task_done"], json!(false));
    }

    #[test]
    fn adapter_payloads_are_typed() {
        let pulled: Pulled<Map<String, Value>> = serde_json::from_value(json!({
            "from_node": "a", "meta": {"n": 1},
            "ref": {"task_id": "t", "node_id": "a", "batch_uid": "b"}
        }))
        .unwrap();
        assert_eq!((pulled.artifact.batch_uid.as_str(), &pulled.meta["n"]), ("b", &json!(1)));
        let chunk: Chunk<u8> = serde_json::from_value(json!({
            "from_node": "a", "items": [1, 2],
            "parent": {"ref": {"batch_uid": "b"}, "meta_list_key": null}
        }))
        .unwrap();
        assert_eq!((chunk.items, chunk.parent.meta_list_key), (vec![1, 2], None));
    }

    #[test]
    fn an_iterator_may_fail_midway_and_is_not_asked_again_after_its_end() {
        let mut calls = 0;
        let batches = Batches::new(std::iter::from_fn(move || {
            calls += 1;
            match calls {
                1 => Some(Ok(Batch::unnamed(1))),
                2 => Some(Err(Error::invalid("second"))),
                3 => None,
                _ => panic!("asked after the end"),
            }
        }));
        let Source::Own(mut own) = batches.0 else { panic!("an adapter") };
        assert_eq!(own.next(), Some(Ok(Batch::unnamed(1))));
        assert!(own.next().is_some_and(|item| item.is_err()));
        assert_eq!((own.next(), own.next()), (None, None));
    }
}
