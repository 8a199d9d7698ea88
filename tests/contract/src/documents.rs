//! Collections read with queries of plugins: the same on every backend.

use std::num::NonZeroU32;

use flowkit::documents::{DocumentQuery, Documents, DocumentsError};
use flowkit::metrics::Metrics;
use flowkit::store::{
    EndCheck, Fenced, NewComplete, NewPartial, Progress, RunEnd, Store, WorkerRecord,
};
use flowkit::types::Role;
use serde_json::{Value, json};

use crate::{DocumentsBackend, NOW, at, fence, key, new_run, object, owner, uid, worker};

/// [`NOW`] as it is written in Extended JSON.
const NOW_DATE: &str = "2027-01-15T08:00:00Z";

/// All documents of a collection that a filter finds.
pub fn query(collection: &str, filter: Value) -> DocumentQuery {
    DocumentQuery {
        collection: collection.into(),
        filter: object(filter),
        projection: Some(object(json!({"_id": 0}))),
        batch_size: 2,
        ..DocumentQuery::default()
    }
}

/// What a query finds.
pub async fn found(
    documents: &dyn Documents,
    query: DocumentQuery,
) -> Result<Vec<Value>, DocumentsError> {
    let mut cursor = documents.open(query).await?;
    let mut found = Vec::new();
    while let Some(text) = cursor.next().await? {
        found.push(serde_json::from_str(&text).unwrap());
    }
    Ok(found)
}

/// The ordinals of the artifacts that a filter finds.
async fn ordinals(documents: &dyn Documents, filter: Value) -> Vec<i64> {
    let sort = vec![("ordinal".into(), false)];
    let query = DocumentQuery { sort, ..query("artifacts", filter.clone()) };
    let found = found(documents, query).await.unwrap_or_else(|error| panic!("{filter}: {error}"));
    found.iter().map(|document| document["ordinal"].as_i64().unwrap()).collect()
}

/// Seven batches of the node `a` of task `t-1`, one of each other.
async fn artifacts(store: &dyn Store) {
    let metas = [
        json!({"n": 0, "tags": [], "who": {"name": "Ann", "age": 40}}),
        json!({"n": 1.5, "tags": ["x"], "who": {"name": "Bo"}}),
        json!({"n": 2, "tags": ["x", "y"], "who": null}),
        json!({"n": "three", "tags": [1, 2, [3]]}),
        json!({"n": null, "tags": "x", "items": [{"k": 1}, {"k": 5}]}),
        json!({"n": true, "items": [{"k": 3}, {"other": 1}, 7]}),
        json!({"n": -7, "items": [], "who": {"name": "Ann", "age": 41.0}}),
    ];
    let seven = metas.into_iter().enumerate().map(|(ordinal, meta)| NewPartial {
        batch_uid: uid(format!("b-{ordinal}")),
        ordinal: ordinal as u64,
        metrics: Metrics::new(object(json!({"rows": ordinal * 10}))).unwrap(),
        meta: object(meta),
        now: at(ordinal as u64),
    });
    let seven: Vec<NewPartial> = seven.collect();
    let one = [NewPartial { ordinal: 9, ..seven[0].clone() }];
    let complete =
        NewComplete { meta: object(json!({"all": 7})), payload: json!([1, {"b": 2}]), now: at(9) };
    let held = fence(&key("t-1", "a"), 2, 3, "w-1");
    for (task, node, partials) in [("t-1", "b", &one[..]), ("t-1", "a", &seven), ("t-2", "a", &one)]
    {
        let held = fence(&key(task, node), 2, 3, "w-1");
        assert_eq!(store.write_partials(&held, partials).await.unwrap(), Fenced::Written);
    }
    assert_eq!(store.write_complete(&held, &complete).await.unwrap(), Fenced::Written);
}

