//! End to end: the real binary, real processes, killed for real, on real files. Tests
//! assert on the database, on the event stream and on what the commands print.

mod cancelling;
mod commands;
mod crashes;
mod demo;
mod field;
mod fleet;
mod malformed;
mod outage;
mod plugin_run;
mod support;
