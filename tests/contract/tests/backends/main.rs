//! The contract suite on the backends that need nothing installed, and what only the
//! embedded one promises.
#![expect(clippy::unwrap_used, reason = "these are tests; a panic is how they fail")]

mod child;
mod embedded;
mod files;
mod kafka;
mod kill;
mod memory;
mod mongo;