/// Artifacts have the fields that they have in MongoDB.
pub async fn artifacts_are_documents<B: DocumentsBackend>() {
    let backend = B::start().await;
    artifacts(&*backend.store()).await;
    let documents = backend.documents();
    let partial = query("artifacts", json!({"task_id": "t-1", "batch_uid": "b-1"}));
    let expected = json!({
        "task_id": "t-1", "node_id": "a", "batch_uid": "b-1", "status": "partial",
        "attempt_epoch": 2, "lease_no": 3, "ordinal": 1, "worker_id": "w-1",
        "metrics": {"rows": 10}, "payload": null,
        "meta": {"n": 1.5, "tags": ["x"], "who": {"name": "Bo"}},
        "created_at": {"$date": "2027-01-15T08:00:01Z"},
        "updated_at": {"$date": "2027-01-15T08:00:01Z"},
    });
    assert_eq!(found(&*documents, partial).await.unwrap(), [expected]);
    let complete = query("artifacts", json!({"status": "complete"}));
    let date = json!({"$date": "2027-01-15T08:00:09Z"});
    let expected = json!({
        "task_id": "t-1", "node_id": "a", "status": "complete", "attempt_epoch": 2,
        "lease_no": 3, "worker_id": "w-1", "meta": {"all": 7}, "payload": [1, {"b": 2}],
        "created_at": date, "updated_at": date,
    });
    assert_eq!(found(&*documents, complete).await.unwrap(), [expected]);
    let whole = DocumentQuery { projection: None, ..query("artifacts", json!({})) };
    let whole = found(&*documents, whole).await.unwrap();
    assert_eq!(whole.len(), 10);
    assert!(whole.iter().all(|document| !document["_id"].is_null()));
    let uids: Vec<_> = whole.iter().map(|document| document["_id"].to_string()).collect();
    assert_eq!(uids.iter().collect::<std::collections::BTreeSet<_>>().len(), 10, "{uids:?}");
}

/// Every operator, over values of every type and over lists.
pub async fn filters_find_the_same<B: DocumentsBackend>() {
    let backend = B::start().await;
    artifacts(&*backend.store()).await;
    let documents = backend.documents();
    let find = async |condition: Value, expected: &[i64]| {
        let filter = json!({"task_id": "t-1", "node_id": "a", "status": "partial"});
        let filter = json!({"$and": [filter, condition]});
        assert_eq!(ordinals(&*documents, filter).await, expected, "{condition}");
    };
    let all = [0, 1, 2, 3, 4, 5, 6];
    find(json!({}), &all).await;
    find(json!({"meta.n": 2}), &[2]).await;
    find(json!({"meta.n": 2.0}), &[2]).await;
    find(json!({"meta.n": {"$eq": "three"}}), &[3]).await;
    find(json!({"meta.n": {"$ne": 2}}), &[0, 1, 3, 4, 5, 6]).await;
    find(json!({"meta.n": {"$gt": 0}}), &[1, 2]).await;
    find(json!({"meta.n": {"$gte": 0, "$lt": 2}}), &[0, 1]).await;
    find(json!({"meta.n": {"$lte": 0}}), &[0, 6]).await;
    find(json!({"meta.n": {"$in": [0, true, "three"]}}), &[0, 3, 5]).await;
    find(json!({"meta.n": {"$nin": [0, true, "three"]}}), &[1, 2, 4, 6]).await;
    find(json!({"meta.n": null}), &[4]).await;
    find(json!({"meta.items": {"$exists": true}}), &[4, 5, 6]).await;
    find(json!({"meta.items": {"$exists": false}}), &[0, 1, 2, 3]).await;
    find(json!({"meta.n": {"$not": {"$gt": 0}}}), &[0, 3, 4, 5, 6]).await;
    find(json!({"$or": [{"meta.n": 0}, {"ordinal": {"$gt": 5}}]}), &[0, 6]).await;
    find(json!({"$nor": [{"meta.n": 0}, {"ordinal": {"$gt": 5}}]}), &[1, 2, 3, 4, 5]).await;
    find(json!({"meta.who.name": "Ann"}), &[0, 6]).await;
    find(json!({"meta.who.age": {"$gte": 41}}), &[6]).await;
    find(json!({"meta.who": {"name": "Bo"}}), &[1]).await;
    find(json!({"meta.tags": "x"}), &[1, 2, 4]).await;
    find(json!({"meta.tags": ["x"]}), &[1]).await;
    find(json!({"meta.tags.1": "y"}), &[2]).await;
    find(json!({"meta.items.k": 5}), &[4]).await;
    find(json!({"meta.items.k": {"$gt": 2}}), &[4, 5]).await;
    find(json!({"metrics.rows": {"$gt": 30}}), &[4, 5, 6]).await;
    let three = json!({"$date": "2027-01-15T08:00:03Z"});
    find(json!({"created_at": {"$gte": three}}), &[3, 4, 5, 6]).await;
    find(json!({"created_at": {"$gte": 3}}), &[]).await;
}

