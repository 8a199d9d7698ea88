//! Guests that mean harm, one a test: each is stopped with a reason that can be read, and a
//! run that behaves goes on beside it. The guests are in `tests/guests`; what they try in
//! directories, over HTTP and with documents is in the modules of those names.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use flowkit::handler::{CallError, CancelFlag, Handler as _};
use flowkit::metrics::Totals;
use flowkit::plugin::{HandlerConfig, Limits, Plugin};
use insta::assert_snapshot;
use serde_json::json;

use super::contained::beside;
use super::support::{
    act, b0, caller_with, counter, engine, guest_file, load, process, rogue, rogue_with, session,
};
use super::wrong_files::checked_with;

/// The reason of a deed that ended its instance.
async fn ended(plugin: &Plugin, deed: &str) -> String {
    match beside(process(plugin, deed)).await {
        Err(CallError::Dead(fault)) => fault.to_string(),
        other => panic!("{deed} did not end its instance: {other:?}"),
    }
}

/// What a deed that its instance survived was told.
async fn told(plugin: &Plugin, deed: &str) -> String {
    match beside(process(plugin, deed)).await {
        Err(CallError::Handler(error)) => error.message,
        other => panic!("{deed} was not told: {other:?}"),
    }
}

async fn limited(change: impl FnOnce(&mut Limits)) -> Plugin {
    rogue_with(|config| change(&mut config.limits)).await
}

