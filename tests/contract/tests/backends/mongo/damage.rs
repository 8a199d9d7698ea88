//! Documents that somebody damaged: each hurts itself, and nothing else.

use std::time::Duration;

use contract::artifacts::{complete, marks, partial, scan};
use contract::leases::query;
use contract::runs::recorded;
use contract::{Backend, SOON, at, fence, new_key, new_role, new_run, object};
use flowkit::store::{ArtifactStore, EndCheck, Fenced, RunEnd, RunRecord, RunStore, StoreError};
use flowkit::types::Role;
use mongodb::bson::{Bson, Document, doc};
use serde_json::json;
use tokio::time::timeout;

use super::Mongo;

/// Changes after which a run's document cannot be read as a run.
fn damages() -> Vec<Document> {
    vec![
        doc! {"$set": {"lease_no": "one"}},
        doc! {"$set": {"lease_no": -1}},
        doc! {"$set": {"lease_no": 1.5}},
        doc! {"$set": {"attempt_epoch": "first"}},
        doc! {"$set": {"attempt_epoch": i64::MAX}},
        doc! {"$unset": {"attempt_epoch": ""}},
        doc! {"$set": {"input": 5}},
        doc! {"$set": {"input": "{\"input_ref\": 5}"}},
        doc! {"$set": {"totals": "x".repeat(1 << 20)}},
        doc! {"$set": {"totals": Bson::Null}},
        doc! {"$set": {"checkpoint": {"a": 1}}},
        doc! {"$set": {"finished": -3}},
        doc! {"$unset": {"reported": ""}},
        doc! {"$set": {"accepted": "yes"}},
        doc! {"$set": {"digest": [1, 2]}},
        doc! {"$set": {"task_id": ""}},
        doc! {"$set": {"node_id": "another"}},
        doc! {"$set": {"changed_at": "yesterday"}},
        doc! {"$set": {"check": "soon"}},
        doc! {"$set": {"end": "{\"kind\": \"exploded\"}"}},
    ]
}

async fn damage(mongo: &Mongo, run: &RunRecord, change: Document) {
    let states = mongo.db.collection::<Document>("worker_states");
    let its = doc! {"task_id": run.new.key.task_id.as_str()};
    assert_eq!(states.update_one(its, change).await.unwrap().matched_count, 1);
}

async fn waiting(mongo: &Mongo, role: &Role, seconds: u64) -> RunRecord {
    let mut run = new_run(&new_key(), 2, role);
    run.created_at = at(seconds);
    recorded(&mongo.first, &run, None).await
}

async fn ended(mongo: &Mongo, role: &Role, seconds: u64) -> RunRecord {
    let run = recorded(&mongo.first, &new_run(&new_key(), 2, role), Some("w-1")).await;
    let held = run.fence().unwrap();
    let end = RunEnd::Cancelled { reason: "enough".into() };
    assert_eq!(mongo.first.end(&held, &end).await.unwrap(), Fenced::Written);
    let check = EndCheck { at: at(seconds), tries: 0 };
    assert_eq!(mongo.first.end_sent(&held, Some(&check)).await.unwrap(), Fenced::Written);
    run
}

/// However many damaged ones are older, what can be claimed is found.
#[tokio::test]
async fn damaged_runs_hide_no_other() {
    if !flowkit_servers::available("mongo::damage::damaged_runs_hide_no_other") {
        return;
    }
    let (mongo, role) = (Mongo::start().await, new_role());
    for (place, change) in (0u64..).zip(damages()) {
        let run = waiting(&mongo, &role, place).await;
        damage(&mongo, &run, change.clone()).await;
        let read = mongo.first.run(&run.new.key).await;
        assert!(matches!(read, Err(StoreError::Damaged { .. })), "{change}: {read:?}");
    }
    let good = waiting(&mongo, &role, 500).await;
    let mut one = query("w-1", &role, at(1_000));
    one.limit = 1;
    let found = mongo.first.claimable(&one).await.unwrap();
    assert_eq!(found, [good]);
}

/// The same for the looks at ends.
#[tokio::test]
async fn damaged_ends_hide_no_other() {
    if !flowkit_servers::available("mongo::damage::damaged_ends_hide_no_other") {
        return;
    }
    let (mongo, role) = (Mongo::start().await, new_role());
    for place in 0..3 {
        let run = ended(&mongo, &role, place).await;
        damage(&mongo, &run, doc! {"$set": {"lease_no": "one"}}).await;
    }
    let good = ended(&mongo, &role, 500).await;
    let found = mongo.first.due_checks(&[role], at(1_000), 1).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|run| run.new.key).collect();
    assert_eq!(found, [good.new.key]);
}

