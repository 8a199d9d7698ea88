//! What outlives a process: runs with their leases, artifacts, tasks, workers.
//!
//! Four narrow traits, one for each collection of `protocol.md`; a backend implements all
//! of them and [`Store`] names the bundle. One contract suite tests every backend
//! (`tests/contract`).

mod artifacts;
mod documents;
pub mod embedded;
mod json;
pub mod memory;
pub mod mongo;
mod runs;
mod tasks;
mod told;
mod workers;

pub use artifacts::*;
pub use documents::{BadLine, Collections};
pub use runs::*;
pub use tasks::*;
pub use workers::*;

/// A whole backend.
pub trait Store: RunStore + ArtifactStore + TaskStore + WorkerStore {}
impl<T: RunStore + ArtifactStore + TaskStore + WorkerStore> Store for T {}

/// Why the store did not do it: whether to wait, to set one document aside, or to stop.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, locked or busy; the same call may go through later, and may have
    /// taken effect already.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A document that cannot be read back; others are not touched by it.
    #[error("the store holds a damaged document, {what}: {problem}")]
    Damaged {
        /// Which document, such as `run t-1/n-1`.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not to be had without somebody changing something; the text says what.
    #[error("{0}")]
    Fatal(String),
}

/// Whether a fenced write took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a fenced writer has lost the run and must stop"]
pub enum Fenced {
    /// The writer still owns the run; the write is durable.
    Written,
    /// A newer attempt or a newer owner exists; nothing was written.
    Lost,
}
