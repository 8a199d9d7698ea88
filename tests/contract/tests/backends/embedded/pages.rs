//! What only the embedded backend's documents are: read in pages, of its own collections.

use contract::documents::{found, query};
use contract::{Backend, DocumentsBackend, StoreBackend, at, fence, key, object, uid};
use flowkit::documents::{DocumentQuery, DocumentsError};
use flowkit::metrics::Metrics;
use flowkit::store::{Fenced, NewPartial, TaskStatus};
use serde_json::{Value, json};

use super::Embedded;

/// Artifacts with the ordinals `0..count`, and so much text in each.
async fn write(backend: &Embedded, node: &str, count: u64, text: usize) {
    let text = "x".repeat(text);
    let partials: Vec<NewPartial> = (0..count)
        .map(|ordinal| NewPartial {
            batch_uid: uid(format!("b-{ordinal}")),
            ordinal,
            metrics: Metrics::default(),
            meta: object(json!({"text": text, "half": ordinal / 2, "list": [ordinal, -7]})),
            now: at(ordinal),
        })
        .collect();
    let held = fence(&key("t-1", node), 1, 1, "w-1");
    assert_eq!(backend.store().write_partials(&held, &partials).await.unwrap(), Fenced::Written);
}

async fn ordinals(backend: &Embedded, query: DocumentQuery) -> Vec<u64> {
    let found = found(&*backend.documents(), query).await.unwrap();
    found.iter().map(|document| document["ordinal"].as_u64().unwrap()).collect()
}

/// More than a page of them, and pages that end early because documents are large.
#[tokio::test]
async fn every_page_is_read() {
    let backend = Embedded::start().await;
    for node in ["a", "b", "c"] {
        write(&backend, node, 250, 10).await;
    }
    write(&backend, "large", 9, 400_000).await;
    let of = |filter: Value| query("artifacts", filter);
    let all: Vec<u64> = (0..250).collect();
    for node in ["a", "b", "c"] {
        assert_eq!(ordinals(&backend, of(json!({"node_id": node}))).await, all);
    }
    assert_eq!(ordinals(&backend, of(json!({}))).await.len(), 759);
    let large = of(json!({"task_id": "t-1", "node_id": "large"}));
    assert_eq!(ordinals(&backend, large).await, (0..9).collect::<Vec<u64>>());
    let text = of(json!({"meta.half": 60, "node_id": {"$ne": "b"}}));
    assert_eq!(ordinals(&backend, text).await, [120, 121, 120, 121]);
}

/// A sort holds what it must hold and not more: with a limit it forgets the rest.
#[tokio::test]
async fn a_sort_is_bounded() {
    let backend = Embedded::start().await;
    write(&backend, "a", 90, 300_000).await;
    let mut sorted = query("artifacts", json!({}));
    sorted.sort = vec![("meta.list".into(), true)];
    let refused = found(&*backend.documents(), sorted.clone()).await;
    let Err(DocumentsError::Refused(text)) = refused else { panic!("{refused:?}") };
    insta::assert_snapshot!(text, @"the sort would hold more than 16 MiB; filter more out, keep fewer fields, or set a `limit`");
    sorted.limit = std::num::NonZeroU32::new(3);
    assert_eq!(ordinals(&backend, sorted.clone()).await, [89, 88, 87]);
    sorted.limit = None;
    sorted.projection = Some(object(json!({"ordinal": 1})));
    assert_eq!(ordinals(&backend, sorted).await, (0..90).rev().collect::<Vec<u64>>());
}

/// Tasks look as coordinators write them.
#[tokio::test]
async fn tasks_are_documents() {
    let backend = Embedded::start().await;
    let store = backend.store();
    let tasks: Vec<_> = (0..3).map(|n| contract::tasks::task(n, TaskStatus::Running)).collect();
    for task in &tasks {
        assert!(store.create_task(task).await.unwrap());
    }
    let of = |filter: Value| query("tasks", filter);
    let documents = backend.documents();
    assert_eq!(found(&*documents, of(json!({}))).await.unwrap().len(), 3);
    let one = found(&*documents, of(json!({"id": tasks[1].id}))).await.unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!((&one[0]["id"], &one[0]["status"]), (&json!(tasks[1].id), &json!("running")));
    assert_eq!(one[0]["graph"]["nodes"], json!(tasks[1].graph.nodes));
    assert!(one[0]["created_at"]["$date"].is_string(), "{one:?}");
    let node = tasks[2].graph.nodes[0].node_id.as_str();
    let by_node = found(&*documents, of(json!({"graph.nodes.node_id": node}))).await.unwrap();
    assert!(!by_node.is_empty());
}

