//! FlowKit's worker host. `ARCHITECTURE.md` at the repository's root is the map.

pub mod bus;
pub mod clock;
pub mod coordinator;
pub mod handler;
pub mod input;
pub mod metrics;
pub mod plugin;
pub mod protocol;
pub mod run;
pub mod settings;
pub mod store;
pub mod tasks;
pub mod types;
pub mod uids;
