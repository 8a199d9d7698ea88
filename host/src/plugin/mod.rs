//! Handlers as WebAssembly components: the only module that names wasmtime.
//!
//! An [`Engine`] loads a component file into a [`Plugin`] and says precisely why it cannot
//! ([`CheckError`]); a plugin opens sessions, one instance for one run; [`Plugins`] maps
//! roles to plugins.
//!
//! A guest gets nothing by default: no files, no network, no environment, no arguments.
//! What its configuration grants ([`HandlerConfig`]) is all it sees.

mod addresses;
mod anatomy;
mod bindings;
mod capped;
mod code_cache;
mod config;
mod context;
mod contract;
mod counts;
mod documents;
mod engine;
mod env;
mod faults;
mod file;
mod grants;
mod http;
mod http_client;
mod http_grant;
mod instance;
mod json;
mod limits;
mod load;
mod meter;
mod output;
mod rate;
mod registry;
mod reload;
mod results;
mod source;
mod text;
mod timing;
mod trust;
mod versions;
mod wit_text;
mod worlds;

pub use anatomy::{Anatomy, Capabilities, refusal};
pub use code_cache::{CacheError, CodeCache};
pub use config::{BadLimit, DirGrant, HandlerConfig, Limits};
pub use contract::{Difference, WORLD_VERSION};
pub use engine::{Engine, EngineError};
pub use env::{BadEnv, EnvValue};
pub use file::NotWasm;
pub use grants::BadGrant;
pub use http_grant::HttpGrant;
pub use load::{CheckError, Inspection, Plugin, check};
pub use registry::{LoadError, PluginConfig, Plugins};
pub use reload::Reloader;
pub use source::beside as signature_file;
pub use trust::{PublicKey, SecretKey, Trust, TrustError, read_signature, verify};
