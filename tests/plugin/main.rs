//! The plugin host against real components: hostile guests, wrong files, grants.

mod bodies;
mod boundary;
mod conformance;
mod contained;
mod containment;
mod documents;
mod environment;
mod examples;
mod exceptions;
mod hostile;
mod http;
mod inspect;
mod keys;
mod languages;
mod limits;
mod memory;
mod refusals;
mod reload;
mod sandbox;
mod server;
mod stopping;
mod support;
mod worker;
mod worlds;
mod wrong_files;
