//! The plugin host against real components: hostile guests, wrong files, grants.

mod bodies;
mod boundary;
mod conformance;
mod contained;
mod documents;
mod environment;
mod examples;
mod hostile;
mod http;
mod memory;
mod sandbox;
mod server;
mod stopping;
mod support;
mod wrong_files;
