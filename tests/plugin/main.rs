//! The plugin host against real components: hostile guests, wrong files, grants.

mod boundary;
mod examples;
mod exceptions;
mod languages;
mod sandbox;
mod stopping;
mod support;
mod wrong_files;
