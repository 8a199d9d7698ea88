//! How late a handler that loops forever is stopped, after its time limit and after its
//! cancel grace, while a second run on the same runtime goes on making batches.
//!
//! `cargo xtask bench` (needs the plugins of `cargo xtask plugins`).

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use flowkit::handler::{
    CallError, CancelFlag, CancelSource, Cancellation, Handler as _, OpenRequest, RunInfo, Session,
};
use flowkit::metrics::Totals;
use flowkit::plugin::{Engine, HandlerConfig, Plugin};
use flowkit::types::{Epoch, NodeId, Role, TaskId, WorkerId};
use tokio::time::Instant;

const ROUNDS: usize = 20;
const LIMIT: Duration = Duration::from_millis(300);

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bench())
}

async fn bench() -> anyhow::Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/steps.wasm");
    anyhow::ensure!(file.exists(), "{} is missing: run `cargo xtask plugins`", file.display());
    let engine = Engine::new()?;
    let mut config = HandlerConfig::new(&file);
    let working = engine.load(config.clone()).await?;
    config.limits.call_time_ms = NonZeroU32::try_from(u32::try_from(LIMIT.as_millis())?)?;
    let limited = engine.load(config).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let batches = Arc::new(AtomicU64::new(0));
    let beside = tokio::spawn(work(working.clone(), stop.clone(), batches.clone()));

    let mut late = Vec::new();
    for _ in 0..ROUNDS {
        late.push(late_for(&limited, CancelFlag::default(), Instant::now() + LIMIT).await?);
    }
    print("time limit", &mut late);
    let mut late = Vec::new();
    for _ in 0..ROUNDS {
        let flag = CancelFlag::default();
        let deadline = Instant::now() + LIMIT;
        flag.cancel(Cancellation {
            source: CancelSource::Signal,
            reason: "bench".into(),
            deadline,
        });
        late.push(late_for(&working, flag, deadline).await?);
    }
    print("cancel grace", &mut late);
    stop.store(true, Ordering::Relaxed);
    let longest = beside.await??;
    println!(
        "beside it: {} batches, longest pause {:.1} ms",
        batches.load(Ordering::Relaxed),
        longest.as_secs_f64() * 1_000.0
    );
    Ok(())
}

/// Starts a loop and waits for its end; how long after `due` it came.
async fn late_for(plugin: &Plugin, flag: CancelFlag, due: Instant) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut session = open(plugin, flag).await?;
    let input = r#"{"input_inline": {"count": 1, "loop_at": 0}}"#;
    session.iter_batches(input, None).await?;
    let batch = next(session.as_mut()).await?;
    // The time limit counts from the call, the grace from when the flag was set.
    let called = Instant::now();
    let ended = session.process_batch(&batch, &Totals::default()).await;
    let due = match ended {
        Err(CallError::Dead(_)) => due + (called - started),
        Err(CallError::Interrupted) => due,
        other => anyhow::bail!("the loop ended as {other:?}"),
    };
    Ok(due.elapsed())
}

/// Makes small batches until told to stop; the longest time between two.
async fn work(
    plugin: Plugin,
    stop: Arc<AtomicBool>,
    batches: Arc<AtomicU64>,
) -> anyhow::Result<Duration> {
    let mut session = open(&plugin, CancelFlag::default()).await?;
    session.iter_batches(r#"{"input_inline": {"count": 4000000000}}"#, None).await?;
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let batch = next(session.as_mut()).await?;
        session.process_batch(&batch, &Totals::default()).await?;
        batches.fetch_add(1, Ordering::Relaxed);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        tokio::task::yield_now().await;
    }
    Ok(longest)
}

async fn open(plugin: &Plugin, cancel: CancelFlag) -> anyhow::Result<Box<dyn Session>> {
    let info = RunInfo {
        task_id: TaskId::new("t")?,
        node_id: NodeId::new("n")?,
        role: Role::new("steps")?,
        attempt_epoch: Epoch(1),
        worker_id: WorkerId::new("w")?,
        resumed: false,
    };
    let mut session = plugin.open(OpenRequest { info, cancel }).await?;
    session.init().await?;
    Ok(session)
}

async fn next(session: &mut dyn Session) -> anyhow::Result<flowkit::handler::Batch> {
    let yielded = session.next_batch().await?;
    let yielded = yielded.ok_or_else(|| anyhow::anyhow!("no batch"))?;
    let uid = yielded.uid.ok_or_else(|| anyhow::anyhow!("no uid"))?;
    Ok(flowkit::handler::Batch { uid, payload: yielded.payload })
}

fn print(what: &str, late: &mut [Duration]) {
    late.sort();
    let ms = |at: usize| late[at].as_secs_f64() * 1_000.0;
    println!(
        "{what}: stopped late by {:.1} ms (median of {ROUNDS}), {:.1} ms at most",
        ms(late.len() / 2),
        ms(late.len() - 1)
    );
}
