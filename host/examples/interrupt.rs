//! How late a handler that loops for ever is stopped, while every core is busy and another
//! run keeps making batches. The goal is 100 ms.
//!
//! `cargo xtask plugins && cargo run --release --example interrupt`

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flowkit::handler::{
    Batch, CallError, CancelFlag, CancelSource, Cancellation, FaultCode, OpenRequest, RunInfo,
    Session,
};
use flowkit::metrics::Totals;
use flowkit::plugin::{Engine, HandlerConfig, Plugin};
use flowkit::types::{BatchUid, Epoch, NodeId, Role, TaskId, WorkerId};

const TRIALS: u32 = 40;
/// The time limit and the cancel grace of a trial.
const LIMIT: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<()> {
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/rogue.wasm");
    let mut config = HandlerConfig::new(guest);
    config.limits.call_time_ms =
        NonZeroU32::new(u32::try_from(LIMIT.as_millis())?).context("not zero")?;
    let plugin = Engine::new()?.load(config).await?;

    let batches = Arc::new(AtomicU64::new(0));
    let stop = CancelFlag::default();
    let busy = tokio::spawn(make_batches(plugin.clone(), stop.clone(), Arc::clone(&batches)));
    let alone = rate(&batches, Duration::from_secs(1)).await;
    println!("another run alone: {alone:.0} batches/s");

    for deed in ["loop", "wasi-sleep"] {
        let before = batches.load(Ordering::Relaxed);
        let began = Instant::now();
        report(&format!("time limit, {deed}"), trials(&plugin, deed, false).await?);
        report(&format!("cancel grace, {deed}"), trials(&plugin, deed, true).await?);
        let made = batches.load(Ordering::Relaxed) - before;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = made as f64 / began.elapsed().as_secs_f64();
        println!("  meanwhile the other run: {rate:.0} batches/s");
    }
    cancel(&stop, Duration::ZERO);
    busy.await?
}

/// Lateness of each trial; two guests misbehave at a time, so that both cores are taken.
async fn trials(plugin: &Plugin, deed: &str, cancelled: bool) -> Result<Vec<Duration>> {
    let mut late = Vec::new();
    for _ in 0..TRIALS / 2 {
        let pair = [0, 1].map(|_| tokio::spawn(trial(plugin.clone(), deed.to_owned(), cancelled)));
        for one in pair {
            late.push(one.await??);
        }
    }
    Ok(late)
}

async fn trial(plugin: Plugin, deed: String, cancelled: bool) -> Result<Duration> {
    let flag = CancelFlag::default();
    let mut session = open(&plugin, &format!("process-batch:{deed}"), &flag).await?;
    // The grace must end first where the grace is what is measured.
    let limit = if cancelled { LIMIT / 2 } else { LIMIT };
    let began = Instant::now();
    if cancelled {
        cancel(&flag, limit);
    }
    match session.process_batch(&batch()?, &Totals::default()).await {
        Err(CallError::Interrupted) if cancelled => {}
        Err(CallError::Dead(fault)) if !cancelled && fault.code == FaultCode::TimeLimit => {}
        other => bail!("{deed} ended otherwise: {other:?}"),
    }
    began.elapsed().checked_sub(limit).context("stopped before its time")
}

async fn make_batches(plugin: Plugin, stop: CancelFlag, made: Arc<AtomicU64>) -> Result<()> {
    let mut session = open(&plugin, "none", &stop).await?;
    let (batch, totals) = (batch()?, Totals::default());
    while stop.get().is_none() {
        session.process_batch(&batch, &totals).await?;
        made.fetch_add(1, Ordering::Relaxed);
        // A worker writes the batch's artifact here.
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn rate(made: &AtomicU64, during: Duration) -> f64 {
    let before = made.load(Ordering::Relaxed);
    tokio::time::sleep(during).await;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let count = (made.load(Ordering::Relaxed) - before) as f64;
    count / during.as_secs_f64()
}

fn report(what: &str, mut late: Vec<Duration>) {
    late.sort_unstable();
    let at = |part: usize| late[(late.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!(
        "{what}: late by median {:.1} ms, p95 {:.1} ms, max {:.1} ms",
        at(50),
        at(95),
        at(100)
    );
}

async fn open(plugin: &Plugin, node: &str, cancel: &CancelFlag) -> Result<Box<dyn Session>> {
    let info = RunInfo {
        task_id: TaskId::new("bench")?,
        node_id: NodeId::new(node)?,
        role: Role::new("rogue")?,
        attempt_epoch: Epoch(1),
        worker_id: WorkerId::new("bench")?,
        resumed: false,
    };
    let mut session = plugin.open(OpenRequest { info, cancel: cancel.clone() }).await?;
    session.init().await?;
    Ok(session)
}

fn batch() -> Result<Batch> {
    Ok(Batch { uid: BatchUid::new("b0")?, payload: "{}".to_owned() })
}

fn cancel(flag: &CancelFlag, grace: Duration) {
    flag.cancel(Cancellation {
        source: CancelSource::Signal,
        reason: String::new(),
        deadline: tokio::time::Instant::now() + grace,
    });
}