/// What is kept of each, in which order, and how many.
pub async fn documents_are_cut_and_in_order<B: DocumentsBackend>() {
    let backend = B::start().await;
    artifacts(&*backend.store()).await;
    let documents = backend.documents();
    let base = || {
        let filter = json!({"task_id": "t-1", "node_id": "a", "status": "partial"});
        DocumentQuery { sort: vec![("ordinal".into(), true)], ..query("artifacts", filter) }
    };
    let cut = async |projection: Value, most: u32| {
        let projection = Some(object(projection));
        let limit = NonZeroU32::new(most);
        found(&*documents, DocumentQuery { projection, limit, ..base() }).await.unwrap()
    };
    assert_eq!(
        cut(json!({"_id": 0, "meta.n": 1, "ordinal": 1}), 2).await,
        [json!({"meta": {"n": -7}, "ordinal": 6}), json!({"meta": {"n": true}, "ordinal": 5})]
    );
    assert_eq!(
        cut(json!({"_id": 0, "meta.items.k": true}), 2).await,
        [json!({"meta": {"items": []}}), json!({"meta": {"items": [{"k": 3}, {}]}})]
    );
    let left = cut(json!({"_id": 0, "meta": 0, "metrics": 0, "created_at": false}), 1).await;
    let left: Vec<_> = left[0].as_object().unwrap().keys().cloned().collect();
    let left: std::collections::BTreeSet<_> = left.iter().map(String::as_str).collect();
    let kept = "attempt_epoch batch_uid lease_no node_id ordinal payload status task_id updated_at \
                worker_id";
    assert_eq!(left, kept.split(' ').collect());
    assert_eq!(cut(json!({"_id": 0, "ordinal": 1}), 100).await.len(), 7);
    let sorted = async |sort: &[(&str, bool)]| {
        let sort = sort.iter().map(|(field, down)| ((*field).to_owned(), *down)).collect();
        let query = DocumentQuery { sort, ..base() };
        let found = found(&*documents, query).await.unwrap();
        found.iter().map(|d| d["ordinal"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    // Null, numbers, texts, truth values.
    assert_eq!(sorted(&[("meta.n", false)]).await, [4, 6, 0, 1, 2, 3, 5]);
    assert_eq!(sorted(&[("meta.n", true)]).await, [5, 3, 2, 1, 0, 6, 4]);
    assert_eq!(sorted(&[("meta.who.name", true), ("ordinal", false)]).await, [1, 0, 6, 2, 3, 4, 5]);
}

/// Runs and workers are found in `worker_states`.
pub async fn runs_and_workers_are_documents<B: DocumentsBackend>() {
    let backend = B::start().await;
    let (store, role) = (backend.store(), Role::new("counts").unwrap());
    let (first, second) = (key("t-1", "a"), key("t-2", "b"));
    let owned = owner("w-1");
    store.admit(&new_run(&first, 1, &role), Some(&owned)).await.unwrap();
    let progress = Progress { finished: 3, reported: 2, accepted: true, ..Progress::default() };
    let held = fence(&first, 1, 1, "w-1");
    assert_eq!(store.save_progress(&held, &progress).await.unwrap(), Fenced::Written);
    store.admit(&new_run(&second, 1, &role), Some(&owner("w-2"))).await.unwrap();
    let held = fence(&second, 1, 1, "w-2");
    let end = RunEnd::Cancelled { reason: "enough".into() };
    assert_eq!(store.end(&held, &end).await.unwrap(), Fenced::Written);
    let check = EndCheck { at: at(15), tries: 0 };
    assert_eq!(store.end_sent(&held, Some(&check)).await.unwrap(), Fenced::Written);
    let record = WorkerRecord {
        worker_id: worker("w-1"),
        version: "1".into(),
        roles: vec![role],
        capacity: 1,
        running: 1,
        updated_at: NOW,
        health: json!({}),
    };
    store.put_worker(&record).await.unwrap();
    let documents = backend.documents();
    let states = async |filter: Value| {
        let without = json!({"_id": 0, "changed_at": 0});
        let projection = Some(object(without));
        let query = DocumentQuery { projection, ..query("worker_states", filter) };
        found(&*documents, query).await.unwrap()
    };
    let expected = json!({
        "kind": "run", "task_id": "t-1", "node_id": "a", "role": "counts", "attempt_epoch": 1,
        "lease_no": 1, "created_at": {"$date": NOW_DATE}, "end": null, "end_sent": false,
        "owner": {
            "worker_id": "w-1", "lease_id": owned.lease_id,
            "deadline": {"$date": "2027-01-15T08:01:00Z"},
        },
        "finished": 3, "reported": 2, "accepted": true, "checkpoint": null, "totals": "{}",
        "digest": null,
        "input": r#"{"input_ref":null,"input_inline":null,"batching":null}"#,
    });
    assert_eq!(states(json!({"kind": "run", "end": null})).await, [expected]);
    let ended = states(json!({"task_id": "t-2", "node_id": "b"})).await;
    assert_eq!(ended.len(), 1);
    let named = |key: &str| ended[0].get(key).cloned().unwrap();
    assert_eq!(named("end"), r#"{"kind":"cancelled","reason":"enough"}"#);
    assert_eq!((named("end_sent"), named("owner")), (json!(true), Value::Null));
    let check = json!({"at": {"$date": "2027-01-15T08:00:15Z"}, "tries": 0});
    assert_eq!(named("check"), check);
    assert!(named("updated_at")["$date"].is_string());
    let workers = states(json!({"kind": "worker"})).await;
    let record = serde_json::to_string(&record).unwrap();
    let date = json!({"$date": NOW_DATE});
    let expected =
        json!({"kind": "worker", "worker_id": "w-1", "record": record, "updated_at": date});
    assert_eq!(workers, [expected]);
}

/// A query that the backend does not understand, or must not run, is refused for good.
pub async fn bad_queries_are_refused<B: DocumentsBackend>() {
    let backend = B::start().await;
    artifacts(&*backend.store()).await;
    let documents = backend.documents();
    for (filter, projection) in [
        (json!({"meta.n": {"$nonsense": 1}}), json!({})),
        (json!({"$nonsense": [{"a": 1}]}), json!({})),
        (json!({"$or": {"a": 1}}), json!({})),
        (json!({"$or": []}), json!({})),
        (json!({"meta.n": {"$in": 5}}), json!({})),
        (json!({"$where": "sleep(1000)"}), json!({})),
        (json!({"$or": [{"a": 1}, {"$expr": {"$function": {"body": "f"}}}]}), json!({})),
        (json!({"a": {"$code": "f"}}), json!({})),
        (json!({}), json!({"meta": {"$function": {"body": "f"}}})),
        (json!({}), json!({"meta": 1, "ordinal": 0})),
    ] {
        let projection = Some(object(projection));
        let query = DocumentQuery { projection, ..query("artifacts", filter) };
        let shown = format!("{query:?}");
        let refused = found(&*documents, query).await;
        assert!(matches!(refused, Err(DocumentsError::Refused(_))), "{shown}: {refused:?}");
    }
}
