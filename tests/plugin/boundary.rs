//! What a guest hands over is checked, and told in words its author can use.

use std::num::NonZeroU32;

use flowkit::handler::{CallError, CancelFlag, HandlerError};
use flowkit::metrics::Totals;
use insta::assert_snapshot;

use super::support::{b0, process, rogue, rogue_with, session};

/// How a call ended, with its words.
fn ended<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    match result {
        Ok(value) => format!("ok: {value:?}"),
        Err(CallError::Handler(error)) => format!("handler: {}", error.message),
        Err(CallError::Rejected(fault)) => format!("rejected, {fault}"),
        Err(CallError::Dead(fault)) => format!("dead, {fault}"),
        Err(CallError::Interrupted) => "interrupted".to_owned(),
    }
}

async fn processed(deed: &str) -> String {
    ended(process(&rogue().await, deed).await)
}

async fn yielded(deed: &str) -> String {
    let flag = CancelFlag::default();
    let mut session = session(&rogue().await, &format!("next-batch:{deed}"), &flag).await;
    ended(session.next_batch().await)
}

async fn classified(deed: &str) -> String {
    let flag = CancelFlag::default();
    let mut session = session(&rogue().await, &format!("classify-error:{deed}"), &flag).await;
    let error = HandlerError { message: "m".to_owned(), detail: None };
    ended(session.classify_error(&error).await)
}

#[tokio::test]
async fn a_run_from_init_to_cleanup() {
    let flag = CancelFlag::default();
    let plugin = rogue().await;
    let mut session = session(&plugin, "none", &flag).await;
    assert_eq!(session.iter_batches("{}", Some("1")).await, Ok(None));
    let batch = session.next_batch().await.expect("yields").expect("one batch");
    assert_eq!((batch.uid, batch.payload.as_str()), (Some(b0().uid), "{}"));
    let output = session.process_batch(&b0(), &Totals::default()).await.expect("succeeds");
    assert_eq!(output.metrics.as_object()["n"], 1);
    assert_eq!((output.partial, output.checkpoint), (None, None));
    assert_eq!(session.next_batch().await, Ok(None));
    let mut totals = Totals::default();
    totals.add(&output.metrics).expect("few names");
    let end = session.finalize(&totals).await.expect("succeeds");
    assert_eq!((end.metrics.as_object().len(), end.payload), (0, None));
    session.cleanup().await.expect("succeeds");
}

#[tokio::test]
async fn results_that_are_not_as_described_are_rejected_and_the_instance_lives() {
    assert_snapshot!(processed("not-json").await, @"rejected, bad_output: process-batch returned text that is not JSON: expected value at line 1 column 1");
    assert_snapshot!(processed("not-object").await, @"rejected, bad_output: process-batch returned JSON that is not an object");
    assert_snapshot!(processed("nested-metric").await, @"rejected, bad_output: process-batch returned metrics that cannot be used: metric `a` is an object or an array; report numbers, strings, booleans or null");
    assert_snapshot!(processed("metrics-list").await, @"rejected, bad_output: process-batch returned an object that is not as described: invalid type: sequence, expected a map at line 1 column 12");
    assert_snapshot!(processed("huge-metric").await, @"rejected, bad_output: process-batch returned text that is not JSON: number out of range at line 1 column 23");
    assert_snapshot!(processed("many-values").await, @"rejected, bad_output: process-batch returned text that is not JSON: more than 1000000 values at line 1 column 2000001");
    assert_snapshot!(processed("large").await, @"rejected, result_too_large: process-batch gave a result of 16777225 bytes; limits.result_bytes allows 16777216. Yield smaller batches, or write the data elsewhere and return where it is");
    let flag = CancelFlag::default();
    let mut session = session(&rogue().await, "process-batch:not-json", &flag).await;
    let rejected = session.process_batch(&b0(), &Totals::default()).await;
    assert!(matches!(rejected, Err(CallError::Rejected(_))), "{rejected:?}");
    session.cleanup().await.expect("the instance lives");
}

#[tokio::test]
async fn what_cannot_be_taken_over_at_all_ends_the_instance() {
    assert_snapshot!(processed("huge").await, @"dead, result_too_large: process-batch: the handler handed over more data in one call than limits.result_bytes allows. Yield smaller batches, or write the data elsewhere and return where it is");
    assert_snapshot!(processed("not-utf8").await, @"dead, bad_output: process-batch: the handler handed over text that is not valid Unicode: invalid utf-8 sequence of 1 bytes from index 1");
}

