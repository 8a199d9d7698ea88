//! One run: what happens between a lease and its end.
//!
//! [`state`] decides, [`driver`] performs, [`recorder`] makes finished batches durable
//! beside the handler's work, [`ending`] writes and sends the end, [`voice`] lets all of
//! them speak for the run only while its [`lease`] holds.

pub mod driver;
pub mod ending;
pub mod lease;
mod opening;
mod recorder;
mod slot;
pub mod state;
mod voice;
mod wait;

pub use slot::{MAX_WAITING, Slot, Slots};

use std::sync::Arc;

use crate::bus::Bus;
use crate::clock::Clock;
use crate::handler::Handlers;
use crate::health::Health;
use crate::settings::Settings;
use crate::store::Store;

/// What every part of a worker works with.
#[derive(Clone)]
pub struct Deps {
    /// What the worker goes by.
    pub settings: Arc<Settings>,
    /// Messages.
    pub bus: Arc<dyn Bus>,
    /// State.
    pub store: Arc<dyn Store>,
    /// Plugins.
    pub handlers: Arc<dyn Handlers>,
    /// Time.
    pub clock: Clock,
    /// Whether bus and store answer.
    pub health: Arc<Health>,
}
