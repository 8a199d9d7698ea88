//! What runs notice of two hundred plugin swaps in a minute: the longest pause between two
//! batches of a run, and the longest wait for a run's first event, with and without swaps.
//!
//! `cargo xtask bench` (needs the guests of `cargo xtask plugins`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

#[path = "../../tests/plugin/swapping.rs"]
mod swapping;

use swapping::{BATCHES, ROLES, Seen, Stage};

const SWAPS: u32 = 200;
const EVERY: Duration = Duration::from_millis(300);
/// How long the load is watched without swaps.
const CALM: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bench())
}

async fn bench() -> anyhow::Result<()> {
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/versioned.wasm");
    anyhow::ensure!(guest.exists(), "{} is missing: run `cargo xtask plugins`", guest.display());
    let stage = Stage::new(&guest).await;
    let enough = AtomicBool::new(false);
    let calm = async {
        sleep(CALM).await;
        enough.store(true, Ordering::Relaxed);
    };
    let (before, ()) = tokio::join!(stage.load("calm", &enough), calm);

    enough.store(false, Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    let swaps = async {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for version in 1..=SWAPS {
            ticks.tick().await;
            stage.swap(version).await;
        }
        enough.store(true, Ordering::Relaxed);
        begun.elapsed()
    };
    let (during, took) = tokio::join!(stage.load("swapped", &enough), swaps);
    println!("{SWAPS} swaps of {ROLES} roles took {:.1} s", took.as_secs_f64());
    let calm = report("without swaps", &before);
    let swapped = report("with swaps", &during);
    println!("the longest pause with swaps is {:.2} times the one without", swapped / calm);
    stage.end().await;
    Ok(())
}

/// Prints a line; the longest pause in ms.
fn report(title: &str, runs: &[Seen]) -> f64 {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let whole = runs.iter().filter(|run| run.batches == BATCHES && run.ends == ["TASK_DONE"]);
    let versions: std::collections::BTreeSet<_> = runs.iter().flat_map(|r| &r.versions).collect();
    let mixed = runs.iter().filter(|run| run.versions.len() != 1 || run.digests.len() != 1).count();
    let pause = runs.iter().map(|run| run.longest_pause).max().unwrap_or_default();
    let wait = runs.iter().filter_map(|run| run.accepted_after).max().unwrap_or_default();
    println!(
        "{title}: {} runs, {} of them whole, {mixed} of mixed versions, by {} versions; longest \
         pause between batches {:.1} ms, longest wait for the first event {:.1} ms",
        runs.len(),
        whole.count(),
        versions.len(),
        ms(pause),
        ms(wait),
    );
    ms(pause)
}
