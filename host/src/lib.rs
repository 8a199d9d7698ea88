//! FlowKit's worker host. `ARCHITECTURE.md` at the repository's root is the map.

pub mod app;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conformance;
pub mod coordinator;
pub mod dead_letter;
pub mod discovery;
pub mod documents;
pub mod handler;
pub mod health;
pub mod input;
pub mod intake;
pub mod logging;
pub mod metrics;
pub mod plugin;
pub mod protocol;
pub mod run;
pub mod settings;
pub mod sqlite;
pub mod store;
pub mod tasks;
pub mod types;
pub mod uids;
pub mod worker;
