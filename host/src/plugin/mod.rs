//! Handlers as WebAssembly components: the only module that names wasmtime.

mod config;

pub use config::*;
