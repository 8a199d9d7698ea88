//! Handlers as WebAssembly components: the only module that names wasmtime.
