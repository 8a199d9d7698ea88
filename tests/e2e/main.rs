//! End to end: the real binary, real processes, killed for real, on real files. Tests
//! assert on the database, on the event stream and on what the commands print.
#![expect(clippy::unwrap_used, reason = "these are tests; a panic is how they fail")]

mod cancelling;
mod commands;
mod crashes;
mod demo;
mod documents;
mod field;
mod fleet;
mod malformed;
mod outage;
mod plugin_run;
mod plugins;
mod support;
