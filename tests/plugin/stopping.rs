//! Guests that do not return are stopped, wherever they are, and the reason is told.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use flowkit::handler::{CallError, CancelFlag, Handler as _, OpenError};
use flowkit::metrics::Totals;
use flowkit::plugin::Plugin;
use insta::assert_snapshot;

use super::support::{b0, cancel_in, process, request, rogue, rogue_with, session};

/// How late an interrupt may land on a machine that is busy with other things; the
/// benchmark `interrupt` measures how late it is on an idle one (goal: 100 ms).
const LATE: Duration = Duration::from_secs(1);

async fn with_call_time(ms: u32) -> Plugin {
    rogue_with(|config| config.limits.call_time_ms = NonZeroU32::new(ms).expect("not zero")).await
}

fn dead(result: Result<impl std::fmt::Debug, CallError>) -> String {
    match result {
        Err(CallError::Dead(fault)) => fault.to_string(),
        other => panic!("not dead: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_at_its_limit_in_a_loop_and_in_a_host_call() {
    let plugin = with_call_time(300).await;
    for deed in ["loop", "sleep", "wasi-sleep", "stdout", "flood"] {
        let flag = CancelFlag::default();
        let mut session = session(&plugin, &format!("process-batch:{deed}"), &flag).await;
        let began = Instant::now();
        let ended = dead(session.process_batch(&b0(), &Totals::default()).await);
        let took = began.elapsed();
        assert!(ended.starts_with("time_limit: process-batch was stopped"), "{deed}: {ended}");
        assert!(took >= Duration::from_millis(300), "{deed}: {took:?}");
        assert!(took < Duration::from_millis(300) + LATE, "{deed}: {took:?}");
        assert!(flag.get().is_none(), "a limit is the call's own, not the run's");
        let after = dead(session.cleanup().await);
        assert_eq!(after, "handler_trap: cleanup was called on an instance that has ended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_is_interrupted_after_its_grace() {
    let plugin = rogue().await;
    for deed in ["loop", "sleep", "wasi-sleep", "stdout", "flood"] {
        let flag = CancelFlag::default();
        let mut session = session(&plugin, &format!("process-batch:{deed}"), &flag).await;
        let began = Instant::now();
        cancel_in(&flag, Duration::from_millis(200));
        let ended = session.process_batch(&b0(), &Totals::default()).await;
        let took = began.elapsed();
        assert_eq!(ended, Err(CallError::Interrupted), "{deed}");
        assert!(took >= Duration::from_millis(200), "{deed}: {took:?}");
        assert!(took < Duration::from_millis(200) + LATE, "{deed}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_during_the_call_reaches_a_guest_that_waits() {
    let flag = CancelFlag::default();
    let mut session = session(&rogue().await, "process-batch:polite", &flag).await;
    let began = Instant::now();
    let (batch, totals) = (b0(), Totals::default());
    let (ended, ()) = tokio::join!(session.process_batch(&batch, &totals), async {
        tokio::task::yield_now().await;
        cancel_in(&flag, Duration::from_secs(30));
    });
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let Err(CallError::Handler(error)) = ended else { panic!("told: {ended:?}") };
    assert!(error.message.starts_with("signal (enough) in "), "{}", error.message);
    session.cleanup().await.expect("the instance lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_warned_before_its_limit_and_may_end_by_itself() {
    let plugin = with_call_time(400).await;
    let began = Instant::now();
    let ended = process(&plugin, "polite").await;
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    let Err(CallError::Handler(error)) = ended else { panic!("told: {ended:?}") };
    let told = "time_limit (process-batch may take 400 ms) in ";
    assert!(error.message.starts_with(told), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overdue_flag_does_not_shorten_cleanup() {
    let flag = CancelFlag::default();
    let mut session = session(&rogue().await, "cleanup:polite", &flag).await;
    cancel_in(&flag, Duration::ZERO);
    let ended = session.cleanup().await;
    let Err(CallError::Handler(error)) = ended else { panic!("it ran: {ended:?}") };
    assert!(error.message.starts_with("signal (enough) in 4"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_leaves_a_dead_instance() {
    let flag = CancelFlag::default();
    let mut session = session(&rogue().await, "process-batch:loop", &flag).await;
    let (batch, totals) = (b0(), Totals::default());
    let call = session.process_batch(&batch, &totals);
    let dropped = tokio::time::timeout(Duration::from_millis(50), call).await;
    assert!(dropped.is_err(), "the loop does not return");
    let after = dead(session.next_batch().await);
    assert_eq!(after, "handler_trap: next-batch was called on an instance that has ended");
}

#[tokio::test]
async fn deaths_are_explained() {
    let plugin = rogue().await;
    assert_snapshot!(dead(process(&plugin, "panic").await), @"handler_panic: process-batch: panicked at tests/guests/rogue/src/deeds.rs:16:20: rogue was told to panic");
    assert_snapshot!(dead(process(&plugin, "abort").await), @"handler_trap: process-batch: the handler aborted (`unreachable`) and left no message on stderr");
    assert_snapshot!(dead(process(&plugin, "exit").await), @"handler_trap: process-batch: the handler ended itself with exit status 1; return an error instead");
    let recursion = dead(process(&plugin, "recursion").await);
    assert!(
        recursion.starts_with("handler_trap: process-batch: stack overflow")
            || recursion.contains("recursion that is too deep"),
        "{recursion}"
    );
}

#[tokio::test]
async fn memory_is_refused_at_the_limit() {
    let plugin = rogue_with(|config| {
        config.limits.memory_bytes = NonZeroU64::new(8 << 20).expect("not zero");
    })
    .await;
    assert_snapshot!(without_wanted(&dead(process(&plugin, "memory").await)), @r"
    memory_limit: process-batch: the handler wanted N bytes of memory; limits.memory_bytes allows 8388608
    the handler's stderr ended with:
    memory allocation of 1048576 bytes failed
    note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
    ");
}

#[tokio::test]
async fn a_handler_that_starts_above_the_limit_is_refused_at_load() {
    let mut config = flowkit::plugin::HandlerConfig::new(super::support::guest_file("rogue"));
    config.limits.memory_bytes = NonZeroU64::new(1 << 20).expect("not zero");
    let error = super::support::engine().load(config).await.expect_err("too little memory");
    let told = error.to_string();
    let told = told.split_once("was tried ").expect("a trial").1;
    assert_snapshot!(without_wanted(told), @r"
    and failed: memory_limit: instantiation: the handler wanted N bytes of memory; limits.memory_bytes allows 1048576
      mend it, and try it with `flowkit plugin test`
    ");
}

#[tokio::test]
async fn a_run_that_is_cancelled_before_it_opens_does_not_run() {
    let flag = CancelFlag::default();
    cancel_in(&flag, Duration::ZERO);
    match rogue().await.open(request("init:loop", &flag)).await {
        Ok(mut session) => assert_eq!(session.init().await, Err(CallError::Interrupted)),
        Err(OpenError::Fault(fault)) => assert_eq!(fault.code.as_str(), "time_limit"),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupts_land_in_time_while_every_core_spins() {
    let flag = CancelFlag::default();
    let plugin = rogue().await;
    let mut spinning = Vec::new();
    for _ in 0..3 {
        let mut session = session(&plugin, "process-batch:loop", &flag).await;
        spinning.push(tokio::spawn(async move {
            session.process_batch(&b0(), &Totals::default()).await
        }));
    }
    let limited = with_call_time(200).await;
    let mut session = session(&limited, "process-batch:loop", &CancelFlag::default()).await;
    let watched = tokio::spawn(async move {
        let began = Instant::now();
        let ended = dead(session.process_batch(&b0(), &Totals::default()).await);
        (began.elapsed(), ended)
    });
    let (took, ended) = watched.await.expect("no panic");
    assert!(ended.starts_with("time_limit"), "{ended}");
    assert!(took < Duration::from_millis(200) + LATE, "{took:?}");
    cancel_in(&flag, Duration::ZERO);
    for run in spinning {
        assert_eq!(run.await.expect("no panic"), Err(CallError::Interrupted));
    }
}

/// How much a guest wants depends on how it was compiled; that it is said does not.
fn without_wanted(text: &str) -> String {
    let (before, after) = text.split_once(" wanted ").expect("says what was wanted");
    let (amount, after) = after.split_once(' ').expect("says how much");
    let bytes: u64 = amount.parse().expect("a number of bytes");
    assert!(bytes > 1 << 20, "{bytes} bytes are below every limit here");
    format!("{before} wanted N {after}")
}
