//! The real worker over a bus and a store in memory, with a scripted handler, on one
//! thread and a clock that stands still unless everybody waits.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod cancel;
mod claims;
mod crash;
mod ends;
mod epochs;
mod faults;
mod inputs;
mod intake;
mod lease;
mod outages;
mod plugins;
mod resend;
mod scripted;
mod shutdown;
mod sim;
mod world;
