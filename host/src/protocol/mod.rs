//! The wire contract with coordinators, version 1: what is read is checked here once, what
//! is sent is built here only.

mod announce;
mod command;
mod dedup;
mod envelope;
mod event;
mod query;
mod signal;
mod topics;

pub use announce::*;
pub use command::*;
pub use dedup::*;
pub use envelope::*;
pub use event::*;
pub use query::*;
pub use signal::*;
pub use topics::*;