/// A stored pair that is no pair is older than any.
#[tokio::test]
async fn damaged_artifacts_are_replaced() {
    if !flowkit_servers::available("mongo::damage::damaged_artifacts_are_replaced") {
        return;
    }
    let mongo = Mongo::start().await;
    let artifacts = mongo.db.collection::<Document>("artifacts");
    for (epoch, lease_no) in [
        (Bson::from("two"), Bson::from(1)),
        (Bson::from(2), Bson::from("one")),
        (Bson::from(vec![1]), Bson::Null),
    ] {
        let key = new_key();
        for (batch_uid, status) in [(Some("b-1"), "partial"), (None, "complete")] {
            let mut left = doc! {
                "task_id": key.task_id.as_str(), "node_id": key.node_id.as_str(), "status": status,
                "attempt_epoch": epoch.clone(), "lease_no": lease_no.clone(), "meta": 5,
            };
            if let Some(batch_uid) = batch_uid {
                left.insert("batch_uid", batch_uid);
            }
            artifacts.insert_one(left).await.unwrap();
        }
        let fence = fence(&key, 2, 1, "w-1");
        let written = mongo.first.write_partials(&fence, &[partial("b-1", 0, 7)]).await.unwrap();
        assert_eq!(written, Fenced::Written, "{epoch} {lease_no}");
        assert_eq!(marks(&mongo.first, &key).await, [("b-1".to_owned(), 7)]);
        let complete = complete();
        let ended = timeout(SOON, mongo.first.write_complete(&fence, &complete)).await;
        assert_eq!(ended.expect("it ends").unwrap(), Fenced::Written, "{epoch} {lease_no}");
    }
}

/// Keys and numbers that no document holds are read back as they were written.
#[tokio::test]
async fn odd_keys_and_numbers_survive() {
    if !flowkit_servers::available("mongo::damage::odd_keys_and_numbers_survive") {
        return;
    }
    let (mongo, key) = (Mongo::start().await, new_key());
    let deep = (0..50).fold(json!(5.0), |inner, _| json!({"in.ner": [inner]}));
    let odd = json!({
        "a.b": 1, "a\u{ff0e}b": 2, "$set": {"$inc": 1}, "": 3, "nul\u{0}": "\u{0}", "low": i64::MIN,
        "high": i64::MAX, "higher": u64::MAX, "f": 5.0, "small": -0.0, "deep": deep,
    });
    let mut new = partial("b-1", 0, 7);
    let fence = fence(&key, 1, 1, "w-1");
    // The second takes the place of the first, and the third that of the second.
    for meta in [odd.clone(), json!({"plain": 1}), odd] {
        new.meta = object(meta.clone());
        let written = mongo.first.write_partials(&fence, std::slice::from_ref(&new)).await;
        assert_eq!(written.unwrap(), Fenced::Written);
        let found = scan(&mongo.first, &key, 10).await;
        assert_eq!(found.len(), 1);
        // As text: 5 and 5.0 differ in nothing else.
        assert_eq!(json!(found[0].meta).to_string(), meta.to_string());
    }
}

/// A document that no server stores is refused for good, in words.
#[tokio::test]
async fn what_is_too_large_is_refused_for_good() {
    if !flowkit_servers::available("mongo::damage::what_is_too_large_is_refused_for_good") {
        return;
    }
    let (mongo, key) = (Mongo::start().await, new_key());
    let mut large = partial("b-1", 0, 1);
    large.meta = object(json!({"text": "x".repeat(17 << 20)}));
    let fence = fence(&key, 1, 1, "w-1");
    let large = [large];
    let refused = timeout(Duration::from_secs(20), mongo.first.write_partials(&fence, &large));
    let refused = refused.await.expect("an answer").unwrap_err();
    assert!(matches!(&refused, StoreError::Fatal(text) if text.contains("16 MiB")), "{refused}");
    let mut large = complete();
    large.payload = json!("x".repeat(17 << 20));
    let refused = mongo.first.write_complete(&fence, &large).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Fatal(text) if text.contains("16 MiB")), "{refused}");
}