#[tokio::test]
async fn batches_are_checked_as_they_are_yielded() {
    assert_snapshot!(yielded("unnamed").await, @r#"ok: Some(YieldedBatch { uid: None, payload: "{}" })"#);
    assert_snapshot!(yielded("empty-uid").await, @"rejected, bad_output: next-batch yielded a batch whose uid is unusable: batch_uid is empty");
    assert_snapshot!(yielded("long-uid").await, @"rejected, bad_output: next-batch yielded a batch whose uid is unusable: batch_uid is longer than 512 bytes");
    assert_snapshot!(yielded("control-uid").await, @"rejected, bad_output: next-batch yielded a batch whose uid is unusable: batch_uid contains a control character");
    assert_snapshot!(yielded("not-json").await, @"rejected, bad_output: next-batch yielded a payload that is not JSON: expected value at line 1 column 1");
    assert_snapshot!(yielded("huge").await, @"dead, result_too_large: next-batch: the handler handed over more data in one call than limits.result_bytes allows. Yield smaller batches, or write the data elsewhere and return where it is");
}

#[tokio::test]
async fn every_function_s_text_is_checked() {
    let flag = CancelFlag::default();
    let plugin = rogue().await;
    let mut iterating = session(&plugin, "iter-batches:not-object", &flag).await;
    assert_snapshot!(ended(iterating.iter_batches("{}", None).await), @"rejected, bad_output: iter-batches returned JSON that is not an object");
    let mut finalizing = session(&plugin, "finalize:nested-metric", &flag).await;
    assert_snapshot!(ended(finalizing.finalize(&Totals::default()).await), @"rejected, bad_output: finalize returned metrics that cannot be used: metric `a` is an object or an array; report numbers, strings, booleans or null");
}

#[tokio::test]
async fn errors_are_cut_and_made_harmless() {
    assert_snapshot!(processed("error").await, @"handler: rogue failed");
    let Err(CallError::Handler(error)) = process(&rogue().await, "long-error").await else {
        panic!("an error of the handler's own");
    };
    assert!(error.message.len() <= 4096, "{}", error.message.len());
    assert!(error.message.starts_with("\\u{1b}[31m"), "{}", error.message);
    let Err(CallError::Handler(error)) = process(&rogue().await, "long-detail").await else {
        panic!("an error of the handler's own");
    };
    assert_eq!(error, HandlerError { message: "short".to_owned(), detail: None });
}

#[tokio::test]
async fn classifications_fall_back_to_unknown_error() {
    assert_snapshot!(classified("none-of-these").await, @r#"ok: Classification { reason_code: "unknown_error", permanent: false }"#);
    assert_snapshot!(classified("bad-code").await, @r#"ok: Classification { reason_code: "unknown_error", permanent: true }"#);
    assert_snapshot!(classified("error").await, @r#"ok: Classification { reason_code: "unknown_error", permanent: false }"#);
}

#[tokio::test]
async fn a_batch_writes_its_own_artifact_and_checkpoint_only() {
    let output = process(&rogue().await, "partial").await.expect("succeeds");
    assert_eq!(output.partial.expect("written")["lines"], 3);
    let output = process(&rogue().await, "checkpoint").await.expect("succeeds");
    assert_eq!(output.checkpoint.as_deref(), Some("{\"at\": 1}"));
    assert_snapshot!(processed("forged-partial").await, @"handler: upsert-partial was called for batch `another` while `b0` is being processed; a batch can write its own artifact only");
    assert_snapshot!(processed("partial-list").await, @"handler: upsert-partial's meta is JSON, but not an object");
    assert_snapshot!(processed("checkpoint-text").await, @"handler: the checkpoint is not JSON: expected value at line 1 column 1");
    assert_snapshot!(processed("checkpoint-size").await, @"handler: the checkpoint has 1048577 bytes; at most 1048576 are allowed: save a position instead of the data");
}

#[tokio::test]
async fn a_checkpoint_outside_a_batch_is_an_error_and_a_failed_batch_leaves_none() {
    let flag = CancelFlag::default();
    let plugin = rogue().await;
    let mut outside = session(&plugin, "finalize:checkpoint", &flag).await;
    assert_snapshot!(ended(outside.finalize(&Totals::default()).await), @"handler: save-checkpoint works only inside process-batch, because a checkpoint takes effect together with its batch");
    let mut failing = session(&plugin, "process-batch:checkpoint-then-error", &flag).await;
    let failed = failing.process_batch(&b0(), &Totals::default()).await;
    assert_eq!(ended(failed), "handler: after the checkpoint");
}

#[tokio::test]
async fn the_handler_sees_its_run_and_its_totals() {
    assert_snapshot!(processed("info").await, @r#"handler: {"task_id":"t-1","node_id":"process-batch:info","role":"rogue","attempt_epoch":1,"worker_id":"w-1","resumed":false}"#);
    let flag = CancelFlag::default();
    let mut session = session(&rogue().await, "process-batch:totals", &flag).await;
    let mut totals = Totals::default();
    let metrics = serde_json::from_str(r#"{"rows": 7, "name": "x"}"#).expect("an object");
    totals.add(&flowkit::metrics::Metrics::new(metrics).expect("valid")).expect("few names");
    assert_snapshot!(ended(session.process_batch(&b0(), &totals).await), @r#"handler: {"rows":7}"#);
}

#[tokio::test]
async fn a_flood_of_log_lines_costs_little_and_fails_nothing() {
    let began = std::time::Instant::now();
    assert_snapshot!(processed("noise").await, @"ok: BatchOutput { metrics: Metrics({}), partial: None, checkpoint: None }");
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    assert_snapshot!(processed("big-log").await, @"ok: BatchOutput { metrics: Metrics({}), partial: None, checkpoint: None }");
}

#[tokio::test]
async fn the_result_limit_is_the_configured_one() {
    let small = rogue_with(|config| {
        config.limits.result_bytes = NonZeroU32::new(1 << 10).expect("not zero");
    })
    .await;
    assert_snapshot!(ended(process(&small, "large").await), @"dead, result_too_large: process-batch: the handler handed over more data in one call than limits.result_bytes allows. Yield smaller batches, or write the data elsewhere and return where it is");
}