fn some(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop() {
    let plugin = limited(|limits| limits.call_time_ms = some(300)).await;
    let before = counter(&engine(), "rogue", "time_limit");
    assert_snapshot!(ended(&plugin, "loop").await, @"time_limit: process-batch was stopped at its limit of 300 ms; raise limits.call_time_ms, or give each batch less to do");
    assert!(counter(&engine(), "rogue", "time_limit") > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop_inside_a_host_call() {
    let plugin = limited(|limits| limits.call_time_ms = some(300)).await;
    for deed in ["sleep", "wasi-sleep", "stdout", "flood"] {
        let why = ended(&plugin, deed).await;
        assert!(why.starts_with("time_limit: process-batch was stopped"), "{deed}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_computation_without_end() {
    let plugin = limited(|limits| limits.call_cpu_ms = some(200)).await;
    let before = counter(&engine(), "rogue", "cpu_limit");
    for deed in ["loop", "think"] {
        let began = Instant::now();
        assert_eq!(
            ended(&plugin, deed).await,
            "cpu_limit: process-batch was stopped after 200 ms of processor time; raise \
             limits.call_cpu_ms, or give each batch less to do"
        );
        assert!(began.elapsed() >= Duration::from_millis(200), "{deed}: {:?}", began.elapsed());
    }
    assert!(counter(&engine(), "rogue", "cpu_limit") >= before + 2);
    assert!(counter(&engine(), "rogue", "cpu_ms") >= 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_no_computation() {
    let plugin = limited(|limits| {
        limits.call_cpu_ms = some(400);
        limits.call_time_ms = some(1_500);
    })
    .await;
    let why = ended(&plugin, "wasi-sleep").await;
    assert!(why.starts_with("time_limit: process-batch was stopped at"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_without_end() {
    let plugin = limited(|limits| limits.run_time_ms = 400).await;
    let before = counter(&engine(), "rogue", "time_limit");
    let flag = CancelFlag::default();
    let mut session = session(&plugin, "next-batch:endless", &flag).await;
    let why = beside(async {
        loop {
            match session.next_batch().await {
                Ok(batch) => assert!(batch.is_some(), "it has no end"),
                Err(CallError::Dead(fault)) => break fault.to_string(),
                Err(other) => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_snapshot!(why, @"time_limit: the run reached its limit of 400 ms in next-batch; raise limits.run_time_ms, or give a task less to do");
    assert!(counter(&engine(), "rogue", "time_limit") > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_bomb() {
    let memory = NonZeroU64::new(32 << 20).expect("not zero");
    let plugin = limited(|limits| limits.memory_bytes = memory).await;
    let before = counter(&engine(), "rogue", "memory_limit");
    let why = ended(&plugin, "memory").await;
    assert!(why.starts_with("memory_limit: process-batch: the handler wanted "), "{why}");
    assert!(why.contains(" bytes of memory; limits.memory_bytes allows 33554432"), "{why}");
    assert!(counter(&engine(), "rogue", "memory_limit") > before);
}

/// The rogue with `table.grow` by 5,000 in the place it keeps for that.
fn table_bomb(dir: &std::path::Path) -> HandlerConfig {
    // i32.const 0x0badbeef, memory.grow 0
    let kept = [0x41, 0xef, 0xfd, 0xb6, 0xdd, 0x00, 0x40, 0x00];
    // ref.null func, i32.const 5000, table.grow 0
    let grow = [0xd0, 0x70, 0x41, 0x88, 0x27, 0xfc, 0x0f, 0x00];
    let mut bytes = std::fs::read(guest_file("rogue")).expect("readable");
    let places: Vec<usize> =
        (0..bytes.len() - kept.len()).filter(|at| bytes[*at..].starts_with(&kept)).collect();
    let [place] = places[..] else { panic!("one place is kept: {places:?}") };
    bytes[place..place + grow.len()].copy_from_slice(&grow);
    let file = dir.join("tables.wasm");
    std::fs::write(&file, bytes).expect("written");
    HandlerConfig::new(file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_bomb() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = table_bomb(dir.path());
    let plugin = load(config.clone()).await;
    let why = ended(&plugin, "table").await;
    assert!(why.starts_with("memory_limit: process-batch: the handler wanted tables of "), "{why}");
    config.limits.table_elements = some(8_000);
    let plugin = load(config).await;
    let why = ended(&plugin, "table").await;
    assert!(why.contains("elements; 8000 are allowed (limits.table_elements"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_overflow() {
    let why = ended(&rogue().await, "recursion").await;
    assert!(why.starts_with("handler_trap: process-batch: "), "{why}");
    assert!(why.contains("too deep"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_of_100_mb() {
    let before = counter(&engine(), "rogue", "result_too_large");
    let why = ended(&rogue().await, "huge").await;
    assert!(why.starts_with("result_too_large: process-batch: "), "{why}");
    assert!(counter(&engine(), "rogue", "result_too_large") > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_call_that_wants_the_hosts_memory() {
    let told = beside(act(&caller_with(|_| {}).await, json!({"random": 1_u64 << 40}))).await;
    let told = told.expect_err("a TiB of random bytes");
    assert!(told.starts_with("Dead") && told.contains("exceeds limit"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hoard_of_handles() {
    let told = beside(act(&caller_with(|_| {}).await, json!("hoard-timers"))).await;
    let told = told.expect_err("timers without end");
    assert!(told.starts_with("Dead") && told.contains("HandlerTrap"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_without_end() {
    let told = beside(checked_with(&[("describe:none____", "describe:loop____")])).await;
    assert_snapshot!(told, @"handler.wasm was tried and failed: time_limit: describe was stopped at its limit of 10000 ms; keep it short");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_log_lines() {
    let before = counter(&engine(), "rogue", "log_lines_dropped");
    let flag = CancelFlag::default();
    let mut session = session(&rogue().await, "process-batch:noise", &flag).await;
    let batch = b0();
    let done = beside(session.process_batch(&batch, &Totals::default())).await;
    assert!(done.is_ok(), "what is too much is left out: {done:?}");
    session.cleanup().await.expect("the instance lives");
    drop(session);
    // 200 lines a second pass; the rest is counted.
    let dropped = counter(&engine(), "rogue", "log_lines_dropped") - before;
    assert!(dropped > 900_000, "{dropped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_lead_out() {
    assert_eq!(told(&rogue().await, "flee").await, "nothing worked");
    assert_eq!(told(&rogue().await, "escape").await, "nothing worked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_network() {
    assert_eq!(told(&rogue().await, "network").await, "nothing worked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_environment() {
    assert_eq!(told(&rogue().await, "environment").await, "nothing worked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_under_anothers_key() {
    let plugin = rogue().await;
    assert_snapshot!(told(&plugin, "forged-partial").await, @"upsert-partial was called for batch `another` while `b0` is being processed; a batch can write its own artifact only");
    assert_snapshot!(told(&plugin, "forged-control").await, @r"upsert-partial was called for batch `b0\u{0}\u{1b}[2J` while `b0` is being processed; a batch can write its own artifact only");
    let long = told(&plugin, "forged-long").await;
    assert!(long.len() < 300, "{}", long.len());
    assert_snapshot!(told(&plugin, "partial-bomb").await, @"upsert-partial's meta has 16877225 bytes; limits.result_bytes allows 16777216");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_after_the_end() {
    let (plugin, totals) = (rogue().await, Totals::default());
    for at in ["init", "finalize", "cleanup"] {
        let flag = CancelFlag::default();
        let node = format!("{at}:late-partial");
        let mut session = plugin.open(super::support::request(&node, &flag)).await.expect("opens");
        let told = beside(async {
            match at {
                "init" => session.init().await.err(),
                "finalize" => {
                    session.init().await.expect("begins");
                    session.process_batch(&b0(), &totals).await.expect("succeeds");
                    session.finalize(&totals).await.err()
                }
                _ => {
                    session.init().await.expect("begins");
                    session.process_batch(&b0(), &totals).await.expect("succeeds");
                    session.cleanup().await.err()
                }
            }
        })
        .await;
        let Some(CallError::Handler(error)) = told else { panic!("{at}: {told:?}") };
        assert_eq!(error.message, "upsert-partial works only inside process-batch", "{at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_under_a_name_that_is_none() {
    for deed in ["long-uid", "control-uid", "empty-uid"] {
        let flag = CancelFlag::default();
        let mut session = session(&rogue().await, &format!("next-batch:{deed}"), &flag).await;
        let rejected = beside(session.next_batch()).await;
        let Err(CallError::Rejected(fault)) = rejected else { panic!("{deed}: {rejected:?}") };
        assert!(fault.to_string().starts_with("bad_output: next-batch yielded"), "{fault}");
    }
}
