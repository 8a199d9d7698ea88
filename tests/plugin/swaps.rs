//! Plugins are replaced under load, and no run notices.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use flowkit::handler::Handlers as _;

use super::support::guest_file;
use super::swapping::{BATCHES, Stage};

/// As many as a fleet sees in years.
const SWAPS: u32 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_swaps_under_load_lose_fail_and_mix_nothing() {
    let stage = Stage::new(&guest_file("versioned")).await;
    let enough = AtomicBool::new(false);
    let swap = async {
        for version in 1..=SWAPS {
            stage.swap(version).await;
        }
        enough.store(true, Ordering::Relaxed);
    };
    let (runs, ()) = tokio::join!(stage.load("run", &enough), swap);
    let states = stage.plugins.describe();
    for state in states.as_object().expect("by role").values() {
        assert_eq!(state["refused"], 0, "{states}");
    }
    let mut versions: BTreeSet<u64> = BTreeSet::new();
    for run in &runs {
        assert_eq!(run.ends, ["TASK_DONE"], "{run:?}");
        assert_eq!(run.batches, BATCHES, "{run:?}");
        assert!(run.accepted_after.is_some(), "{run:?}");
        assert_eq!(
            (run.digests.len(), run.versions.len()),
            (1, 1),
            "a run of two versions: {run:?}"
        );
        versions.extend(&run.versions);
    }
    assert!(versions.len() > 20, "too few versions served a run: {versions:?}");
    stage.end().await;
}
