//! The `flowkit` binary.

fn main() {}
