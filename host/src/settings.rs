//! What a worker goes by, once the config file has been read and checked.

use std::time::Duration;

use crate::protocol::Topics;
use crate::types::WorkerId;

/// A worker's identity, times and bounds. [`Settings::new`] gives the documented defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `worker_id`.
    pub worker_id: WorkerId,
    /// `worker_version`.
    pub version: String,
    /// `topic_*`.
    pub topics: Topics,
    /// `lease_ttl_sec`: how long a lease lasts unless renewed.
    pub lease_ttl: Duration,
    /// `hb_interval_sec`: how often leases are renewed and heartbeats sent; at most half of
    /// `lease_ttl`.
    pub hb_interval: Duration,
    /// `announce_interval_sec`: how often WORKER_ONLINE is sent.
    pub announce_interval: Duration,
    /// `db_cancel_poll_ms`: how often `tasks` is read for cancel flags and newer attempts.
    pub cancel_poll: Duration,
    /// `claim_poll_ms`: how often a worker with a free slot looks for runs to take over.
    pub claim_poll: Duration,
    /// `max_clock_skew_ms`: how far two machines' clocks may differ.
    pub max_clock_skew: Duration,
    /// `cancel_grace_sec`: how long a cancelled guest may go on.
    pub cancel_grace: Duration,
    /// `shutdown_grace_sec`: how long the whole drain may take.
    pub shutdown_grace: Duration,
    /// `max_concurrent_tasks`: how many runs at once.
    pub max_concurrent_tasks: usize,
    /// `max_queued_runs`: unowned runs of a role at which fetching its commands pauses.
    pub max_queued_runs: u64,
    /// `max_attempts`: from this attempt on a failure is permanent; `None` for never.
    pub max_attempts: Option<u32>,
    /// `dedup_cache_size`: ids of commands remembered.
    pub dedup_cache_size: usize,
    /// `dedup_ttl_ms`: for how long.
    pub dedup_ttl: Duration,
    /// Defaults of the input adapters.
    pub pull: PullSettings,
}

/// Defaults of the input adapters.
#[derive(Debug, Clone, PartialEq)]
pub struct PullSettings {
    /// `pull_poll_ms_default`: the wait after a poll that found nothing.
    pub poll: Duration,
    /// `pull_empty_backoff_ms_max`: the longest such wait.
    pub backoff_max: Duration,
    /// `strict_input_adapters`: `meta_list_key` is required.
    pub strict: bool,
}

impl Settings {
    /// The defaults, for this worker.
    pub fn new(worker_id: WorkerId) -> Self {
        Self {
            worker_id,
            version: "2.0.0".into(),
            topics: Topics::default(),
            lease_ttl: Duration::from_secs(60),
            hb_interval: Duration::from_secs(20),
            announce_interval: Duration::from_secs(60),
            cancel_poll: Duration::from_millis(500),
            claim_poll: Duration::from_millis(1_000),
            max_clock_skew: Duration::from_millis(2_000),
            cancel_grace: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(8),
            max_concurrent_tasks: std::thread::available_parallelism().map_or(2, usize::from),
            max_queued_runs: 1_000,
            max_attempts: Some(20),
            dedup_cache_size: 10_000,
            dedup_ttl: Duration::from_secs(3_600),
            pull: PullSettings {
                poll: Duration::from_millis(300),
                backoff_max: Duration::from_millis(4_000),
                strict: false,
            },
        }
    }
}
