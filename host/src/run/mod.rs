//! One run: what happens between a lease and its end.
//!
//! [`state`] decides, [`driver`] performs, [`recorder`] makes finished batches durable
//! beside the handler's work, [`ending`] writes and sends the end, [`lease`] says whether
//! this process may still speak for the run.

pub mod driver;
pub mod ending;
pub mod lease;
pub mod recorder;
pub mod state;
