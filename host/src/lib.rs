//! FlowKit's worker host. `ARCHITECTURE.md` at the repository's root is the map.

pub mod clock;
pub mod handler;
pub mod metrics;
pub mod plugin;
pub mod types;