/// What is not there, and what only MongoDB does, is named.
#[tokio::test]
async fn what_cannot_be_answered_is_named() {
    let backend = Embedded::start().await;
    let refused = async |query: DocumentQuery| match backend.documents().open(query).await.err() {
        Some(DocumentsError::Refused(text)) => text,
        other => panic!("{other:?}"),
    };
    let mut told = vec![refused(query("users", json!({}))).await];
    for filter in [
        json!({"a": {"$regex": "^x"}}),
        json!({"$expr": {"$gt": ["$a", 1]}}),
        json!({"a": {"$gt": 1, "b": 2}}),
        json!({"a": {"$not": 5}}),
        json!({"a": {"$in": [{"$gt": 1}]}}),
        json!({"a..b": 1}),
        json!({"a": {"$numberDecimal": "1.5"}}),
    ] {
        told.push(refused(query("artifacts", filter)).await);
    }
    for projection in [
        json!({"a": {"$slice": 1}}),
        json!({"a": {"b": 1}}),
        json!({"a": "x"}),
        json!({"a": 1, "b": 0}),
        json!({"a": 1, "a.b": 1}),
    ] {
        let projection = Some(object(projection));
        let query = DocumentQuery { projection, ..query("artifacts", json!({})) };
        told.push(refused(query).await);
    }
    let deep = vec!["a"; 200].join(".");
    told.push(
        refused(DocumentQuery { sort: vec![(deep, true)], ..query("tasks", json!({})) }).await,
    );
    insta::assert_snapshot!(told.join("\n"), @r"
    there is no collection `users` in the embedded database; there are artifacts, tasks, worker_states. Others are read on the backend `kafka`
    the filter uses `$regex`; without MongoDB there are $and, $or, $nor, $not, $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin and $exists
    the filter uses `$expr`; without MongoDB there are $and, $or, $nor, $not, $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin and $exists
    the filter mixes operators with the field `b` in one object; write it as `a.b`
    `$not` of the filter needs an object of operators
    `$in` of the filter has operators in its list
    the field `a..b` of the filter has an empty name
    the filter has a value of the type Decimal128, with which only MongoDB compares
    the projection uses `$slice`; without MongoDB a field is kept (1) or left out (0)
    the projection has an object for `a`; write the fields in it as `a.FIELD`
    the projection of `a` is neither 1 nor 0
    the projection keeps some fields and leaves others out; `b` should be like those before it
    the projection names `a.b` twice, or with a field that holds it
    a field of the sort has more than 128 steps
    ");
}

/// Neither a query nor a document can keep the process busy for long.
#[tokio::test]
async fn endless_comparisons_are_refused() {
    let backend = Embedded::start().await;
    let numbers: Vec<u32> = (0..400_000).collect();
    let deep = (0..60).fold(json!(1), |inner, _| json!([{"0": inner}]));
    let partial = NewPartial {
        batch_uid: uid("b"),
        ordinal: 0,
        metrics: Metrics::default(),
        meta: object(json!({"numbers": numbers, "deep": deep})),
        now: at(0),
    };
    let held = fence(&key("t-1", "a"), 1, 1, "w-1");
    assert_eq!(backend.store().write_partials(&held, &[partial]).await.unwrap(), Fenced::Written);
    let many: Vec<String> = (0..10_000).map(|n| format!("no {n}")).collect();
    let path = format!("meta.deep{}", ".0".repeat(120));
    for filter in [json!({"meta.numbers": {"$in": many}}), json!({path: 2})] {
        let refused = found(&*backend.documents(), query("artifacts", filter)).await;
        let Err(DocumentsError::Refused(text)) = refused else { panic!("{refused:?}") };
        assert!(text.starts_with("comparing one document with the query takes too long"), "{text}");
    }
}
